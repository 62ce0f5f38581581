"""Low-dose noise: moments against the formulas, likelihoods against scipy, the log transform against the delta method."""

import math

import pytest
import torch

from invgen.errors import OptionError
from invgen.noise import TransmissionPoisson, log_transform


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_counts_have_the_mean_and_variance_of_the_model():
    noise = TransmissionPoisson(1e4, background=20.0, electronic=5.0)
    p = torch.tensor([0.5, 2.0, 6.0])
    counts = noise.sample(p.expand(200_000, 3), generator())
    mean = 1e4 * torch.exp(-p) + 20
    # five standard errors of 200000 draws
    assert ((counts.mean(0) - mean).abs() < 5 * ((mean + 25) / 2e5).sqrt()).all()
    assert torch.allclose(counts.var(0), mean + 25, rtol=5 * math.sqrt(2 / 2e5))
    assert torch.allclose(noise.std(p), (mean + 25).sqrt())


def test_log_prob_is_the_poisson_law():
    from scipy.stats import poisson

    p = torch.rand(2, 3, 4, dtype=torch.float64, generator=generator()) * 3
    noise = TransmissionPoisson(50.0, background=1.0)
    y = noise.sample(p, generator(1))
    want = poisson.logpmf(y.numpy(), noise.mean(p).numpy()).sum(axis=(1, 2))
    assert noise.log_prob(y, p).tolist() == pytest.approx(want.tolist())
    # with electronic noise: the shifted Poisson law
    loud = TransmissionPoisson(50.0, background=1.0, electronic=2.0)
    want = poisson.logpmf((y + 4).numpy(), (loud.mean(p) + 4).numpy()).sum(axis=(1, 2))
    assert loud.log_prob(y, p).tolist() == pytest.approx(want.tolist())


def test_likelihood_is_differentiable_and_peaks_at_the_truth():
    noise = TransmissionPoisson(torch.tensor([100.0, 1000.0, 1e4]))  # a bowtie filter
    p = torch.rand(1, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q: noise.log_prob(torch.full_like(q, 40.0).detach(), q), p)
    truth = torch.tensor([[[1.0, 2.0, 3.0]]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(noise.log_prob(noise.mean(truth).detach(), truth).sum(), truth)
    assert slope.abs().max() < 1e-9
    blocked = noise.log_prob(torch.zeros(1, 1, 3), torch.full((1, 1, 3), 800.0))  # exp(-800) is no photon at all
    assert blocked.isfinite().all()


def test_log_transform_has_the_variance_it_states():
    p = torch.tensor([0.5, 2.0, 4.0])
    for electronic in (0.0, 5.0):
        noise = TransmissionPoisson(1e4, background=10.0, electronic=electronic)
        counts = noise.sample(p.expand(100_000, 3), generator())
        lines, variance = log_transform(counts, 1e4, background=10.0, electronic=electronic)
        # second-order bias Var / 2 and the spread of an estimated variance, at 180 photons a few percent
        assert torch.allclose(lines.mean(0), p, atol=0.01)
        assert torch.allclose(lines.var(0), variance.median(0).values, rtol=0.1)


def test_pixels_without_photons_are_finite():
    lines, variance = log_transform(torch.tensor([0.0, -3.0, 4096.0]), 4096.0, min_count=0.1)
    assert lines.tolist() == pytest.approx([math.log(40960), math.log(40960), 0.0], abs=1e-5)
    assert variance.isfinite().all() and variance[0] >= 1 / 0.1 - 1e-3


def test_repr_and_moves():
    noise = TransmissionPoisson(torch.full((4,), 1e3), electronic=5)
    assert repr(noise) == "TransmissionPoisson(I0=tensor of shape (4,), background=0, electronic=5)"
    assert noise.to(torch.float64).I0.dtype == torch.float64


@pytest.mark.parametrize(
    "options",
    [{"I0": 0.0}, {"I0": math.nan}, {"I0": "4096"}, {"I0": 1.0, "background": -1.0}, {"I0": 1.0, "electronic": -1}],
)
def test_bad_options(options):
    with pytest.raises(OptionError, match=list(options)[-1]):
        TransmissionPoisson(**options)
    with pytest.raises(OptionError, match="min_count"):
        log_transform(torch.ones(1), 10.0, min_count=0.0)


LAWS = [(100.0, 0.0, 0.0), (20.0, 3.0, 0.0), (50.0, 1.0, 4.0)]


@pytest.mark.parametrize("options", LAWS)
def test_samplers_see_the_same_law_of_line_integrals(options):
    noise = TransmissionPoisson(*options)
    truth = torch.rand(3, 40, dtype=torch.float64, generator=generator()) * 4
    y = noise.sample(truth, generator(1))
    lines, law = noise.reduced(y)
    near = truth + 0.3 * torch.randn(truth.shape, dtype=torch.float64, generator=generator(2))
    # equal wherever the counts are not out of the question
    likely = (options[0] * torch.exp(-near) < law.most).all(1)
    assert likely.any()
    assert torch.allclose(law.log_prob(lines, near)[likely], noise.log_prob(y, near)[likely], rtol=1e-10)
    # far below: a square, with the slope and the curvature of the law where it begins, so nothing overflows
    for p in (near, torch.full_like(near, -50.0), torch.full_like(near, 90.0)):
        p = p.clone().requires_grad_()
        value = law.log_prob(lines, p)
        (slope,) = torch.autograd.grad(value.sum(), p, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), p)
        assert value.isfinite().all() and torch.allclose(law.score(lines, p), slope)
        assert (-curvature <= law.least_std**-2 * (1 + 1e-9)).all()
    assert law.log_prob(lines.float(), torch.full((3, 40), -1e4)).isfinite().all()


@pytest.mark.parametrize("options", LAWS)
def test_the_gaussian_that_stands_for_counts_is_laplaces(options):
    from scipy.optimize import minimize_scalar

    noise = TransmissionPoisson(*options)
    y = torch.tensor([[0.0, 1.0, 7.0, 30.0]], dtype=torch.float64)
    lines, law = noise.reduced(y)
    at, var = torch.tensor([[2.5, 2.0, 1.0, 0.3]], dtype=torch.float64), torch.full((1, 1), 0.3, dtype=torch.float64)
    z, near = law.near(lines, at, var)
    w = near.sigma**-2
    p = (at / var + w * z) / (1 / var + w)  # the top of N(p; at, var) N(z; p, 1 / w)
    for k in range(4):

        def loss(q, k=k):
            clean = torch.full((1, 1), q, dtype=torch.float64)
            return ((q - at[0, k]) ** 2 / (2 * var) - noise.log_prob(y[:, k : k + 1], clean)).item()

        assert minimize_scalar(loss, bounds=(-3, 8), method="bounded", options={"xatol": 1e-9}).x == pytest.approx(
            p[0, k].item(), abs=1e-4
        )
    signal, b = options[0] * torch.exp(-p), options[1] + options[2] ** 2
    assert torch.allclose(w, signal**2 / (signal + b), rtol=1e-4)  # Fisher's information


def test_many_photons_read_alike_from_everywhere():
    noise = TransmissionPoisson(1e6)
    lines, law = noise.reduced(torch.tensor([[1e5, 5e5]], dtype=torch.float64))
    for at in (0.0, 2.0, 6.0):
        z, near = law.near(lines, torch.full((1, 2), at, dtype=torch.float64), torch.full((1, 1), 1.0, dtype=torch.float64))
        # the shift is of the order of var(p) times the gradient, 6 / 1e5
        assert torch.allclose(z, lines, atol=1e-4) and torch.allclose(near.sigma, law.sigma, rtol=1e-3)


def test_signals_below_zero_are_no_attenuation():
    """Signals of [-1, 1] along 128 pixels gave -9e18 counts, and the error blamed the file."""
    with pytest.raises(OptionError, match=r"line integrals down to -90 let more photons out than came in, .* --rescale"):
        TransmissionPoisson(1e4).sample(torch.tensor([[0.5, -90.0]]))
    with pytest.raises(OptionError, match="line integrals"):
        TransmissionPoisson(1e4).sample(torch.tensor([[0.5, float("nan")]]))
    counts = TransmissionPoisson(1e4).sample(torch.tensor([[0.5, -0.01]]), torch.Generator().manual_seed(0))
    assert (counts > 0).all()  # noise and overshoot may make a ray brighter than the beam
