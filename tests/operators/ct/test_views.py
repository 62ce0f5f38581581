"""Lists of view angles."""

import math

import numpy as np
import pytest
import torch

from invgen.errors import OptionError
from invgen.names import resolve
from invgen.operators import FanBeamCT, ParallelBeamCT, limited_angles


def test_a_limited_range():
    torch.testing.assert_close(
        limited_angles(3, 90.0, start=30.0), torch.tensor([30.0, 60.0, 90.0]).double() * math.pi / 180
    )
    A = resolve.operator("ParallelBeamCT(angles=limited_angles(count=4, degrees=120.0))", (1, 8, 8))
    assert A.out_shape[1] == 4 and A.angles[1] == pytest.approx(math.pi / 6)
    for count, degrees in ((0, 90.0), (4, 0.0), (4, 400.0)):
        with pytest.raises(OptionError, match="(count|degrees|start) of limited_angles must be"):
            limited_angles(count, degrees)


DEGREES = [
    range(0, 180, 3),
    np.arange(360) * 0.5,
    range(10),
    [0, 90.5],
    torch.arange(0.0, 180.0, 0.1),
    [0.0, 111.25, 222.5],
]
RADIANS = [np.linspace(0, 4 * math.pi, 720), np.linspace(-3, 9, 400), [7.1], np.linspace(0, 2 * math.pi, 5), [0, 1, 2, 3]]


@pytest.mark.parametrize("angles", DEGREES)
def test_degrees_are_not_taken_for_radians(angles):
    for make in (ParallelBeamCT, lambda *a, **k: FanBeamCT(*a, source_origin=30.0, origin_det=10.0, **k)):
        with pytest.raises(OptionError, match=r"in radians, and 0 to .* look like degrees; pass numpy.deg2rad\(angles\)"):
            make((8, 8), angles=angles)


@pytest.mark.parametrize("angles", RADIANS)
def test_several_turns_in_radians_are_taken(angles):
    assert len(ParallelBeamCT((8, 8), angles=angles).angles) == len(angles)


def test_an_even_image_of_skimage_has_its_axis_half_a_pixel_off():
    from skimage.transform import radon

    from invgen.operators.ct.phantoms import EllipsePhantom

    n, image = 64, EllipsePhantom(26.0).image((64, 64)).double()
    degrees = np.arange(0, 180, 6.0)
    theirs = torch.from_numpy(radon(image.numpy(), degrees, circle=True)).T  # (angles, detector)
    # it turns about pixel n // 2: the middle of an image with one more row and column, seen at detector pixel n // 2
    odd = torch.nn.functional.pad(image, (0, 1, 0, 1))

    def gap(offset: float, size: int, image: torch.Tensor) -> float:
        A = ParallelBeamCT((size, size), angles=np.deg2rad(degrees), det_count=n, det_offset=offset)
        return ((A(image) - theirs).norm() / theirs.norm()).item()

    # what remains is the interpolation of a rotated image, as for odd sizes; half a pixel is .16
    assert gap(0.5, n + 1, odd) < 0.05 < 0.1 < gap(0.5, n, image) < gap(0.0, n, image)
