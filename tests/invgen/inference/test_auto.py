"""sampler="auto": every kind of problem gets a sampler that takes it, and a reason."""

import pytest
import torch

import invgen
from invgen import Energy, Gaussian, Posterior, UnsupportedError, samplers
from invgen.autoregressive import MarkovChain
from invgen.inference.auto import recommend
from invgen.noise import Noiseless, Poisson
from invgen.operators import HighDynamicRange, Mask, Matrix, from_function
from invgen.priors import GaussianPrior
from invgen.pushforward import Generator
from invgen.sampler import Cost

F64 = torch.float64


class Decoder(Generator):
    def __init__(self, n: int) -> None:
        super().__init__((n,), (3,))
        self.register_buffer("W", torch.randn(n, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z @ self.W.T


def prior(n: int) -> GaussianPrior:
    return GaussianPrior((n,), torch.zeros(n), 1.0)


def wide(n: int, m: int) -> Matrix:
    return Matrix(torch.randn(m, n, generator=torch.Generator().manual_seed(1)))


PROBLEMS = {
    "few values": (prior(6), wide(6, 3), Gaussian(0.1), "LinearisedTDS"),
    "few values, any noise": (prior(6), from_function(torch.exp, (6,)), Poisson(), "LinearisedTDS"),
    "many values": (prior(40), wide(40, 20), Gaussian(0.1), "MMPS"),
    "many values, nonlinear": (prior(40), HighDynamicRange((40,)), Gaussian(0.1), "AdaptiveDAPS"),
    "few exact values": (prior(6), Mask((6,), torch.arange(6) < 3), Noiseless(), "MCGDiff"),
    "many exact values": (prior(40), Mask((40,), torch.arange(40) < 20), Noiseless(), "DDNM"),
    "black box": (prior(6), from_function(torch.exp, (6,), differentiable=False), Gaussian(0.1), "RegressionEnKG"),
    "black box, any noise": (prior(6), from_function(torch.exp, (6,), differentiable=False), Poisson(), "SCG"),
    "a loss": (prior(40), wide(40, 20), Energy(lambda clean, y: (clean - y).abs().flatten(1).sum(1)), "DampedDPS"),
    "a generator, few values": (Decoder(6), wide(6, 3), Gaussian(0.1), "LinearisedTDS"),
    "a generator, many values": (Decoder(40), wide(40, 20), Gaussian(0.1), "DampedDPS"),
}


CHAIN = MarkovChain(6, [-1.0, 0.0, 1.0], torch.randn(3, 3, generator=torch.Generator().manual_seed(2)))
SUMS = from_function(lambda x: x.cumsum(-1).exp(), (6,), differentiable=False)
SITES = {
    "a chain seen through a mask": (CHAIN, Mask((6,), torch.arange(6) < 3), Gaussian(0.5), "ForwardBackward"),
    "a chain seen through a matrix": (CHAIN, wide(6, 3), Gaussian(0.5), "AutoregressiveSMC"),
    "a chain and a black box": (CHAIN, SUMS, Poisson(), "AutoregressiveSMC"),
}


@pytest.mark.parametrize("name", PROBLEMS | SITES)
def test_each_kind_of_problem_gets_a_sampler_that_takes_it(name):
    p, A, noise, expected = (PROBLEMS | SITES)[name]
    y = A(torch.zeros(p.shape)).float()
    sampler, reason = recommend(Posterior(p, A, noise, y))
    assert type(sampler).__name__ == expected and sampler.refuses(Posterior(p, A, noise, y)) is None
    assert len(reason) > 30 and "\n" not in reason


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_number_of_evaluations_is_kept_whatever_the_problem(name):
    p, A, noise, _ = PROBLEMS[name]
    post = Posterior(p, A, noise, A(torch.zeros(p.shape)).float())
    for evaluations, num_samples in ((100, 1), (100, 20), (700, 1)):
        sampler, _ = recommend(post, evaluations, num_samples)
        spent = Cost()
        sampler(post, num_samples, 0, cost=spent)
        # no more than asked, and not much less: an inner loop is a step of some evaluations
        assert 0.8 * evaluations < spent.nfe <= evaluations, sampler


def test_evaluations_set_the_steps_of_any_sampler_or_are_refused():
    p, A, noise, _ = PROBLEMS["many values"]
    for name in ("DampedDPS", "AdaptiveDAPS"):
        assert invgen.solve(torch.zeros(20), A, p, noise, name, evaluations=30).nfe <= 30
    with pytest.raises(UnsupportedError, match="PnPDM takes at least .* evaluations a sample, and 2 are allowed"):
        invgen.solve(torch.zeros(20), A, p, noise, "PnPDM", evaluations=2)
    with pytest.raises(UnsupportedError, match="MMPS has noise levels of its own"):
        invgen.solve(torch.zeros(20), A, p, noise, samplers.MMPS(schedule=(1.0, 0.1)), evaluations=2)


def test_a_prior_of_sites_has_its_own_number_of_evaluations():
    p, A, noise, _ = SITES["a chain seen through a matrix"]
    with pytest.raises(UnsupportedError, match="^MarkovChain is evaluated once for each site .* leave evaluations out$"):
        invgen.solve(A(torch.zeros(6)), A, p, noise, evaluations=25)


def test_what_no_sampler_takes_is_said_at_once():
    p, A = prior(6), from_function(torch.exp, (6,), differentiable=False)
    with pytest.raises(UnsupportedError, match="no sampler takes exact measurements of FunctionOperator"):
        recommend(Posterior(p, A, Noiseless(), torch.ones(6)))


@pytest.mark.slow
def test_solve_says_what_it_picked_and_why():
    p, A, noise, _ = PROBLEMS["few values"]
    result = invgen.solve(torch.zeros(3), A, p, noise, "auto", num_samples=2)
    assert isinstance(result.sampler, samplers.LinearisedTDS) and "3 measured values" in result.reason
    assert "picked because 3 measured values" in repr(result)
    assert invgen.solve(torch.zeros(3), A, p, noise, "DampedDPS(steps=50)").reason == ""


def test_samples_that_miss_the_measurement_are_warned_about():
    p, A, noise, _ = PROBLEMS["many values"]
    y = A(p.sample(1, seed=3))[0]
    # a guidance of nothing returns the prior, whose residual is the data's size over the noise
    with pytest.warns(UserWarning, match=r"\d of \d samples of DampedDPS do not explain .* up to \d+\.\d times"):
        invgen.solve(y, A, p, noise, samplers.DampedDPS(steps=10, zeta=0.0))


def test_a_few_samples_that_went_astray_are_warned_about():
    """Values of the wrong sign on a saturated detector have no gradient: some of DampedFreeDoM's samples stay there."""
    prior = GaussianPrior((1,), torch.zeros(1, dtype=F64), covariance=torch.ones(1, 1, dtype=F64))
    y = torch.tensor([1.0], dtype=F64)
    with pytest.warns(UserWarning, match=r"\d+ of 200 samples of DampedFreeDoM do not explain the measurement"):
        result = invgen.solve(y, HighDynamicRange((1,)), prior, 0.05, samplers.DampedFreeDoM(steps=5), num_samples=200)
    assert 0.01 < (result.residual > 5).double().mean() < 0.5 and result.residual.median() < 2
