"""Expectations of p(y | x) from the beginning of a signal: the twists psi_i of particles on autoregressive priors.

`Gaussian` takes the Gaussian N(mean, root root^T) of the prior's moments for what is not known yet. With sites in the order
of the prior and `root` lower triangular, x = mean + root e, the prefix fixes e_1..e_i and the rest of e is N(0, I). The
others do without it, for signals whose values are names (letters, words) and no numbers.
"""

import math
from typing import TypeGuard

import torch
from torch import Tensor

from invgen.autoregressive import Autoregressive, token_at
from invgen.forward import LinearOperator
from invgen.noise import Gaussian as GaussianNoise
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.smc.base import by_rows

LARGEST = 2**25  # sites times measured values of a dense matrix
ENTRIES = 2**16  # sites times levels of the table of a channel, each an evaluation of the operator
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

    def weigh(self, tokens: Tensor) -> Tensor:
        """Returns what tokens, (B, i), add to the log-weights beside `ratio`: nothing."""
        return torch.zeros(len(self.state[0]), dtype=torch.float64, device=self.state[0].device)


class Channel:
    """psi_i = the likelihood of the first i sites, where it is a product over sites: a mask, noise of each site.

    log p(y | A(x)) = log p(y | A(r)) + sum_i g_i(x_i) for any signal r, g_i(v) being what a change of r_i to v adds: a
    table of V numbers a site, found by as many evaluations of A. Where the likelihood is no such product after all, the
    last psi corrects it.

    state: log psi so far, (B, 1).
    """

    def __init__(self, post: Posterior[Autoregressive], particles: int) -> None:
        self.post, self.prior, self.particles = post, post.prior, particles
        n, count = self.prior.sites, len(self.prior.levels)
        base = _alike(self.prior, 1)
        changed = base.repeat(n * count, 1)
        changed[torch.arange(n * count), torch.arange(n).repeat_interleave(count)] = torch.arange(count).repeat(n)
        chains = range(0, len(post.y), particles)
        rows = [torch.full((len(changed) + 1,), c) for c in chains]
        log = [_log_likelihood(post.rows(r), torch.cat([base, changed]).to(post.y.device)) for r in rows]
        log = torch.stack(log) if log else torch.zeros(0, n * count + 1, dtype=torch.float64, device=post.y.device)
        self.first = log[:, :1].repeat_interleave(particles, 0)
        self.table = (log[:, 1:] - log[:, :1]).reshape(-1, n, count)
        self.state = [self.first]

    def start(self) -> Tensor:
        return self.first[:, 0]

    def ratio(self, i: int) -> Tensor:
        """Returns log psi_i / psi_{i-1} for each token at site i, (B, V)."""
        return self.table[:, i].repeat_interleave(self.particles, 0)

    def add(self, i: int, token: Tensor) -> None:
        self.state = [self.state[0] + self.ratio(i).gather(1, token)]

    def weigh(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] < self.prior.sites:
            return torch.zeros_like(self.state[0][:, 0])
        return _log_likelihood(self.post, tokens) - self.state[0][:, 0]


def fits_channel(post: Posterior[Autoregressive]) -> bool:
    """Tells whether the likelihood is a product over sites whose tables are not too large, as tried on pairs of signals.

    For a sum over sites, f(a) + f(b) stays when a and b exchange some of their sites.
    """
    prior = post.prior
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

    def weigh(self, tokens: Tensor) -> Tensor:
        (before,), count, n = self.state, tokens.shape[1], self.prior.sites
        if count < n and not len(self.uniform):
            return torch.zeros_like(before[:, 0])
        whole = [tokens] if count == n else [self._completed(tokens, u) for u in self.uniform]
        log = torch.stack([_log_likelihood(self.post, t) for t in whole])
        now = (count / n * log).logsumexp(0)[:, None] - math.log(len(whole))
        self.state = [now]
        # a prefix that nothing completed stays at weight zero
        return torch.where(before.isinf(), -torch.inf, now - before)[:, 0]

    def _completed(self, tokens: Tensor, uniform: Tensor) -> Tensor:
        for i in range(tokens.shape[1], self.prior.sites):
            (logits,) = by_rows(lambda part, t: (part.prior(t),), self.split, tokens, post=self.post)
            tokens = torch.cat([tokens, token_at(logits, uniform[i].expand(len(tokens), 1))], 1)
        return tokens


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
