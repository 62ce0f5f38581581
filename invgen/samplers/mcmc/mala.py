"""Roberts & Tweedie, "Exponential convergence of Langevin distributions and their discrete approximations" (Bernoulli,
1996): the Metropolis-adjusted Langevin algorithm."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.forward import per_sample
from invgen.linalg import dot
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.mcmc.base import DualAveraging, choose, log_prior_change, metropolis
from invgen.samplers.mcmc.ula import ULA
from invgen.validation.hints import Range


@dataclass(frozen=True)
class MALA(ULA):
    """Langevin steps on p_sigma(x) p(y | x), each accepted or rejected, so that its law has no bias of the step.

    As ULA otherwise. The ratio log p_sigma(x') - log p_sigma(x) comes from the prior's density where it has one, else from
    the integral of its score along the proposal (Simpson's rule, one network evaluation more a step). The step size of each
    chain adapts in the first half of the steps to `acceptance`, then stays.

    Args:
        step: the first step size, as in ULA.
        acceptance: probability of acceptance that the step size aims at (0.574: Roberts & Rosenthal, 1998).
    """

    acceptance: Annotated[float, Range(0, 1, above=True, below=True)] = 0.574

    exact: ClassVar[str] = "as sigma falls and steps grow"

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, sigma = post.prior, self.levels(post.prior)[0][0]
        size = DualAveraging(self.step / self.bounds(post, x, sigma, 0, None), self.acceptance, self.steps // 2)
        score, gradient, log = prior.score(x, sigma), post.likelihood_score(x), post.log_likelihood(x)
        for _ in range(self.steps):
            h, z, drift = size.value, randn(x), score + gradient
            new = x + h * drift + (2 * h).sqrt() * z
            new_score, new_gradient, new_log = prior.score(new, sigma), post.likelihood_score(new), post.log_likelihood(new)
            back = x - new - h * (new_score + new_gradient)
            log_ratio = (
                log_prior_change(prior, sigma, x, new, (score, new_score))
                + per_sample(new_log - log, x)
                + dot(z, z) / 2
                - dot(back, back) / (4 * h)
            )
            accepted, probability = metropolis(log_ratio, randn)
            x, score, gradient, log = choose(accepted, (new, new_score, new_gradient, new_log), (x, score, gradient, log))
            size.update(probability)
            yield x
