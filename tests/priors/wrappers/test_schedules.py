"""Schedules: alpha, time and range of each, against their definitions in closed form; tables keep double precision."""

import copy
import math
import pickle

import pytest
import torch

import invgen
from invgen.priors import Schedule

LEVELS = torch.tensor([0.05, 0.5, 3.0, 12.0], dtype=torch.float64)
ALL = {
    "linear": Schedule.linear,
    "scaled_linear": Schedule.scaled_linear,
    "cosine": Schedule.cosine,
    "sigmoid": Schedule.sigmoid,
    "zero_terminal_snr": lambda: Schedule.zero_terminal_snr(torch.linspace(1e-4, 0.02, 1000)),
    "from_sigmas": lambda: Schedule.from_sigmas(torch.logspace(1, -2, 100)),
    "vp": Schedule.vp,
    "ve": Schedule.ve,
    "edm": Schedule.edm,
    "angle": Schedule.angle,
    "flow": Schedule.flow,
    "flow, shifted": lambda: Schedule.flow(3.0),
    "flow, reverse": lambda: Schedule.flow(time_scale=1.0, reverse=True),
}


@pytest.mark.parametrize("name", ALL)
def test_every_schedule(name):
    schedule = ALL[name]()
    assert 0 < schedule.sigma_min < schedule.sigma_max < math.inf
    time = schedule.time(LEVELS.reshape(2, 2))
    assert time.shape == (2, 2) and time.dtype == torch.float64
    assert (time.flatten().diff() * schedule.direction > 0).all() or name == "from_sigmas"
    assert schedule.time(0.5) == schedule.time(LEVELS)[1]  # a number will do
    ends = schedule.time(torch.tensor([1e-9, 1e9], dtype=torch.float64))  # levels outside get the nearest trained one's
    torch.testing.assert_close(ends, schedule.time(torch.tensor([schedule.sigma_min, schedule.sigma_max])))
    assert schedule.alpha(LEVELS.float()).dtype == torch.float32
    half = copy.deepcopy(schedule).to(torch.bfloat16)  # moves, but does not round
    torch.testing.assert_close(half.time(LEVELS), schedule.time(LEVELS), rtol=0, atol=0)
    torch.testing.assert_close(pickle.loads(pickle.dumps(schedule)).time(LEVELS), schedule.time(LEVELS))
    assert not schedule.state_dict()  # tables are no weights


@pytest.mark.parametrize(
    ("schedule", "low", "high"),
    [  # as measured with diffusers' schedulers, in double precision
        (Schedule.linear(), 0.0100, 157.4),
        (Schedule.scaled_linear(), 0.0292, 14.61),
        (Schedule.linear(1000, 0.00085, 0.012), 0.0292, 25.1),
        (Schedule.cosine(), 0.0064, 20291),
        (Schedule.sigmoid(), 0.0122, 158.7),
    ],
)
def test_known_ranges(schedule, low, high):
    assert schedule.sigma_min == pytest.approx(low, rel=0.01) and schedule.sigma_max == pytest.approx(high, rel=0.005)


def test_discrete_levels_have_whole_times_and_the_rest_is_linear_in_log_sigma():
    schedule = Schedule.linear()
    alpha_bar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    sigmas = ((1 - alpha_bar) / alpha_bar).sqrt()
    torch.testing.assert_close(schedule.time(sigmas), torch.arange(1000, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(schedule.alpha(sigmas), alpha_bar.sqrt())
    between = (sigmas[400] ** 0.75 * sigmas[401] ** 0.25)[None]
    torch.testing.assert_close(schedule.time(between), torch.tensor([400.25], dtype=torch.float64))
    spaced = Schedule.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), times=torch.arange(1000) / 1000)
    torch.testing.assert_close(spaced.time(LEVELS), schedule.time(LEVELS) / 1000)


def test_closed_forms():
    s = LEVELS
    torch.testing.assert_close(Schedule.edm().time(s), s.log() / 4)
    torch.testing.assert_close(Schedule.edm(time_scale=1000.0).time(s), 250 * s.log())
    torch.testing.assert_close(Schedule.ve().time(s), s)
    torch.testing.assert_close(Schedule.flow().time(s), 1000 * s / (1 + s))
    torch.testing.assert_close(Schedule.flow(3.0).time(s), Schedule.flow().time(s))  # a shift moves no time
    assert Schedule.flow(3.0).sigma_max == 3 * Schedule.flow().sigma_max
    torch.testing.assert_close(Schedule.flow(time_scale=1.0, reverse=True).time(s), 1 / (1 + s))
    torch.testing.assert_close(Schedule.flow().alpha(s), 1 / (1 + s))
    t = Schedule.angle().time(s) * math.pi / 2
    torch.testing.assert_close(t.tan(), s)
    torch.testing.assert_close(Schedule.angle().alpha(s), t.cos())
    t = Schedule.vp().time(s) / 999
    torch.testing.assert_close(torch.expm1(0.1 * t + 19.9 * t**2 / 2).sqrt(), s)


def test_zero_terminal_snr_drops_the_pure_noise():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    schedule = Schedule.zero_terminal_snr(betas)
    root = (1 - betas).cumprod(0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])  # Lin et al., Algorithm 1
    assert schedule.sigma_max == pytest.approx((1 / root[998] ** 2 - 1).sqrt().item(), rel=1e-9)
    assert schedule.time(1e9) == 998 and schedule.sigma_min == pytest.approx(Schedule.linear().sigma_min)


def test_levels_in_either_order():
    up = torch.logspace(-2, 1, 100, dtype=torch.float64)
    torch.testing.assert_close(
        Schedule.from_sigmas(up.flip(0)).time(LEVELS[:3]), 99 - Schedule.from_sigmas(up).time(LEVELS[:3])
    )
    torch.testing.assert_close(Schedule.from_sigmas(up).alpha(LEVELS), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Schedule.from_betas([0.1]), r"at least two numbers in \(0, 1\]"),
        (lambda: Schedule.from_betas([0.1, 1.5]), r"at least two numbers in \(0, 1\]"),
        (lambda: Schedule.from_sigmas([1.0, 1.0]), "different and above 0"),
        (lambda: Schedule.from_sigmas([0.0, 1.0]), "different and above 0"),
        (lambda: Schedule.from_sigmas([0.5, 1.0], [1.0]), "one time for each noise level, got 1 for 2"),
        (lambda: Schedule.edm(1.0, 0.5), "0 < sigma_min < sigma_max"),
        (lambda: Schedule.flow(0.0), "a shift above 0"),
    ],
)
def test_bad_options(make, words):
    with pytest.raises(invgen.OptionError, match=words):
        make()
