"""The most likely Gaussian law of signals that were only measured, by expectation maximisation in closed form.

`fit_gaussian` has any covariance (Dempster, Laird & Rubin, 1977), for signals of few values. `fit_low_rank` is for large
ones: x = mean + W z + sqrt(c) e with z and e standard normal, probabilistic principal components (Tipping & Bishop, 1999)
behind an operator. Rozet et al. (NeurIPS 2024), Section 4.1, start a diffusion prior from such a law; they draw samples
where the moments here are exact.
"""

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from invgen.diffusion import Denoiser, Sigma
from invgen.errors import OptionError
from invgen.forward import LinearOperator, as_svd, has_svd
from invgen.priors.laws.exact import GaussianPrior
from invgen.priors.training.each import as_measured, by_operator, measured, real_rows

LARGEST = 4096  # values of a signal whose covariance is a dense matrix


class LowRankGaussian(Denoiser):
    """N(mean, W W^T + c I).

    Args:
        mean: (*shape).
        W: (n, rank) with n = prod(shape).
        c: the variance in every other direction.
        sigma_min, sigma_max: noise levels, as of a Denoiser.
    """

    mean: Tensor
    basis: Tensor
    values: Tensor

    def __init__(self, mean: Tensor, W: Tensor, c: float, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        basis, s, _ = torch.linalg.svd(W, full_matrices=False)
        std = ((s.square().sum() / len(W) + c + mean.var(correction=0)).sqrt()).item()
        average = mean.mean().item()
        super().__init__(mean.shape, sigma_min=sigma_min, sigma_max=sigma_max, data_mean=average, data_std=std)
        self.c = c
        self.register_buffer("mean", mean)
        self.register_buffer("basis", basis)
        self.register_buffer("values", s.square() + c)

    @property
    def covariance(self) -> Tensor:
        """The covariance, (n, n)."""
        inside = self.basis * (self.values - self.c) @ self.basis.T
        return inside + self.c * torch.eye(len(inside), dtype=inside.dtype, device=inside.device)

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        var = sigma.to(x).square().reshape(-1, 1) if isinstance(sigma, Tensor) else sigma**2
        flat = (x - self.mean).flatten(1)
        white = self.c / (self.c + var)
        inside = (flat @ self.basis) * (self.values / (self.values + var) - white)
        return self.mean + (white * flat + inside @ self.basis.T).reshape(x.shape)

    def variance(self, sigma: float) -> float:
        n = self.mean.numel()
        others = (n - len(self.values)) * self.c * sigma**2 / (self.c + sigma**2)
        return ((self.values * sigma**2 / (self.values + sigma**2)).sum().item() + others) / n


def fit_gaussian(
    y: Sequence[Tensor] | Tensor, operators: Sequence[LinearOperator], sigma: float, iterations: int = 50
) -> tuple[GaussianPrior, list[float]]:
    """Returns the Gaussian prior after so many rounds of EM, and the log-likelihood of all measurements before each.

    In each round the posterior N(m_i, C_i) of every measurement is computed exactly, and the mean and the covariance of
    their mixture are the next prior: the likelihood never falls.

    Args:
        y: the measurements, (N, *out_shape), or N tensors of (*out_shape) where they differ.
        operators: A_i of each, the same object where they share it: it is then applied for all of them at once.
        sigma: standard deviation of their Gaussian noise.
        iterations: rounds.

    Raises:
        OptionError: the operators map signals to zero; or signals of more than 4096 values, whose covariance is too large.
    """
    shape, n, count = operators[0].in_shape, operators[0].in_shape.numel(), len(operators)
    if n > LARGEST:
        raise OptionError(f"a covariance of {n} values is too large, expected at most {LARGEST}; take fit_low_rank")
    groups = _groups(y, operators)
    S = _energy(groups, sigma, shape) * torch.eye(n, dtype=torch.float64)
    mean, likelihoods = torch.zeros(n, dtype=torch.float64), []
    with torch.no_grad():
        for _ in range(iterations):
            information, moved, total = torch.zeros_like(S), [], 0.0
            for A, rows, _ in groups:
                across = measured(A, S.reshape(n, *shape))  # S A^T
                gram = measured(A, across.T.reshape(-1, *shape))  # A S A^T
                gram.diagonal().add_(sigma**2)
                factor = torch.linalg.cholesky(gram)
                residual = rows - measured(A, mean.reshape(1, *shape))
                weighted = torch.cholesky_solve(residual.T, factor).T
                moved.append(weighted @ across.T)  # m_i - mean
                half = A.adjoint(as_measured(A, torch.cholesky_inverse(factor))).flatten(1)  # (A S A^T + sigma^2)^-1 A
                information += len(rows) * A.adjoint(as_measured(A, half.T.contiguous())).flatten(1)
                logs = factor.diagonal().log().sum().item() + 0.5 * rows.shape[1] * math.log(2 * math.pi)
                total -= 0.5 * (residual * weighted).sum().item() + len(rows) * logs
            every = torch.cat(moved)
            shift = every.mean(0)
            every -= shift
            S = S - S @ (information / count) @ S + every.T @ every / count
            S, mean = (S + S.T) / 2, mean + shift
            likelihoods.append(total)
    return GaussianPrior(shape, mean.reshape(shape), covariance=S), likelihoods


def fit_low_rank(
    y: Sequence[Tensor] | Tensor,
    operators: Sequence[LinearOperator],
    sigma: float,
    iterations: int = 25,
    rank: int = 64,
    seconds: float | None = None,
    progress: bool = False,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
) -> tuple[LowRankGaussian, list[float]]:
    """Returns N(mean, W W^T + c I) after so many rounds of EM, and the log-likelihood of all measurements before each.

    In each round the posterior of (x, z) for every measurement is computed exactly, and the law that is most likely for
    their moments is the next prior: the likelihood never falls. Each operator takes `rank` solves a round, whatever the
    number of its measurements. For an operator without singular values (`has_svd`) the trace of its posterior covariance is
    estimated by one white signal, and the likelihood is nan.

    Args:
        y: the measurements, (N, *out_shape), or N tensors of (*out_shape) where they differ.
        operators: A_i of each, the same object where they share it.
        sigma: standard deviation of their Gaussian noise.
        iterations: rounds.
        rank: of W.
        seconds: after which no further round begins.
        progress: whether to show a bar.
        sigma_min, sigma_max: noise levels of the prior.

    Raises:
        OptionError: the operators map signals to zero.
    """
    shape, n, count = operators[0].in_shape, operators[0].in_shape.numel(), len(operators)
    rank, generator = min(rank, n - 1), torch.Generator().manual_seed(0)
    groups = _groups(y, operators)
    mean, c = torch.zeros(n, dtype=torch.float64), _energy(groups, sigma, shape)
    W = math.sqrt(c / 2) * torch.linalg.qr(torch.randn(n, rank, generator=generator, dtype=torch.float64))[0]
    started, one, likelihoods = time.monotonic(), torch.eye(rank, dtype=torch.float64), []
    with torch.no_grad():
        for step in tqdm(range(iterations), disable=not progress, desc="Gaussian", leave=False):
            if step and seconds is not None and time.monotonic() - started > seconds:
                break
            zz, xz, xx, total = torch.zeros_like(one), torch.zeros_like(W), 0.0, 0.0
            x, z = torch.zeros_like(mean), torch.zeros_like(one[0])
            for A, rows, s in groups:
                k, white = len(rows), torch.randn(1, n, generator=generator, dtype=torch.float64)
                seen = measured(A, torch.cat([W.T, white, mean[None]]).reshape(-1, *shape))
                AW, residual = seen[:rank], rows - seen[-1]
                right = torch.cat([seen[: rank + 1], residual])
                solved = real_rows(A, A.solve(as_measured(A, right), c, sigma**2))  # (c A A^T + sigma^2)^-1
                back = A.adjoint(as_measured(A, solved)).flatten(1)
                precision = one + AW @ solved[:rank].T
                pull = solved[rank + 1 :] @ AW.T
                P = torch.linalg.inv(precision)  # covariance of z, and x = B z + b + e given y
                z_i, B = pull @ P, W - c * back[:rank].T
                x_i = z_i @ B.T + c * back[rank + 1 :]
                zz, z = zz + k * P + z_i.T @ z_i, z + z_i.sum(0)
                xz, x = xz + k * B @ P + x_i.T @ z_i, x + x_i.sum(0)
                trace = (s / (c * s + sigma**2)).sum() if s is not None else (seen[rank] * solved[rank]).sum()
                xx += (x_i.square().sum() + k * ((B @ P * B).sum() + c * n - c**2 * trace)).item()
                square = (residual * solved[rank + 1 :]).sum() - (pull * z_i).sum()
                total -= 0.5 * (square + k * (_log_det(s, c, sigma, rows.shape[1]) + precision.logdet())).item()
            xz, zz = xz - x[:, None] * z / count, zz - z[:, None] * z / count
            W = torch.linalg.solve(zz, xz.T).T
            c = max((xx - x.square().sum().item() / count - (W * xz).sum().item()) / (n * count), 1e-12)
            mean = mean + (x - W @ z) / count
            W = W @ torch.linalg.cholesky(zz / count)  # z may have any covariance meanwhile: parameter expansion
            likelihoods.append(total - 0.5 * sum(rows.numel() for _, rows, _ in groups) * math.log(2 * math.pi))
    return LowRankGaussian(mean.reshape(shape), W, c, sigma_min, sigma_max), likelihoods


Groups = list[tuple[LinearOperator, Tensor, Tensor | None]]  # operators, all their measurements as rows, spectra


def _groups(y: Sequence[Tensor] | Tensor, operators: Sequence[LinearOperator]) -> Groups:
    groups = []
    for A, index in by_operator(operators):
        groups.append((A, torch.cat([real_rows(A, y[int(k)][None]) for k in index]).double(), _spectrum(A)))
    return groups


def _spectrum(A: LinearOperator) -> Tensor | None:
    """Returns the squared singular values of a real operator, those above zero, or None where they are not at hand."""
    if not has_svd(A) or A.out_dtype.is_complex:
        return None
    s = as_svd(A).s
    return s[s > 0].double().square() if s.numel() >= min(A.in_shape.numel(), A.out_shape.numel()) else None


def _log_det(s: Tensor | None, c: float, sigma: float, m: int) -> float:
    """Returns log det(c A A^T + sigma^2 I), nan where the squared singular values s are not known."""
    return math.nan if s is None else (c * s + sigma**2).log().sum().item() + 2 * (m - len(s)) * math.log(sigma)


def _energy(groups: Groups, sigma: float, shape: Sequence[int]) -> float:
    """Returns the variance of white signals of the energy of the measurements, by one white signal an operator."""
    generator, seen, expected = torch.Generator().manual_seed(0), 0.0, 0.0
    for A, rows, _ in groups[:64]:
        white = torch.randn(1, *shape, generator=generator, dtype=torch.float64)
        seen += rows.square().sum().item() - rows.numel() * sigma**2
        expected += len(rows) * measured(A, white).square().sum().item()
    if not expected > 0:
        raise OptionError("the operators measure nothing: they map a white signal to zero")
    return max(seen, 1e-6 * abs(seen)) / expected
