"""Song, Vahdat, Mardani & Kautz, "Pseudoinverse-guided diffusion models for inverse problems" (ICLR 2023), Section 3."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.posterior import LinearGaussian, Posterior
from invgen.samplers.guided.base import GuidedSampler
from invgen.validation.hints import Positive


@dataclass(frozen=True)
class PiGDM(GuidedSampler):
    """Pseudoinverse-guided diffusion: p(x_0 | x_sigma) taken as N(D, r^2 I), so that p(y | x_sigma) is Gaussian.

    Linear operators, Gaussian or no noise. The guidance enters by Tweedie's formula, with weight sigma^2. The width is the
    paper's r^2 = sigma^2 / (1 + sigma^2), the variance of a signal of variance 1 under noise. Where the signal varies more
    than that in a direction that was measured, such as the brightness of an image, few steps overshoot; `AdaptivePiGDM` has
    the width that the denoiser itself states there. They are the same, and exact, on N(0, I).

    Args:
        order: 1 is the paper's; 2 has the right variance at few steps where the width fits the signal.
        data_std: standard deviation d of the signal that the width assumes, r^2 = sigma^2 d^2 / (sigma^2 + d^2), in units
            of the signal. The paper has 1, for images in [-1, 1]; None is the prior's `data_std`, "component" that of one
            of its components (`component_std`), where the prior knows it.
    """

    schedule: str | Sequence[float] = "edm"
    order: Literal[1, 2] = 1
    data_std: Positive | Literal["component"] | None = 1.0

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    noiseless: ClassVar[bool] = True
    exact: ClassVar[str] = "for white Gaussian priors of standard deviation data_std, as steps grow"

    @classmethod
    def paper(cls) -> "PiGDM":
        """Returns the published form: 100 ancestral steps on DDPM's schedule."""
        return cls(steps=100, schedule="vp")

    def refuses(self, post: Posterior) -> str | None:
        if self.data_std == "component" and post.prior.component_std is None:
            return f"needs a prior that knows its components, and {type(post.prior).__name__} does not; set data_std=None"
        return super().refuses(post)

    def width(self, post: Posterior[Denoiser], s: float) -> float:
        """Returns r^2, the variance of x_0 given x_sigma that the guidance assumes."""
        d = self.data_std if self.data_std != "component" else post.prior.component_std
        d = post.prior.data_std if d is None else d
        return s**2 * d**2 / (s**2 + d**2)

    def guide(self, post: LinearGaussian, x: Tensor, s: float) -> Tensor:
        x0, vjp = post.prior.vjp(x, s)
        data = post.near(x0, post.prior.variance(s))
        # A^T (r^2 A A^T + sigma_y^2 I)^-1 (y - A x0)
        u = data.A.weighted_adjoint(data.residual(x0), self.width(post, s), data.noise.var)
        return x0 + self.gain(post, s) * self.within(post.prior, x, s, s**2 * vjp(u))

    def gain(self, post: LinearGaussian, s: float) -> float:
        """Returns a factor on the guidance, 1 here."""
        return 1.0
