"""Classical reconstructions of Cartesian MRI: zero-filling, SENSE, and wavelets with the l1 norm."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from invgen.benchmarks.methods.classical import Classical, Linear
from invgen.benchmarks.methods.ct import CGLS
from invgen.benchmarks.methods.wavelets import shrink
from invgen.noise import Gaussian
from invgen.operators import MRI, MultiCoilMRI
from invgen.posterior import Posterior
from invgen.validation.hints import Count, Index, Level, NonNegative

__all__ = ["L1Wavelet", "SENSE", "ZeroFilling"]


class _OfKSpace(Classical):
    """The requirements of these methods."""

    kinds: ClassVar[tuple[type, ...]] = (MRI, MultiCoilMRI)

    def refuses(self, post: Posterior) -> str | None:
        """Why this problem is none of MRI, as the end of a sentence, or None."""
        why = super().refuses(post)
        if why is None and not isinstance(post.A, self.kinds):
            why = f"needs {' or '.join(kind.__name__ for kind in self.kinds)}, got {type(post.A).__name__}"
        return why


@dataclass(frozen=True)
class ZeroFilling(_OfKSpace):
    """The inverse Fourier transform of k-space with zeros where nothing was measured, coils combined: A^H y."""

    def reconstruct(self, post: Linear) -> Tensor:
        return post.A.adjoint(post.y)


@dataclass(frozen=True)
class SENSE(_OfKSpace, CGLS):
    """CG-SENSE (Pruessmann et al., MRM 2001): conjugate gradients on the normal equations, stopped where the residual is
    that of noise. For several coils."""

    kinds: ClassVar[tuple[type, ...]] = (MultiCoilMRI,)


@dataclass(frozen=True)
class L1Wavelet(_OfKSpace):
    """Compressed sensing (Lustig et al., MRM 2007): min |y - A x|^2 / 2 + threshold |W x|_1, W a wavelet transform.

    By proximal gradient steps, each with the image shifted to another place, so that W is near a translation-invariant
    transform (cycle spinning: Coifman & Donoho, 1995). The weight is found without the truth: it starts large and falls,
    by `fall` a step, until the residual is that of noise (Morozov's discrepancy principle), which also speeds the iteration
    up (fixed-point continuation: Hale et al., SIAM J. Optim. 2008). Coarse coefficients are not thresholded.

    Args:
        steps: at most.
        threshold: a weight of its own, in units of the signal, and all steps; None finds it.
        moments: vanishing moments of Daubechies' wavelet.
        levels: of the transform.
        fall: factor of the weight a step.
    """

    steps: Count = 100
    threshold: NonNegative | None = None
    moments: Count = 4
    levels: Index = 4
    fall: Level = 0.93
    noise: ClassVar[type] = Gaussian

    def reconstruct(self, post: Linear) -> Tensor:
        A, y, channels = post.A, post.y, len(post.A.in_shape) == 3
        shifts = np.random.default_rng(0).integers(0, 2**self.levels, (self.steps, 2)).tolist()
        x = torch.zeros(len(y), *A.in_shape, dtype=A.in_dtype, device=y.device)
        step = 1 / A.norm() ** 2
        ones = [1] * (x.ndim - 1)
        weight = step * A.adjoint(y).abs().flatten(1).amax(1).reshape(-1, *ones)  # from here on down
        if self.threshold is not None:
            weight = torch.full_like(weight, self.threshold)
        for shift in shifts:
            far = torch.ones_like(weight, dtype=torch.bool)
            if self.threshold is None:
                far = (post.residual_over_noise(x) > 1).reshape(weight.shape)
                if not far.any():
                    break
            ahead = x - step * A.adjoint(A(x) - y)
            image = torch.complex(ahead[:, :1], ahead[:, 1:]) if channels and ahead.shape[1] == 2 else ahead
            image = shrink(image, weight, tuple(shift), self.levels, self.moments)
            new = torch.cat([image.real, image.imag], 1) if image.is_complex() and not x.is_complex() else image
            x = torch.where(far, new, x)
            weight = weight if self.threshold is not None else weight * self.fall
        return x
