"""Priors of volumes and clips: a prior of their slices or frames, and a coupling along the axis across them."""

import math
from typing import Literal

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Sigma, per_sample_sigma
from invgen.errors import OptionError, ShapeError
from invgen.numerics.gradients import running
from invgen.numerics.random import Streams
from invgen.priors.wrappers.tiling import Windowed, per_part
from invgen.validation.hints import Count, Fraction, Positive

LEVELS = 8  # of noise at which a coupling is learned
ROUNDS = 8  # of the reweighted solves of "tv": the objective is .2 per cent above its minimum then, .07 after 16
FLOOR = 1e-2  # of the scale: smaller differences are not distinguished


class Slices(Windowed):
    """A prior of volumes, or of clips: independent slices of a prior of images, times a coupling of neighbours.

    p(x) is proportional to the product of p(x_k) over slices and of a law of x_{k+1} - x_k, value by value: N(0, scale^2)
    for "ar", a random walk from slice to slice, or exp(-|d| / scale) for "tv", the total variation along the axis. The
    slices' denoiser gives z_k with an error of variance v = prior.variance(sigma), and D is the most probable volume then:

        argmin_u |u - z|^2 / (2 v) + sum_k |u_{k+1} - u_k|^2 / (2 scale^2),    or   ... + sum_k |u_{k+1} - u_k| / scale,

    for "ar" the Kalman smoother, for "tv" by reweighted least squares. Where the noise is high neighbours decide, where it
    is low each slice does. DiffusionMBIR (Chung et al., "Solving 3D inverse problems using pre-trained 2D diffusion
    models", CVPR 2023) and DDS (Chung et al., ICLR 2024) put the total variation into their data steps; here it is in the
    prior, so that every sampler has it. Without a coupling the measurement alone ties slices together.

    Slices are denoised `max_batch` at a time, so that memory is that of some volumes and of the network on so many slices.

    Args:
        prior: the denoiser of one slice, such as `Tiled` for large ones.
        count: of the slices.
        axis: of the volume along which they are stacked: 1 makes (C, count, H, W) of (C, H, W).
        coupling: "tv", "ar" or None.
        scale: of the differences of neighbours, in the units of the signal; `learn` finds it on clean volumes.
        shared_noise: the correlation of the first noise between slices, so that they begin alike.
        max_batch: slices to denoise at once.
    """

    def __init__(
        self,
        prior: Denoiser,
        count: Count,
        axis: int = 1,
        *,
        coupling: Literal["tv", "ar"] | None = None,
        scale: Positive | None = None,
        shared_noise: Fraction = 0.0,
        max_batch: int | None = 16,
    ) -> None:
        if not 0 <= axis <= len(prior.shape):
            raise OptionError(f"slices need an axis from 0 to {len(prior.shape)}, got {axis!r}")
        if scale is not None and coupling is None:
            raise OptionError("scale belongs to a coupling; give coupling='tv' or 'ar' too")
        super().__init__(prior, (*prior.shape[:axis], count, *prior.shape[axis:]), max_batch)
        self.axis, self.coupling, self.scale, self.shared_noise = axis, coupling, scale, shared_noise

    def learn(self, volumes: Tensor, seed: int = 0) -> "Slices":
        """Sets `scale` to that of the smallest error of D, and the table `mmse` to its errors, and returns self.

        Args:
            volumes: clean ones, (B, *shape), with any number of slices.
            seed: of the noise that is put on them.
        """
        if self.coupling is None:
            raise OptionError("learn sets the scale of a coupling; make the prior with coupling='tv' or 'ar'")
        if volumes.ndim != len(self.shape) + 1 or volumes.shape[self.axis + 1] < 2:
            wanted = f"(B, {', '.join(map(str, self.shape))})"
            raise ShapeError(f"learn takes volumes {wanted} of at least two slices, got {tuple(volumes.shape)}")
        mean = volumes.diff(dim=self.axis + 1).abs().mean().item()
        if not 0 < mean < math.inf:
            raise OptionError(f"learn needs slices that differ by finite values, got a mean difference of {mean}")
        randn, scales = Streams(seed, list(range(len(volumes)))), [mean * 2 ** (k / 2) for k in range(-2, 8)]
        low, high = math.log10(self.sigma_min), math.log10(self.sigma_max)
        levels = torch.logspace(low, high, LEVELS, dtype=torch.float64).tolist()
        errors = []
        with running(self):
            for s in levels:
                z, v = self._each(volumes + s * randn(volumes), s), self.prior.variance(s)
                errors.append([(self._couple(z, v, scale) - volumes).square().mean().item() for scale in scales])
        best = int(torch.tensor(errors).clamp(min=1e-30).log().mean(0).argmin())
        self.scale = scales[best]
        pairs = zip(levels, errors, strict=True)
        self.mmse = tuple((s, min(max(row[best], 1e-30), s**2)) for s, row in pairs)
        return self

    def variance(self, sigma: float) -> float:
        """Returns the variance of a value of D's error: of the measured table, else of the slices' after the smoother."""
        v = self.prior.variance(sigma)
        if self.mmse:
            return Denoiser.variance(self, sigma)
        if self.coupling is None:
            return v
        scale = self._scale() * (math.sqrt(2) if self.coupling == "tv" else 1)  # a Laplace law has variance 2 scale^2
        count = self.shape[self.axis]
        waves = 2 - 2 * torch.cos(math.pi * torch.arange(count, dtype=torch.float64) / count)
        return (1 / (1 / v + waves / scale**2)).mean().item()

    def _scale(self) -> float:
        if self.scale is None:
            raise OptionError("the coupling of slices needs a scale; give scale=, or call learn(volumes) once")
        return self.scale

    def start(self, z: Tensor, sigma: float) -> Tensor:
        if self.shared_noise:
            # the root of (1 - r) I + r 1 1^T: a correlation of r between slices, each of which stays standard normal
            mean, r = z.mean(self.axis + 1, keepdim=True), self.shared_noise
            z = math.sqrt(1 - r) * (z - mean) + math.sqrt(1 - r + r * self.shape[self.axis]) * mean
        return self._volume(self.prior.start(self._slices(z), sigma), len(z))

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        z = self._each(x, sigma)
        return z if self.coupling is None else self._couple(z, self._error(sigma, z), self._scale())

    def _each(self, x: Tensor, sigma: Sigma) -> Tensor:
        """Returns the volume of denoised slices."""
        slices = self._slices(x)
        if isinstance(sigma, Tensor) and sigma.ndim:
            sigma = sigma.expand(len(x)).repeat_interleave(self.shape[self.axis])
        parts = list(slices.split(self.max_batch or max(len(slices), 1)))
        if len(parts) == 1:  # nothing would be saved by evaluating it again for a gradient
            return self._volume(self.prior(slices, sigma), len(x))
        levels = per_part(sigma, parts)
        return self._volume(torch.cat([self.evaluate(p, s) for p, s in zip(parts, levels, strict=True)]), len(x))

    def _error(self, sigma: Sigma, like: Tensor) -> Tensor | float:
        """Returns the variance of the slices' denoiser, a number or one a sample."""
        if not isinstance(sigma, Tensor):
            return self.prior.variance(sigma)
        errors = torch.tensor([self.prior.variance(s) for s in sigma.flatten().tolist()], dtype=torch.float64)
        return per_sample_sigma(errors.to(like.device), like)

    def _couple(self, z: Tensor, v: Tensor | float, scale: float) -> Tensor:
        axis = self.axis + 1
        if z.shape[axis] == 1:
            return z
        if self.coupling == "ar":
            d = z.diff(dim=axis)
            return smooth(z, torch.ones_like(d) * (v / scale**2), axis)
        u = z
        for _ in range(ROUNDS):
            # |d| <= d^2 / (2 |d'|) + |d'| / 2, with equality at the d' of the round before
            u = smooth(z, v / (scale * u.diff(dim=axis).abs().clamp(min=FLOOR * scale)), axis)
        return u

    def _slices(self, x: Tensor) -> Tensor:
        return x.movedim(self.axis + 1, 1).flatten(0, 1)

    def _volume(self, slices: Tensor, rows: int) -> Tensor:
        return slices.unflatten(0, (rows, -1)).movedim(1, self.axis + 1)


def smooth(z: Tensor, weight: Tensor, axis: int) -> Tensor:
    """Returns argmin_u |u - z|^2 + sum_k weight_k (u_{k+1} - u_k)^2 along an axis, by elimination from end to end.

    Args:
        z: the values.
        weight: of the differences, one entry less along the axis.
        axis: the axis.
    """
    values, weights = z.unbind(axis), weight.unbind(axis)
    gains, sums = [weights[0] / (1 + weights[0])], [values[0] / (1 + weights[0])]
    for k in range(1, len(values)):
        after = weights[k] if k < len(weights) else 0.0
        pivot = 1 + after + weights[k - 1] * (1 - gains[-1])
        sums.append((values[k] + weights[k - 1] * sums[-1]) / pivot)
        gains.append(after / pivot)
    out = [sums[-1]]
    for gain, total in zip(gains[-2::-1], sums[-2::-1], strict=True):
        out.append(total + gain * out[-1])
    return torch.stack(out[::-1], axis)
