"""Tiles, patches and slices: equal to the whole for a network that looks nearby, right at borders, bounded in memory."""

import pytest
import torch
import torch.nn.functional as F

from invgen import samplers
from invgen.diffusion import Denoiser
from invgen.errors import OptionError, ShapeError
from invgen.priors import GaussianPrior
from invgen.priors.wrappers.slices import Slices
from invgen.priors.wrappers.tiling import PatchAveraged, Tiled

F64 = torch.float64


class Local(Denoiser):
    """Two convolutions with zero padding: looks 2 entries far, at any size. Knows how many rows it saw at once."""

    def __init__(self, shape):
        super().__init__(shape, sigma_min=0.01, sigma_max=10.0)
        channels, axes = shape[0], len(shape) - 1
        g = torch.Generator().manual_seed(0)
        kernel = torch.randn(2, channels, channels, *[3] * axes, generator=g, dtype=F64) / 3
        self.register_buffer("kernels", kernel)
        self.conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[axes]
        self.most = 0

    def forward(self, x, sigma):
        self.most = max(self.most, len(x))
        sigma = torch.as_tensor(sigma, dtype=x.dtype).expand(len(x)).reshape(-1, *[1] * (x.ndim - 1))
        h = (self.conv(x, self.kernels[0], padding=1) / (1 + sigma)).tanh()
        return self.conv(h, self.kernels[1], padding=1) + 0.3 * x


SIZES = pytest.mark.parametrize(
    ("small", "large"),
    [((2, 12), (2, 61)), ((2, 12, 16), (2, 31, 50)), ((1, 8, 8, 8), (1, 13, 8, 17)), ((2, 12, 16), (2, 12, 16))],
)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@SIZES
@pytest.mark.parametrize("sigma", [0.5, torch.tensor([0.5, 2.0, 0.1], dtype=F64)])
def test_tiles_are_the_whole_denoiser_for_a_local_network(small, large, sigma):
    net, x = Local(small), noise(3, *large)
    tiled = Tiled(net, large, overlap=0.65, margin=2, max_batch=7)
    torch.testing.assert_close(tiled(x, sigma), net(x, sigma), rtol=0, atol=1e-12)


@SIZES
def test_and_so_are_their_pullbacks_any_number_of_times(small, large):
    net, x, v = Local(small), noise(2, *large), noise(2, *large, seed=1)
    tiled = Tiled(net, large, overlap=0.65, margin=2, max_batch=5)
    clean, pullback = tiled.vjp(x, 0.5)
    want, reference = net.vjp(x, 0.5)
    torch.testing.assert_close(clean, want, rtol=0, atol=1e-12)
    for u in (v, -2 * v, v**2):
        torch.testing.assert_close(pullback(u), reference(u), rtol=0, atol=1e-12)


def test_weights_add_up_to_one_at_any_size_and_overlap():
    for total in range(16, 70, 3):
        for overlap in (0.0, 0.1, 0.25, 0.5, 0.8):
            big = GaussianPrior((1, 16), 0.0, 1.0)
            tiled = Tiled(big, (1, total), overlap=overlap, max_batch=None)
            x = noise(1, 1, total).float()
            torch.testing.assert_close(tiled(x, 1.0), x / 2)  # a denoiser of each entry alone
            patches = PatchAveraged(big, (1, total), offsets=2, seed=total)
            torch.testing.assert_close(patches(x, 1.0), x / 2)


def test_tiles_start_at_multiples_but_for_the_last():
    tiled = Tiled(GaussianPrior((1, 64)), (1, 205), overlap=0.25, multiple=8)
    assert [start for start, _ in tiled.axes[1]] == [0, 48, 96, 141]
    tiled = Tiled(GaussianPrior((1, 64)), (1, 192), overlap=0.5, multiple=8)
    assert [start for start, _ in tiled.axes[1]] == [0, 32, 64, 96, 128]
    small = Tiled(GaussianPrior((1, 6)), (1, 11), overlap=0.5, multiple=8)  # too small for it
    assert [start for start, _ in small.axes[1]] == [0, 3, 5]


def test_blending_hides_the_seams_that_patches_have():
    """For a network that looks beyond the margin, D of tiles changes no faster at seams than elsewhere."""
    net = Local((1, 16))
    x = noise(1, 1, 64)
    whole = net(x, 0.5)
    tiles = (Tiled(net, (1, 64), overlap=0.5)(x, 0.5) - whole).abs().max()
    side_by_side = (Tiled(net, (1, 64), overlap=0.0)(x, 0.5) - whole).abs().max()
    assert tiles < 0.1 * side_by_side


@pytest.mark.slow
@pytest.mark.parametrize("rows", [2, 6])
@pytest.mark.parametrize("make", [Tiled, PatchAveraged])
def test_memory_is_that_of_max_batch_windows(make, rows):
    net, saved = Local((1, 8, 8)), []
    x = noise(rows, 1, 40, 40).requires_grad_()
    prior = make(net, (1, 40, 40), max_batch=4)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        out = prior(x, 0.5)
    kept = sum(saved) / x.numel()
    torch.autograd.grad(out.square().sum(), x)
    assert net.most == 4
    # for the gradient the windows are kept, 2 signals' worth where they overlap by a quarter, and their weights; not the
    # activations within the network, 3 of the size of the windows
    assert kept < 3


@pytest.mark.parametrize("offsets", [1, 3])
def test_patches_cut_elsewhere_at_every_level_and_repeatably(offsets):
    net, x = Local((1, 8, 8)), noise(2, 1, 20, 27)
    prior = PatchAveraged(net, (1, 20, 27), offsets=offsets, seed=5)
    first = prior(x, 0.5)
    torch.testing.assert_close(prior(x, 0.5), first, rtol=0, atol=0)
    assert not torch.allclose(prior(x, 0.5 + 1e-9), first)
    assert not torch.allclose(PatchAveraged(net, (1, 20, 27), offsets=offsets, seed=6)(x, 0.5), first)
    # a level for each signal: as each alone
    both = prior(x, torch.tensor([0.5, 0.7], dtype=F64))
    torch.testing.assert_close(both, torch.cat([prior(x[:1], 0.5), prior(x[1:], 0.7)]))


def test_many_cuts_of_patches_approach_the_whole():
    net, x = Local((1, 16, 16)), noise(1, 1, 48, 48)
    whole = net(x, 0.5)
    errors = [(PatchAveraged(net, (1, 48, 48), offsets=k)(x, 0.5) - whole).square().mean().item() for k in (1, 16)]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_slices_are_denoised_one_by_one(axis):
    net = Local((2, 6, 5))
    volume = Slices(net, 7, axis, max_batch=4)
    x = noise(2, *volume.shape)
    assert volume.shape[axis] == 7
    for sigma in (0.5, torch.tensor([0.5, 2.0], dtype=F64)):
        out = volume(x, sigma)
        for k in range(7):
            want = net(x.select(axis + 1, k), sigma)
            torch.testing.assert_close(out.select(axis + 1, k), want)


@pytest.mark.slow
def test_samplers_run_on_them_and_slices_of_a_gaussian_are_exact():
    volume = Slices(GaussianPrior((3,), torch.tensor([0.0, 1.0, 2.0]), 0.25), 4, 0)
    x = samplers.Heun(steps=32)(volume, 2000)
    assert x.shape == (2000, 4, 3)
    torch.testing.assert_close(x.mean((0, 1)), torch.tensor([0.0, 1.0, 2.0]), rtol=0, atol=0.03)
    torch.testing.assert_close(x.var((0, 1)), torch.full((3,), 0.25), rtol=0.1, atol=0)
    tiled = Tiled(GaussianPrior((1, 4, 4), 0.5, 0.25), (1, 9, 10))
    x = samplers.DPMSolver(steps=20)(tiled, 50)
    assert x.shape == (50, 1, 9, 10) and abs(x.mean().item() - 0.5) < 0.05


def test_what_does_not_fit_is_said():
    net = Local((2, 8, 8))
    with pytest.raises(ShapeError, match="as many axes and channels"):
        Tiled(net, (3, 16, 16))
    with pytest.raises(ShapeError, match="as many axes and channels"):
        PatchAveraged(net, (2, 16))
    with pytest.raises(ShapeError, match="smaller than the prior's"):
        Tiled(net, (2, 16, 7))
    with pytest.raises(OptionError, match="leave nothing between margins"):
        Tiled(net, (2, 16, 16), overlap=0.25, margin=1)
    for bad in ({"overlap": 1.0}, {"margin": -1}, {"max_batch": 0}, {"multiple": 0}):
        with pytest.raises(OptionError):
            Tiled(net, (2, 16, 16), **bad)
    with pytest.raises(OptionError):
        PatchAveraged(net, (2, 16, 16), offsets=0)
    with pytest.raises(OptionError):
        Slices(net, 4, axis=4)
    with pytest.raises(ShapeError, match="denoises"):
        Tiled(net, (2, 16, 16))(noise(1, 2, 16, 17), 0.5)
