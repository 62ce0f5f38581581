"""Discrete signals: channels against enumeration, exact forward-backward, a chain that looks ahead, beams, an end."""

import itertools

import pytest
import torch
from torch import Tensor

import invgen
from invgen import Confusion, Equality, Erasure, OptionError, Posterior, Substitution, UnsupportedError, samplers
from invgen.autoregressive import Autoregressive
from invgen.noise import Channel
from invgen.operators import Identity, Mask
from invgen.priors import MarkovChain
from invgen.priors.laws.programs import Programs, execute

F64 = torch.float64
V, N = 4, 6
LEVELS = [3.0, -1.0, 0.0, 7.0]


def chain(order: int = 2, length: int = N, end: int | None = None) -> MarkovChain:
    g = torch.Generator().manual_seed(order)
    table = 1.5 * torch.randn(*[V] * (order + 1), dtype=F64, generator=g)
    return MarkovChain(length, LEVELS, table, start=[1] * order, end=end, dtype=F64)


def channels() -> list[Channel]:
    table = torch.full((V, V), 0.1, dtype=F64) + 0.6 * torch.eye(V, dtype=F64)
    return [Substitution(LEVELS, 0.3), Erasure(LEVELS, 0.5, -9.0), Confusion(LEVELS, table), Equality(LEVELS)]


def problem(noise: Channel, order: int = 2, end: int | None = None) -> Posterior:
    prior = chain(order, end=end)
    A = Mask((N,), torch.tensor([1, 1, 0, 0, 1, 1]))
    return Posterior(prior, A, noise, noise.sample(A(prior.sample(1, seed=3)), torch.Generator().manual_seed(2)))


def enumerated(post: Posterior) -> tuple[Tensor, Tensor, Tensor]:
    """All texts, their posterior probabilities, and log p(y)."""
    x = post.prior.decode(torch.tensor(list(itertools.product(range(V), repeat=N))))
    log = post.prior.log_prob(x) + post.rows(torch.zeros(len(x), dtype=torch.int64)).log_likelihood(x)
    return x, log.softmax(0), log.logsumexp(0)


def variation(samples: Tensor, post: Posterior, p: Tensor, weights: Tensor | None = None) -> float:
    place = (post.prior.encode(samples) * V ** torch.arange(N - 1, -1, -1)).sum(1)
    weights = torch.full((len(samples),), 1 / len(samples), dtype=F64) if weights is None else weights
    return (torch.zeros(len(p), dtype=F64).index_add_(0, place, weights) - p).abs().sum().item() / 2


@pytest.mark.parametrize("noise", channels(), ids=repr)
def test_a_channel_is_the_law_that_it_draws_from(noise):
    clean = torch.tensor(LEVELS, dtype=F64)[:, None]
    drawn = noise.sample(clean.expand(-1, 20_000), torch.Generator().manual_seed(0))
    total = torch.zeros(V, dtype=F64)
    for value in drawn.unique():
        p = noise.log_prob(value.expand(V, 1), clean).exp()
        torch.testing.assert_close((drawn == value).double().mean(1), p, rtol=0, atol=0.015)  # four errors of 20 000
        total += p
    torch.testing.assert_close(total, torch.ones(V, dtype=F64))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("noise", channels(), ids=repr)
def test_forward_backward_is_exact(noise, order):
    post = problem(noise, order)
    x, p, log_evidence = enumerated(post)
    exact = samplers.ForwardBackward()
    assert exact.log_evidence(post).item() == pytest.approx(log_evidence.item(), abs=1e-9)
    tokens = post.prior.encode(x)
    each = torch.stack([torch.zeros(V, dtype=F64).index_add_(0, tokens[:, i], p) for i in range(N)])
    torch.testing.assert_close(exact.marginals(post)[0], each, rtol=0, atol=1e-9)
    samples = exact(post, num_samples=3000, seed=1)[:, 0]
    # as far as so many draws of p itself, the mean of 20 such sets and four of their deviations
    g = torch.Generator().manual_seed(5)
    own = torch.tensor([variation(x[torch.multinomial(p, 3000, True, generator=g)], post, p) for _ in range(20)])
    assert variation(samples, post, p) < own.mean() + 4 * own.std() + 1e-9


@pytest.mark.parametrize("ahead", [False, True])
def test_particles_agree_with_it(ahead):
    post = problem(Erasure(LEVELS, 0.5, -9.0))
    if ahead:
        post.prior.measure_transitions(post.prior.sample(2000, seed=8))
    _, p, log_evidence = enumerated(post)
    w = samplers.AutoregressiveSMC(particles=256).weighted(post, chains=40, seed=1)
    weights = w.log_weights.exp().flatten() / 40
    assert variation(w.samples.reshape(-1, N), post, p, weights) < 0.05
    assert w.log_evidence.exp().mean().log().item() == pytest.approx(log_evidence.item(), abs=0.05)


def test_a_filter_of_different_particles_is_exact_with_as_many_as_there_are_signals():
    post = problem(Erasure(LEVELS, 0.5, -9.0))
    x, p, log_evidence = enumerated(post)
    w = samplers.DiscreteParticleFilter(particles=V**N).weighted(post, chains=1, seed=0)
    assert w.log_evidence.item() == pytest.approx(log_evidence.item(), abs=1e-9)
    assert variation(w.samples.reshape(-1, N), post, p, w.log_weights.exp().flatten()) < 1e-9


@pytest.mark.parametrize("look", ["channel", "none", "completed"])
def test_a_filter_of_different_particles_is_unbiased_and_never_loses_the_likeliest(look):
    post = problem(Erasure(LEVELS, 0.5, -9.0) if look == "channel" else Substitution(LEVELS, 0.3))
    x, p, log_evidence = enumerated(post)
    chains, count = 400, 12
    w = samplers.DiscreteParticleFilter(particles=count, lookahead=look).weighted(post, chains=chains, seed=1)
    evidence = (w.log_evidence[:, 0] - log_evidence).exp()
    assert abs(evidence.mean().item() - 1) < 4 * evidence.std().item() / chains**0.5 + 1e-9
    # the mean of unnormalised weights is the posterior, as far as so many chains tell
    each = w.log_weights.exp()[..., 0] * evidence[:, None] / chains
    spread = variation(w.samples.reshape(-1, N), post, p, each.flatten())
    places = (post.prior.encode(w.samples.reshape(-1, N)) * V ** torch.arange(N - 1, -1, -1)).sum(1).reshape(chains, count)
    alive = w.log_weights[..., 0] > -torch.inf
    assert all(len(set(row[a].tolist())) == a.sum() for row, a in zip(places, alive, strict=True))
    if look == "none":  # what is kept is then chosen by the prior alone, and choosing it better need not help
        return
    doubled = samplers.AutoregressiveSMC(particles=count, lookahead=look, threshold=1.0).weighted(
        post, chains=chains, seed=1
    )
    other = (doubled.log_evidence[:, 0] - log_evidence).exp()
    assert evidence.std() < other.std()
    weights = doubled.log_weights.exp()[..., 0] * other[:, None] / chains
    assert spread < variation(doubled.samples.reshape(-1, N), post, p, weights.flatten())


def test_what_follows_a_gap_is_seen_from_before_it():
    noise, spread = Equality(LEVELS), {}
    for ahead in (False, True):
        post = problem(noise, order=1)
        if ahead:
            post.prior.measure_transitions(post.prior.sample(2000, seed=8))
        spread[ahead] = samplers.AutoregressiveSMC(particles=16).weighted(post, chains=200, seed=1).log_evidence.var()
        x = samplers.AutoregressiveSMC(particles=16)(post, 50)
        assert torch.equal(post.A(x[:, 0]), post.y.expand(50, -1))
    assert spread[True] < 0.1 * spread[False], spread  # what is counted is the law itself, but for 2000 samples' noise


class Counted(MarkovChain):
    """A chain that carries its context in the memory and says how many tokens it was ever given."""

    given = 0

    def step(self, last: Tensor, memory: list[Tensor]) -> Tensor:
        context = memory[0] if memory else self.before.expand(len(last), -1)
        memory[:] = [torch.cat([context, last], 1)[:, -len(self.before) :]]
        Counted.given += last.shape[1]
        return self.table[memory[0].unbind(1)]


def test_a_memory_gives_the_same_signals_for_one_token_a_site():
    plain = chain(2)
    kept = Counted(N, LEVELS, plain.table, start=[1, 1], dtype=F64)
    assert torch.equal(kept.sample(50, seed=4), plain.sample(50, seed=4))
    assert Counted.given == N - 1
    post = problem(Substitution(LEVELS, 0.3))
    other = Posterior(kept, post.A, post.noise, post.y)
    for look in ("channel", "completed"):
        sampler = samplers.AutoregressiveSMC(particles=16, lookahead=look, completions=2)
        assert torch.equal(sampler(other, 8, seed=2), sampler(post, 8, seed=2))
        assert torch.equal(sampler(other, 8, seed=2, max_batch=5), sampler(post, 8, seed=2))


def test_after_the_end_there_is_nothing_else():
    post = problem(Substitution(LEVELS, 0.3), end=2)
    x, p, log_evidence = enumerated(post)
    assert post.prior.log_prob(x).exp().sum().item() == pytest.approx(1, abs=1e-9)
    tokens = post.prior.encode(post.prior.sample(200, seed=0))
    ended = (tokens == 2).cummax(1).values
    assert 0.2 < ended.double().mean() < 0.9 and torch.equal(ended, tokens == 2)
    assert samplers.ForwardBackward().log_evidence(post).item() == pytest.approx(log_evidence.item(), abs=1e-9)
    w = samplers.AutoregressiveSMC(particles=256).weighted(post, chains=20, seed=1)
    assert variation(w.samples.reshape(-1, N), post, p, w.log_weights.exp().flatten() / 20) < 0.05


def test_a_beam_as_wide_as_all_texts_finds_the_likeliest():
    post = problem(Substitution(LEVELS, 0.3))
    x, p, _ = enumerated(post)
    assert torch.equal(samplers.BeamSearch(particles=V ** (N - 1))(post)[0, 0], x[p.argmax()])
    assert samplers.BeamSearch.point


def test_what_does_not_fit_says_so():
    post = problem(Substitution(LEVELS, 0.3))
    with pytest.raises(OptionError, match="blank must be a number that is no level"):
        Erasure(LEVELS, 0.5, 7.0)
    with pytest.raises(OptionError, match="end must be a token, 0 to 3, got 9"):
        chain(end=9)

    class Words(Autoregressive):
        def next_logits(self, prefix: Tensor) -> Tensor:
            return torch.zeros(len(prefix), V)

    with pytest.raises(UnsupportedError, match="ForwardBackward"):
        invgen.solve(post.y[0], post.A, Words((N,), LEVELS), post.noise, samplers.ForwardBackward())
    with pytest.raises(UnsupportedError, match="lookahead='counts' needs"):
        invgen.solve(post.y[0], post.A, post.prior, post.noise, samplers.AutoregressiveSMC(lookahead="counts"))
    assert Identity((2,)).any_field


@pytest.mark.parametrize("sampler", [samplers.BeamSearch, samplers.DiscreteParticleFilter])
def test_prefixes_that_cannot_be_are_never_kept(sampler):
    # a grammar: after an invalid prefix no token has a probability, and no program a result
    prior, x = Programs(5), torch.tensor([-7.0, -2, 0, 3, 12, 25])
    A = invgen.operators.from_function(lambda z: execute(z, x), (5,), differentiable=False)
    post = Posterior(prior, A, 0.3, x * x)
    best = sampler(particles=10_000, lookahead="none")(post, 1)  # more than there are programs: nothing is cut
    assert torch.equal(execute(best, x), (x * x)[None])
