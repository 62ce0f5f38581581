"""Zhang, Chu, Berner, Meng, Anandkumar & Song, "Improving diffusion inverse problem solving with decoupled noise annealing"
(CVPR 2025), Algorithm 1."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from invgen.diffusion import Denoiser, noise_levels, step
from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.mcmc.base import data_score, langevin_around, local_step
from invgen.validation.hints import Count


@dataclass(frozen=True)
class DAPS(Sampler):
    """Decoupled annealing: at each level estimate x_0 by the ODE, sample N(x_0; estimate, r^2 I) p(y | x_0), renoise.

    Any operator, any noise with a density; r = sigma, as in the paper, and the "1k" budget of its images. The likelihood is
    the true one (the released code sharpens it fifty times). r = sigma over-disperses where the denoiser knows better, as
    at every level of an image: `AdaptiveDAPS` has its error instead.

    Args:
        steps: annealing levels.
        ode_steps: Euler steps of the probability-flow ODE at each level.
        inner: "langevin", whose step follows the local curvature; "exact", a draw in closed form (`Posterior.draw`), for
            linear operators and Gaussian noise; or "auto", exact where possible.
        langevin_steps: inner steps where Langevin is used.
    """

    steps: Count = 200
    ode_steps: Count = 5
    inner: Literal["auto", "exact", "langevin"] = "langevin"
    langevin_steps: Count = 100

    noiseless: ClassVar[bool] = True
    family: ClassVar[str] = "mcmc"

    def width(self, post: Posterior[Denoiser], s: float) -> float:
        """Returns r^2, the variance of x_0 about the end of the ODE."""
        return s**2

    def _exact(self, post: Posterior) -> bool:
        gaussian = isinstance(post.A, LinearOperator) and isinstance(post.noise, Gaussian)
        return gaussian if self.inner == "auto" else self.inner == "exact"

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        sigma = getattr(post.noise, "sigma", 1.0)
        if why is None and not self._exact(post) and not isinstance(sigma, Tensor) and sigma == 0:
            why = "needs noise with a density for its Langevin steps, got a noiseless measurement"
        return why

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, exact = post.prior, self._exact(post)
        for s, s_next in self.levels(prior):
            x0 = x
            for a, b in noise_levels(self.ode_steps, min(prior.sigma_min, s / 2), s):
                x0 = step(x0, prior(x0, a), a, b, 0.0, randn)
            r2 = self.width(post, s)
            if exact:
                x0 = post.draw(x0, r2, randn)
            else:
                x0 = langevin_around(x0, r2, data_score(post), local_step(post, x0, r2), self.langevin_steps, randn)
            x = x0 + s_next * randn(x0) if s_next > 0 else x0
            yield x
