import pytest
import torch

from invgen.errors import OptionError
from invgen.inference.checks import check_operator
from invgen.operators import Downsample, FrameAverage, HighDynamicRange, Mask, per_frame


@pytest.mark.slow
def test_contract():
    check_operator(FrameAverage((1, 4, 3, 2), 2))
    check_operator(per_frame(Downsample((1, 4, 4), 2), 3))
    check_operator(per_frame(Downsample((1, 4, 4), 2), 2) @ FrameAverage((1, 4, 4, 4), 2))
    check_operator(per_frame(HighDynamicRange((1, 2, 2)), 3))


def test_frames_are_averaged_and_measured_one_by_one():
    x = torch.arange(24.0).reshape(1, 1, 4, 3, 2)
    y = FrameAverage((1, 4, 3, 2), 2)(x)
    torch.testing.assert_close(y[:, :, 1], (x[:, :, 2] + x[:, :, 3]) / 2)
    A = Mask((1, 3, 2), torch.tensor([[1, 0], [1, 1], [0, 1]]))
    each = per_frame(A, 4, axis=1)
    assert each.out_shape == (A.out_shape[0], 4, *A.out_shape[1:])
    torch.testing.assert_close(each(x)[:, :, 2], A(x[:, :, 2]))
    with pytest.raises(OptionError, match="must divide the frames"):
        FrameAverage((1, 5, 3, 2), 2)
    with pytest.raises(OptionError, match="axis of frames"):
        per_frame(A, 4, axis=7)
