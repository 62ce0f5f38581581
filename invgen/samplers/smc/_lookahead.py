"""Expectations of p(y | x) from the beginning of a signal: the twists psi_i of particles on autoregressive priors.

`Gaussian` takes the Gaussian N(mean, root root^T) of the prior's moments for what is not known yet. With sites in the order
of the prior and `root` lower triangular, x = mean + root e, the prefix fixes e_1..e_i and the rest of e is N(0, I). The
others do without it, for signals whose values are names (letters, words) and no numbers.
"""

import math
from typing import Any, TypeGuard

import torch
from torch import Tensor

from invgen.autoregressive import Autoregressive, token_at
from invgen.forward import LinearOperator
from invgen.noise import Channel as ChannelNoise
from invgen.noise import Gaussian as GaussianNoise
from invgen.noise import Poisson
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.smc.base import by_rows

LARGEST = 2**25  # sites times measured values of a dense matrix
ENTRIES = 2**16  # sites times levels of the table of a channel, each an evaluation of the operator
TABLE = 2**26  # sites times levels of one that is known without evaluations
PAIRS = 8  # of signals that a likelihood is tried on


def fits_gaussian(post: Posterior) -> TypeGuard[Posterior[Autoregressive, LinearOperator, GaussianNoise]]:
    """Tells whether psi has a closed form: a linear operator, not too large to be written down, and Gaussian noise."""
    noise, size = post.noise, post.A.in_shape.numel() * max(post.A.out_shape.numel(), 1)
    if not (isinstance(post.A, LinearOperator) and isinstance(noise, GaussianNoise)) or post.A.in_dtype.is_complex:
        return False
    level = noise.sigma
    shared = not isinstance(level, Tensor) or level.ndim <= len(post.A.out_shape) or level.shape[0] == 1
    return shared and size <= LARGEST


class Gaussian:
    """psi_i = the density of y = A (mean + root e) + noise given e_1..e_i, for a linear operator and Gaussian noise.

    state: the residual y - A E[x | prefix], (B, m), and e, (B, sites), zero from i on.
    """

    def __init__(self, post: Posterior[Autoregressive, LinearOperator, GaussianNoise]) -> None:
        prior, A = post.prior, post.A
        self.prior, n = prior, prior.sites
        eye = torch.eye(n, dtype=prior.levels.dtype, device=prior.device)
        columns = torch.empty_like(eye)
        columns[:, prior.order] = eye  # row i is the signal with a one at site i
        matrix = _real(torch.cat([A(part) for part in columns.reshape(n, *prior.shape).split(256)]))  # (n, m)
        self.mean, self.root = prior.mean.double(), prior.root.double()
        mixed = self.root.T @ matrix  # row i: what e_i adds to the measurement
        y = _real(post.y)
        level = torch.as_tensor(post.noise.sigma, dtype=torch.float64, device=y.device)
        level = level[(None,) * (post.y.ndim - level.ndim)].expand(1, *post.y.shape[1:])
        var = _real(level.to(post.y.dtype), both=True)[0] ** 2
        # from the last site back: P = (R + sum_{j > i} b_j b_j^T)^-1, by rank-one updates
        P = (1 / var).diag()
        self.directions, self.gains = torch.empty_like(mixed), torch.empty(n, dtype=torch.float64, device=y.device)
        for i in range(n - 1, -1, -1):
            direction = P @ mixed[i]
            gain = mixed[i] @ direction
            self.directions[i], self.gains[i] = direction, gain
            P = P - torch.outer(direction, direction) / (1 + gain)
        self.mixed = mixed
        residual = y - self.mean @ matrix
        log_det = var.log().sum() + self.gains.log1p().sum()
        self.first = -0.5 * ((residual @ P * residual).sum(1) + log_det + len(var) * math.log(2 * math.pi))
        self.state = [residual, torch.zeros(len(y), n, dtype=torch.float64, device=y.device)]

    def start(self) -> Tensor:
        """Returns log psi_0, (B,): the evidence of the Gaussian."""
        return self.first

    def _innovation(self, i: int, values: Tensor) -> Tensor:
        """Returns e_i of values at site i, (B, V) or (V,)."""
        e, root = self.state[1], self.root
        centre = self.mean[i] + e[:, :i] @ root[i, :i]
        return (values - centre[:, None]) / root[i, i]

    def ratio(self, i: int) -> Tensor:
        """Returns log psi_i / psi_{i-1} for each token at site i, (B, V): the density of e_i given y against that
        without y."""
        e, g = self._innovation(i, self.prior.levels.double()), self.gains[i]
        c = (self.state[0] @ self.directions[i])[:, None]
        return 0.5 * (g.log1p() - (1 + g) * (e - c / (1 + g)).square() + e.square())

    def add(self, i: int, token: Tensor) -> None:
        e = self._innovation(i, self.prior.levels.double()[token])
        residual, known = self.state
        self.state = [residual - e * self.mixed[i], torch.cat([known[:, :i], e, known[:, i + 1 :]], 1)]

    def weigh(self, tokens: Tensor, memory: list[Tensor]) -> Tensor:
        """Returns what tokens, (B, i), add to the log-weights beside `ratio`: nothing."""
        return torch.zeros(len(self.state[0]), dtype=torch.float64, device=self.state[0].device)


class Channel:
    """psi_i = the likelihood of the first i sites, where it is a product over sites: a mask, a channel, noise of each site.

    log p(y | A(x)) = constant + sum_i g_i(x_i), the table g having V numbers a site. Where the likelihood is no such
    product after all, the last psi corrects it.

    With transitions of the prior (`Autoregressive.measure_transitions`) psi_i is also what a Markov chain with these
    expects of the sites that follow, so that a prefix knows of the known text behind a gap.

    state: log psi so far, (B, 1), and the last token, (B, 1).
    """

    def __init__(self, post: Posterior[Autoregressive], particles: int) -> None:
        self.post, self.prior, self.particles = post, post.prior, particles
        chains = torch.arange(0, len(post.y), particles)
        self.table, constant = site_table(post.rows(chains)) if len(chains) else (None, None)
        chain = post.prior.transitions
        self.ahead: Tensor | None = None
        first = constant
        if self.table is not None and chain is not None:  # (C, sites + 1, V): the rest, given the token at the site before
            ahead = [torch.zeros_like(self.table[:, 0])]
            for i in range(self.prior.sites - 1, 0, -1):
                rest = (self.table[:, i] + ahead[-1]).clamp(min=-1e6)
                ahead.append((chain + rest[:, None]).logsumexp(-1))
            self.ahead = torch.stack(ahead[::-1], 1)
        none = torch.zeros(0, 1, dtype=torch.float64, device=post.y.device)
        self.first = none if first is None else first[:, None].repeat_interleave(particles, 0)
        self.state = [self.first, torch.zeros_like(self.first, dtype=torch.int64)]

    def start(self) -> Tensor:
        return self.first[:, 0]

    def _psi(self, i: int) -> Tensor:
        """Returns g_i, and what is expected of the rest, for each token at site i, (C, V)."""
        assert self.table is not None
        return self.table[:, i] if self.ahead is None else self.table[:, i] + self.ahead[:, i]

    def ratio(self, i: int) -> Tensor:
        """Returns log psi_i / psi_{i-1} for each token at site i, (B, V)."""
        now = self._psi(i).repeat_interleave(self.particles, 0)
        if self.ahead is None or i == 0:
            return now
        return now - self.ahead[:, i - 1].repeat_interleave(self.particles, 0).gather(1, self.state[1])

    def add(self, i: int, token: Tensor) -> None:
        self.state = [self.state[0] + self.ratio(i).gather(1, token), token]

    def weigh(self, tokens: Tensor, memory: list[Tensor]) -> Tensor:
        """Returns the last correction: the likelihood over psi, nothing before the last site."""
        if tokens.shape[1] < self.prior.sites:
            return torch.zeros_like(self.state[0][:, 0])
        log, psi = _log_likelihood(self.post, tokens), self.state[0][:, 0]
        return torch.where(log.isinf(), -torch.inf, log - psi)


def site_table(post: Posterior[Autoregressive]) -> tuple[Tensor, Tensor]:
    """Returns what each token at each site adds to the log-likelihood, (B, sites, V), and a constant, (B,).

    Of a channel behind a selection of sites in closed form; else by as many evaluations of the operator.
    """
    prior, y = post.prior, post.y
    n, count = prior.sites, len(prior.levels)
    if _selects(post):
        position = torch.arange(n, dtype=prior.dtype, device=y.device).reshape(1, *prior.shape)
        site = prior.order.argsort()[post.A(position).flatten().round().long()]  # of each measured value
        assert isinstance(post.noise, ChannelNoise)  # `_selects` has asked
        each = post.noise.values_log_prob(y.flatten(1)[..., None].double(), prior.levels.double())
        table = torch.zeros(len(y), n, count, dtype=torch.float64, device=y.device).index_add_(1, site, each.double())
        return table, table.new_zeros(len(y))
    base = _alike(prior, 1)
    changed = base.repeat(n * count, 1)
    changed[torch.arange(n * count), torch.arange(n).repeat_interleave(count)] = torch.arange(count).repeat(n)
    rows = [torch.full((len(changed) + 1,), k) for k in range(len(y))]
    log = torch.stack([_log_likelihood(post.rows(r), torch.cat([base, changed]).to(y.device)) for r in rows])
    return (log[:, 1:] - log[:, :1]).reshape(-1, n, count), log[:, 0]


def _selects(post: Posterior[Any, Any, Any]) -> bool:
    """Tells whether y is a channel of values that the operator picks from the signal."""
    picks = isinstance(post.A, LinearOperator) and post.A.any_field  # as a mask does
    return picks and isinstance(post.noise, ChannelNoise) and post.prior.sites * len(post.prior.levels) <= TABLE


def fits_channel(post: Posterior[Any, Any, Any]) -> bool:
    """Tells whether the likelihood is a product over sites whose tables are not too large, as tried on pairs of signals.

    For a sum over sites, f(a) + f(b) stays when a and b exchange some of their sites.
    """
    prior = post.prior
    if _selects(post):
        return True
    if prior.sites * len(prior.levels) > ENTRIES or not len(post.y):
        return False
    a, b = _alike(prior, PAIRS), prior.encode(prior.sample(PAIRS, seed=1)).cpu()
    exchanged = Streams(2, range(PAIRS))(torch.empty(PAIRS, prior.sites)) > 0
    four = (a, b, torch.where(exchanged, a, b), torch.where(exchanged, b, a))
    rows = post.rows(torch.zeros(PAIRS, dtype=torch.int64))
    log = torch.stack([_log_likelihood(rows, t.to(post.y.device)) for t in four])
    gap = (log[0] + log[1] - log[2] - log[3]).abs()
    return bool(log.isfinite().all() and (gap <= 1e-4 * (1 + log.abs().sum(0))).all())


class Completed:
    """psi_i = the mean over completions of p(y | A(x))^(i / n), any operator and noise; 1 before the last site without one.

    Completions are drawn from the prior itself, given the prefix, with the same few random numbers for every prefix, so
    that psi is a function of the prefix alone. The power keeps few completions from deciding early.

    state: log psi so far, (B, 1).
    """

    def __init__(self, post: Posterior[Autoregressive], completions: int, split: int | None) -> None:
        self.post, self.prior, self.split = post, post.prior, split
        empty = torch.empty(completions, post.prior.sites, dtype=torch.float64, device=post.y.device)
        self.uniform = Streams(0, range(completions)).uniform(empty) if completions else empty
        self.state = [torch.zeros(len(post.y), 1, dtype=torch.float64, device=post.y.device)]

    def start(self) -> Tensor:
        return self.state[0][:, 0]

    def ratio(self, i: int) -> float:
        return 0.0

    def add(self, i: int, token: Tensor) -> None:
        """Nothing: `weigh` sees the tokens."""

    def weigh(self, tokens: Tensor, memory: list[Tensor]) -> Tensor:
        """Returns log psi now over log psi before. memory: of the prior, before it has seen the last token."""
        (before,), count, n = self.state, tokens.shape[1], self.prior.sites
        if count < n and not len(self.uniform):
            return torch.zeros_like(before[:, 0])
        whole = [tokens] if count == n else [self._completed(tokens, memory, u) for u in self.uniform]
        log = torch.stack([_log_likelihood(self.post, t) for t in whole])
        now = (count / n * log).logsumexp(0)[:, None] - math.log(len(whole))
        self.state = [now]
        # a prefix that nothing completed stays at weight zero
        return torch.where(before.isinf(), -torch.inf, now - before)[:, 0]

    def _completed(self, tokens: Tensor, memory: list[Tensor], uniform: Tensor) -> Tensor:
        memory = list(memory)
        for i in range(tokens.shape[1], self.prior.sites):
            logits = next_logits(self.post, tokens, memory, self.split)
            tokens = torch.cat([tokens, token_at(logits, uniform[i].expand(len(tokens), 1))], 1)
        return tokens


def fits_counts(post: Posterior[Any, Any, Any]) -> bool:
    """Tells whether y is Poisson counts of a sum over sites of one table: a table of translations."""
    return getattr(post.A, "counts_of", None) is not None and isinstance(post.noise, Poisson)


class Counts:
    """psi_i = the likelihood of counts y ~ Poisson(sum of the rows of a table), with an average rest for what follows.

    The rest is the mixture of rows that explains y best (expectation maximisation from the prior's share of each token),
    as many as are left to explain y. Only what was counted has columns of its own; the others are one.

    state: the sum of rows so far, (B, K), and log psi, (B, 1).
    """

    def __init__(self, post: Posterior[Autoregressive, Any, Any], particles: int) -> None:
        self.post, self.prior, self.particles = post, post.prior, particles
        full = post.A.counts_of(post.prior.levels).double()  # (V, U)
        tables, counts, rests = [], [], []
        most = max(int((y > 0).sum()) for y in post.y) if len(post.y) else 0
        for y in post.y[::particles].double():
            seen = y.argsort(descending=True)[:most]  # those counted first, so that zeros may fill
            table = torch.cat([full[:, seen], (full.sum(1) - full[:, seen].sum(1))[:, None]], 1).clamp(min=1e-9)
            count = torch.cat([y[seen], y.new_zeros(1)])
            share = self._share()
            for _ in range(20):  # which tokens explain what was counted
                each = share[:, None] * table[:, :-1]
                share = (each / each.sum(0).clamp(min=1e-300) * count[:-1]).sum(1)
                share = 0.1 * self._share() + 0.9 * share / share.sum().clamp(min=1e-300)
            tables.append(table)
            counts.append(count)
            rests.append(share @ table)
        shape = (0, len(self.prior.levels), most + 1)
        self.table = torch.stack(tables) if tables else full.new_zeros(shape)
        self.count = torch.stack(counts) if counts else full.new_zeros(0, most + 1)
        self.rest = torch.stack(rests) if rests else full.new_zeros(0, most + 1)
        none = torch.zeros(len(post.y), 1, dtype=torch.float64, device=post.y.device)
        self.state = [none.expand(-1, most + 1).clone(), none]

    def _share(self) -> Tensor:
        chain, count = self.prior.transitions, len(self.prior.levels)
        if chain is None:
            return torch.full((count,), 1 / count, dtype=torch.float64, device=self.prior.device)
        return chain.exp().mean(0)

    def start(self) -> Tensor:
        return self.state[1][:, 0]

    def _chains(self, t: Tensor) -> Tensor:
        return t.unflatten(0, (-1, self.particles))

    def _psi(self, rate: Tensor) -> Tensor:
        """Returns the log-likelihood of rates (C, P, V, K), with the rest that would explain y best in total."""
        count, rest, total = self.count[:, None, None], self.rest[:, None, None], rate.sum(-1)
        left = ((count.sum(-1) - total) / rest.sum(-1)).clamp(min=0.1)
        return self._logs(torch.addcmul(rate, left[..., None], rest)) - total - left * rest.sum(-1)

    def _logs(self, rate: Tensor) -> Tensor:
        """Returns the sum of count log(rate), rates (C, P, V, K) above zero."""
        return (rate.log().flatten(1, 2) @ self.count[:, :, None]).reshape(rate.shape[:-1])

    def _ended(self) -> Tensor:
        """Returns the likelihood of what stands, (C, P): nothing follows the end."""
        alone = self._chains(self.state[0])
        return self._logs(alone[:, :, None].clamp(min=1e-9))[..., 0] - alone.sum(-1)

    def ratio(self, i: int) -> Tensor:
        """Returns log psi_i / psi_{i-1} for each token at site i, (B, V)."""
        if i + 1 == self.prior.sites:
            return torch.zeros(1, 1, dtype=torch.float64, device=self.state[0].device)
        now = self._psi(self._chains(self.state[0])[:, :, None] + self.table[:, None])
        if self.prior.end is not None:
            now[..., self.prior.end] = self._ended()
        return now.flatten(0, 1) - self.state[1]

    def add(self, i: int, token: Tensor) -> None:
        chosen = self._chains(token)
        rate = self._chains(self.state[0]) + self.table.gather(1, chosen.expand(-1, -1, self.table.shape[-1]))
        log = self._psi(rate[:, :, None])[..., 0]
        if self.prior.end is not None:
            log = torch.where(chosen[..., 0] == self.prior.end, self._ended(), log)
        last = i + 1 == self.prior.sites
        self.state = [rate.flatten(0, 1), self.state[1] if last else log.flatten()[:, None]]

    def weigh(self, tokens: Tensor, memory: list[Tensor]) -> Tensor:
        """Returns the last correction: the likelihood over psi, nothing before the last site."""
        if tokens.shape[1] < self.prior.sites:
            return torch.zeros_like(self.state[1][:, 0])
        return _log_likelihood(self.post, tokens) - self.state[1][:, 0]


def dead_stay_dead(log_w: Tensor, gained: Tensor) -> Tensor:
    """Returns log_w + gained, but -inf where log_w is: prefixes that cannot be may give any number, or none."""
    return torch.where(log_w > -torch.inf, log_w + gained, -torch.inf)


def next_logits(post: Posterior[Any, Any, Any], tokens: Tensor, memory: list[Tensor], split: int | None) -> Tensor:
    """Returns the logits of the next token, (B, V), at most `split` rows at once, and brings the memory up to date."""

    def of_part(part: Posterior[Any, Any, Any], last: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        kept = list(parts)
        return part.prior(last, kept), *kept

    logits, *memory[:] = by_rows(of_part, split, tokens[:, -1:], *memory, post=post)
    return logits


def _alike(prior: Autoregressive, rows: int) -> Tensor:
    """Returns tokens of which each is as likely as any other, (rows, sites), on the CPU; the same at every call."""
    count = len(prior.levels)
    u = Streams(0, range(rows)).uniform(torch.empty(rows, prior.sites, dtype=torch.float64))
    return (u * count).long().clamp(max=count - 1)


def _log_likelihood(post: Posterior[Autoregressive], tokens: Tensor) -> Tensor:
    """Returns log p(y | x) of whole signals, (B,) in double precision."""
    return post.log_likelihood(post.prior.decode(tokens)).double()


def _real(y: Tensor, both: bool = False) -> Tensor:
    """Measurements (B, *out_shape) as real vectors in double precision, complex values as two real ones."""
    if not y.is_complex():
        return y.flatten(1).double()
    parts = torch.stack([y.real, y.real if both else y.imag], -1)
    return parts.flatten(1).double()
