"""Sliced Wasserstein distances against POT with the same directions, and against what is known in closed form."""

import pytest
import torch

from invgen.errors import OptionError, ShapeError
from invgen.metrics import sliced_wasserstein


def sets(n, m, d, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = 0.5 + 1.5 * torch.randn(m, d, generator=g, dtype=torch.float64)
    u = torch.randn(50, d, generator=g, dtype=torch.float64)
    return x, y, u / u.norm(dim=1, keepdim=True)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m", "d"), [(20, 20, 1), (200, 200, 8), (100, 60, 8), (30, 77, 80), (7, 1, 2)])
@pytest.mark.parametrize("p", [1, 2])
def test_is_pots(n, m, d, p):
    import ot

    x, y, u = sets(n, m, d)
    mean = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), projections=u.numpy().T, p=p)
    largest = ot.max_sliced_wasserstein_distance(x.numpy(), y.numpy(), projections=u.numpy().T, p=p)
    assert abs(sliced_wasserstein(x, y, p=p, slices=u).item() - mean) < 1e-12
    assert abs(sliced_wasserstein(x, y, p=p, slices=u, reduce="max").item() - largest) < 1e-12


def test_a_shift_in_one_dimension():
    x, _, _ = sets(50, 1, 1)
    for p in (1, 2):
        assert abs(sliced_wasserstein(x, x + 0.7, p=p).item() - 0.7) < 1e-12


def test_unequal_counts_equal_the_repeated_sets():
    x, y, u = sets(6, 4, 3)
    want = sliced_wasserstein(x.repeat(2, 1), y.repeat(3, 1), slices=u)
    torch.testing.assert_close(sliced_wasserstein(x, y, slices=u), want, rtol=1e-12, atol=0)


def test_two_gaussians_in_high_dimension():
    """SW_2 between N(0, I) and N(a, I) is |a| / sqrt(d), the root of the mean squared shift along a direction."""
    d, n = 16, 2000
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, n, d, generator=g, dtype=torch.float64)
    a = torch.zeros(d, dtype=torch.float64)
    a[0] = 3.0
    # 500 directions: the mean of u_1^2 has a relative error of sqrt(2/500) = 0.063, its root half of it, twice that allowed
    assert abs(sliced_wasserstein(x, y + a, slices=500).item() / (3 / 4) - 1) < 0.07


def test_seeds_pair_calls_and_leave_the_global_state_alone():
    x, y, _ = sets(30, 30, 4)
    state = torch.get_rng_state()
    first = sliced_wasserstein(x, y, seed=1)
    assert torch.equal(first, sliced_wasserstein(x, y, seed=1))
    assert not torch.equal(first, sliced_wasserstein(x, y, seed=2))
    assert torch.equal(state, torch.get_rng_state())


def test_batch_axes_and_images():
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 2, 3, 1, 4, 4, generator=g, dtype=torch.float64) for n in (9, 5))
    together = sliced_wasserstein(x, y, dims=3)
    assert together.shape == (2, 3)
    alone = sliced_wasserstein(x[:, 1, 2].flatten(1), y[:, 1, 2].flatten(1))
    torch.testing.assert_close(together[1, 2], alone, rtol=1e-12, atol=0)
    scalars = sliced_wasserstein(x[:, 0, 0, 0, 0, 0], y[:, 0, 0, 0, 0, 0], dims=0)
    torch.testing.assert_close(scalars, sliced_wasserstein(x[:, 0, 0, 0, 0, :1], y[:, 0, 0, 0, 0, :1]))


@pytest.mark.parametrize("m", [5, 7])
def test_gradient(m):
    x, y, u = sets(7, m, 2)
    assert torch.autograd.gradcheck(lambda v: sliced_wasserstein(v, y, slices=u), x.requires_grad_())


def test_errors():
    x, y, _ = sets(5, 5, 3)
    with pytest.raises(ShapeError, match="must be equal"):
        sliced_wasserstein(x, y[:, :2])
    with pytest.raises(ShapeError, match="empty"):
        sliced_wasserstein(x[:0], y)
    with pytest.raises(ShapeError, match="expected \\(N, \\*batch, \\*shape\\)"):
        sliced_wasserstein(x[0], y)
    assert torch.equal(sliced_wasserstein(x.numpy(), y.numpy()), sliced_wasserstein(x, y))
    with pytest.raises(ShapeError, match="slices must have shape \\(slices, 3\\)"):
        sliced_wasserstein(x, y, slices=torch.ones(4, 2))
    with pytest.raises(OptionError, match="slices of sliced_wasserstein must be a positive whole number"):
        sliced_wasserstein(x, y, slices=0)
    with pytest.raises(OptionError, match="p of sliced_wasserstein must be a number of at least 1"):
        sliced_wasserstein(x, y, p=0.5)
    with pytest.raises(OptionError, match="one of 'mean', 'max'"):
        sliced_wasserstein(x, y, reduce="sum")
