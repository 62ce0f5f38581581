"""Maximum mean discrepancy against scikit-learn's kernels and a closed form, the classifier test on known laws."""

import builtins
import math

import numpy as np
import pytest
import torch

from invgen.errors import MissingExtraError, OptionError, ShapeError
from invgen.metrics import c2st, mmd


def normal(n, d, seed=0, mean=0.0, std=1.0):
    g = torch.Generator().manual_seed(seed)
    return mean + std * torch.randn(n, d, generator=g, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m", "d"), [(40, 40, 3), (30, 55, 8), (2, 3, 1)])
@pytest.mark.parametrize("bandwidth", [None, 0.7, (0.5, 2.0)])
def test_mmd_is_that_of_scikit_learns_kernels(n, m, d, bandwidth):
    from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel

    x, y = normal(n, d), normal(m, d, 1, mean=0.4, std=1.3)
    both = np.concatenate([x, y])
    pairs = np.sort(euclidean_distances(both)[np.triu_indices(n + m, 1)])
    # torch's median is the lower of the two in the middle
    widths = [pairs[(len(pairs) - 1) // 2]] if bandwidth is None else np.atleast_1d(bandwidth)
    k = np.mean([rbf_kernel(both, gamma=1 / (2 * h**2)) for h in widths], 0)
    xx, yy, xy = k[:n, :n], k[n:, n:], k[:n, n:]
    biased = xx.mean() + yy.mean() - 2 * xy.mean()
    off = (xx.sum() - n) / (n * (n - 1)) + (yy.sum() - m) / (m * (m - 1)) - 2 * xy.mean()
    assert abs(mmd(x, y, bandwidth=bandwidth, unbiased=False).item() - biased) < 1e-12
    assert abs(mmd(x, y, bandwidth=bandwidth).item() - off) < 1e-12


def test_mmd_of_two_gaussians():
    """For N(0, 1) and N(a, 1), MMD^2 = 2 h / sqrt(h^2 + 2) (1 - exp(-a^2 / (2 (h^2 + 2)))); 0 for a = 0."""
    h, a = 1.5, 1.0
    want = 2 * h / math.sqrt(h**2 + 2) * (1 - math.exp(-(a**2) / (2 * (h**2 + 2))))
    x, y = normal(1500, 1), normal(1500, 1, 1)
    # the standard error of these estimates, measured over 50 seeds, is 0.010 and 0.0005
    assert abs(mmd(x, y + a, bandwidth=h).item() - want) < 0.04
    assert abs(mmd(x, y, bandwidth=h).item()) < 0.002


def test_mmd_unbiased_is_zero_on_average():
    values = torch.stack([mmd(normal(20, 4, 2 * k), normal(20, 4, 2 * k + 1), bandwidth=2.0) for k in range(300)])
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(300)
    assert (values < 0).any()


def test_mmd_is_free_of_units_by_default_and_takes_batches():
    x, y = normal(30, 6), normal(20, 6, 1, mean=0.5)
    torch.testing.assert_close(mmd(100 * x + 3, 100 * y + 3), mmd(x, y), rtol=1e-9, atol=0)
    together = mmd(x.reshape(30, 2, 3), y.reshape(20, 2, 3))
    assert together.shape == (2,)
    torch.testing.assert_close(together[1], mmd(x[:, 3:], y[:, 3:]))
    torch.testing.assert_close(mmd(x.reshape(30, 1, 2, 3), y.reshape(20, 1, 2, 3), dims=3), mmd(x, y))
    assert torch.autograd.gradcheck(lambda v: mmd(v, y[:4], bandwidth=1.0), x[:5].clone().requires_grad_())


def test_large_sets_are_compared_row_by_row_with_the_same_result():
    from invgen.metrics.two_sample import _square_distances

    x, y = normal(64, 1100), normal(64, 1100, 1)  # more than 2^22 differences
    torch.testing.assert_close(_square_distances(x, y)[:9, :9], _square_distances(x[:9], y[:9]), rtol=1e-12, atol=0)


@pytest.mark.slow
def test_c2st_of_equal_and_of_shifted_laws():
    """The best classifier of N(0, I) and N(a, I) is right with probability Phi(|a| / 2): 0.84 for |a| = 2."""
    from sklearn.linear_model import LogisticRegression

    x, y = normal(400, 4), normal(400, 4, 1)
    a = torch.tensor([2.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    linear = LogisticRegression()
    # the standard error of a share of 800 is at most 0.018
    assert abs(c2st(x, y, classifier=linear) - 0.5) < 0.055
    assert abs(c2st(x, y + a, classifier=linear) - 0.5 * (1 + math.erf(1 / math.sqrt(2)))) < 0.055
    assert c2st(x, y + a, classifier=linear) == c2st(x, y + a, classifier=linear)


@pytest.mark.slow
def test_c2st_default_sees_a_spread_that_a_linear_classifier_cannot():
    x, y = normal(150, 2), normal(150, 2, 1, std=3.0)
    from sklearn.linear_model import LogisticRegression

    assert c2st(x, y, classifier=LogisticRegression(), folds=3) < 0.6
    # the best classifier, a threshold on |x|, is right with probability 0.81; the network with 200 samples a little less
    assert 0.72 < c2st(x, y, folds=3) < 0.9


def test_c2st_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'invgen-solvers\[stats\]'"):
        c2st(normal(10, 2), normal(10, 2))


def test_errors():
    x = normal(10, 3)
    for metric in (mmd, c2st):
        with pytest.raises(ShapeError, match="must be equal"):
            metric(x, x[:, :2])
        with pytest.raises(ShapeError, match="N >= 2"):
            metric(x[:1], x)
        assert metric(x.numpy(), x.numpy()) == metric(x, x)
        with pytest.raises(ShapeError, match="complex"):
            metric(x.to(torch.complex128), x)
    with pytest.raises(OptionError, match="bandwidth of mmd must be a positive number"):
        mmd(x, x, bandwidth=0.0)
    with pytest.raises(ShapeError, match="equally many samples"):
        c2st(x, x[:8])
    with pytest.raises(ShapeError, match="batch axes"):
        c2st(x[:, None], x[:, None])
    with pytest.raises(OptionError, match="folds"):
        c2st(x, x, folds=1)
