"""Ellipse phantoms: the closed form against a sum over a fine grid, and the units."""

import math

import pytest
import torch

from invgen.errors import OptionError
from invgen.operators.ct.phantoms import EllipsePhantom


def test_a_disk_has_its_chords():
    disk = EllipsePhantom(10.0, [(2.0, 0.5, 0.5, 0.0, 0.0, 0.0)])  # radius 5 mm, value 2
    s = torch.tensor([0.0, 3.0, 5.0, 6.0], dtype=torch.float64)
    assert disk.sinogram(torch.tensor(0.7), s).tolist() == pytest.approx([20.0, 16.0, 0.0, 0.0])


def test_line_integrals_against_a_sum_over_a_fine_image():
    phantom = EllipsePhantom(16.0, [(1.0, 0.6, 0.3, 0.2, -0.1, 25.0), (-0.4, 0.2, 0.25, 0.1, 0.3, -70.0)])
    image = phantom.image((512, 512), 1 / 16, supersample=2).double()
    s = torch.arange(-15.5, 16, 1.0, dtype=torch.float64)
    for angle, sums in ((0.0, image.sum(0)), (math.pi / 2, image.sum(1).flip(0))):
        averages = sums.reshape(32, 16).mean(1) / 16  # over strips of 1 mm
        exact = phantom.sinogram(torch.tensor(angle, dtype=torch.float64), s, width=1.0)
        assert (averages - exact).abs().max() < 2e-2


def test_every_view_sees_the_same_mass():
    phantom = EllipsePhantom.random(20.0, 6, torch.Generator().manual_seed(0))
    area = math.pi * (phantom.columns[0] * phantom.columns[1] * phantom.columns[2]).sum()
    s = torch.arange(-30, 30, 0.5, dtype=torch.float64)
    angles = torch.linspace(0, 3, 5, dtype=torch.float64)[:, None]
    assert torch.allclose(
        phantom.sinogram(angles, s, width=0.5).sum(-1) * 0.5, area.expand(5), rtol=1e-7
    )  # arcsin near 1 is good to root eps
    assert phantom.image((80, 80), 0.5).double().sum() * 0.25 == pytest.approx(area.item(), rel=2e-3)


def test_the_head_is_the_same_at_any_resolution():
    fine, coarse = EllipsePhantom(128).image((256, 256)), EllipsePhantom(32).image((64, 64))
    assert (torch.nn.functional.avg_pool2d(fine[None], 4)[0] - coarse).abs().mean() < 2e-3
    assert coarse.max() == pytest.approx(1.0, abs=1e-5)
    assert EllipsePhantom(32).image((48, 80)).shape == (48, 80)


def test_bad_tables():
    for table in ([], [(1.0, 2.0)], [(1, 0.0, 1, 0, 0, 0)], [(math.nan, 1, 1, 0, 0, 0)]):
        with pytest.raises(OptionError, match="rows of six"):
            EllipsePhantom(1.0, table)
    with pytest.raises(OptionError, match="radius"):
        EllipsePhantom(0.0)
