"""Fearnhead & Clifford, "On-line inference for hidden Markov models via particle filters" (Journal of the Royal Statistical
Society B 65, 2003), Section 3, for autoregressive priors."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from invgen.autoregressive import Autoregressive
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.smc._lookahead import dead_stay_dead, next_logits
from invgen.samplers.smc.autoregressivesmc import AutoregressiveSMC
from invgen.samplers.smc.base import Cloud, effective_size


def optimal_resampling(log_w: Tensor, count: int, randn: Streams) -> tuple[Tensor, Tensor]:
    """Returns `count` different entries of each row, (C, count), and their new log-weights, of the same mean as the old.

    With c such that the sum of min(1, w / c) is `count`, an entry is kept with probability min(1, w / c) and then weighs
    max(w, c): of all such draws the one of the least squared error (their Theorem 1). Where no more than `count` entries
    have a weight, all are kept.

    Args:
        log_w: (C, M) with M >= count.
        count: of entries.
        randn: streams with one row for each of C.
    """
    log, order = log_w.sort(1, descending=True)
    w = (log - log[:, :1]).exp()
    # with the k largest kept for certain, c is the sum of the others over the places that are left
    rest = w.sum(1, keepdim=True) - w.cumsum(1) + w
    level = rest[:, :count] / (count - torch.arange(count, device=w.device))
    kept = (w[:, :count] >= level).cummin(1).values.sum(1, keepdim=True)  # at most count - 1, or all that have a weight
    c = level.gather(1, kept.clamp(max=count - 1))
    chance = (w / c.clamp(min=1e-300)).clamp(max=1.0)
    places = torch.arange(count, device=w.device) + randn.uniform(w[:, :1])  # systematic: certain ones are met once
    drawn = torch.searchsorted(chance.cumsum(1), places.contiguous()).clamp(max=w.shape[1] - 1)
    few = (w > 0).sum(1, keepdim=True) <= count
    drawn = torch.where(few, torch.arange(count, device=w.device), drawn)
    heavier = torch.where(few, log[:, :count], torch.maximum(log.gather(1, drawn), c.log() + log[:, :1]))
    return order.gather(1, drawn), heavier


@dataclass(frozen=True)
class DiscreteParticleFilter(AutoregressiveSMC):
    """Particles that all differ: of the extensions of the prefixes by a token, the likeliest are kept, others drawn.

    Where `AutoregressiveSMC` draws one token for a particle and doubles heavy particles, this one weighs every token of
    every prefix by p(prefix) psi, keeps `particles` of them by optimal resampling, and lets each carry its weight. The
    heaviest are never lost, as in a beam, and yet exp(log_evidence) is unbiased for p(y); with as many particles as there
    are signals it is exact. Resampling is at every site; `resampling`, `threshold` and `steps` have no meaning here.

    Args:
        particles: how many different prefixes are kept.
        lookahead, completions: as for `AutoregressiveSMC`.
    """

    def run(self, post: Posterior[Autoregressive], x: Tensor, randn: Streams, cloud: Cloud) -> Iterator[Tensor]:
        prior, width, levels = post.prior, self.particles, len(post.prior.levels)
        psi, of_chain = self._psi(post, cloud.split), randn.every(self.particles)
        tokens, memory = torch.empty(len(x), 0, dtype=torch.int64, device=x.device), []
        first = width * torch.arange(len(x) // width, device=x.device)[:, None]
        log = torch.full((len(x) // width, width), -torch.inf, dtype=torch.float64, device=x.device)
        log[:, 0] = self.per_chain(psi.start())[:, 0]  # all begin alike
        for i in range(prior.sites):
            logits = next_logits(post, tokens, memory, cloud.split).double().log_softmax(1)
            extended = dead_stay_dead(log[:, :, None], self.per_chain(logits + psi.ratio(i)))
            chosen, log = optimal_resampling(extended.flatten(1), width, of_chain)
            parent, token = (chosen // levels + first).flatten(), (chosen % levels).reshape(-1, 1)
            tokens = torch.cat([tokens[parent], token], 1)
            psi.state, memory = [t[parent] for t in psi.state], [t[parent] for t in memory]
            psi.add(i, token)
            log = dead_stay_dead(log, self.per_chain(psi.weigh(tokens, memory)))
            cloud.sizes.append(effective_size(log))
            yield prior.decode(tokens)
        cloud.log_w, cloud.log_z = log, cloud.log_z + log.logsumexp(1)
