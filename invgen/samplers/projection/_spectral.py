"""The step that DDRM and DDNM+ share: in the basis V of A = U diag(s) V^T every coordinate is a scalar problem."""

import math

import torch
from torch import Tensor

from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.samplers.projection.base import Spectral


class SpectralStep:
    """Equations 7 and 8 of DDRM (Kawar et al., 2022) in x_sigma = x_0 + sigma eps.

    Noise is drawn in the space of signals and transformed, so that any unitary V works, complex ones too.

    Args:
        post: the problem.
        eta, eta_b: of the equations.
        randn: the source of noise.
    """

    def __init__(self, post: LinearGaussian, eta: float, eta_b: float, randn: Streams) -> None:
        # Where the noise exceeds the signal, equation 8 would carry the same noise through all levels and pile it up; for
        # deblurring the released code drops singular values under 0.03.
        known = Spectral(post, 3 * post.prior.data_std)
        self.A, self.seen, self.y, self.s_y = known.A, known.seen, known.y, known.s_y
        self.eta, self.eta_b, self.randn = eta, eta_b, randn

    def start(self, x: Tensor, sigma: float) -> Tensor:
        """Equation 7: start from the measurement, topped up to the highest noise level; x is pure noise at that level."""
        A, s_y = self.A, self.s_y
        v = A.Vt(x)
        known = self.seen & (s_y < sigma)
        z = A.Vt(self.randn(x))
        return A.V(torch.where(known, self.y + (sigma**2 - s_y**2).clamp(min=0).sqrt() * z, v))

    def __call__(self, x: Tensor, x0: Tensor, s: float, s_next: float, eta_c: float | None = None) -> Tensor:
        """Takes x from level s to s_next by equation 8, given the denoised x0; eta_c is eta where nothing was measured."""
        A, eta, eta_b, s_y = self.A, self.eta, self.eta_b, self.s_y
        eta_c = eta if eta_c is None else eta_c
        c = math.sqrt(1 - eta**2)
        below = s_next < s_y
        # few signals are held at once; V^T of a mask is its argument, which must not change
        v0 = A.Vt(x0)
        mean = (A.Vt(x) - v0).mul_(math.sqrt(1 - eta_c**2) * s_next / s).add_(v0)  # where nothing was measured
        gain = s_y.clamp(min=1e-30).reciprocal_().mul_(c * s_next)
        noisy = (self.y - v0).mul_(gain).add_(v0)  # s_next < sigma_y / s_i
        del gain
        mean = torch.where(self.seen & below, noisy, mean)
        del noisy
        clean = ((1 - eta_b) * v0).add_(self.y, alpha=eta_b)  # s_next >= sigma_y / s_i
        del v0
        mean = torch.where(self.seen & ~below, clean, mean)
        del clean
        fresh = A.Vt(self.randn(x))
        std = (s_next**2 - (eta_b * s_y) ** 2).clamp_(min=0).sqrt_()
        std = torch.where(below, eta * s_next, std).where(self.seen, eta_c * s_next)
        fresh = fresh.mul_(std).add_(mean)
        del std, mean
        return A.V(fresh)
