"""Beam search (Lowerre, "The Harpy speech recognition system", 1976) over the posterior of an autoregressive prior."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.autoregressive import Autoregressive
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.smc._lookahead import dead_stay_dead, next_logits
from invgen.samplers.smc.autoregressivesmc import AutoregressiveSMC
from invgen.samplers.smc.base import Cloud


@dataclass(frozen=True)
class BeamSearch(AutoregressiveSMC):
    """The likeliest signal that a beam finds: of all extensions of its prefixes by a token, the best are kept.

    A prefix is ranked by log p(prefix) + log psi with the look-ahead of `AutoregressiveSMC`, whole signals by the posterior
    itself. No sampler: one point, without a probability; what is cut early is lost, however wide the beam. A baseline.

    Args:
        particles: the width of the beam.
        lookahead, completions: as for `AutoregressiveSMC`.
    """

    point: ClassVar[bool] = True
    exact: ClassVar[str] = ""

    def run(self, post: Posterior[Autoregressive], x: Tensor, randn: Streams, cloud: Cloud) -> Iterator[Tensor]:
        prior, width, levels = post.prior, self.particles, len(post.prior.levels)
        psi = self._psi(post, cloud.split)
        tokens, memory = torch.empty(len(x), 0, dtype=torch.int64, device=x.device), []
        log = torch.full((len(x) // width, width), -torch.inf, dtype=torch.float64, device=x.device)
        log[:, 0] = 0.0  # all begin alike
        for i in range(prior.sites):
            logits = next_logits(post, tokens, memory, cloud.split).double().log_softmax(1)
            gained = dead_stay_dead(log[:, :, None], self.per_chain(logits + psi.ratio(i)))
            log, best = gained.flatten(1).topk(width, 1)
            parent = (best // levels + width * torch.arange(len(best), device=x.device)[:, None]).flatten()
            token = (best % levels).reshape(-1, 1)
            tokens = torch.cat([tokens[parent], token], 1)
            psi.state, memory = [t[parent] for t in psi.state], [t[parent] for t in memory]
            psi.add(i, token)
            log = dead_stay_dead(log, self.per_chain(psi.weigh(tokens, memory)))
            yield prior.decode(tokens)
        # one particle takes all: the best
        cloud.log_w = torch.where(log == log.amax(1, keepdim=True), 0.0, -torch.inf)
