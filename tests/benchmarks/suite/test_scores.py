"""Metrics of suites."""

import pytest
import torch

import invgen
from invgen.benchmarks.methods import catalogue
from invgen.benchmarks.suite import scores
from invgen.errors import OptionError, UnsupportedError
from invgen.inference.solve import Result
from invgen.operators import Mask
from invgen.priors import GaussianPrior


def exact(num_samples, seed=0, shift=0.0):
    prior = GaussianPrior((2,), var=torch.tensor([1.0, 4.0]))
    post = invgen.Posterior(prior, Mask((2,), torch.tensor([1, 0])), 0.1, torch.tensor([0.5]))
    samples = catalogue.method("Exact")(post, num_samples, seed) + shift
    return Result(samples, post, catalogue.method("Exact"), seed, 0.0, 0.0)


@pytest.mark.slow
def test_the_distance_to_the_exact_posterior():
    truth = torch.zeros(2)
    floors = [scores.metric("distance")(exact(1000, seed=s), truth) for s in range(8)]
    # Wasserstein-1 of two sets of n from a law of standard deviation s is about s / sqrt(n); s is 0.1 and 2 here, .063 for
    # the larger, as measured over 12 seeds
    assert sum(floors) / 8 == pytest.approx(0.063, abs=0.02), floors
    # a shift by d moves every projection by d cos(angle), 2 d / pi on average over the circle
    off = scores.metric("distance(samples=2000, slices=500)")(exact(1000, shift=2.0), truth)
    # exactly that with (2, 2), of length sqrt(8), up to the floor
    assert off == pytest.approx(2 / torch.pi * 8**0.5, abs=0.1)
    trained = invgen.priors.load("digits")
    post = invgen.Posterior(trained, invgen.operators.Identity(trained.shape), 0.1, torch.zeros(trained.shape))
    result = Result(torch.zeros(3, *trained.shape), post, None, 0, 0.0, 0.0)
    with pytest.raises(UnsupportedError, match="the exact posterior under .* is not known"):
        scores.metric("distance")(result, torch.zeros(trained.shape))


def test_metrics_by_name():
    result = exact(400)
    for name in scores.METRICS:
        if name not in ("ssim", "lpips", "lsd"):  # images, and recordings, only
            assert torch.isfinite(torch.tensor(scores.metric(name)(result, torch.ones(2)))), name
    with pytest.raises(OptionError, match="unknown option of metric coverage 'levl'; did you mean 'level'"):
        scores.metric("coverage(levl=0.5)")
    assert scores.available(["psnr", "psnr", "crps?"]) == ["psnr", "crps"]
