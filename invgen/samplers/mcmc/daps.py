"""Zhang, Chu, Berner, Meng, Anandkumar & Song, "Improving diffusion inverse problem solving with decoupled noise annealing"
(CVPR 2025), Algorithm 1."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from invgen.diffusion import noise_levels, step
from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.mcmc.base import langevin, local_step
from invgen.validation.hints import Count


@dataclass(frozen=True)
class DAPS(Sampler):
    """Decoupled annealing: at each level estimate x_0 by the ODE, sample N(x_0; estimate, r^2 I) p(y | x_0), renoise.

    Any operator, any noise with a density. On linear-Gaussian problems the inner sample is exact (`Posterior.draw`); else
    Langevin steps, whose size follows the local curvature. The likelihood is the true one (the released code sharpens it
    fifty times).

    Args:
        steps: annealing levels (the paper's 200 for its "1k").
        ode_steps: Euler steps of the probability-flow ODE at each level (5).
        inner: "exact", "langevin", or "auto", exact where possible.
        langevin_steps: inner steps where Langevin is used (100).
        width: "prior", r^2 = `prior.variance(sigma)`, the mean squared error of the denoiser at this level, or "paper",
            r = sigma, which over-disperses where the denoiser knows better, at every level of an image.
    """

    steps: Count = 50
    ode_steps: Count = 2
    inner: Literal["auto", "exact", "langevin"] = "auto"
    langevin_steps: Count = 100
    width: Literal["prior", "paper"] = "prior"

    noiseless: ClassVar[bool] = True
    family: ClassVar[str] = "mcmc"

    @classmethod
    def paper(cls) -> "DAPS":
        """The published "1k" budget: 200 levels of 5 network evaluations, Langevin inside."""
        return cls(steps=200, ode_steps=5, inner="langevin", width="paper")

    def _exact(self, post: Posterior) -> bool:
        gaussian = isinstance(post.A, LinearOperator) and isinstance(post.noise, Gaussian)
        return gaussian if self.inner == "auto" else self.inner == "exact"

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        sigma = getattr(post.noise, "sigma", 1.0)
        if why is None and not self._exact(post) and not isinstance(sigma, Tensor) and sigma == 0:
            why = "needs noise with a density for its Langevin steps, got a noiseless measurement"
        return why

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, exact = post.prior, self._exact(post)
        for s, s_next in self.levels(prior):
            x0 = x
            for a, b in noise_levels(self.ode_steps, min(prior.sigma_min, s / 2), s):
                x0 = step(x0, prior(x0, a), a, b, 0.0, randn)
            r2 = prior.variance(s) if self.width == "prior" else s**2
            if exact:
                x0 = post.draw(x0, r2, randn)
            else:
                centre = x0
                x0 = langevin(
                    x0,
                    lambda u, centre=centre, r2=r2: (centre - u) / r2 + post.likelihood_score(u),
                    local_step(post, x0, r2),
                    self.langevin_steps,
                    randn,
                )
            x = x0 + s_next * randn(x0) if s_next > 0 else x0
            yield x
