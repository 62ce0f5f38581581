"""Huang, Ghatare, Liu, Hu, Zhang, Sastry, Gururani, Oore & Yue, "Symbolic music generation with non-differentiable rule
guided diffusion" (ICML 2024), Algorithm 1: stochastic control guidance."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, step_kernel
from invgen.method import Run
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.derivative_free._candidates import of_candidates
from invgen.validation.hints import Count, Fraction


@dataclass(frozen=True)
class SCG(Sampler):
    """Stochastic control guidance: of several ancestral steps take one whose denoised signal fits the data.

    Any operator, any noise with a density, no derivatives of either. The posterior's own chain has the kernel p(x' | x)
    p(y | x') up to a factor. choice="draw" (default) draws among candidates of p(x' | x) in proportion to p(y | D(x')),
    which is that kernel as candidates grow, but for D(x') in place of x_0. choice="best" is the paper's greedy one: it has
    no limit but ever more likely data, so that it fits the noise of y where it can. The two agree where log-likelihoods of
    candidates lie far apart, as they do for images; there a few candidates follow the data only part of the way.

    `candidates` network evaluations and as many of the operator for each guided step.

    Args:
        candidates: next states to choose from (16; 512 in InverseBench).
        skip: fraction of the steps, at the highest levels, that are not guided (0.25).
        chunk: how many candidates of a sample to work on at once; it does not change the result.
    """

    candidates: Count = 16
    skip: Fraction = 0.25
    choice: Literal["draw", "best"] = "draw"
    chunk: Count = 64

    gradient: ClassVar[bool] = False
    family: ClassVar[str] = "derivative-free"

    @classmethod
    def paper(cls, candidates: int = 16) -> "SCG":
        """Returns the released settings: 1000 steps of DDPM, the best candidate from the 750th on."""
        return cls(steps=1000, schedule="vp", candidates=candidates, choice="best")

    def draw_chunk(self, post: Posterior, index: Tensor, seed: int | Tensor, run: Run) -> tuple[Tensor, Tensor]:
        """Runs some draws with so many candidates at once that no more than `max_batch` rows meet the network."""
        chunk = self.chunk if run.max_batch is None else max(min(self.chunk, run.max_batch // max(len(index), 1)), 1)
        return super(SCG, replace(self, chunk=chunk)).draw_chunk(post, index, seed, run)

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        x0 = post.prior(x, self.levels(post.prior)[0][0])
        for k, (s, s_next) in enumerate(self.levels(post.prior)):
            mean, std = step_kernel(x, x0, s, s_next)
            if s_next == 0:
                x = mean
            elif k < int(self.skip * self.steps):
                x = mean + std * randn(x)
                x0 = post.prior(x, s_next)
            else:
                u = mean[:, None] + std * torch.stack([randn(x) for _ in range(self.candidates)], 1)
                D = of_candidates(lambda p, v, s=s_next: p.prior(v, s), post, u, self.chunk)
                log = of_candidates(lambda p, v: p.log_likelihood(v), post, D, self.chunk)
                if self.choice == "draw":  # Gumbel's trick: the largest of log p + noise is a draw in proportion to p
                    log = log - randn.uniform(log).log().neg().log()
                best = torch.arange(len(x), device=x.device), log.argmax(1)
                x, x0 = u[best], D[best]  # the network has seen the chosen one already
            yield x
