"""Classical reconstructions in the place of samplers: one estimate each, no learned prior, no posterior behind it.

They stand in a suite beside the samplers, get what a sampler gets (measurement, operator, noise level, never the truth)
and cost no network evaluations. Here: the base, and what fits every linear operator; each field has a file of its own.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invgen.cost import charged
from invgen.diffusion import Prior
from invgen.errors import UnsupportedError
from invgen.forward import LinearOperator, Operator
from invgen.linalg import norm
from invgen.method import Method, Run
from invgen.posterior import Posterior

__all__ = ["Adjoint", "Classical", "Measurement", "PseudoInverse"]

Linear = Posterior[Prior, LinearOperator]  # for type hints


@dataclass(frozen=True)
class Classical(Method):
    """A deterministic estimate: every "sample" is the same, and the seed changes nothing.

    A subclass writes `reconstruct`; what it asks of a problem are the class attributes of a Method, and `refuses`.
    """

    kind: ClassVar[str] = "classical"
    A: ClassVar[type] = LinearOperator
    noiseless: ClassVar[bool] = True
    gradient: ClassVar[bool] = False

    def reconstruct(self, post: Posterior[Any, Any, Any]) -> Tensor:
        """Returns the estimate, (B, *shape), of each measurement post.y, (B, *out_shape).

        A subclass may name in the hint of `post` what it requires, as in `Posterior[Prior, LinearOperator]`.
        """
        raise UnsupportedError(f"{type(self).__name__} must define reconstruct(self, post)")

    def solve(self, post: Posterior, num_samples: int, seed: int | Tensor, run: Run) -> Tensor:
        """Returns the estimate of each measurement, num_samples times."""
        rows = torch.arange(math.prod(post.batch))
        x = torch.zeros(len(rows), *post.prior.shape, dtype=post.prior.dtype, device=post.prior.device)
        with torch.no_grad(), charged(run.cost, post.prior, post.A, len(rows)):
            for part in rows.split(run.max_batch or max(len(rows), 1)):
                x[part] = self.reconstruct(post.rows(part)).to(x.dtype)
        self.check_samples(post.prior, x)
        return x.reshape(1, *post.batch, *post.prior.shape).expand(num_samples, *post.batch, *post.prior.shape)


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

    def reconstruct(self, post: Linear) -> Tensor:
        return scaled_adjoint(post)


@dataclass(frozen=True)
class PseudoInverse(Classical):
    """A^+ y, the least-squares signal of least norm: exact for exact measurements, and no guard against noise."""

    def reconstruct(self, post: Linear) -> Tensor:
        return post.A.pinv(post.y)


def scaled_adjoint(post: Linear) -> Tensor:
    """Returns the multiple of A^T y of least residual, (B, *shape)."""
    x = post.A.adjoint(post.y)
    clean = post.A(x)
    return x * (norm(x) / norm(clean).reshape(-1, *[1] * (x.ndim - 1)).clamp(min=1e-30)) ** 2
