"""Classical reconstructions in the place of samplers: one estimate each, no learned prior, no posterior behind it.

They stand in a suite beside the samplers, get what a sampler gets (measurement, operator, noise level, never the truth)
and cost no network evaluations. Here: the base, and what fits every linear operator; each field has a file of its own.
"""

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

__all__ = ["Adjoint", "Classical", "Measurement", "PseudoInverse"]


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


def scaled_adjoint(post: Posterior) -> Tensor:
    """The multiple of A^T y of least residual, (B, *shape)."""
    x = post.A.adjoint(post.y)
    clean = post.A(x)
    return x * (norm(x) / norm(clean).reshape(-1, *[1] * (x.ndim - 1)).clamp(min=1e-30)) ** 2
