"""CRPS and energy score against scoringrules, coverage against its definition, on ensembles with a known law."""

import numpy as np
import pytest
import torch

import invgen
from invgen.errors import OptionError, ShapeError
from invgen.metrics import crps_ensemble, energy_score, interval_coverage, residual_over_noise


def ensemble(n, batch, shape, scale=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(*lead, *batch, *shape, generator=g, dtype=torch.float64) for lead in ((n,), ())]


@pytest.mark.parametrize(("n", "shape"), [(2, (1, 4, 4)), (8, (3, 6, 5)), (50, (1, 16, 16))])
@pytest.mark.parametrize("scale", [1.0, 200.0])
@pytest.mark.parametrize("fair", [False, True])
def test_scores_are_scoringrules(n, shape, scale, fair):
    import scoringrules

    x, t = ensemble(n, (2,), shape, scale)
    estimator = "fair" if fair else "nrg"
    each = scoringrules.crps_ensemble(t.numpy(), x.numpy(), m_axis=0, estimator=estimator)
    np.testing.assert_allclose(crps_ensemble(x, t, fair=fair, dims=0).numpy(), each, rtol=1e-10, atol=1e-12 * scale)
    np.testing.assert_allclose(crps_ensemble(x, t, fair=fair).numpy(), each.mean((1, 2, 3)), rtol=1e-12)
    whole = scoringrules.es_ensemble(
        t.flatten(1).numpy(), x.flatten(2).numpy(), m_axis=0, v_axis=-1, estimator="fair" if fair else "nrg"
    )
    np.testing.assert_allclose(energy_score(x, t, fair=fair).numpy(), whole, rtol=1e-12)


def test_energy_score_of_scalars_is_the_crps():
    x, t = ensemble(9, (4,), ())
    torch.testing.assert_close(energy_score(x, t, dims=0), crps_ensemble(x, t, dims=0))


def test_one_sample_scores_its_error():
    x, t = ensemble(1, (2,), (1, 3, 3))
    torch.testing.assert_close(crps_ensemble(x, t), (x[0] - t).abs().mean((1, 2, 3)))
    torch.testing.assert_close(energy_score(x, t), (x[0] - t).flatten(1).norm(dim=1))


def test_fair_crps_does_not_depend_on_the_number_of_samples():
    """For x and t standard normal E|x - t| = 2/sqrt(pi), so that the fair score has the mean 1/sqrt(pi) at every n."""
    for n in (2, 5, 20):
        x, t = ensemble(n, (), (40000,), seed=n)
        # the standard deviation of one value's score is below 0.7: the mean of 40000 is within 4 * 0.0035
        assert abs(crps_ensemble(x, t, fair=True, dims=1).item() - np.pi**-0.5) < 0.014


@pytest.mark.parametrize("score", [crps_ensemble, energy_score])
def test_scores_are_differentiable(score):
    x, t = ensemble(4, (), (1, 2, 3))
    assert torch.autograd.gradcheck(lambda v: score(v, t), x.requires_grad_())


@pytest.mark.slow
@pytest.mark.parametrize(("n", "level"), [(3, 0.5), (19, 0.9), (9, 0.8), (100, 0.9), (8, 0.5)])
def test_coverage_is_the_level_for_calibrated_samples(n, level):
    x, t = ensemble(n, (), (50000,))
    # exact where the quantiles fall on order statistics; between them the interpolation errs by up to 0.015 for a normal
    # law; the standard error of 50000 values is 0.0022
    exact = (n + 1) * (1 - level) / 2 % 1 < 1e-6
    assert abs(interval_coverage(x, t, level, dims=1).item() - level) < (0.007 if exact else 0.02)


def test_coverage_interval_is_made_of_order_statistics():
    x = torch.arange(1.0, 20.0, dtype=torch.float64)[:, None]  # 19 samples, 90 %: from first to last
    for truth, inside in [(1.0, 1.0), (0.99, 0.0), (19.0, 1.0), (19.01, 0.0)]:
        assert interval_coverage(x, torch.tensor([truth], dtype=torch.float64), 0.9, dims=1).item() == inside
    x = torch.arange(1.0, 9.0, dtype=torch.float64)[:, None]  # 8 samples, 50 %: from 9/4 to 27/4
    for truth, inside in [(2.26, 1.0), (2.24, 0.0), (6.74, 1.0), (6.76, 0.0)]:
        assert interval_coverage(x, torch.tensor([truth], dtype=torch.float64), 0.5, dims=1).item() == inside


def test_coverage_batch():
    x, t = ensemble(20, (2, 3), (1, 8, 8))
    assert interval_coverage(x, t, 0.5).shape == (2, 3)
    torch.testing.assert_close(interval_coverage(x, t, 0.5)[1, 2], interval_coverage(x[:, 1, 2], t[1, 2], 0.5))


def test_residual_over_noise():
    class Double(invgen.LinearOperator):
        def forward(self, x):
            return 2 * x[:, :2]

    class Flat(invgen.Prior):
        pass

    A = Double((3,))
    y = torch.zeros(4, 2)
    post = invgen.Posterior(Flat((3,)), A, 0.5, y)
    x = torch.arange(4.0).reshape(4, 1).expand(4, 3)
    want = 4.0 * torch.arange(4.0)  # 2 x / 0.5
    torch.testing.assert_close(residual_over_noise(x, post), want)
    torch.testing.assert_close(residual_over_noise(x.expand(5, 2, 4, 3), post), want.expand(5, 2, 4))
    with pytest.raises(ShapeError, match=r"\(\*any, 4, 3\)"):
        residual_over_noise(x[0], post)


def test_errors():
    x, t = ensemble(5, (2,), (1, 3, 3))
    for metric in (crps_ensemble, energy_score, lambda a, b: interval_coverage(a, b, 0.5)):
        with pytest.raises(ShapeError, match="must be equal"):
            metric(x[..., :2], t)
        with pytest.raises(ShapeError, match="lack the sample axis"):
            metric(t, t)
        with pytest.raises(ShapeError, match="takes at least"):
            metric(x[:0], t)
    for score in (crps_ensemble, energy_score):
        with pytest.raises(ShapeError, match="at least 2"):
            score(x[:1], t, fair=True)
    with pytest.raises(OptionError, match="5 samples span at most the 0.667 interval.*19 samples"):
        interval_coverage(x, t, 0.9)
    for level in (0, 1, 1.5):
        with pytest.raises(OptionError, match="from 0 to 1"):
            interval_coverage(x, t, level)
    with pytest.raises(ShapeError, match="complex"):
        crps_ensemble(x.to(torch.complex64), t)
