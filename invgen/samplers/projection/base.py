"""Pieces of projection samplers: at noise level s the measured part of the state is replaced by the noised measurement.

If y = A x_0, then x_0 + s eps has A x_s = y + s A eps. So x <- x + A^+ (y + s A z - A x), with fresh noise z, is a state
whose measured part has the right law and whose other part is as it was: inpainting, in the basis of A's singular vectors.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, noise_levels
from invgen.forward import LinearOperator, as_svd, has_svd, per_sample
from invgen.linalg import norm
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian, Posterior
from invgen.sampler import Sampler

Levels = list[tuple[float, float]]
Rule = Literal["level", "norm"]


@dataclass(frozen=True)
class ProjectionSampler(Sampler):
    """The base of samplers that put the measurement in its place: a linear operator, Gaussian noise of one level or none.

    Noisy measurements are treated coordinate by coordinate, which needs the SVD of the operator.
    """

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    noiseless: ClassVar[bool] = True
    one_level: ClassVar[bool] = True
    family: ClassVar[str] = "projection"

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and isinstance(post.noise, Gaussian) and post.noise.sigma > 0 and not has_svd(post.A):
            why = f"needs an SVDOperator for noisy measurements, got {type(post.A).__name__}"
        return why


class Spectral:
    """The measurement in the coordinates V^T x of A = U diag(s) V^T, where each is a scalar problem y_i = x_i + noise.

    Args:
        highest: coordinates whose noise exceeds this (in units of the signal) count as unmeasured.

    Attributes:
        A: the SVDOperator.
        seen: which coordinates have been measured, in the shape of A.s; at rounding level there are no data at all.
        y: their measurements in units of the signal, s_y their noise levels, both 0 elsewhere.
    """

    def __init__(self, post: LinearGaussian, highest: float = math.inf) -> None:
        A, y, sigma_y = post.A, post.y, post.noise.sigma
        self.A = as_svd(A)
        s = self.A.s.to(y.real.dtype if y.is_complex() else y.dtype)
        self.seen = (s > 1e-6 * s.max()) & (sigma_y <= highest * s)
        inverse = torch.where(self.seen, 1 / s.where(self.seen, 1), 0)
        self.y = inverse * self.A.Ut(y)
        self.s_y = sigma_y * inverse


class Projection:
    """x <- x + weight A^+ (y_s - A x), where y_s is the measurement with noise of level s in units of the signal.

    Exact measurements: y_s = y + s A z, for any linear operator. Noisy ones: coordinate i of the SVD is read as the state
    of the diffusion at the level sigma_y / s_i of its own noise. Above that level only the noise that is missing is added;
    below it the sampler goes on from there: steps down need nothing more, because the states form a Markov chain, and steps
    that keep or raise the level (`corrector`, `up`) use the measurement. So replacement is exact for independent
    coordinates, noisy or not.
    """

    def __init__(self, post: LinearGaussian, randn: Streams) -> None:
        self.post, self.randn = post, randn
        self.spectral = Spectral(post) if post.noise.sigma > 0 else None

    def __call__(self, x: Tensor, s: float, weight: float = 1.0) -> Tensor:
        """Returns the state x, (B, *shape), at level s, with its measured part replaced (for weight = 1) or moved."""
        known = self.spectral
        if known is None:
            clean = x - s * self.randn(x) if s > 0 else x
            return x + weight * self.post.A.pinv(self.post.y - self.post.A(clean))
        if s == 0:
            return x
        fresh = (s**2 - known.s_y**2).clamp(min=0).sqrt()
        gap = known.y + fresh * known.A.Vt(self.randn(x)) - known.A.Vt(x)
        return x + known.A.V(torch.where(known.seen & (known.s_y <= s), weight * gap, 0))

    def up(self, x: Tensor, s: float, s_next: float) -> Tensor:
        """Returns the forward process from level s up to s_next, passing through the measurement where its level is
        above s."""
        z, rise = self.randn(x), s_next**2 - s**2
        if self.spectral is None:
            return x + math.sqrt(rise) * z
        known = self.spectral
        A, v = known.A, known.A.Vt(x)
        # a bridge to the measurement below its level, the forward process from it above
        gain = torch.where(known.seen & (known.s_y > s), rise / (known.s_y**2 - s**2).clamp(min=rise), 0)
        var = torch.where(gain == 1, s_next**2 - known.s_y**2, rise * (1 - gain)).clamp(min=0)
        return A.V(v + gain * (known.y - v) + var.sqrt() * A.Vt(z))

    def corrector(self, x: Tensor, s: float, snr: float, rule: Rule = "level") -> Tensor:
        """Returns one Langevin step at level s, x + h score + sqrt(2 h) z: the corrector of Song et al. (ICLR 2021),
        Algorithm 4.

        h = 2 (snr r)^2 with r = |z| / |score| in the paper, per sample here (the released code averages the norms over the
        batch). For high-dimensional data |score| is about sqrt(n) / s, so r is about s; rule="level" takes that, and the
        step is independent of the state, as the stationary law of a Langevin step requires.
        """
        score, z = self.post.prior.score(x, s), self.randn(x)
        r = norm(z) / norm(score).clamp(min=1e-30) if rule == "norm" else torch.full_like(norm(z), s)
        h = 2 * (snr * r) ** 2
        x = x + h * score + (2 * h).sqrt() * z
        if self.spectral is None:
            return x
        # an implicit step, stable for any h, on the density N(y; x_s, s_y^2 - s^2) of what the measurement still holds
        known = self.spectral
        v = known.A.Vt(x)
        h = per_sample(h.flatten(), v)
        gain = torch.where(known.seen & (known.s_y > s), h / (h + (known.s_y**2 - s**2).clamp(min=0)), 0)
        return x + known.A.V(gain * (known.y - v))


def estimate(post: LinearGaussian) -> Tensor:
    """Returns a first image, (B, *shape): A^+ y, with the prior's mean value where nothing was measured.

    With noise, the linear estimate that weighs it against the prior's data_std; for no noise that is the pseudo-inverse.
    """
    A, prior = post.A, post.prior
    mean = torch.full((len(post.y), *prior.shape), prior.data_mean, dtype=prior.dtype, device=prior.device)
    if post.noise.sigma == 0:
        return mean + A.pinv(post.y - A(mean))
    return A.prox(mean, post.y, prior.data_std**2, post.noise.var)


def levels_from(prior: Denoiser, top: float, steps: int, schedule: str | Sequence[float]) -> Levels:
    """Returns the levels of a sampler that starts at `top` times the prior's data_std, at most at sigma_max.

    A schedule given as numbers is taken as it is; `steps` is the number of levels of the others.
    """
    high = min(top * prior.data_std, prior.sigma_max)
    return noise_levels(steps, min(prior.sigma_min, high / 2), high, schedule)


def with_jumps(levels: Levels, length: int, repeat: int) -> Iterator[tuple[float, float, bool]]:
    """Yields the moves (s, s_next, whether s_next is reached for the first time) of a chain that goes back up to resample.

    RePaint's schedule (Lugmayr et al., 2022, Appendix B; also DDNM's time travel): counted from the last level, after every
    `length` steps go back up as many, repeat - 1 times; a move with s_next > s adds noise. The first stretch, where the
    state is little but noise, is not repeated.
    """
    sigmas, n = [s for s, _ in levels] + [0.0], len(levels)
    left = {n - 1 - t: repeat - 1 for t in range(0, n - length, length)}
    k = reached = 0
    while k < n:
        k += 1
        yield sigmas[k - 1], sigmas[k], k > reached
        reached = max(reached, k)
        if left.get(k, 0) > 0:
            left[k] -= 1
            yield sigmas[k], sigmas[k - length], False
            k -= length
