"""The noise levels of samplers: each schedule is even in the coordinate that it names."""

import math

import pytest
import torch

from invgen.diffusion import flow_time, noise_levels

COORDINATES = {
    "edm": lambda s: s ** (1 / 7),
    "log": math.log,
    "amplitude": lambda s: 1 / math.sqrt(1 + s**2),
    "flow": lambda s: flow_time(s, 0.5),
}


@pytest.mark.parametrize("schedule", COORDINATES)
def test_levels_are_even_in_the_coordinate_of_their_schedule(schedule):
    pairs = noise_levels(9, 0.01, 80.0, schedule, scale=0.5)
    levels = [s for s, _ in pairs]
    assert [n for _, n in pairs] == [*levels[1:], 0.0]
    assert levels[0] == pytest.approx(80, rel=1e-9) and levels[-1] == pytest.approx(0.01, rel=1e-6)  # cancels in amplitude
    at = torch.tensor([COORDINATES[schedule](s) for s in levels], dtype=torch.float64)
    even = torch.linspace(at[0], at[-1], 9, dtype=torch.float64)
    assert torch.allclose(at, even, rtol=1e-9, atol=1e-12)
