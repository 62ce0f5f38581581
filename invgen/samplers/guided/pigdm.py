"""Song, Vahdat, Mardani & Kautz, "Pseudoinverse-guided diffusion models for inverse problems" (ICLR 2023), Section 3."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from invgen.forward import LinearOperator
from invgen.linalg import dot
from invgen.noise import Gaussian
from invgen.posterior import Posterior
from invgen.samplers.guided.base import GuidedSampler


@dataclass(frozen=True)
class PiGDM(GuidedSampler):
    """Pseudoinverse-guided diffusion: p(x_0 | x_sigma) taken as N(D, r^2 I), so that p(y | x_sigma) is Gaussian.

    Linear operators, Gaussian or no noise. The guidance enters by Tweedie's formula, with weight sigma^2.

    Args:
        width: "local", r^2 = v^T C v / v^T v for C = sigma^2 dD/dx, the variance along the pull v = A^T (y - A D) of the
            data (one more product with the Jacobian, no more network evaluations), or "paper", r^2 = s^2 d^2 / (s^2 + d^2)
            with the prior's data_std d (the paper has d = 1), which overshoots where the signal varies more in a direction
            that was measured, such as the brightness of an image. They are the same, and exact, on N(0, d^2 I).
    """

    width: Literal["local", "paper"] = "local"

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    noiseless: ClassVar[bool] = True
    exact: ClassVar[str] = "for white Gaussian priors, as steps grow"

    @classmethod
    def paper(cls, steps: int = 100) -> "PiGDM":
        """The published form for every task: the paper's width, eta = 1, 20 to 100 steps of DDPM's schedule."""
        return cls(steps=steps, schedule="vp", eta=1.0, width="paper")

    def guide(self, post: Posterior, x: Tensor, s: float) -> Tensor:
        A, d = post.A, post.prior.data_std
        x0, vjp = post.prior.vjp(x, s)
        post = post.near(x0, post.prior.variance(s))
        r = post.residual(x0)
        r2 = s**2 * d**2 / (s**2 + d**2)
        if self.width == "local":
            v = A.adjoint(r)
            # the Jacobian of a network is not quite positive: never below a thousandth of the paper's value
            r2 = (s**2 * dot(v, vjp(v)) / dot(v, v).clamp(min=1e-30)).clamp(min=1e-3 * r2)
        u = A.pull(r, r2, post.noise.var)  # A^T (r^2 A A^T + sigma_y^2 I)^-1 (y - A x0)
        return x0 + self.gain(post, s) * s**2 * vjp(u)

    def gain(self, post: Posterior, s: float) -> float:
        """A factor on the guidance, 1 here."""
        return 1.0
