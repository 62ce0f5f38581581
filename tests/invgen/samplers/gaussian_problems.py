"""Gaussian problems whose posteriors are known exactly, and the exact laws of samplers on them: shared by these tests.

With a Gaussian prior and a linear operator most samplers are affine maps of the noise they draw. Feeding them unit vectors
in place of noise reads that map off (`law`), so that the mean and covariance of their samples are known without
Monte-Carlo error. They are compared with the posterior (`exact`, `distance`) or with the recursion of the sampler's paper
written out in dense matrices (`through`, `propagate`), so that a method's bias is a number that is asserted.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from invgen import Gaussian, Posterior
from invgen.forward import Operator
from invgen.noise import Noiseless
from invgen.operators import Matrix
from invgen.priors import GaussianMixture, GaussianPrior
from invgen.pushforward import Generator, StandardNormal
from invgen.sampler import Sampler

F64 = torch.float64
SHAPE, N, ROWS, SIGMA = (2, 3), 6, 3, 0.4
EYE = torch.eye(N, dtype=F64)
Law = tuple[Tensor, Tensor]  # mean (n,) and covariance (n, n) of a Gaussian
Map = tuple[Tensor, Tensor, Tensor]  # (M, b, V): x -> M x + b + noise of covariance V


# -- problems -------------------------------------------------------------------------------------------------------


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def correlated(shape: tuple[int, ...] = SHAPE, floor: float = 0.2, **options: float) -> GaussianPrior:
    """A Gaussian whose mean and covariance are random; no variance is below `floor`."""
    n = math.prod(shape)
    root = normal(n, n, seed=1)
    covariance = root @ root.T / n + floor * torch.eye(n, dtype=F64)
    return GaussianPrior(shape, normal(*shape, seed=2), covariance=covariance, **options)


def white(d: float = 0.7) -> GaussianPrior:
    return GaussianPrior(SHAPE, torch.zeros(SHAPE, dtype=F64), d**2)


def problem(
    prior: GaussianMixture, sigma: float = SIGMA, A: Operator | None = None, rows: int = ROWS, signal: int = 4
) -> Posterior:
    """A signal of the prior, by its seed, seen through `A`, or a random matrix of so many rows; sigma = 0 is no noise."""
    A = Matrix(normal(rows, prior.shape.numel(), seed=3), prior.shape) if A is None else A
    noise = Gaussian(sigma) if sigma > 0 else Noiseless()
    return Posterior(prior, A, noise, noise.sample(A(prior.sample(1, seed=signal))[0], torch.Generator().manual_seed(5)))


def conditional_mean(post: Posterior, x: Tensor, s: float) -> Tensor:
    """E[x_0 | x_s = x, y] in information form: the precisions of prior, noisy signal and measurement add."""
    M, P = post.A.matrix, torch.linalg.inv(post.prior.covariance)
    total = P + EYE / s**2 + M.T @ M / SIGMA**2
    right = P @ post.prior.mean.flatten() + x.flatten(1) / s**2 + post.y @ M / SIGMA**2
    return torch.linalg.solve(total, right.T).T.reshape(x.shape)


def many(post: Posterior, rows: int) -> Posterior:
    """The same measurement in every row, as samplers get it."""
    return post.rows(torch.zeros(rows, dtype=torch.int64))


def matrix(A: Operator) -> Tensor:
    """A linear operator as a dense matrix, (measurements, values)."""
    n = A.in_shape.numel()
    return A(torch.eye(n, dtype=F64).reshape(n, *A.in_shape)).flatten(1).T


class Linear(Generator):
    """x = W z + b, with the pseudo-inverse of W as its encoder; z standard normal unless `latent` is another prior."""

    def __init__(self, W: Tensor, b: Tensor | float = 0.0, latent: object = None) -> None:
        super().__init__(SHAPE, StandardNormal(W.shape[1:], F64) if latent is None else latent, data_std=1.0)
        self.register_buffer("W", W)
        self.register_buffer("b", torch.as_tensor(b, dtype=F64))

    def forward(self, z: Tensor) -> Tensor:
        return (z.to(F64) @ self.W.T + self.b).reshape(-1, *SHAPE)

    def encode(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - self.b) @ torch.linalg.pinv(self.W).T


# -- laws -----------------------------------------------------------------------------------------------------------


class UnitNoise:
    """Stands in for the noise streams: each row after `used` draws a one in one place of one draw, the others zeros."""

    def __init__(self, rows: int = 0, used: int = 0) -> None:
        self.rows, self.used = rows, used

    def __call__(self, like: Tensor) -> Tensor:
        z, size = torch.zeros_like(like).flatten(1), like[0].numel()
        if self.rows:
            z[1 + self.used + torch.arange(size), torch.arange(size)] = 1
        self.used += size
        return z.reshape(like.shape)


def law(sampler: Sampler, post: Posterior, start: Law | None = None) -> Law:
    """The law of what an affine sampler gives, from its own start or from a state of law `start`."""
    first = 0 if start is None else len(start[0])
    rows, randn = 1 + first, UnitNoise(0, first)
    for _ in range(2):  # to count the draws, then with a row for each of them
        same = many(post, rows)
        with torch.no_grad():
            if start is None:
                x = sampler.start(same, randn, rows)
            else:
                x = start[0].repeat(rows, 1)
                x[1 : 1 + first] += torch.linalg.cholesky(start[1]).T
                x = x.reshape(rows, *post.prior.shape)
            *_, x = sampler.run(same, x, randn)
        rows, randn = 1 + randn.used, UnitNoise(1 + randn.used, first)
    x = x.flatten(1)
    return x[0], (x[1:] - x[0]).T @ (x[1:] - x[0])


def exact(post: Posterior, sigma: float = 0.0, rho: float = 0.0) -> Law:
    """p_sigma(x) N(y; A x, sigma_y^2 I + rho^2 A A^T) for a Gaussian prior: the posterior, unless sigma or rho is given."""
    H, m = matrix(post.A), post.prior.mean.flatten()
    S = post.prior.covariance + sigma**2 * torch.eye(len(m), dtype=F64)
    R = post.noise.sigma**2 * torch.eye(len(H), dtype=F64) + rho**2 * H @ H.T
    gain = S @ H.T @ torch.linalg.inv(H @ S @ H.T + R)
    return m + gain @ (post.y.flatten() - H @ m), S - gain @ H @ S


def moments(x: Tensor) -> Law:
    """Mean and covariance of samples (count, *shape)."""
    x = x.flatten(1)
    return x.mean(0), x.T.cov()


def bures(a: Law, b: Law) -> float:
    """Wasserstein-2 distance of two Gaussians."""

    def root(S: Tensor) -> Tensor:
        l, Q = torch.linalg.eigh(S)
        return Q * l.clamp(min=0).sqrt() @ Q.T

    half = root(a[1])
    cross = torch.linalg.eigvalsh(half @ b[1] @ half).clamp(min=0).sqrt().sum()
    return ((a[0] - b[0]).square().sum() + a[1].trace() + b[1].trace() - 2 * cross).clamp(min=0).sqrt().item()


def distance(got: Law | Tensor, wanted: Law | Posterior) -> float:
    """Wasserstein-2 distance of a law, or of samples' moments, to the posterior, over the root of its total variance.

    The moments of 1500 exact samples are within 0.05 of the posterior's by this measure.
    """
    wanted = exact(wanted) if isinstance(wanted, Posterior) else wanted
    return bures(moments(got) if isinstance(got, Tensor) else got, wanted) / wanted[1].trace().sqrt().item()


def assert_same_law(got: Law, wanted: Law, tol: float = 1e-7) -> None:
    torch.testing.assert_close(got[0], wanted[0], rtol=tol, atol=tol)
    torch.testing.assert_close(got[1], wanted[1], rtol=tol, atol=tol)


def assert_first_order(coarse: Law, fine: Law, wanted: Law) -> None:
    """The error is Euler's: it halves as the steps double, and extrapolation leaves the second order."""
    errors = [distance(got, wanted) for got in (coarse, fine)]
    assert errors[1] < 0.15 and 0.4 < errors[1] / errors[0] < 0.65, errors
    mean, covariance = (2 * f - c for c, f in zip(coarse, fine, strict=True))
    left = distance((mean, covariance), wanted)
    assert left < 0.35 * errors[1], (errors, left)


def assert_second_order(coarse: Law, fine: Law, wanted: Law, most: float) -> None:
    """At 24 steps the error is below `most`, where that of the first order is .1 and more, and it falls with the steps."""
    errors = [distance(got, wanted) for got in (coarse, fine)]
    assert errors[0] < most and errors[1] < 0.6 * errors[0], errors


# -- recursions -----------------------------------------------------------------------------------------------------


def denoiser(prior: GaussianPrior, s: float) -> tuple[Tensor, Tensor]:
    """(E, c) with D(x, s) = E x + c, from the covariance."""
    eye = torch.eye(len(prior.covariance), dtype=F64)
    E = prior.covariance @ torch.linalg.inv(prior.covariance + s**2 * eye)
    return E, (eye - E) @ prior.mean.flatten()


def ddim(E: Tensor, c: Tensor, s: float, s_next: float, eta: float, eps: tuple[Tensor, Tensor] | None = None) -> Map:
    """The shared step for the guided denoiser E x + c, its noise direction from the denoiser `eps` if given."""
    eye = torch.eye(len(c), dtype=F64)
    tau2 = (eta * s_next) ** 2 * (1 - (s_next / s) ** 2)
    k = math.sqrt(max(s_next**2 - tau2, 0.0)) / s
    F, d = (E, c) if eps is None else eps
    return E + k * (eye - F), c - k * d, tau2 * eye


def begin(sampler: Sampler, post: Posterior) -> Law:
    """The law of x at the highest level, which a GaussianPrior starts from exactly."""
    return post.prior.mean.flatten(), post.prior.covariance + sampler.levels(post.prior)[0][0] ** 2 * EYE


def through(start: Law, maps: Iterable[Map]) -> Law:
    """The law of the last state of a chain of affine maps."""
    m, P = start
    for M, b, V in maps:
        m, P = M @ m + b, M @ P @ M.T + V
    return m, P


def propagate(sampler: Sampler, post: Posterior, step: Callable[[float, float], Map], start: Law | None = None) -> Law:
    """The law after a step (s, s_next) at each of the sampler's levels, from its start or another."""
    return through(begin(sampler, post) if start is None else start, (step(*pair) for pair in sampler.levels(post.prior)))
