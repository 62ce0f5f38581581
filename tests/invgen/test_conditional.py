"""Conditional priors against the exact conditional laws of mixtures, and classifier-free guidance against closed forms."""

import math

import pytest
import torch
from torch import Tensor

from invgen import ClassifierFree, Conditional, ConditionalDenoiser, Posterior, samplers
from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.operators import Matrix
from invgen.priors import GaussianMixture, GaussianPrior
from invgen.sampler import Cost

F64 = torch.float64
N = 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def mixture(**options: object) -> GaussianMixture:
    return GaussianMixture(3 * normal(4, N), [0.1, 0.2, 0.3, 0.4], **{"var": torch.tensor([0.3, 0.5, 0.7, 0.9]), **options})


@pytest.mark.parametrize(
    "prior", [mixture(), mixture(var=0.5), mixture(covariances=normal(N, N) @ normal(N, N).T + torch.eye(N))]
)
def test_a_mixture_is_conditioned_by_bayes_rule(prior):
    part = prior.condition(1, 3)
    x, s = 3 * normal(6, N, seed=1), 0.4
    # p(x, k in {1, 3}) / p(k in {1, 3}), with the responsibilities of the whole
    r = prior.responsibilities(x, s)[:, [1, 3]].sum(1)
    weight = prior.weights[[1, 3]].sum()
    torch.testing.assert_close(part.log_prob(x, s), prior.log_prob(x, s) + r.log() - weight.log(), rtol=1e-9, atol=1e-9)
    assert (part.sigma_min, part.sigma_max) == (prior.sigma_min, prior.sigma_max)
    assert isinstance(prior, Conditional)
    for bad in ((), (4,), (-1,), (0.5,)):
        with pytest.raises(OptionError, match="components 0 to 3"):
            prior.condition(*bad)


def test_conditioning_on_every_component_changes_nothing():
    prior, x = mixture(), normal(5, N, seed=2)
    torch.testing.assert_close(prior.condition(0, 1, 2, 3)(x, 0.7), prior(x, 0.7), rtol=1e-12, atol=1e-12)


def test_scale_one_is_the_conditional_prior_and_scale_zero_the_unconditional():
    prior, x = mixture(), normal(5, N, seed=2)
    for scale, wanted in ((1.0, prior.condition(2)), (0.0, prior)):
        guided = ClassifierFree.of(prior, 2, scale=scale)
        assert torch.equal(guided(x, 0.7), wanted(x, 0.7))
    plain, conditional = prior(x, 0.7), prior.condition(2)(x, 0.7)
    torch.testing.assert_close(ClassifierFree.of(prior, 2, scale=3.0)(x, 0.7), plain + 3 * (conditional - plain))
    # the score is that of p(x | c)^scale p(x)^(1 - scale)
    u = x.clone().requires_grad_()
    log = 3 * prior.condition(2).log_prob(u, 0.7) - 2 * prior.log_prob(u, 0.7)
    (score,) = torch.autograd.grad(log.sum(), u)
    torch.testing.assert_close(ClassifierFree.of(prior, 2, scale=3.0).score(x, 0.7), score, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_guidance_of_two_gaussians_is_exactly_a_third_and_a_sampler_on_it_has_that_posterior():
    S = normal(N, N) @ normal(N, N).T + torch.eye(N, dtype=F64)
    a, b, scale = normal(N, seed=3), normal(N, seed=4), 2.5
    options = {"sigma_min": 0.01, "sigma_max": 100.0}
    guided = ClassifierFree(
        GaussianPrior(N, a, covariance=S, **options), GaussianPrior(N, b, covariance=S, **options), scale
    )
    wanted = GaussianPrior(N, b + scale * (a - b), covariance=S, **options)
    x = 4 * normal(7, N, seed=5)
    for s in (0.02, 0.8, 30.0, torch.linspace(0.1, 5, 7, dtype=F64)):
        torch.testing.assert_close(guided(x, s), wanted(x, s), rtol=1e-9, atol=1e-9)
    A, y = Matrix(normal(2, N, seed=6), (N,)), normal(2, seed=7)
    posterior = wanted.posterior(A, 0.3, y)
    count = 2000
    got = samplers.MMPS(steps=100, iterations=2)(Posterior(guided, A, 0.3, y), count)
    std = posterior.var.sqrt()
    # five standard errors, and 3 % of a standard deviation for 100 steps of first order
    assert ((got.mean(0) - posterior.mean).abs() < (5 / count**0.5 + 0.03) * std).all()
    assert ((got.std(0) / std - 1).abs() < 5 / (2 * count) ** 0.5 + 0.05).all()


@pytest.mark.slow
def test_a_sampler_on_a_conditional_prior_has_the_conditional_posterior():
    # the labels separate two modes that the measurement does not see
    prior = GaussianMixture(torch.tensor([[-4.0, 0.0], [4.0, 0.0]], dtype=F64), var=0.5)
    A, y = Matrix(torch.tensor([[0.0, 1.0]], dtype=F64), (2,)), torch.tensor([0.7], dtype=F64)
    count = 400
    x = samplers.MMPS(steps=50)(Posterior(ClassifierFree.of(prior, 1), A, 0.4, y), count)
    posterior = prior.condition(1).posterior(A, 0.4, y)
    assert ((x.mean(0) - posterior.mean).abs() < (5 / count**0.5 + 0.05) * posterior.var.sqrt()).all()
    # and without the label both modes are there, a half each: five standard deviations of a proportion
    both = samplers.MMPS(steps=50)(Posterior(prior, A, 0.4, y), count)
    assert abs((both[:, 0] > 0).double().mean().item() - 0.5) < 5 * math.sqrt(0.25 / count)


def test_guidance_in_an_interval_of_noise_levels():
    prior, x = mixture(), normal(3, N, seed=2)
    guided = ClassifierFree.of(prior, 2, scale=3.0, interval=(0.5, 2.0))
    everywhere, conditional = ClassifierFree.of(prior, 2, scale=3.0), prior.condition(2)
    assert torch.equal(guided(x, 0.4), conditional(x, 0.4)) and torch.equal(guided(x, 1.0), everywhere(x, 1.0))
    levels = torch.tensor([0.4, 1.0, 3.0], dtype=F64)
    rows = torch.stack([guided(x[i : i + 1], s.item())[0] for i, s in enumerate(levels)])
    torch.testing.assert_close(guided(x, levels), rows)


class Labelled(ConditionalDenoiser):
    """A network that knows the label: the exact denoiser of N(label, 1), and of the mean of the labels without one."""

    def forward(self, x: Tensor, sigma: float, condition: Tensor | None = None) -> Tensor:
        mean = 0.0 if condition is None else condition
        return mean + (x - mean) / (1 + sigma**2)


def test_a_network_that_knows_conditions():
    net = Labelled((N,), data_std=1.0)
    x, label = normal(4, N), torch.tensor([1.0, -2.0, 3.0], dtype=F64)
    torch.testing.assert_close(net.condition(label)(x, 0.5), label + (x - label) / 1.25)
    guided = ClassifierFree.of(net, label, scale=2.0)
    cost = Cost()
    samplers.DDIM(steps=5)(guided, 3, cost=cost)
    assert cost.nfe == 10  # two evaluations of the one network a step


def test_units_carry_through():
    prior, x = mixture(), normal(4, N, seed=2)
    guided = ClassifierFree.of(prior, 2, scale=2.0)
    torch.testing.assert_close(guided.rescaled(5.0, 1.0)(5 * x + 1, 3.5), 5 * guided(x, 0.7) + 1)
    assert guided.variance(0.7) == prior.condition(2).variance(0.7)


def test_what_does_not_fit_is_refused():
    prior = mixture()
    with pytest.raises(ShapeError, match=r"over \(3,\) but the unconditional over \(2,\)"):
        ClassifierFree(prior, GaussianPrior(2))
    with pytest.raises(OptionError, match="at least 0"):
        ClassifierFree(prior, prior, -1.0)
    with pytest.raises(OptionError, match="unconditional of ClassifierFree must be an invgen Denoiser"):
        ClassifierFree(prior, lambda x, s: x)
    with pytest.raises(OptionError, match="low <= high"):
        ClassifierFree(prior, prior, 2.0, (3.0, 1.0))
    with pytest.raises(UnsupportedError, match="ClassifierFree has none"):
        ClassifierFree.of(ClassifierFree(prior, prior), 1)
