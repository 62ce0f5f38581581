"""Pereyra, Vargas Mieles & Zygalakis, "Accelerating proximal Markov chain Monte Carlo by using an explicit stabilized
method" (SIAM Journal on Imaging Sciences, 2020): SK-ROCK."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.mcmc.base import skrock, skrock_stability
from invgen.samplers.mcmc.ula import ULA
from invgen.validation.hints import Count, Positive, Range


@dataclass(frozen=True)
class SKROCK(ULA):
    """Langevin dynamics on p_sigma(x) p(y | x) by a stabilised scheme: s network evaluations reach about s^2 times as far.

    As ULA otherwise: biased by the step and by sigma.

    Args:
        steps: of `stages` network evaluations each.
        stages: s (10).
        eta: damping of the scheme (0.05).
        step: fraction of the largest stable step, ((s - 1/2)^2 (2 - 4 eta / 3) - 3/2) over a bound on the curvature.
    """

    steps: Count = 50
    step: Positive = 0.25
    stages: Annotated[int, Range(2)] = 10
    eta: Positive = 0.05

    exact: ClassVar[str] = "as sigma and step fall and steps grow"

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        bound, stable = None, skrock_stability(self.stages, self.eta)
        for k, (sigma, _) in enumerate(self.levels(post.prior)):
            bound = self.bounds(post, x, sigma, k, bound)
            x = skrock(
                x,
                lambda u, s=sigma: post.prior.score(u, s) + post.likelihood_score(u),
                self.step * stable / bound,
                self.stages,
                randn,
                self.eta,
            )
            yield x
