"""Sensitivity maps by ESPIRiT, against the maps that k-space was made with."""

import pytest
import torch

from invgen.errors import OptionError, ShapeError
from invgen.operators import birdcage_maps, espirit_maps, fftc, sensitivity_maps

N, COILS = 48, 6


def scan(noise=0.0):
    """k-space of a disc with an edge, a dark middle and a slow phase; the maps; where the disc is."""
    u = torch.linspace(-1, 1, N)
    inside = (u[:, None] / 0.8) ** 2 + (u / 0.6) ** 2 < 1
    image = inside * (0.2 + (u[:, None] ** 2 + u**2)) * torch.polar(torch.ones(N, N), 1.5 * u[:, None] + u**2)
    maps = birdcage_maps((COILS, N, N))
    e = torch.randn(COILS, N, N, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    return fftc(maps * image) + noise * e, maps, inside, image


@pytest.mark.parametrize(("noise", "least"), [(0.0, 0.999), (0.003, 0.99)])
def test_the_maps_are_those_of_the_coils_up_to_a_phase(noise, least):
    kspace, maps, inside, image = scan(noise)
    found = espirit_maps(kspace, (20, 20), kernel=5)
    assert found.shape == maps.shape
    alike = (found.conj() * maps).sum(0).abs()
    # the true maps are smooth, but not band-limited to the patches, and noise moves the space
    assert alike[inside].mean() > least
    assert (alike[inside] > 0.9).float().mean() > 0.99, "parts of the object were taken for background"
    low = (sensitivity_maps(kspace, (20, 20)).conj() * maps).sum(0).abs()
    assert alike[inside].mean() > low[inside].mean()
    size = found.abs().square().sum(0)
    assert torch.allclose(size[size > 0], torch.ones_like(size[size > 0]), atol=1e-4)
    # far outside nothing is consistent with one object
    assert (size[:3].sum() + size[-3:].sum()) < 0.5 * 6 * N


def test_the_slow_phase_of_the_object_goes_into_the_maps():
    kspace, maps, inside, image = scan()
    found = espirit_maps(kspace, (20, 20), kernel=5)
    seen = (found.conj() * maps).sum(0) * image
    assert seen[inside].imag.abs().mean() < 0.1 * seen[inside].abs().mean()
    assert (seen[inside].real > 0).float().mean() > 0.98


def test_only_the_centre_is_read():
    kspace, *_ = scan()
    middle = torch.zeros(N, N)
    middle[14:34, 14:34] = 1
    assert torch.allclose(espirit_maps(kspace * middle, (20, 20)), espirit_maps(kspace, (20, 20)), atol=1e-4)


def test_what_it_refuses():
    kspace, *_ = scan()
    with pytest.raises(OptionError, match="kernel must be between 1 and the centre's 4 samples"):
        espirit_maps(kspace, (4, 8), kernel=5)
    with pytest.raises(ShapeError, match="takes one k-space"):
        espirit_maps(kspace[None], (20, 20))
    with pytest.raises(OptionError, match="center must lie between"):
        espirit_maps(kspace, (60, 20))
