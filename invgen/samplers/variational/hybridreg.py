"""Dou, Li, Du, Yang, Yao & Deng, "Hybrid regularization improves diffusion-based inverse problem solving" (ICLR 2025),
HRDIS in the released code."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.numerics.optimise import Adam
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.variational.reddiff import first_point
from invgen.validation.hints import Count, Fraction, NonNegative, Positive


@dataclass(frozen=True)
class HybridReg(Sampler):
    """RED-diff whose noise is in part the noise that the network saw before: denoising and consistency in one term.

    Any differentiable operator, any noise with a density. The noise added to mu is sqrt(1 - beta) eps + sqrt(beta) z,
    with eps the network's at the step before and z fresh: beta = 1 is RED-diff, beta = 0 distils a path of the ODE.
    Kept noise makes the gradient less random, the points sharper, and different from seed to seed. They are points all
    the same, and no draws: each fits y to the same point. Unmeasured values have nearly their variance, measured ones
    none.

    The released code takes means over the values in place of sums and of the noise variance, as RED-diff's does.

    Args:
        beta: share of fresh noise.
        lr: of Adam, in units of the prior's data_std.
        lam: weight of the prior.
    """

    steps: Count = 100
    beta: Fraction = 0.2
    lr: Positive = 0.1
    lam: NonNegative = 1.0

    family: ClassVar[str] = "variational"

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, mu, eps = post.prior, first_point(post, x, randn), None
        adam = Adam(self.lr * prior.data_std, betas=(0.9, 0.99), eps=1e-8 / prior.data_std)
        for s, _ in self.levels(prior):
            noise = randn(mu)
            if eps is not None:
                noise = math.sqrt(1 - self.beta) * eps + math.sqrt(self.beta) * noise
            state = mu + s * noise
            seen = (state - prior(state, s)) / s
            if eps is not None:  # the first step only looks
                mu = adam.step(mu, self.lam * s * (seen - noise) / prior.data_std**2 - post.likelihood_score(mu))
            eps = seen
            yield mu
