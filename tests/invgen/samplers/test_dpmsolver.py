"""DPM-Solver++ against diffusers' DPMSolverMultistepScheduler on an exact denoiser, and its orders of convergence."""

import math

import pytest
import torch

from invgen import noise_levels, samplers
from invgen.errors import OptionError
from invgen.priors import GaussianMixture

F64 = torch.float64
MEANS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
PRIOR = GaussianMixture(MEANS, [0.2, 0.5, 0.3], torch.tensor([0.1, 0.3, 0.05], dtype=F64), sigma_min=0.01, sigma_max=20.0)


def by_diffusers(order, levels, x):
    """From the state x at the first level, in the scheduler's own variance-preserving coordinate and back."""
    from diffusers import DPMSolverMultistepScheduler

    options = {"algorithm_type": "dpmsolver++", "solver_order": order, "final_sigmas_type": "zero"}
    scheduler = DPMSolverMultistepScheduler(prediction_type="sample", **options)
    scheduler.set_timesteps(len(levels))
    scheduler.sigmas = torch.tensor([*levels, 0.0], dtype=F64)
    x = x / math.hypot(1, levels[0])
    for s, t in zip(levels, scheduler.timesteps, strict=True):
        x = scheduler.step(PRIOR(x * math.hypot(1, s), s), t, x).prev_sample
    return x


def starting_state(sampler, num):
    from invgen.numerics.random import Streams

    index = torch.stack([torch.arange(num), torch.zeros(num, dtype=torch.int64)], 1)
    return PRIOR.start(Streams(0, index)(torch.empty(num, 4, dtype=F64)), sampler.levels(PRIOR)[0][0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 8, 12])
def test_it_is_diffusers_scheduler(order, steps):
    sampler = samplers.DPMSolver(steps=steps, order=order, schedule="log")
    levels = [s for s, _ in noise_levels(steps, PRIOR.sigma_min, PRIOR.sigma_max, "log")]
    want = by_diffusers(order, levels, starting_state(sampler, 6))
    torch.testing.assert_close(sampler(PRIOR, 6), want, rtol=0, atol=1e-6)  # diffusers keeps log sigma in float32


def integrate(order, steps):
    """The state at sigma = 0.05, whatever the steps."""
    states = []
    levels = torch.linspace(math.log(20), math.log(0.05), steps + 1, dtype=F64).exp().tolist()
    samplers.DPMSolver(order=order, schedule=levels, steps=steps + 1)(PRIOR, 16, callback=lambda k, x: states.append(x))
    return states[-2]


@pytest.mark.slow
def test_orders_of_convergence():
    exact = integrate(3, 1500)
    for order in (1, 2, 3):
        errors = [(integrate(order, steps) - exact).abs().max().item() for steps in (40, 80, 160)]
        for coarse, fine in zip(errors[:-1], errors[1:], strict=True):
            assert math.log2(coarse / fine) > order - 0.15, (order, errors)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_the_third_order_of_diffusers_has_half_the_curvature_and_is_of_order_two():
    """A deviation that is meant: what diffusers adds for the second derivative is half of it."""

    def error(steps):
        levels = torch.linspace(math.log(20), math.log(0.05), steps + 1, dtype=F64).exp().tolist()
        start = starting_state(samplers.DPMSolver(schedule=levels, steps=steps + 1), 16)
        ours = samplers.DPMSolver(order=3, schedule=levels, steps=steps + 1)(PRIOR, 16)
        exact = PRIOR(integrate(3, 1500), 0.05)
        return [(x - exact).abs().max().item() for x in (ours, by_diffusers(3, levels, start))]

    (ours, theirs), (ours_fine, theirs_fine) = error(40), error(160)
    assert ours < theirs and ours_fine < 0.3 * theirs_fine
    assert math.log2(theirs / theirs_fine) / 2 < 2.5 < math.log2(ours / ours_fine) / 2 + 0.2


def test_one_evaluation_a_step():
    from invgen.sampler import Cost

    cost = Cost()
    samplers.DPMSolver(steps=9, order=3)(PRIOR, 4, cost=cost)
    assert cost.nfe == 9
    with pytest.raises(OptionError, match="one of 1, 2, 3, got"):
        samplers.DPMSolver(order=4)
