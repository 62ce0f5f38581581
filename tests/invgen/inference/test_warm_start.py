"""Warm starts: the posterior is kept from any level above the error of the start, and what cannot start says so."""

import pytest
import torch

import invgen
from invgen import OptionError, ShapeError, UnsupportedError, priors
from invgen.pushforward import Generator
from tests.invgen.samplers.gaussian_problems import F64, SHAPE, SIGMA, correlated, exact, problem

POST = problem(correlated())
ARGS = (POST.y, POST.A, POST.prior, SIGMA)


def warm(sampler, init, level, **options):
    return invgen.solve(*ARGS, sampler, init=init, level=level, **options).samples


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["MMPS(steps=25)", "AdaptivePiGDM(steps=50)", "AdaptiveDAPS"])
def test_a_start_of_the_posterior_keeps_it_and_a_far_one_is_forgotten(sampler):
    m, S = exact(POST)
    for init, level in ((m.reshape(SHAPE), 1.0), (m.reshape(SHAPE) + 1.0, 8.0)):
        x = warm(sampler, init, level, num_samples=400).flatten(1)
        # 400 samples: means to 0.05 deviations, six of them to 0.12; AdaptiveDAPS and the level of 1 leave as much again
        assert ((x.mean(0) - m) / S.diagonal().sqrt()).abs().max() < 0.35


def test_a_low_level_stays_near_and_each_measurement_has_its_start():
    init = torch.stack([torch.zeros(SHAPE, dtype=F64), torch.full(SHAPE, 3.0, dtype=F64)])
    y = torch.stack([POST.A(x[None])[0] for x in init])
    x = invgen.solve(y, POST.A, POST.prior, 5.0, "MMPS(steps=6)", num_samples=3, init=init, level=0.01).samples
    # noise of 0.01, and data of noise 5 that explain it: what changes is of the size of the level
    assert (x - init).abs().max() < 0.1
    one = invgen.solve(
        y, POST.A, POST.prior, 5.0, "MMPS(steps=6)", num_samples=3, init=init, level=0.01, max_batch=1
    ).samples
    torch.testing.assert_close(x, one)


def test_what_cannot_start_warm_says_so():
    x = torch.zeros(SHAPE, dtype=F64)
    with pytest.raises(OptionError, match="a warm start takes both, init= and level="):
        invgen.solve(*ARGS, init=x)
    with pytest.raises(OptionError, match="level must be in the prior's noise levels"):
        warm("MMPS", x, 1e5)
    with pytest.raises(ShapeError, match="init has shape"):
        warm("MMPS", x[:1], 1.0)
    with pytest.raises(UnsupportedError, match="DFlow does not start from noise, so that it takes no init"):
        warm("DFlow", x, 1.0)
    decoder = priors.from_generator(lambda z: z, 4, value_range=(-3, 3))
    assert isinstance(decoder, Generator)
    with pytest.raises(UnsupportedError, match="a warm start needs a Denoiser"):
        invgen.solve(torch.zeros(4), invgen.operators.Identity((4,)), decoder, 0.1, init=torch.zeros(4), level=1.0)
