"""Operators along an axis of frames: of clips (C, T, H, W), of volumes slice by slice."""

from collections.abc import Callable

from torch import Tensor

from invgen.errors import OptionError
from invgen.forward import LinearOperator, Operator, Variance, per_sample
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Index


class FrameAverage(LinearOperator):
    """y_k = the mean of frames k n, ..., k n + n - 1: a slow shutter, or a low rate of frames.

    A A^T = I / n, so that every solve is exact. Frames that are left out, and holes frame by frame, are `Mask` on clips.

    Args:
        in_shape: (C, T, H, W), or any shape with an axis of frames.
        count: n, which divides the number of frames.
        axis: of the frames in in_shape.
    """

    def __init__(self, in_shape: tuple[int, ...], count: Count, axis: Index = 1) -> None:
        super().__init__(in_shape)
        if not axis < len(self.in_shape) or self.in_shape[axis] % count:
            raise OptionError(f"{count} must divide the frames, axis {axis} of {tuple(self.in_shape)}: leave some out")
        self.count, self.axis = int(count), int(axis)
        self.out_shape = (*self.in_shape[:axis], self.in_shape[axis] // count, *self.in_shape[axis + 1 :])

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(self.axis + 1, (-1, self.count)).mean(self.axis + 2)

    def adjoint(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.count, self.axis + 1) / self.count

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        return b / (per_sample(var_x, b) / self.count + per_sample(var_y, b))


class _PerFrame(Operator):
    """The same operator on each frame. See `per_frame`."""

    def __init__(self, A: Operator, frames: int, axis: int) -> None:
        if not 0 <= axis <= len(A.in_shape) or axis > len(A.out_shape):
            raise OptionError(f"the axis of frames is 0 to {min(len(A.in_shape), len(A.out_shape))}, got {axis}")
        super().__init__((*A.in_shape[:axis], frames, *A.in_shape[axis:]), dtype=A.in_dtype)
        self.A, self.axis = A, axis
        self.out_shape = (*A.out_shape[:axis], frames, *A.out_shape[axis:])

    def forward(self, x: Tensor) -> Tensor:
        return self._each(self.A, x)

    def _each(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        flat = x.movedim(self.axis + 1, 1).flatten(0, 1)
        return f(flat).unflatten(0, (len(x), -1)).movedim(1, self.axis + 1)


class _LinearPerFrame(_PerFrame, LinearOperator):
    """The same linear operator on each frame; its solve is that of the frames."""

    A: LinearOperator

    def adjoint(self, y: Tensor) -> Tensor:
        return self._each(self.A.adjoint, y)

    def solve(self, b: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        if any(isinstance(v, Tensor) and v.ndim for v in (var_x, var_y)):
            return LinearOperator.solve(self, b, var_x, var_y)
        return self._each(lambda flat: self.A.solve(flat, var_x, var_y), b)


@checked
def per_frame(A: Operator, frames: Count, axis: Index = 1) -> Operator:
    """Returns an operator of pictures applied to each frame of a clip; linear where it is.

        per_frame(Downsample((3, 64, 64), 2), 12) @ FrameAverage((3, 24, 64, 64), 2)

    Args:
        A: of one frame.
        frames: how many.
        axis: of the frames: 1 makes (C, T, H, W) of (C, H, W).
    """
    return (_LinearPerFrame if isinstance(A, LinearOperator) else _PerFrame)(A, frames, axis)
