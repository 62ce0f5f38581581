"""Classical reconstructions of tomography: filtered backprojection and the two iterative methods in use, SIRT and CGLS.

Iterations on noisy data first find the image and then the noise, so both stop where the residual has come down to the
noise level (Morozov's discrepancy principle), or after `steps`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invgen.benchmarks.methods.classical import Classical, Linear
from invgen.diffusion import Prior
from invgen.linalg import dot
from invgen.noise import Noiseless
from invgen.operators import ConeBeamCT, FanBeamCT, ParallelBeamCT
from invgen.operators.ct._projected import Projected
from invgen.posterior import Posterior
from invgen.validation.hints import Count

__all__ = ["CGLS", "FBP", "SIRT"]


@dataclass(frozen=True)
class FBP(Classical):
    """Filtered backprojection (Kak & Slaney, 1988; of cone beams Feldkamp, Davis & Kress, 1984): `fbp` of the CT operators.

    Args:
        filter: the window on the ramp, from sharp to smooth.
    """

    filter: Literal["ram-lak", "shepp-logan", "cosine", "hamming", "hann"] = "hann"

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and not hasattr(post.A, "fbp"):
            why = f"needs ParallelBeamCT, FanBeamCT or ConeBeamCT, got {type(post.A).__name__}"
        return why

    def reconstruct(self, post: Posterior[Prior, ParallelBeamCT | FanBeamCT | ConeBeamCT]) -> Tensor:
        return post.A.fbp(post.y, self.filter)


@dataclass(frozen=True)
class _Iterative(Classical):
    """
    Args:
        steps: at most.
        discrepancy: whether to stop where the residual is that of noise; False makes all steps.
    """

    steps: Count = 100
    discrepancy: bool = True

    def ended(self, post: Posterior, x: Tensor) -> Tensor:
        """Which estimates explain their measurement, (B, 1, ..., 1)."""
        if not self.discrepancy or isinstance(post.noise, Noiseless):
            return torch.zeros(len(x), *[1] * (x.ndim - 1), dtype=torch.bool, device=x.device)
        return (post.residual_over_noise(x) <= 1).reshape(-1, *[1] * (x.ndim - 1))


@dataclass(frozen=True)
class SIRT(_Iterative):
    """Simultaneous iterative reconstruction (Gregor & Benson, IEEE Trans. Med. Imaging 2008), from zero:

        x <- x + C A^T R (y - A x),     R = 1 / (row sums of A), C = 1 / (column sums of A)

    The minimiser of |y - A x| in the norm of R, which it approaches slowly and smoothly.
    """

    steps: Count = 200

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and not isinstance(post.A, Projected):  # elsewhere the sums of rows may vanish
            why = f"needs ParallelBeamCT, FanBeamCT or ConeBeamCT, got {type(post.A).__name__}"
        return why

    def reconstruct(self, post: Linear) -> Tensor:
        A, y = post.A, post.y
        rows, columns = A(torch.ones(1, *A.in_shape).to(y)), A.adjoint(torch.ones_like(y[:1]))
        R, C = (torch.where(sums > 0, 1 / sums.where(sums > 0, 1), 0) for sums in (rows, columns))
        x = torch.zeros(len(y), *A.in_shape).to(y)
        for _ in range(self.steps):
            going = ~self.ended(post, x)
            if not going.any():
                break
            x = torch.where(going, x + C * A.adjoint(R * (y - A(x))), x)
        return x


@dataclass(frozen=True)
class CGLS(_Iterative):
    """Conjugate gradients on the normal equations A^T A x = A^T y (Hestenes & Stiefel, 1952), from zero."""

    steps: Count = 50
    discrepancy: bool = True
    gradient: ClassVar[bool] = False

    def reconstruct(self, post: Linear) -> Tensor:
        A, r = post.A, post.y
        x = torch.zeros(len(r), *A.in_shape, dtype=A.in_dtype).to(r)
        s = p = A.adjoint(r)
        gamma = dot(s, s)
        for _ in range(self.steps):
            going = ~self.ended(post, x) & (gamma > 0)
            if not going.any():
                break
            q = A(p)
            alpha = torch.where(going, gamma / dot(q, q).reshape(gamma.shape).where(going, 1), 0)
            x, r = x + alpha * p, r - alpha.reshape(-1, *[1] * (r.ndim - 1)) * q
            s = A.adjoint(r)
            before, gamma = gamma, torch.where(going, dot(s, s), gamma)
            p = s + gamma / before.where(going, 1) * p
        return x
