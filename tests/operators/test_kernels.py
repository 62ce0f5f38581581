import pytest
import torch
from scipy import ndimage

from invgen.errors import OptionError
from invgen.operators import disk_kernel, gaussian_kernel, motion_kernel


@pytest.mark.parametrize(
    "kernel",
    [
        gaussian_kernel(1.5),
        gaussian_kernel((1.0, 3.0), size=(5, 9)),
        gaussian_kernel(2.0, dim=1),
        gaussian_kernel(0.7, dim=3),
        disk_kernel(0.4),
        disk_kernel(3.7),
        motion_kernel(9, angle=30),
        motion_kernel(0.5, angle=0),
        motion_kernel(25, seed=3),
        motion_kernel(12, seed=3, size=31),
    ],
    ids=lambda k: "x".join(map(str, k.shape)),
)
def test_kernels_are_non_negative_of_odd_size_and_sum_to_one(kernel):
    assert kernel.dtype == torch.float64
    assert (kernel >= 0).all() and abs(kernel.sum().item() - 1) < 1e-12
    assert all(n % 2 == 1 for n in kernel.shape)


def test_gaussian_kernel_is_that_of_scipy():
    impulse = torch.zeros(21, 21, dtype=torch.float64)
    impulse[10, 10] = 1
    want = torch.from_numpy(ndimage.gaussian_filter(impulse.numpy(), 1.5))
    got = gaussian_kernel(1.5)
    reach = got.shape[0] // 2
    assert torch.allclose(got, want[10 - reach : 11 + reach, 10 - reach : 11 + reach], atol=1e-15)


def test_disk_kernel_has_the_second_moment_of_a_disk():
    radius = 6.3
    kernel = disk_kernel(radius)
    r = torch.arange(len(kernel), dtype=torch.float64) - len(kernel) // 2
    moment = (kernel * (r[:, None] ** 2 + r**2)).sum()
    # R^2 / 2, and 1/6 for the area of a pixel is inside the sampling: 16 points a pixel leave less than one per cent
    assert abs(moment / (radius**2 / 2) - 1) < 0.01


def test_straight_motion_follows_its_angle_and_length():
    kernel = motion_kernel(20, angle=30)
    r = torch.arange(len(kernel), dtype=torch.float64) - len(kernel) // 2
    rows, cols = (kernel.sum(1) * r).sum(), (kernel.sum(0) * r).sum()
    covariance = (kernel * r[:, None] * r).sum()
    # a uniform segment of length L at angle a: cov(row, col) = -L^2/12 sin a cos a, rows counted downwards
    assert abs(rows) < 0.02 and abs(cols) < 0.02
    assert abs(covariance - -(20**2) / 12 * 0.5 * 3**0.5 / 2) < 0.2


def test_random_motion_depends_on_the_seed_alone():
    state = torch.random.get_rng_state()
    assert torch.equal(motion_kernel(20, seed=1), motion_kernel(20, seed=1))
    assert motion_kernel(20, seed=1, size=41).ne(motion_kernel(20, seed=2, size=41)).any()
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: gaussian_kernel(0), "std of gaussian_kernel must be"),
        (lambda: gaussian_kernel((1.0, 2.0), dim=3), "3 of them"),
        (
            lambda: gaussian_kernel(1, size=0),
            "size of gaussian_kernel must be a positive whole number, a list of positive whole numbers or None",
        ),
        (lambda: disk_kernel(-1), "radius of disk_kernel must be a positive number"),
        (lambda: motion_kernel(0), "length of motion_kernel must be a positive number"),
        (lambda: motion_kernel(20, angle=0, size=5), "needs a size of at least"),
        (lambda: motion_kernel(3, size=8), "odd"),
    ],
)
def test_bad_options_are_named(make, sentence):
    with pytest.raises(OptionError, match=sentence):
        make()
