"""Ensembles: samplers whose rows work together, in chains of particles. Sequential Monte Carlo is one that weighs them.

A chain solves one measurement with `particles` rows that exchange information; its samples are dependent. Independent
samples come from independent chains, one sample each (`draws=1`, the default). `max_batch` bounds how many rows meet the
network at once, within a chain too.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.errors import DivergedError, OptionError, UnsupportedError
from invgen.method import Run
from invgen.numerics.random import Streams, second, streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.validation.hints import Count, Fraction

Resampling = Literal["systematic", "stratified", "multinomial", "residual"]


@dataclass
class Particles:
    """Weighted particles, the raw output of sequential Monte Carlo.

    Attributes:
        samples: (chains, particles, *batch, *shape).
        log_weights: (chains, particles, *batch), normalised over the particles.
        log_evidence: estimate of log p(y) of each chain, (chains, *batch). Its exponential is unbiased for every number of
            particles, but for the law that the prior's discrete steps have, p_model(y) = E[p(y | x_0)] with x_0 from
            the sampler's start and its unguided steps; p_model goes to p as steps grow and sigma_max with them. The
            logarithm is biased downwards, by about half the variance of exp(log_evidence) / p(y).
        ess: effective sample size of each chain at each step, before resampling, and at the end,
            (steps + 1, chains, *batch).
    """

    samples: Tensor
    log_weights: Tensor
    log_evidence: Tensor
    ess: Tensor

    @property
    def mean(self) -> Tensor:
        """The weighted mean of each chain, (chains, *batch, *shape)."""
        w = self.log_weights.exp().to(self.samples.dtype)
        return (w.reshape(*w.shape, *[1] * (self.samples.ndim - w.ndim)) * self.samples).sum(1)

    def shares(self, levels: Tensor) -> Tensor:
        """Returns the probability of each level at each place, (chains, *batch, *shape, V), for discrete signals."""
        w = self.log_weights.exp()
        w = w.reshape(*w.shape, *[1] * (self.samples.ndim - w.ndim))
        each = [(w * (self.samples == level)).sum(1) for level in levels.to(self.samples)]
        return torch.stack(each, -1)


@dataclass
class Cloud:
    """The data of the chains of a run beside their states.

    Attributes:
        split: the largest number of rows to give the network at once, None for any (`by_rows`).
        log_w: log-weights, (C, particles); log_z: log-evidence so far, (C,); sizes: effective sizes so far, (C,) each.
    """

    split: int | None
    log_w: Tensor
    log_z: Tensor
    sizes: list[Tensor]


def effective_size(log_w: Tensor) -> Tensor:
    """Returns the effective sample size 1 / sum of squared normalised weights, (C,), for log-weights (C, N)."""
    return torch.exp(2 * log_w.logsumexp(1) - (2 * log_w).logsumexp(1))


def resample(log_w: Tensor, count: int, randn: Streams, scheme: Resampling = "systematic") -> Tensor:
    """Returns indices of `count` particles of each chain, drawn in proportion to the weights, (C, count).

    Each scheme gives particle i on average count * w_i copies. Systematic resampling (Carpenter, Clifford & Fearnhead,
    1999) uses one uniform number a chain and varies least; stratified (Kitagawa, 1996) one for each of `count` strata;
    residual (Liu & Chen, 1998) keeps the whole parts of count * w_i and draws the rest; multinomial draws independently.
    See Douc, Cappe & Moulines (2005).

    Args:
        log_w: (C, N), need not be normalised.
        randn: streams with one row for each chain.
    """
    w = log_w.double().softmax(1)
    chains = len(w)
    copies = torch.zeros(chains, count, dtype=torch.int64, device=w.device)
    if scheme == "residual":
        whole = (count * w).floor()
        left = count * w - whole
        kept = whole.sum(1, keepdim=True)
        # the first places go to the whole parts, in order; the others are drawn from what is left
        place = torch.arange(count, device=w.device).expand(chains, -1)
        copies = torch.searchsorted(whole.cumsum(1), place.double().contiguous(), right=True)
        rest = left / left.sum(1, keepdim=True).clamp(min=1e-300)
        u = randn.uniform(copies.double())
        drawn = torch.searchsorted(rest.cumsum(1), u.contiguous())
        copies = torch.where(place < kept, copies, drawn)
        return copies.clamp(max=w.shape[1] - 1)
    u = randn.uniform(copies.double() if scheme != "systematic" else w[:, :1])
    if scheme != "multinomial":
        u = (torch.arange(count, device=w.device) + u) / count
    return torch.searchsorted(w.cumsum(1), u.expand(chains, count).contiguous()).clamp(max=w.shape[1] - 1)


@dataclass(frozen=True)
class EnsembleSampler(Sampler):
    """The base of samplers whose rows work together.

    The state of `run` is (C * particles, *shape), chain after chain, and post.y has as many rows.

    Args:
        particles: rows of a chain.
        draws: samples that each chain gives. 1 makes samples independent of each other; more are cheaper and dependent.
    """

    particles: Count = 32
    draws: Count = 1

    def run(self, post: Posterior[Any, Any, Any], x: Tensor, randn: Streams, cloud: Cloud) -> Iterator[Tensor]:
        """Yields the algorithm on (C * particles, *shape); randn has a row for each row of x."""
        raise TypeError(f"{type(self).__name__} must define run(self, post, x, randn, cloud)")

    def per_chain(self, x: Tensor) -> Tensor:
        """Returns (C * particles, ...) as (C, particles, ...)."""
        return x.reshape(-1, self.particles, *x.shape[1:])

    @property
    def rows_a_draw(self) -> int:
        """The particles of a chain."""
        return self.particles

    @property
    def samples_a_draw(self) -> int:
        """The samples that a chain gives."""
        return self.draws

    def draw_chunk(self, post: Posterior, index: Tensor, seed: int | Tensor, run: Run) -> tuple[Tensor, Tensor]:
        """Runs chains, and draws samples of each in proportion to the weights of its particles."""
        x, cloud = self.run_chains(post, index, seed, run)
        pick = streams(second(seed), index)
        chosen = resample(cloud.log_w, self.draws, pick)
        # in random order, so that every place has the law of the weights
        chosen = chosen.gather(1, pick.uniform(chosen.double()).argsort(1))
        samples = x[torch.arange(len(x), device=x.device)[:, None], chosen]  # (C, draws, *shape)
        number = index[:, :1] * self.draws + torch.arange(self.draws)
        return torch.stack([number, index[:, 1:].expand_as(number)], 2).flatten(0, 1), samples.flatten(0, 1)

    def run_chains(
        self, post: Posterior[Any, Any, Any], chains: Tensor, seed: int | Tensor, run: Run
    ) -> tuple[Tensor, Cloud]:
        """Returns the last states of some chains, (C, particles, *shape), and their cloud.

        Args:
            post: the problem, with all its measurements.
            chains: (number, measurement) of each chain, (C, 2).
            seed: one for all measurements, or a tensor of one for each.
            run: the wishes of the caller; at most `max_batch` rows meet the network at once.

        Raises:
            DivergedError: a state is not finite, or all particles of a chain have lost their weight.
        """
        numbers = torch.arange(self.particles).repeat(len(chains))
        index = torch.cat([chains.repeat_interleave(self.particles, 0), numbers[:, None]], 1)
        post, randn = post.rows(index[:, 1]), streams(seed, index)
        log_w = torch.zeros(len(chains), self.particles, dtype=torch.float64, device=post.prior.device)
        cloud = Cloud(run.max_batch, log_w, log_w[:, 0].clone(), [])
        with torch.no_grad():
            start = self.start(post, randn, len(index))
            x = self.last_state(post.prior, self.run(post, start, randn, cloud), start, run)
        if not torch.isfinite(cloud.log_z).all():
            raise DivergedError(
                f"{type(self).__name__} lost all particles of a chain: none of them explains the measurement; use more "
                "particles or steps, or check that noise and prior are in the units of the operator"
            )
        return self.per_chain(x), cloud


def by_rows(
    f: Callable[..., tuple[Tensor, ...]], split: int | None, *tensors: Tensor, post: Posterior
) -> tuple[Tensor, ...]:
    """Returns f(post, *tensors) on at most `split` rows at a time, put together again: bounds the memory of the network."""
    count = len(tensors[0])
    if split is None or split >= count:
        return f(post, *tensors)
    parts = [f(post.rows(rows), *(t[rows.to(t.device)] for t in tensors)) for rows in torch.arange(count).split(split)]
    return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))


@dataclass(frozen=True)
class ParticleSampler(EnsembleSampler):
    """Sequential Monte Carlo: weigh, resample where the weights have become uneven, move.

    A subclass writes two methods. `potential` calls the network at noise level s and returns the log of the potential and
    the tensors for `move`; `move` draws them at the next level, without the network, and gives what
    that adds to the log-weights, and the tensors for the next `potential`. The last weight is the true
    likelihood p(y | x_0).

    exp(log_evidence) has the mean that the product of all weights has under the moves, for all four schemes and every
    threshold: each particle gets count * w_i copies on average, and whether to resample depends on the present alone.
    Particles weighted by `log_weights * exp(log_evidence)` are unbiased in the same sense; normalised weights, and samples
    drawn with them, are exact as particles grow only, with a bias of the order of 1 / particles.

    Args:
        resampling: "systematic", "stratified", "multinomial" or "residual".
        threshold: resample when the effective size falls below this fraction of the particles; 1 is at every step, 0 never.
    """

    resampling: Resampling = "systematic"
    threshold: Fraction = 0.5

    family: ClassVar[str] = "smc"
    exact: ClassVar[str] = "as particles and steps grow"

    def potential(
        self, post: Posterior[Any, Any, Any], x: Tensor, s: float, s_next: float, *before: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns (log-potential (B,), further tensors with B rows) of particles x, (B, *shape), at level s.

        Args:
            before: what the last `move` gave to remember, nothing at the first step.
        """
        raise TypeError(f"{type(self).__name__} must define potential(self, post, x, s, s_next)")

    def move(
        self,
        post: Posterior[Any, Any, Any],
        x: Tensor,
        s: float,
        s_next: float,
        randn: Streams,
        potential: Tensor,
        *seen: Tensor,
    ) -> tuple[Tensor, ...]:
        """Particles at level s_next, the log-weight that moving them gives, (B,), and the tensors for the next `potential`.

        Args:
            potential, seen: the result of `potential` for the particles that were resampled.
        """
        raise TypeError(f"{type(self).__name__} must define move(self, post, x, s, s_next, randn, potential, *seen)")

    def last(self, post: Posterior[Any, Any, Any], x: Tensor) -> Tensor:
        """Returns the log of the last weight, (B,): the likelihood."""
        return post.log_likelihood(x)

    def run(self, post: Posterior[Denoiser, Any, Any], x: Tensor, randn: Streams, cloud: Cloud) -> Iterator[Tensor]:
        of_chain, memory = randn.every(self.particles), ()
        for s, s_next in self.levels(post.prior):

            def of_part(
                part: Posterior[Denoiser, Any, Any], u: Tensor, *before: Tensor, s: float = s, s_next: float = s_next
            ) -> tuple[Tensor, ...]:
                return self.potential(part, u, s, s_next, *before)

            seen = by_rows(of_part, cloud.split, x, *memory, post=post)
            self._weigh(cloud, seen[0])
            x, *seen = self._resample(cloud, of_chain, x, *seen)
            x, moved, *memory = self.move(post, x, s, s_next, randn, *seen)
            cloud.log_w = cloud.log_w + self.per_chain(moved.double())
            yield x
        self._weigh(cloud, self.last(post, x))
        cloud.log_z = cloud.log_z + cloud.log_w.logsumexp(1) - math.log(self.particles)

    def _weigh(self, cloud: Cloud, potential: Tensor) -> None:
        cloud.log_w = cloud.log_w + self.per_chain(potential.double())
        cloud.sizes.append(effective_size(cloud.log_w))

    def _resample(self, cloud: Cloud, randn: Streams, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Replaces the particles of chains with uneven weights by particles drawn in proportion to them."""
        poor = (cloud.sizes[-1] < self.threshold * self.particles) | (self.threshold == 1)
        # drawn whether needed or not: what a chain draws next must not depend on the chains beside it
        chosen = resample(cloud.log_w, self.particles, randn, self.resampling)
        if chosen.device.type == "cpu" and not poor.any():  # elsewhere reading it would stall the device
            return tensors
        here = torch.arange(self.particles, device=chosen.device)
        chosen = torch.where(poor[:, None], chosen, here)
        rows = (chosen + self.particles * torch.arange(len(chosen), device=chosen.device)[:, None]).flatten()
        cloud.log_z = cloud.log_z + torch.where(poor, cloud.log_w.logsumexp(1) - math.log(self.particles), 0.0)
        cloud.log_w = torch.where(poor[:, None], 0.0, cloud.log_w)
        return tuple(t[rows] for t in tensors)

    def weighted(self, post: Posterior, chains: int = 1, seed: int = 0, *, max_batch: int | None = None) -> Particles:
        """Returns the weighted particles of independent chains, not resampled at the end; the first chains of `__call__`'s.

        Args:
            post: the problem.
            chains: how many.
            seed, max_batch: as for `__call__`.

        Raises:
            UnsupportedError, OptionError, DivergedError: as `__call__`.
        """
        why = self.refuses(post)
        if why:
            raise UnsupportedError(f"{type(self).__name__} {why}")
        if self._through_latent(post):
            raise UnsupportedError("weighted particles of a pushforward prior are over z: pass post.latent()")
        if not isinstance(chains, int) or chains < 1:
            raise OptionError(f"chains must be a positive whole number, got {chains!r}")
        batch, post = max(math.prod(post.batch), 1), post.reduced()
        every = torch.arange(chains * batch)
        together = every.numel() if max_batch is None else max(max_batch // self.particles, 1)
        index = torch.stack([every // batch, every % batch], 1)
        parts = [self.run_chains(post, part, seed, Run(max_batch)) for part in index.split(together)]
        x, log_w, log_z, sizes = (
            torch.cat(columns, -1 if k == 3 else 0)
            for k, columns in enumerate(
                zip(*[(x, c.log_w.log_softmax(1), c.log_z, torch.stack(c.sizes)) for x, c in parts], strict=True)
            )
        )
        shape = (chains, *post.batch)
        return Particles(
            x.reshape(*shape, self.particles, *x.shape[2:]).movedim(len(shape), 1),
            log_w.reshape(*shape, self.particles).movedim(len(shape), 1),
            log_z.reshape(shape),
            sizes.reshape(len(sizes), *shape),
        )
