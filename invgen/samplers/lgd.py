"""Song, Zhang, Yin, Mardani, Liu, Kautz, Chen & Vahdat, "Loss-guided diffusion models for plug-and-play controllable
generation" (ICML 2023), LGD-MC."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invgen.diffusion import step
from invgen.errors import OptionError
from invgen.guidance import GuidedSampler, line_search, local_fit
from invgen.posterior import Posterior
from invgen.random import Streams


@dataclass(frozen=True)
class LGD(GuidedSampler):
    """Loss guidance averaged over what x_0 may be: sigma^2 grad_x log mean_i p(y | D + r z_i).

    Any differentiable operator, any noise with a density, any loss. p(x_0 | x_sigma) is taken as N(D, r^2 I); as the number
    of draws grows this is the exact guidance for it (PiGDM's, where y is linear and Gaussian). A few draws in many
    dimensions resolve little of that width, and one of them takes all the weight: the step is then damped as that of DPS
    is, by the curvature of the data over the effective number of draws.

    Public re-implementations average the gradients of the losses, which is not the gradient of the log of the average.

    Args:
        draws: Monte Carlo draws, the paper's n (one operator gradient each, no network evaluation).
        width: "prior", r^2 = `prior.variance(sigma)`, or "paper", r^2 = s^2 d^2 / (s^2 + d^2) with data_std d (1 there).
        zeta: strength of the guidance.
        damped: whether to damp; the paper has constants tuned by task instead.
    """

    draws: int = 10
    width: Literal["prior", "paper"] = "prior"
    zeta: float = 1.0
    damped: bool = True

    exact: ClassVar[str] = "for white Gaussian priors and linear operators, as draws and steps grow"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1 or self.width not in ("prior", "paper"):
            raise OptionError(
                f"LGD needs at least one draw and width 'prior' or 'paper', got {self.draws!r} and {self.width!r}"
            )

    @classmethod
    def paper(cls, zeta: float = 1.0, draws: int = 10, steps: int = 1000) -> "LGD":
        """The published form: no damping, its own width; zeta is tuned by task there, and too large it diverges."""
        return cls(steps=steps, schedule="vp", draws=draws, width="paper", zeta=zeta, damped=False)

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        for s, s_next in self.levels(post.prior):
            x0, vjp = post.prior.vjp(x, s)
            d = post.prior.data_std
            r2 = post.prior.variance(s) if self.width == "prior" else s**2 * d**2 / (s**2 + d**2)
            drawn = [x0 + r2**0.5 * randn(x0) for _ in range(self.draws)]
            log = torch.stack([post.log_likelihood(u) for u in drawn])
            weights = log.softmax(0).reshape(*log.shape, *[1] * (x.ndim - 1))
            pull = sum(w * post.likelihood_score(u) for w, u in zip(weights, drawn, strict=True))
            ascent = s**2 * vjp(pull)
            t = 1.0
            if self.damped:
                _, bend = local_fit(post, x0, r2**0.5)
                t = line_search(pull, ascent, bend, share=weights.square().sum(0))  # 1 / effective number of draws
            x = step(x, x0 + self.zeta * t * ascent, s, s_next, self.eta, randn)
            yield x
