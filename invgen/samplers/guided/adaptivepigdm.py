"""PiGDM with the width that the denoiser states: our variant, of no paper."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.forward import LinearOperator
from invgen.linalg import dot
from invgen.noise import Gaussian
from invgen.posterior import LinearGaussian
from invgen.samplers.guided.base import GuidedSampler


@dataclass(frozen=True)
class AdaptivePiGDM(GuidedSampler):
    """PiGDM whose width adapts to the signal: r^2 is the variance of x_0 along the direction in which the data move it.

    Linear operators, Gaussian or no noise. r^2 = v^T C v / v^T v for C = sigma^2 dD/dx and v = A^T (y - A D): one more
    product with the Jacobian, no more network evaluations, and no assumption on the units or the variance of the signal. It
    is PiGDM's width on white Gaussian signals.
    """

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    noiseless: ClassVar[bool] = True
    exact: ClassVar[str] = "for white Gaussian priors, as steps grow"

    def guide(self, post: LinearGaussian, x: Tensor, s: float) -> Tensor:
        d = post.prior.data_std
        x0, vjp = post.prior.vjp(x, s)
        data = post.near(x0, post.prior.variance(s))
        r = data.residual(x0)
        v = data.A.adjoint(r)
        # the Jacobian of a network is not quite positive: never below a thousandth of the variance of a white signal
        least = 1e-3 * s**2 * d**2 / (s**2 + d**2)
        width = (s**2 * dot(v, vjp(v)) / dot(v, v).clamp(min=1e-30)).clamp(min=least)
        u = data.A.weighted_adjoint(r, width, data.noise.var)  # A^T (r^2 A A^T + sigma_y^2 I)^-1 (y - A x0)
        return x0 + self.gain(post, s) * self.within(post.prior, x, s, s**2 * vjp(u))

    def gain(self, post: LinearGaussian, s: float) -> float:
        """Returns a factor on the guidance, 1 here."""
        return 1.0
