"""Zhao, Brekelmans, Makhzani & Grosse, "Probabilistic inference in language models via twisted sequential Monte Carlo"
(ICML 2024), Section 3 and Algorithm 1, for signals and measurements."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invgen.autoregressive import Autoregressive, draw_token
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.smc._lookahead import (
    Channel,
    Completed,
    Counts,
    Gaussian,
    fits_channel,
    fits_counts,
    fits_gaussian,
    next_logits,
)
from invgen.samplers.smc.base import Cloud, ParticleSampler
from invgen.validation.hints import Count


@dataclass(frozen=True)
class AutoregressiveSMC(ParticleSampler):
    """Particles are prefixes of a signal; each next token is drawn and weighed by how well its signals may explain y.

    Any operator, black boxes too, and any noise with a density. psi_i(x_1..x_i), what a prefix lets expect of p(y | x), is
    the paper's twist; there it is learnt, here it is one of

        "gaussian"  the density of y when the rest is the Gaussian of the prior's moments given the prefix
                    (`Autoregressive.measure_moments`, else independent values), in closed form for a linear operator and
                    Gaussian noise; tokens are drawn from p(x_i | prefix) psi_i, the best proposal for it (Section 3.2).
        "channel"   what the sites of the prefix say of y by themselves, for a likelihood that is a product over sites (a
                    mask, noise of each site), with the same proposal; it costs an evaluation of A a site and level, none
                    for the channels of `invgen.noise`. With `Autoregressive.measure_transitions` also what a Markov chain
                    expects of the sites that follow.
        "counts"    for an `operators.TranslationTable` and Poisson counts: the rest explains y as the average token does
                    that explains it.
        "completed" the mean of p(y | A(x))^(i / n) over a few completions of the prefix that are drawn from the prior, for
                    any operator and noise; tokens are drawn from the prior.
        "none"      1: importance sampling from the prior.
        "auto"      "gaussian" where it is possible (and sites times measured values are at most 2^25), or "counts"; else
                    "channel" where
                    a trial shows such a product (and sites times levels are at most 2^16); else "none": where the
                    likelihood is sharp, few completions commit particles too early, at a high price.

    Exact as particles grow, whatever psi: the last one is p(y | x) itself. exp(log_evidence) is unbiased for p(y).

    Args:
        steps: after how many blocks of sites the weights are looked at, at most after every site.
        lookahead: one of the six above.
        completions: of a prefix, for "completed"; each costs an evaluation of the operator and one of the network for each
            site that is left, at every site.
    """

    particles: Count = 64
    lookahead: Literal["auto", "gaussian", "channel", "counts", "completed", "none"] = "auto"
    completions: Count = 8

    prior: ClassVar[type] = Autoregressive
    gradient: ClassVar[bool] = False
    family: ClassVar[str] = "smc"
    exact: ClassVar[str] = "as particles grow"

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and self.lookahead == "gaussian" and not fits_gaussian(post):
            why = "with lookahead='gaussian' needs a linear operator and Gaussian noise, and not too many values"
        if why is None and self.lookahead == "counts" and not fits_counts(post):
            why = "with lookahead='counts' needs an operators.TranslationTable and Poisson noise"
        return why

    def _psi(self, post: Posterior[Autoregressive], split: int | None) -> Gaussian | Channel | Counts | Completed:
        kind = self.lookahead
        if kind == "auto":
            kind = "gaussian" if fits_gaussian(post) else "counts" if fits_counts(post) else kind
        if kind == "auto":
            kind = "channel" if fits_channel(post) else "none"
        if kind == "counts":
            return Counts(post, self.particles)
        if kind == "gaussian":
            assert fits_gaussian(post)  # `refuses` or the line above has asked
            return Gaussian(post)
        if kind == "channel":
            return Channel(post, self.particles)
        return Completed(post, self.completions if kind == "completed" else 0, split)

    def run(self, post: Posterior[Autoregressive], x: Tensor, randn: Streams, cloud: Cloud) -> Iterator[Tensor]:
        prior, of_chain = post.prior, randn.every(self.particles)
        psi = self._psi(post, cloud.split)
        tokens, memory = torch.empty(len(x), 0, dtype=torch.int64, device=x.device), []
        cloud.log_w = cloud.log_w + self.per_chain(psi.start())
        blocks = torch.arange(prior.sites).tensor_split(min(self.steps, prior.sites))
        for k, block in enumerate(blocks):
            for i in block.tolist():
                logits = next_logits(post, tokens, memory, cloud.split)
                log_q = logits.double().log_softmax(1) + psi.ratio(i)  # p(x_i | prefix) psi_i / psi_{i-1} for every token
                cloud.log_w = cloud.log_w + self.per_chain(log_q.logsumexp(1))
                token = draw_token(log_q, randn)
                tokens = torch.cat([tokens, token], 1)
                psi.add(i, token)
            self._weigh(cloud, psi.weigh(tokens, memory))
            if k + 1 < len(blocks):
                count = len(psi.state)
                tokens, *rest = self._resample(cloud, of_chain, tokens, *psi.state, *memory)
                psi.state, memory = rest[:count], rest[count:]
            yield prior.decode(tokens)
        cloud.log_z = cloud.log_z + cloud.log_w.logsumexp(1) - math.log(self.particles)
