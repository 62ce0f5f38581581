"""Lists of view angles."""

import math

import pytest
import torch

from invgen import names
from invgen.errors import OptionError
from invgen.operators import limited_angles


def test_a_limited_range():
    torch.testing.assert_close(
        limited_angles(3, 90.0, start=30.0), torch.tensor([30.0, 60.0, 90.0]).double() * math.pi / 180
    )
    A = names.operator("ParallelBeamCT(angles=limited_angles(count=4, degrees=120.0))", (1, 8, 8))
    assert A.out_shape[1] == 4 and A.angles[1] == pytest.approx(math.pi / 6)
    for count, degrees in ((0, 90.0), (4, 0.0), (4, 400.0)):
        with pytest.raises(OptionError, match="(count|degrees|start) of limited_angles must be"):
            limited_angles(count, degrees)
