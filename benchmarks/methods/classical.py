"""Classical reconstructions in the place of samplers: one estimate each, no learned prior, no posterior behind it.

They stand in a suite beside the samplers, get what a sampler gets (measurement, operator, noise level, never the truth)
and cost no network evaluations. Here: the base, what fits every linear operator, and total variation. `classical_ct` and
`classical_images` have the methods of their fields.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Prior
from invgen.errors import OptionError
from invgen.forward import LinearOperator, Operator
from invgen.linalg import norm
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler

# of the steps of TV, found by counting iterations of CT at 23 and 60 views and of restorations of photographs
RATIO, BALANCE = 0.1, 2.0

__all__ = ["TV", "Adjoint", "Classical", "Measurement", "PseudoInverse"]


@dataclass(frozen=True)
class Classical(Sampler):
    """A deterministic estimate in the place of a sampler: every "sample" is the same.

    A subclass writes `reconstruct`; what it asks of a problem are the class attributes of a Sampler, and `refuses`.
    """

    steps: ClassVar[int] = 1
    schedule: ClassVar[tuple] = ()
    kind: ClassVar[str] = "classical"
    prior: ClassVar[type] = Prior
    A: ClassVar[type] = LinearOperator
    noiseless: ClassVar[bool] = True
    gradient: ClassVar[bool] = False

    def reconstruct(self, post: Posterior) -> Tensor:
        """The estimate, (B, *shape), of each measurement post.y, (B, *out_shape)."""
        raise TypeError(f"{type(self).__name__} must define reconstruct(self, post)")

    def __call__(self, post: Posterior, num_samples: int = 1, seed: int = 0, **options: Any) -> Tensor:
        """The estimate, num_samples times: (num_samples, *batch, *shape). The seed changes nothing.

        Raises: as `Sampler.__call__` does.
        """
        if not isinstance(num_samples, int) or num_samples < 1:
            raise OptionError(f"num_samples must be a positive whole number, got {num_samples!r}")
        x = super().__call__(post, 1, seed, **options)
        return x.expand(num_samples, *x.shape[1:])

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        yield self.reconstruct(post)

    def start(self, post: Posterior, randn: Streams, rows: int) -> Tensor:
        return torch.zeros(rows, *post.prior.shape, dtype=post.prior.dtype, device=post.prior.device)

    def _decode(self, prior: Prior, x: Tensor, max_batch: int | None) -> Tensor:
        return x  # a signal, whatever the prior: never a code

    def levels(self, prior: Prior) -> list[tuple[float, float]]:
        return []


@dataclass(frozen=True)
class Measurement(Classical):
    """The measurement taken as the signal (over the gain of HighDynamicRange), which shows a degraded image."""

    A: ClassVar[type] = Operator

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and post.A.out_shape != post.prior.shape:
            why = f"needs a measurement of the shape of the signal, got {tuple(post.A.out_shape)}"
        return why

    def reconstruct(self, post: Posterior) -> Tensor:
        return post.y / getattr(post.A, "gain", 1.0)


@dataclass(frozen=True)
class Adjoint(Classical):
    """A^T y, scaled to explain the measurement best: backprojection, zero-filling."""

    def reconstruct(self, post: Posterior) -> Tensor:
        return scaled_adjoint(post)


@dataclass(frozen=True)
class PseudoInverse(Classical):
    """A^+ y, the least-squares signal of least norm: exact for exact measurements, and no guard against noise."""

    def reconstruct(self, post: Posterior) -> Tensor:
        return post.A.pinv(post.y)


@dataclass(frozen=True)
class TV(Classical):
    """The signal of least total variation (Rudin, Osher & Fatemi, 1992) among those that explain the measurement.

        min TV(x)   subject to   |(y - A x) / std| <= sqrt(m),      TV(x) = sum over pixels of |gradient x|

    The bound is Morozov's discrepancy principle: m measured values of noise `std` are that far from their clean values. So
    the only weight is the noise level that every sampler is told, and no truth is needed. The gradient of a pixel has all
    channels (the first axis of a signal of two axes or more) and directions, so that the edges of colours agree.

    By the primal-dual algorithm of Chambolle & Pock (J. Math. Imaging Vis. 2011, Algorithm 1), the two blocks of whose
    operator, gradient and A, are scaled to norms of a fixed ratio.

    Args:
        steps: iterations, of one A and one A^T each.
        weight: instead of the bound: min |(y - A x) / std|^2 / 2 + weight TV(x), in 1 / units of the signal.
    """

    steps: int = 300
    weight: float | None = None
    noiseless: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight is not None and not (isinstance(self.weight, int | float) and 0 < self.weight < math.inf):
            raise OptionError(f"weight must be a positive number, or None for the noise level, got {self.weight!r}")

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and post.A.in_dtype.is_complex:
            why = "needs real signals, got complex ones"
        return why

    def reconstruct(self, post: Posterior) -> Tensor:
        A, y = post.A, post.y
        whiten = 1 / torch.as_tensor(post.noise.std(y), dtype=y.real.dtype, device=y.device)
        dim = max(len(post.prior.shape) - 1, 1)  # spatial axes
        slope = 2 * dim**0.5  # the norm of the gradient, at most
        scale = BALANCE * slope / (A.norm() * whiten.max().item())
        size = slope * (1 + BALANCE**2) ** 0.5  # the norm of both blocks
        values = y[0].numel() * (2 if y.is_complex() else 1)
        # steps whose product is 1 / size^2; their ratio puts the signal on the scale of the dual variable, at most 1
        ratio = RATIO * post.prior.data_std
        tau, sigma = ratio / size, 1 / (ratio * size)
        x = scaled_adjoint(post)
        ahead, p, q = x, torch.zeros_like(gradient(x, dim)), torch.zeros_like(y)
        for _ in range(self.steps):
            p = p + sigma * gradient(ahead, dim)
            p = p / p.square().sum((0, 2), keepdim=True).sqrt().clamp(min=1)
            q = q + sigma * scale * whiten * (A(ahead) - y)
            if self.weight is None:
                q = q * (1 - sigma * scale * values**0.5 / norm(q).clamp(min=1e-30)).clamp(min=0)
            else:
                q = q / (1 + sigma * scale**2 * self.weight)
            new = x - tau * (gradient_adjoint(p, dim) + scale * A.adjoint(whiten * q))
            ahead, x = 2 * new - x, new
        return x


def scaled_adjoint(post: Posterior) -> Tensor:
    """The multiple of A^T y of least residual, (B, *shape)."""
    x = post.A.adjoint(post.y)
    clean = post.A(x)
    return x * (norm(x) / norm(clean).clamp(min=1e-30)).reshape(-1, *[1] * (x.ndim - 1)) ** 2


def gradient(x: Tensor, dim: int) -> Tensor:
    """Forward differences along the last `dim` axes of (B, [C,] *spatial), zero at the far edge: (dim, B, C, *spatial)."""
    x = x.unsqueeze(1) if x.ndim == dim + 1 else x
    out = x.new_zeros(dim, *x.shape)
    for k in range(dim):
        axis, n = k - dim, x.shape[k - dim]
        out[k].narrow(axis, 0, n - 1).copy_(x.narrow(axis, 1, n - 1) - x.narrow(axis, 0, n - 1))
    return out


def gradient_adjoint(p: Tensor, dim: int) -> Tensor:
    """The transpose of `gradient`: minus the divergence."""
    out = torch.zeros_like(p[0])
    for k in range(dim):
        axis, n = k - dim, p.shape[k - dim]
        inner = p[k].narrow(axis, 0, n - 1)
        out.narrow(axis, 1, n - 1).add_(inner)
        out.narrow(axis, 0, n - 1).sub_(inner)
    return out
