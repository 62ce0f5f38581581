"""Autoregressive priors and their sampler, against the enumeration of all signals of a tiny discrete law."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from invgen import (
    Gaussian,
    Noiseless,
    OptionError,
    Poisson,
    Posterior,
    ShapeError,
    UnsupportedError,
    priors,
    samplers,
    solve,
)
from invgen.autoregressive import Autoregressive
from invgen.noise import Noise
from invgen.operators import Mask, Matrix, from_function
from invgen.sampler import Cost

F64 = torch.float64
LEVELS = (-1.0, 0.5, 1.0)


class Table(Autoregressive):
    """Logits that depend on all tokens before, by fixed random numbers; sites in an order of their own."""

    def __init__(self, shape: tuple[int, ...] = (1, 1, 5), strength: float = 1.5) -> None:
        n = math.prod(shape)
        super().__init__(shape, LEVELS, order=torch.arange(n).flip(0), dtype=F64)
        g = torch.Generator().manual_seed(3)
        self.register_buffer("weights", strength * torch.randn(n, n, 3, 3, dtype=F64, generator=g))
        self.register_buffer("bias", torch.randn(n, 3, dtype=F64, generator=g))

    def next_logits(self, prefix: Tensor) -> Tensor:
        i = prefix.shape[1]
        return self.bias[i] + sum((self.weights[i, j, prefix[:, j]] for j in range(i)), torch.zeros(len(prefix), 3))


def everything(prior: Autoregressive) -> Tensor:
    """All signals, (V^n, *shape)."""
    tokens = torch.tensor(list(itertools.product(range(len(LEVELS)), repeat=prior.sites)))
    return prior.decode(tokens)


def exact(post: Posterior) -> tuple[Tensor, Tensor, float]:
    """All signals, their posterior probabilities, and log p(y)."""
    x = everything(post.prior)
    y = post.y.expand(len(x), *post.A.out_shape)
    log = post.prior.log_prob(x) + post.noise.log_prob(y, post.A(x))
    return x, log.softmax(0), log.logsumexp(0).item()


def shares(samples: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
    """How often each of the signals x occurs among the samples, weighted or not."""
    place = {tuple(row): k for k, row in enumerate(x.flatten(1).tolist())}
    index = torch.tensor([place[tuple(row)] for row in samples.flatten(1).tolist()])
    weights = torch.full(index.shape, 1 / len(index), dtype=F64) if weights is None else weights
    return torch.zeros(len(x), dtype=F64).index_add(0, index, weights)


def problem(A: str = "mask", noise: Noise | float = 0.4, moments: bool = False, strength: float = 1.5) -> Posterior:
    prior = Table(strength=strength)
    if moments:
        prior.measure_moments(prior.sample(2000, seed=9))
    g = torch.Generator().manual_seed(1)
    operator = {
        "mask": lambda: Mask(prior.shape, torch.tensor([1.0, 0, 1, 0, 1]).reshape(prior.shape)),
        "matrix": lambda: Matrix(torch.randn(3, 5, dtype=F64, generator=g), in_shape=prior.shape),
        "square": lambda: from_function(lambda x: x.square().cumsum(-1) + 0.1 * x, prior.shape),
        "black box": lambda: from_function(
            lambda x: torch.as_tensor(x.detach().numpy()).cumsum(-1) + 2, prior.shape, differentiable=False
        ),
    }[A]()
    clean = operator(prior.sample(1, seed=5))[0]
    return Posterior(prior, operator, noise, noise.sample(clean, g) if isinstance(noise, Noise) else clean + 0.2)


def test_probabilities_sum_to_one_and_samples_follow_them():
    prior = Table()
    x = everything(prior)
    p = prior.log_prob(x).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    assert (shares(prior.sample(20_000, seed=1), x) - p).abs().sum() / 2 < 0.04
    assert torch.equal(prior.sample(4, seed=2)[:2], prior.sample(2, seed=2))


def test_tokens_are_the_nearest_levels_in_the_order_of_the_sites():
    prior = Table((1, 2, 2))
    x = torch.tensor([[-0.8, 0.4], [0.9, 0.6]], dtype=F64)[None, None]
    assert prior.encode(x).tolist() == [[1, 2, 1, 0]]
    assert prior.decode(prior.encode(x)).flatten().tolist() == [-1, 0.5, 1, 0.5]
    assert prior.decode(torch.tensor([[2]])).flatten().tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1])


@pytest.mark.slow
@pytest.mark.parametrize("lookahead", ["gaussian", "completed", "none"])
@pytest.mark.parametrize(
    ("A", "noise"), [("mask", 0.4), ("matrix", 0.4), ("matrix", Gaussian(torch.tensor([0.3, 0.6, 1.0])))]
)
def test_samples_follow_the_enumerated_posterior(A, noise, lookahead):
    post = problem(A, noise)
    x, p, log_evidence = exact(post)
    sampler = samplers.AutoregressiveSMC(particles=32, lookahead=lookahead)
    samples = sampler(post, num_samples=1500, seed=3)
    assert (shares(samples, x) - p).abs().sum() / 2 < 0.08  # total variation; 1500 exact draws have 0.03 to 0.06
    weighted = sampler.weighted(post, chains=200, seed=4)
    # unbiased; of 200 chains of 32 particles the mean has a standard error of 0.005 to 0.031
    assert weighted.log_evidence.exp().mean().log().item() == pytest.approx(log_evidence, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("A", "noise"), [("square", 0.4), ("black box", 0.4), ("black box", Poisson(0.5))])
def test_any_operator_and_noise(A, noise):
    post = problem(A, noise)
    x, p, _ = exact(post)
    samples = samplers.AutoregressiveSMC(particles=128)(post, num_samples=1500, seed=3)
    assert (shares(samples, x) - p).abs().sum() / 2 < 0.08


@pytest.mark.slow
def test_the_bias_falls_with_the_number_of_particles():
    post = problem("matrix", 0.2)
    x, p, _ = exact(post)
    gaps = []
    for particles in (1, 4, 64):
        weighted = samplers.AutoregressiveSMC(particles=particles).weighted(post, chains=1000, seed=1)
        got = shares(weighted.samples.reshape(-1, 5), x, weighted.log_weights.exp().flatten() / 1000)
        gaps.append((got - p).abs().sum().item() / 2)
    assert gaps[0] > gaps[1] > 10 * gaps[2], gaps


@pytest.mark.parametrize("A", ["mask", "matrix"])
def test_looking_ahead_evens_the_weights(A):
    def variance(lookahead: str, moments: bool) -> float:
        post = problem(A, 0.3, moments, strength=0.7)  # not so far from a Gaussian
        log = samplers.AutoregressiveSMC(particles=32, lookahead=lookahead).weighted(post, chains=300, seed=2).log_evidence
        return log.var().item()

    blind, independent, fitted = variance("none", False), variance("gaussian", False), variance("gaussian", True)
    assert independent < blind / 2, (blind, independent)
    assert fitted < blind / 2, (blind, fitted)


def test_a_gaussian_twist_is_the_density_of_the_measurement():
    # psi of every prefix against the dense formula, and the last one against the likelihood
    from invgen.samplers.smc._lookahead import Gaussian as Twist

    post = problem("matrix", Gaussian(torch.tensor([0.3, 0.6, 1.0], dtype=F64)), moments=True)
    prior, rows = post.prior, 4
    tokens = prior.encode(prior.sample(rows, seed=8))
    post = post.rows(torch.zeros(rows, dtype=torch.int64))
    psi = Twist(post)
    flat = post.A.matrix.double().reshape(3, 5)[:, prior.order]
    mean, cov, R = prior.mean, prior.root @ prior.root.T, torch.tensor([0.3, 0.6, 1.0], dtype=F64).square().diag()
    log = psi.start()
    for i in range(prior.sites + 1):
        known, rest = torch.arange(i), torch.arange(i, prior.sites)
        values = prior.levels[tokens[:, :i]]
        gain = cov[rest][:, known] @ torch.linalg.inv(cov[known][:, known]) if i else cov[rest][:, known]
        centre = values @ flat[:, known].T + (mean[rest] + (values - mean[known]) @ gain.T) @ flat[:, rest].T
        left = cov[rest][:, rest] - gain @ cov[known][:, rest]
        S = R + flat[:, rest] @ left @ flat[:, rest].T
        want = torch.distributions.MultivariateNormal(centre, S).log_prob(post.y)
        assert torch.allclose(log, want, atol=1e-8), i
        if i < prior.sites:
            log = log + psi.ratio(i).gather(1, tokens[:, i : i + 1])[:, 0]
            psi.add(i, tokens[:, i : i + 1])
    assert torch.allclose(log, post.log_likelihood(prior.decode(tokens)), atol=1e-8)


def test_complex_measurements_and_batches():
    prior = Table((1, 2, 2))
    A = from_function(lambda x: torch.fft.fft2(x), prior.shape, linear=True)
    y = A(prior.sample(2, seed=1)) + 0.1
    post = Posterior(prior, A, 0.5, y[0])
    x, p, log_evidence = exact(post)
    samples = samplers.AutoregressiveSMC(particles=64)(Posterior(prior, A, 0.5, y), num_samples=800, seed=0)
    assert samples.shape == (800, 2, 1, 2, 2)
    assert (shares(samples[:, 0], x) - p).abs().sum() / 2 < 0.06
    assert samplers.AutoregressiveSMC().weighted(post).log_evidence.item() == pytest.approx(log_evidence, abs=0.3)


def test_a_sample_depends_on_its_seed_and_number_alone():
    post, sampler, cost = problem(), samplers.AutoregressiveSMC(particles=8, steps=2), Cost()
    all_at_once = sampler(post, num_samples=5, seed=1, cost=cost)
    assert torch.equal(sampler(post, num_samples=5, seed=1, max_batch=3), all_at_once)
    assert torch.equal(sampler(post, num_samples=2, seed=1), all_at_once[:2])
    assert cost.nfe == 8 * post.prior.sites
    assert torch.equal(solve(post.y, post.A, post.prior, 0.4, sampler, num_samples=5, seed=1).samples, all_at_once)


def test_other_samplers_and_problems_are_refused():
    post = problem()
    with pytest.raises(UnsupportedError, match="needs a Denoiser prior, got Table.*AutoregressiveSMC"):
        samplers.DPS()(post)
    with pytest.raises(UnsupportedError, match="noiseless"):
        samplers.AutoregressiveSMC()(problem("mask", Noiseless()))
    with pytest.raises(UnsupportedError, match="needs a Autoregressive prior"):
        samplers.AutoregressiveSMC()(Posterior(priors.GaussianPrior((3,)), Mask((3,), torch.ones(3)), 0.1, torch.zeros(3)))
    with pytest.raises(UnsupportedError, match="linear operator and Gaussian noise"):
        samplers.AutoregressiveSMC(lookahead="gaussian")(problem("square"))
    with pytest.raises(OptionError, match="lookahead of AutoregressiveSMC must be one of"):
        samplers.AutoregressiveSMC(lookahead="psychic")
    with pytest.raises(OptionError, match="different finite numbers"):
        Autoregressive((2,), [1.0, 1.0])
    with pytest.raises(OptionError, match="permutation of the 2 positions"):
        Autoregressive((2,), [0.0, 1.0], order=[0, 0])
    with pytest.raises(ShapeError, match=r"\(B, 1, 1, 5\), got \(1, 5\)"):
        Table().encode(torch.zeros(1, 5))
    with pytest.raises(OptionError, match="two signals"):
        Table().measure_moments(torch.zeros(1, 1, 1, 5))
    with pytest.raises(ShapeError, match=r"a mean \(1, 1, 5\) and a covariance \(5, 5\), got \(5,\) and \(5, 5\)"):
        Table().set_moments(torch.zeros(5), torch.eye(5))
    with pytest.raises(OptionError, match="not positive semidefinite"):
        Table().set_moments(torch.zeros(1, 1, 5), -torch.eye(5))


def test_moments_that_are_told_are_those_that_are_measured():
    x = Table().sample(2000, seed=9)
    measured, told = Table().measure_moments(x, shrinkage=1e-9), Table()
    told.set_moments(x.mean(0), torch.cov(x.flatten(1).T))  # of the signal as it lies, not in the order of the sites
    torch.testing.assert_close(told.mean, measured.mean)
    torch.testing.assert_close(told.root, measured.root, rtol=1e-6, atol=1e-6)


# -- networks --------------------------------------------------------------------------------------------------------------


class Masked(nn.Conv2d):
    """A causal convolution in raster order: "A" does not see its own pixel, "B" does (van den Oord et al., 2016)."""

    def __init__(self, kind: str, *args: int) -> None:
        super().__init__(*args, padding=args[2] // 2)
        mask = torch.ones(args[2], args[2])
        mask[args[2] // 2, args[2] // 2 + (kind == "B") :] = 0
        mask[args[2] // 2 + 1 :] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class PixelCNN(nn.Module):
    def __init__(self, levels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Masked("A", 1, 8, 3), nn.ReLU(), Masked("B", 8, levels, 3))

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        return self.net(x)[:, :, None] * (1 if label is None else label.reshape(-1, 1, 1, 1, 1))


class GPT(nn.Module):
    """One layer of causal attention; its logits at place i are of token i + 1."""

    def __init__(self, vocabulary: int, places: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary + 1, 8), nn.Embedding(places, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.head = nn.Linear(8, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        h = self.token(tokens) + self.place.weight[:n]
        h = self.layer(h, torch.full((n, n), -torch.inf, dtype=h.dtype).triu(1))
        return self.head(h)


def networks() -> dict[str, Autoregressive]:
    torch.manual_seed(0)
    return {
        "image": priors.from_autoregressive(PixelCNN(3).double(), (1, 2, 3), LEVELS, layout="image"),
        "tokens": priors.from_autoregressive(GPT(3, 6).double(), (1, 2, 3), LEVELS, start=3),
    }


@pytest.mark.parametrize("name", ["image", "tokens"])
def test_a_network_is_its_own_probabilities(name):
    prior = networks()[name]
    x = everything(prior)
    assert prior.log_prob(x).exp().sum().item() == pytest.approx(1, abs=1e-9)
    tokens = prior.encode(x[:50])
    one_by_one = torch.stack([prior.next_logits(tokens[:, :i]) for i in range(6)], 1)
    assert torch.allclose(one_by_one, prior.logits(tokens), atol=1e-12)
    if name == "image":  # the network itself, called as it was trained
        logits = prior.net(x[:50]).log_softmax(1)
        want = logits.gather(1, prior.encode(x[:50]).reshape(50, 1, 1, 2, 3))[:, 0].sum((1, 2, 3))
    else:
        begun = torch.cat([torch.full((50, 1), 3), tokens], 1)
        want = prior.net(begun[:, :-1]).log_softmax(2).gather(2, tokens[..., None]).sum((1, 2))
    assert torch.allclose(prior.log_prob(x[:50]), want, atol=1e-12)


@pytest.mark.slow
def test_a_network_in_a_problem():
    prior = networks()["image"]
    A = Mask(prior.shape, torch.tensor([1.0, 0, 1, 0, 1, 1]).reshape(prior.shape))
    post = Posterior(prior, A, 0.4, A(prior.sample(1, seed=2))[0] + 0.2)
    x, p, _ = exact(post)
    samples = samplers.AutoregressiveSMC(particles=32)(post, num_samples=600, seed=0)
    assert (shares(samples, x) - p).abs().sum() / 2 < 0.15


def test_conditions_and_bad_networks():
    net = PixelCNN(3).double()
    plain = priors.from_autoregressive(net, (1, 2, 3), LEVELS, layout="image", condition=torch.tensor(2.0))
    x = plain.sample(2)
    assert torch.allclose(plain.condition(torch.tensor(1.0)).logits(plain.encode(x)) * 2, plain.logits(plain.encode(x)))
    with pytest.raises(OptionError, match="not causal"):
        conv = nn.Conv2d(1, 3, 3, padding=1)
        priors.from_autoregressive(lambda x: conv(x)[:, :, None], (1, 2, 3), LEVELS, layout="image")
    with pytest.raises(OptionError, match="not causal"):
        priors.from_autoregressive(GPT(3, 6), (1, 2, 3), LEVELS)  # a network of the next token, without start=
    with pytest.raises(ShapeError, match=r"expected logits of shape \(4, 3, 1, 2, 3\) for 3 levels"):
        priors.from_autoregressive(PixelCNN(4), (1, 2, 3), LEVELS, layout="image")
    with pytest.raises(OptionError, match="layout of CausalNetwork must be one of 'tokens', 'image'"):
        priors.from_autoregressive(PixelCNN(3), (1, 2, 3), LEVELS, layout="pixels")
