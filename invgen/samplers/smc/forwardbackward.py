"""The forward-backward algorithm (Baum, Petrie, Soules & Weiss, Annals of Mathematical Statistics 1970), with draws as in
Scott, "Bayesian methods for hidden Markov models" (JASA 2002)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.autoregressive import MarkovChain, draw_token
from invgen.errors import UnsupportedError
from invgen.method import Run
from invgen.numerics.random import streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.samplers.smc._lookahead import fits_channel, site_table


@dataclass(frozen=True)
class ForwardBackward(Sampler):
    """Exact samples of a Markov chain in a channel: what is measured is summed backwards, then sites are drawn forwards.

    For an `invgen.autoregressive.MarkovChain` and a likelihood that is a product over sites: channels, masks, noise of each
    value. V^(order + 1) numbers a site. What the particles of AutoregressiveSMC are tested against.
    """

    prior: ClassVar[type] = MarkovChain
    gradient: ClassVar[bool] = False
    family: ClassVar[str] = "smc"
    exact: ClassVar[str] = "always"

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and not fits_channel(post):
            why = "needs a likelihood that is a product over sites: a channel or a mask"
        return why

    def draw_chunk(
        self, post: Posterior[MarkovChain], index: Tensor, seed: int | Tensor, run: Run
    ) -> tuple[Tensor, Tensor]:
        """Returns one exact sample for each (number, measurement) of `index`, and `index`."""
        prior, which, tokens = post.prior, index[:, 1].unique(), torch.empty(len(index), 0, dtype=torch.int64)
        tables, _ = site_table(post.rows(which))
        tokens = torch.empty(len(index), prior.sites, dtype=torch.int64, device=post.y.device)
        for table, number in zip(tables, which, strict=True):
            rows = (index[:, 1] == number).nonzero().flatten()
            ahead, randn = prior.messages(table), streams(seed, index[rows])
            drawn = prior.before.expand(len(rows), -1)
            for i in range(prior.sites):
                log = prior.next_logits(drawn) + table[i]
                rest = torch.cat([drawn, drawn[:, :1]], 1)[:, -len(prior.before) :]  # the last is each next token
                log = log + ahead[i + 1][rest[:, :-1].unbind(1)] if rest.shape[1] > 1 else log + ahead[i + 1]
                drawn = torch.cat([drawn, draw_token(log, randn)], 1)
            tokens[rows] = drawn[:, len(prior.before) :]
        return index, prior.decode(tokens)

    def log_evidence(self, post: Posterior[MarkovChain]) -> Tensor:
        """Returns log p(y), (*batch), exactly.

        Raises:
            UnsupportedError: the problem does not fit.
        """
        if why := self.refuses(post):
            raise UnsupportedError(f"ForwardBackward {why}")
        tables, constant = site_table(post.rows(torch.arange(max(post.y.reshape(-1, *post.A.out_shape).shape[0], 1))))
        log = [post.prior.messages(table)[0][tuple(post.prior.before)] for table in tables]
        return (torch.stack(log) + constant).reshape(post.batch)

    def marginals(self, post: Posterior[MarkovChain]) -> Tensor:
        """Returns the posterior probability of each level at each site, (*batch, sites, V), exactly.

        Raises:
            UnsupportedError: the problem does not fit.
        """
        if why := self.refuses(post):
            raise UnsupportedError(f"ForwardBackward {why}")
        prior, out = post.prior, []
        tables, _ = site_table(post.rows(torch.arange(max(post.y.reshape(-1, *post.A.out_shape).shape[0], 1))))
        for table in tables:
            ahead = prior.messages(table)
            before = torch.full_like(ahead[0], -torch.inf)  # log-law of the tokens before a site, what is measured so far
            before[tuple(prior.before)] = 0.0
            sites = []
            for i in range(prior.sites):
                joint = before[..., None] + prior.table + table[i]
                law = (joint + ahead[i + 1]).flatten(0, -2).logsumexp(0)
                sites.append(law.softmax(0))
                before = joint.logsumexp(0)
            out.append(torch.stack(sites))
        return torch.stack(out).reshape(*post.batch, prior.sites, -1)
