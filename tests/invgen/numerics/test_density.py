"""log_prob by the probability-flow ODE against the exact densities of Gaussians and mixtures."""

import math

import pytest
import torch

import invgen
from invgen.errors import DivergedError, OptionError, ShapeError, UnsupportedError
from invgen.numerics.density import bits_per_dim, log_prob
from invgen.priors import GaussianMixture, GaussianPrior
from invgen.pushforward import Generator

F64 = torch.float64


def gaussian(sigma_max=1e4):
    g = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=g, dtype=F64)
    mean = torch.randn(6, generator=g, dtype=F64)
    return GaussianPrior((6,), mean, covariance=root @ root.T / 6 + 0.05 * torch.eye(6, dtype=F64), sigma_max=sigma_max)


def mixture(sigma_max=1e4, dtype=F64):
    means = 2 * torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    var = torch.tensor([0.1, 0.3, 0.05])
    return GaussianMixture(means.to(dtype), [0.2, 0.5, 0.3], var.to(dtype), sigma_max=sigma_max)


PRIORS = pytest.mark.parametrize("make", [gaussian, mixture])


def error(prior, **options):
    x = prior.sample(8, 1)
    return (log_prob(prior, x, **options) - prior.log_prob(x, prior.sigma_min)).abs().max().item()


@pytest.mark.slow
@PRIORS
def test_falls_with_the_number_of_steps(make):
    prior = make()
    errors = [error(prior, method="rk4", steps=steps) for steps in (24, 48, 96)]
    assert errors[1] < errors[0] / 8 and errors[2] < errors[1] / 8, errors  # of order 4
    assert errors[2] < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "method", "tolerances"),
    [
        (gaussian, "dopri5", (1e-3, 1e-5, 1e-7)),
        (mixture, "dopri5", (1e-3, 1e-5, 1e-7)),
        (gaussian, "bosh3", (1e-2, 1e-4, 1e-6)),
    ],
)
def test_falls_with_the_tolerance(make, method, tolerances):
    pytest.importorskip("torchdiffeq")
    prior = make()
    errors = [error(prior, method=method, rtol=tol, atol=tol) for tol in tolerances]
    assert errors[1] < errors[0] / 10 and errors[2] < errors[1] / 10, errors
    assert errors[2] < 100 * tolerances[2]


@pytest.mark.slow
@PRIORS
def test_a_common_sigma_max_costs_1e_4_nats_a_value(make):
    prior = make(sigma_max=100 * make().data_std)
    assert error(prior, method="rk4", steps=96) < 1e-4 * 6


def test_independent_gaussian_values_need_no_steps_at_all():
    prior = GaussianPrior((3, 4), 0.5, 4.0, value_range=(-5.0, 6.0))
    x = prior.sample(4, 0).double()
    prior = prior.double()
    want = prior.log_prob(x, prior.sigma_min)
    torch.testing.assert_close(log_prob(prior, x, method="rk4", steps=1, trace="gaussian"), want, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("trace", ["rademacher", "gaussian"])
def test_hutchinsons_trace_is_unbiased_and_its_error_falls(trace):
    prior = mixture(sigma_max=200.0)
    x = prior.sample(4, 1).repeat_interleave(32, 0)  # probes are drawn for each row: 32 estimates of each signal
    estimates = log_prob(prior, x, method="rk4", steps=16, trace=trace).reshape(4, 32)
    more = log_prob(prior, x, method="rk4", steps=16, trace=trace, probes=4).reshape(4, 32)
    exact = log_prob(prior, x[::32], method="rk4", steps=16, trace="exact")
    for values in (estimates, more):
        assert ((values.mean(1) - exact).abs() < 4 * values.std(1) / 32**0.5).all()
    assert 0.3 < (more.var(1) / estimates.var(1)).mean() ** 0.5 < 0.75  # 1 / 2 expected


def test_a_signal_does_not_depend_on_its_batch():
    prior = mixture()
    x = prior.sample(6, 1)
    options = {"method": "rk4", "steps": 8, "trace": "rademacher", "seed": 3}
    whole = log_prob(prior, x, **options)
    torch.testing.assert_close(log_prob(prior, x, max_batch=4, **options), whole, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(log_prob(prior, x, **options), whole, rtol=0, atol=0)
    assert not torch.allclose(log_prob(prior, x, **(options | {"seed": 4})), whole)


def test_the_front_door_takes_the_priors_own_density():
    prior = mixture()
    x = prior.sample(3, 1)
    torch.testing.assert_close(invgen.log_prob(prior, x), prior.log_prob(x))
    torch.testing.assert_close(invgen.log_prob(prior.rescaled(2.0, 1.0), 2 * x + 1), prior.log_prob(x) - 6 * math.log(2))


@pytest.mark.slow
def test_other_units_shift_it_by_the_logarithm_of_the_scale():
    prior = mixture()
    x = prior.sample(3, 1)
    other = log_prob(prior.rescaled(2.0, 1.0), 2 * x + 1, method="rk4")
    torch.testing.assert_close(other, log_prob(prior, x, method="rk4") - 6 * math.log(2), rtol=0, atol=1e-8)


@pytest.mark.slow
def test_a_float32_prior_is_right_to_its_precision():
    prior = mixture(sigma_max=100.0, dtype=torch.float32)
    assert error(prior, method="rk4") < 5e-3


def test_bits_per_dim_of_a_uniform_byte_is_eight():
    log_density = torch.tensor([-10 * math.log(2.0)])  # of 10 values uniform on [-1, 1]
    torch.testing.assert_close(bits_per_dim(log_density, 10, 2 / 256), torch.tensor([8.0]))


@pytest.mark.slow
def test_what_cannot_be_is_said():
    prior, x = mixture(), torch.zeros(2, 2, 3, dtype=F64)
    for bad in ({"method": "euler"}, {"trace": "exakt"}, {"steps": 0}, {"probes": 0}):
        with pytest.raises(OptionError):
            log_prob(prior, x, **bad)
    with pytest.raises(ShapeError, match=r"\(B, 2, 3\), got \(2, 3\)"):
        log_prob(prior, x[0])
    with pytest.raises(OptionError):
        bits_per_dim(x, 0, 1.0)
    with pytest.raises(UnsupportedError, match="no Denoiser and has no log_prob"):
        log_prob(Generator((2, 3), (4,)), x)

    class Broken(GaussianPrior):
        def forward(self, x, sigma):
            return x * math.nan

    with pytest.raises(DivergedError, match="not finite"):
        log_prob(Broken((3,)), torch.zeros(2, 3), method="rk4", steps=2)
    assert log_prob(prior, x[:0], method="rk4").shape == (0,)
