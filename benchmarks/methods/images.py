"""Classical reconstructions of images: interpolation, inpainting, deconvolution."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invgen.benchmarks.methods.classical import Classical
from invgen.diffusion import Prior
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.operators import Downsample, Mask, PhaseRetrieval, Resize, fftc, ifftc
from invgen.operators.blur import CircularBlur
from invgen.posterior import Posterior
from invgen.validation.hints import Count, Positive

__all__ = ["HIO", "Bicubic", "Biharmonic", "Wiener"]


@dataclass(frozen=True)
class Bicubic(Classical):
    """Super-resolution by cubic spline interpolation (scikit-image's resize of order 3)."""

    def refuses(self, post: Posterior) -> str | None:
        """Why this problem is none of super-resolution, as the end of a sentence, or None."""
        why = super().refuses(post)
        if why is None and not (isinstance(post.A, Downsample | Resize) and len(post.A.out_shape) == 3):
            why = f"needs Downsample or Resize of (C, H, W), got {type(post.A).__name__}"
        return why

    def reconstruct(self, post: Posterior) -> Tensor:
        """Returns the interpolated images, (B, C, H, W)."""
        from skimage.transform import resize

        size, images = tuple(post.prior.shape[-2:]), post.y.movedim(1, -1).double().cpu().numpy()
        large = [np.asarray(resize(image, size, order=3, mode="edge", anti_aliasing=False)) for image in images]
        return torch.from_numpy(np.stack(large)).movedim(-1, 1).to(post.y)


@dataclass(frozen=True)
class Biharmonic(Classical):
    """Inpainting by biharmonic functions (Damelin & Hoang, 2018; scikit-image): smooth across the hole, exact beyond it."""

    def refuses(self, post: Posterior) -> str | None:
        """Why this problem is none of inpainting, as the end of a sentence, or None."""
        why = super().refuses(post)
        if why is not None:
            return why
        if not isinstance(post.A, Mask) or len(post.A.in_shape) != 3:
            return f"needs a Mask of (C, H, W), got {type(post.A).__name__}"
        return None if bool((post.A.mask == post.A.mask[:1]).all()) else "needs a mask that is alike for all channels"

    def reconstruct(self, post: Posterior[Prior, Mask]) -> Tensor:
        """Returns the images with their holes filled, (B, C, H, W)."""
        from skimage.restoration import inpaint_biharmonic

        hole = ~post.A.mask[0].cpu().numpy()
        images = post.A.image(post.y).movedim(1, -1).double().cpu().numpy()
        filled = [inpaint_biharmonic(image, hole, channel_axis=-1, split_into_regions=True) for image in images]
        return torch.from_numpy(np.stack(filled)).movedim(-1, 1).to(post.y)


@dataclass(frozen=True)
class Wiener(Classical):
    """Deconvolution by Wiener's filter, for images whose power falls as 1 / f^2 (Field, J. Opt. Soc. Am. A 1987).

        X = conj(H) S / (|H|^2 S + N) Y,     S = c / (1 + f^2), f in cycles per image, N the power of the noise,

    of each channel less its mean; c by maximum likelihood from the measurement (`steps` of the EM algorithm), so that
    nothing is tuned and nothing is known of the truth.
    """

    steps: Count = 100
    A: ClassVar[type] = CircularBlur
    noise: ClassVar[type] = Gaussian
    noiseless: ClassVar[bool] = False
    one_level: ClassVar[bool] = True

    def refuses(self, post: Posterior) -> str | None:
        """Why the filter does not fit, as the end of a sentence, or None."""
        why = super().refuses(post)
        return "needs images (C, H, W)" if why is None and len(post.A.in_shape) != 3 else why

    def reconstruct(self, post: Posterior[Prior, CircularBlur, Gaussian]) -> Tensor:
        y, A = post.y, post.A
        rows, columns = y.shape[-2:]
        delta = torch.zeros(1, *A.in_shape, dtype=y.dtype, device=y.device)
        delta[..., 0, 0] = 1
        H = torch.fft.fft2(A(delta))
        mean = y.mean((-1, -2), keepdim=True)
        Y = torch.fft.fft2(y - mean)
        f, g = (torch.fft.fftfreq(n, 1 / n, dtype=y.dtype, device=y.device) for n in (rows, columns))
        shape = 1 / (1 + f[:, None] ** 2 + g**2)
        N = rows * columns * post.noise.sigma**2
        level = ((Y.abs() ** 2).mean((-3, -2, -1), keepdim=True) / shape.mean()).clamp(min=1e-30)
        for _ in range(self.steps):
            S = level * shape
            total = H.abs() ** 2 * S + N
            X = H.conj() * S / total * Y
            # the mean square of X given Y: its own, and its variance
            level = ((X.abs() ** 2 + S * N / total) / shape).mean((-3, -2, -1), keepdim=True)
        return torch.fft.ifft2(X).real + mean / H[..., :1, :1].real


@dataclass(frozen=True)
class HIO(Classical):
    """Phase retrieval by hybrid input-output, then error reduction (Fienup, Applied Optics 1982), several starts.

    The signal is known to be zero outside its place and within the prior's value range inside it. Of the starts the one
    of least residual is kept. What the measurement leaves open (sign, turn, shift) is left open.

    Args:
        steps: of hybrid input-output; a tenth as many of error reduction follow.
        starts: random ones.
        beta: of the feedback.
    """

    steps: Count = 300
    starts: Count = 4
    beta: Positive = 0.9
    A: ClassVar[type] = PhaseRetrieval

    def reconstruct(self, post: Posterior[Prior, PhaseRetrieval]) -> Tensor:
        A, y = post.A, post.y.clamp(min=0)
        low, high = post.prior.value_range
        rows, columns = A.pad
        inside = F.pad(torch.ones(A.in_shape, dtype=torch.bool), (columns, columns, rows, rows)).to(y.device)
        best, least = None, None
        for start in range(self.starts):
            index = torch.stack([torch.full((len(y),), start), torch.arange(len(y))], 1)
            x = Streams(0, index)(y) * post.prior.data_std * inside
            for step in range(self.steps + self.steps // 10):
                spectrum = fftc(x)
                new = ifftc(y * torch.polar(torch.ones_like(y), spectrum.angle())).real
                allowed = inside & (new >= low) & (new <= high)
                feedback = x - self.beta * new if step < self.steps else new.clamp(low, high) * inside
                x = torch.where(allowed, new, feedback)
            signal = (x * inside)[..., rows : rows + A.in_shape[-2], columns : columns + A.in_shape[-1]].clamp(low, high)
            residual = post.residual_over_noise(signal)
            better = residual < least if least is not None else torch.ones_like(residual, dtype=torch.bool)
            least = residual if least is None else torch.minimum(least, residual)
            best = signal if best is None else torch.where(better.reshape(-1, *[1] * (signal.ndim - 1)), signal, best)
        assert best is not None  # there is a start at least
        return best
