"""The Gaussian consistency function against the probability flow, integrated, and what wrappers make of the fact."""

import pytest
import torch

from invgen.conditional import DenoiserOf
from invgen.diffusion import noise_levels
from invgen.errors import UnsupportedError
from invgen.numerics.density import log_prob
from invgen.priors import GaussianConsistency, GaussianPrior, Schedule, from_network
from tests.priors.laws.test_exact import normal, spd

SHAPE = (2, 3)


@pytest.mark.parametrize("options", [{"var": 0.7}, {"var": normal(*SHAPE) ** 2 + 0.1}, {"covariance": spd(6)}])
def test_it_is_the_end_of_the_probability_flow(options):
    mean = normal(*SHAPE, seed=4)
    f, D = GaussianConsistency(SHAPE, mean, **options), GaussianPrior(SHAPE, mean, **options)
    x = 3 * normal(5, *SHAPE, seed=5)
    end = f(x, 3.0)
    state = x
    for s, s_next in noise_levels(200, 1e-3, 3.0, "log"):  # Heun's method, to sigma = 0
        slope = (state - D(state, s)) / s
        euler = state + (s_next - s) * slope
        if s_next > 0:
            slope = 0.5 * (slope + (euler - D(euler, s_next)) / s_next)
        state = state + (s_next - s) * slope
    # second order in steps of 4 % of sigma: 1e-4 of a state of 3, here and there in the last step to zero
    torch.testing.assert_close(end, state, rtol=0, atol=1e-3)
    torch.testing.assert_close(f(x, torch.full((5,), 3.0)), end)
    torch.testing.assert_close(f(x, 1e-9), x)
    # it carries the law of x_sigma to that of x_0
    torch.testing.assert_close(f.start(normal(4, *SHAPE), 3.0), D.start(normal(4, *SHAPE), 3.0))


def test_wrappers_pass_the_fact_on():
    f = GaussianConsistency(SHAPE, normal(*SHAPE), 0.5)
    assert f.consistency and not GaussianPrior(SHAPE).consistency
    for other in (f.rescaled(3.0, 1.0), DenoiserOf(f), f.rescaled(2.0).rescaled(3.0)):
        assert other.consistency
    x = normal(2, *SHAPE, seed=1)
    torch.testing.assert_close(f.rescaled(3.0, 1.0)(3 * x + 1, 1.5), 3 * f(x, 0.5) + 1)
    with pytest.raises(UnsupportedError, match="a consistency function has no density"):
        log_prob(f, x, method="rk4")
    net = torch.nn.Identity()
    schedule = Schedule.edm(time_scale=1000.0)
    for prediction, expected in (("consistency", True), ("edm", False)):
        assert from_network(net, (3,), prediction=prediction, schedule=schedule).consistency is expected
