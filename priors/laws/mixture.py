"""The Gaussian mixture as a prior: p(x) = sum_k w_k N(x; m_k, S_k), with everything about it in closed form.

Smoothing by sigma adds sigma^2 I to each S_k, so that

    D(x, sigma) = sum_k r_k (m_k + S_k (S_k + sigma^2 I)^-1 (x - m_k)),   r_k ~ w_k N(x; m_k, S_k + sigma^2 I).

Covariances are kept as S_k = Q_k diag(l_k) Q_k^T, so that one decomposition serves every sigma.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Sigma
from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.forward import LinearOperator, Operator
from invgen.noise import Gaussian, Noise
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.priors.laws._covariance import decompose, dense, root
from invgen.priors.laws._sampled import sampled_errors
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Seed

_MAX_DENSE = 4096  # entries of a signal or measurement up to which dense algebra in float64 is reasonable


class GaussianMixture(Denoiser):
    """sum_k w_k N(x; m_k, S_k).

    Args:
        means: (K, *shape).
        weights: (K,), non-negative, of any sum; equal by default.
        var: variance of the entries: a number, one per component (K,), or one per entry (K, *shape).
        covariances: instead of var, (K, n, n), or (n, n) for one that all components share, with n = prod(shape).
        options: sigma_min, sigma_max, value_range. By default sigma runs from 1e-3 of the smallest standard deviation of a
            component to 100 times the standard deviation of the whole, and the range is the mean +- 3 standard deviations.

    The tables keep the dtype of `means`, and with them the samplers: float64 tables give float64 samples.
    Components that share one covariance cost two products of a (B, n) with an (n, K) matrix an evaluation; components that
    do not, a tensor of shape (B, K, n).
    """

    log_evidence: float | None = None  # log p(y), set on what `posterior` returns
    weights: Tensor
    means: Tensor
    spectrum: Tensor
    basis: Tensor | None

    def __init__(
        self,
        means: Tensor,
        weights: Tensor | Sequence[float] | None = None,
        var: float | Tensor = 1.0,
        covariances: Tensor | None = None,
        **options: Any,
    ) -> None:
        means = torch.as_tensor(means)
        if means.ndim < 2 or not means.numel() or not torch.isfinite(means).all():
            raise ShapeError(f"means must be finite and of shape (K, *shape), got shape {tuple(means.shape)}")
        means = means if means.dtype == torch.float64 else means.float()
        count, shape = len(means), means.shape[1:]
        flat = means.flatten(1)
        weights = torch.ones(count) if weights is None else torch.as_tensor(weights)
        weights = weights.to(flat.device, torch.float64)
        if weights.shape != (count,) or not (weights >= 0).all() or not 0 < weights.sum() < math.inf:
            raise OptionError(f"weights must be {count} non-negative numbers, one per component, got {weights.tolist()}")
        weights = weights / weights.sum()
        spectrum, basis = decompose(means, var, covariances)
        mean = weights @ flat.double()
        within = weights @ spectrum.mean(1) if len(spectrum) > 1 else spectrum.mean()
        spread = (weights @ (flat.double() - mean) ** 2).mean() + within
        std = (spread + mean.var(correction=0)).sqrt().item() or 1.0
        smallest = spectrum[spectrum > spectrum.max() * 1e-12].min().sqrt().item() if (spectrum > 0).any() else std
        centre = mean.mean().item()
        defaults = {"sigma_min": 1e-3 * smallest, "sigma_max": 100 * std, "data_mean": centre, "data_std": std}
        super().__init__(shape, **{"value_range": (centre - 3 * std, centre + 3 * std), **defaults, **options})
        self._principal: tuple[Tensor, Tensor] | None = None  # of the whole covariance, found when first asked for
        self.register_buffer("means", flat)
        self.register_buffer("weights", weights.to(flat.dtype))
        self.register_buffer("spectrum", spectrum.to(flat.dtype))
        self.register_buffer("basis", None if basis is None else basis.to(flat.dtype))

    # -- moments -------------------------------------------------------------------------------------------------

    @property
    def mean(self) -> Tensor:
        """The mean, of shape `shape`."""
        return (self.weights @ self.means).reshape(self.shape)

    @property
    def var(self) -> Tensor:
        """The variance of each entry, of shape `shape`."""
        spread = self.weights @ (self.means - self.mean.flatten()) ** 2
        within = self.spectrum if self.basis is None else (self.basis**2 @ self.spectrum[..., None])[..., 0]
        return (spread + (self.weights @ within if len(within) > 1 else within[0])).reshape(self.shape)

    @property
    def covariance(self) -> Tensor:
        """The covariance of the flattened signal, (n, n)."""
        centred = self.means - self.mean.flatten()
        between = (self.weights[:, None] * centred).T @ centred
        within = dense(self.spectrum, self.basis)
        return between + (torch.einsum("k,kij->ij", self.weights, within) if len(within) > 1 else within[0])

    @property
    def component_std(self) -> float:
        """Root mean square deviation of an entry from the mean of its component: what is left to draw once it is known."""
        within = self.spectrum.mean(1)
        return (self.weights @ within if len(within) > 1 else within[0]).sqrt().item()

    # -- the denoiser --------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        flat, var = x.flatten(1), _square(sigma, x)
        log, z, total = self._joint(flat, var)
        r = log.softmax(1)
        means, spectrum = self.means.to(x.dtype), self.spectrum.to(x.dtype)
        if len(spectrum) == 1:
            z = (spectrum * z + var * (r @ self._rotate(means))) / total
            out = z if self.basis is None else z @ self.basis[0].to(x.dtype).T
        else:
            shift = spectrum / total * z
            if self.basis is not None:
                shift = torch.einsum("kni,bki->bkn", self.basis.to(x.dtype), shift)
            out = r @ means + torch.einsum("bk,bkn->bn", r, shift)
        return out.reshape(x.shape)

    def _rotate(self, flat: Tensor) -> Tensor:
        return flat if self.basis is None else flat @ self.basis[0].to(flat.dtype)

    def _joint(self, flat: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log w_k N(x; m_k, S_k + var I) up to a term that all k share, (B, K); the coordinates of x; their
        variances."""
        spectrum, log_weights = self.spectrum.to(flat.dtype), self.weights.to(flat.dtype).log()
        means = self.means.to(flat.dtype)
        if len(spectrum) == 1:
            z, m, total = self._rotate(flat), self._rotate(means), spectrum + var
            return log_weights + (z / total) @ m.T - 0.5 * (1 / total) @ (m**2).T, z, total
        z = flat[:, None] - means
        if self.basis is not None:
            z = torch.einsum("kni,bkn->bki", self.basis.to(flat.dtype), z)
        total = spectrum + var[..., None]
        return log_weights - 0.5 * (z**2 / total + total.log()).sum(2), z, total

    def responsibilities(self, x: Tensor, sigma: Sigma = 0.0) -> Tensor:
        """Returns the probability of each component given x_sigma = x, (B, K)."""
        return self._joint(x.flatten(1), _square(sigma, x))[0].softmax(1)

    def log_prob(self, x: Tensor, sigma: Sigma = 0.0) -> Tensor:
        """Returns log p_sigma(x), the density of x_0 + sigma eps, (B,); by default of x_0 itself."""
        log, z, total = self._joint(x.flatten(1), _square(sigma, x))
        if total.device.type == "cpu" and not (total > 0).all():  # elsewhere reading it would stall the device
            raise UnsupportedError(
                f"this {type(self).__name__} has no density at sigma = 0: its covariance is singular; ask for "
                "log_prob(x, sigma) with a positive sigma"
            )
        shared = 0.5 * (z**2 / total + total.log()).sum(1) if len(self.spectrum) == 1 else 0.0
        return log.logsumexp(1) - shared - 0.5 * z.shape[-1] * math.log(2 * math.pi)

    def variance(self, sigma: float) -> float:
        if not self.mmse:  # once
            self.mmse = tuple((s, max(error, 1e-30)) for s, error in sampled_errors(self, 256, 49))
        return super().variance(sigma)

    def start(self, z: Tensor, sigma: float) -> Tensor:
        """Returns the Gaussian with p_sigma's mean and covariance; with its variances alone above 1024 entries.

        Distant components spread along a few directions, in high dimension by more than sigma: the variances alone would
        start in the wrong place.
        """
        if self.means.shape[1] > 1024:  # beyond, the decomposition takes many seconds
            return self.mean.to(z.dtype) + (self.var.to(z.dtype) + sigma**2).sqrt() * z
        if self._principal is None:
            values, vectors = torch.linalg.eigh(self.covariance.double())
            self._principal = (values, vectors)
        spectrum, basis = (t.to(z.device, z.dtype) for t in self._principal)
        # the symmetric root, which does not depend on the signs of the eigenvectors and is nearly a multiple of z
        flat = (z.flatten(1) @ basis * (spectrum.clamp(min=0) + sigma**2).sqrt()) @ basis.T
        return self.mean.to(z.dtype) + flat.reshape(z.shape)

    # -- exact samples and posteriors ----------------------------------------------------------------------------

    @checked
    def sample(self, num_samples: Count = 1, seed: Seed = 0) -> Tensor:
        """Returns exact samples, (num_samples, *shape); sample i depends on the seed and on i only."""
        randn = Streams(seed, torch.arange(num_samples))
        u = randn.uniform(self.means.new_empty(num_samples, 1, dtype=torch.float64)).flatten().contiguous()
        k = torch.searchsorted(self.weights.double().cumsum(0), u).clamp(max=len(self.weights) - 1)
        z = randn(self.means.new_empty(num_samples, self.means.shape[1]))
        if self.basis is None:
            z = z * (self.spectrum.sqrt()[k] if len(self.spectrum) > 1 else self.spectrum.sqrt())
        elif len(self.basis) == 1:
            z = z @ root(self.spectrum[0], self.basis[0])
        else:
            for j in k.unique():  # one product per component, never a basis per sample
                z[k == j] = z[k == j] @ root(self.spectrum[j], self.basis[j])
        return (self.means[k] + z).reshape(num_samples, *self.shape)

    def posterior(self, A: Operator, noise: Noise | float, y: Tensor) -> "GaussianMixture":
        """Returns the exact p(x | y) for a linear operator and Gaussian noise, of the same family, by dense algebra in
        float64.

        Component k becomes N(m_k + G_k (y - A m_k), (I - G_k A) S_k) with G_k = S_k A^T (A S_k A^T + R)^-1, its weight is
        multiplied by its evidence N(y; A m_k, A S_k A^T + R). `log_evidence` of the result is log p(y).

        Args:
            A: in_shape = shape.
            noise: Gaussian, or its standard deviation in units of y.
            y: one measurement, (*A.out_shape).

        Raises:
            UnsupportedError: another operator or noise, or more than 4096 entries in x or y.
        """
        post = check_one(self, A, noise, y)
        if not (isinstance(A, LinearOperator) and isinstance(post.noise, Gaussian)):
            raise UnsupportedError(
                f"an exact posterior needs a LinearOperator and Gaussian noise, got {type(A).__name__} and "
                f"{type(post.noise).__name__}"
            )
        n, m = self.means.shape[1], y.numel() * (2 if y.is_complex() else 1)
        if max(n, m) > _MAX_DENSE:
            raise UnsupportedError(
                f"an exact posterior is dense algebra for at most {_MAX_DENSE} entries, got {n} of x and {m} of y"
            )
        eye = torch.eye(n, dtype=torch.float64, device=y.device)
        H = _real(A(eye.reshape(n, *self.shape))).T  # (m, n)
        R = torch.as_tensor(post.noise.var, dtype=torch.float64, device=y.device)
        R = _real(torch.complex(R, R).expand(y.shape)[None] if y.is_complex() else R.expand(y.shape)[None])[0]
        means, S = self.means.double(), dense(self.spectrum.double(), None if self.basis is None else self.basis.double())
        HS = H @ S  # (1 or K, m, n)
        try:
            L = torch.linalg.cholesky(HS @ H.T + R.diag())
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]  (public in its documentation)
            raise UnsupportedError(
                "the measurement has no density under this prior: A S A^T + noise is singular; state a small noise level"
            ) from None
        error = _real(y[None]).double() - means @ H.T  # (K, m)
        G = torch.cholesky_solve(HS, L).mT  # (1 or K, n, m)
        white = torch.linalg.solve_triangular(L, error[..., None], upper=False)[..., 0]
        log_det = 2 * L.diagonal(dim1=1, dim2=2).log().sum(1)
        log = self.weights.double().log() - 0.5 * ((white**2).sum(1) + log_det + m * math.log(2 * math.pi))
        means = means + (G @ error[..., None])[..., 0]
        keep = eye - G @ H
        S = keep @ S @ keep.mT + G * R @ G.mT  # Joseph's form: positive semi-definite whatever the rounding
        out = self._family(means.to(self.means.dtype), log.softmax(0), S)
        out.log_evidence = log.logsumexp(0).item()
        return out

    def condition(self, *components: int) -> "GaussianMixture":
        """Returns p(x | the component is one of these), of the same family, exactly: the class-conditional prior of a
        mixture.

        Raises:
            OptionError: no component, or a number that is not one of 0 ... K - 1.
        """
        count = len(self.means)
        if not components or any(not isinstance(k, int) or not 0 <= k < count for k in components):
            raise OptionError(f"a mixture is conditioned on components 0 to {count - 1}, got {components}")
        keep = torch.tensor(sorted(set(components)), device=self.means.device)
        S = dense(self.spectrum, self.basis)
        weights = self.weights[keep]
        out = self._family(
            self.means[keep], weights / weights.sum(), S[keep] if len(S) > 1 else S.expand(len(keep), -1, -1)
        )
        # the noise levels of the whole, so that both can be guided together
        out.sigma_min, out.sigma_max = self.sigma_min, self.sigma_max
        return out

    def _family(self, means: Tensor, weights: Tensor, covariances: Tensor) -> "GaussianMixture":
        return GaussianMixture(means.reshape(-1, *self.shape), weights, covariances=covariances)


def _square(sigma: Sigma, x: Tensor) -> Tensor:
    """Returns sigma^2, (1, 1) or (B, 1)."""
    return torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1) ** 2


def _real(batch: Tensor) -> Tensor:
    """Returns a batch of vectors, real and imaginary parts side by side where it is complex."""
    return (torch.view_as_real(batch.resolve_conj()) if batch.is_complex() else batch).flatten(1)


def check_one(prior: GaussianMixture, A: Operator, noise: Noise | float, y: Tensor) -> Posterior:
    """Returns the posterior of one measurement.

    Args:
        prior, A, noise: as for `invgen.Posterior`.
        y: one measurement, without batch axes.

    Raises:
        ShapeError: y is a batch.
    """
    post = Posterior(prior, A, noise, y)
    if post.batch:
        raise ShapeError(f"an exact posterior is of one measurement {tuple(A.out_shape)}, got a batch {tuple(y.shape)}")
    return post
