"""Super-resolution: a filter and then every f-th sample."""

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from invgen.errors import OptionError
from invgen.forward import Operator, SVDOperator
from invgen.operators._axes import Factor, check_factors, grid
from invgen.operators.blur import Blur, CircularBlur
from invgen.operators.orthogonal import OrthogonalRows
from invgen.operators.resize import FILTERS, Resize
from invgen.validation.hints import check


class Downsample(SVDOperator):
    """A signal with fewer samples: (*channels, *spatial) -> (*channels, *spatial / factor). Every solve is exact.

    Args:
        in_shape: (*channels, *spatial); the factor must divide the spatial sizes (for other sizes see Resize).
        factor: one integer for all spatial axes, or one for each of the last axes.
        filter: "average": the mean of each block (skimage.transform.downscale_local_mean).
            "bilinear", "bicubic", "lanczos": antialiased, equal to PIL.Image.resize.
            a tensor: the convolution with that kernel on a periodic grid, then every f-th sample from `offset` on,
            y[i] = (k * x)[f i + offset], with one axis for each factor.
        offset: first sample kept, for a kernel only; 0 to factor - 1.

    Raises:
        OptionError: an unknown filter, or a factor that does not divide the sizes.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        kind: type = cls
        if cls is Downsample:
            from invgen.operators.decimate import FilterDecimate

            name = args[2] if len(args) > 2 else kwargs.get("filter", "average")
            if isinstance(name, str) and name != "average" and name not in FILTERS:
                raise OptionError(f"filter must be 'average', {', '.join(map(repr, FILTERS))} or a kernel, got {name!r}")
            kernel = not isinstance(name, str)
            if not kernel and check("offset of Downsample", kwargs.get("offset", 0), int | Sequence[int]) != 0:
                raise OptionError(f"offset belongs to a kernel; the filter {name!r} places its samples itself")
            kind = FilterDecimate if kernel else BlockAverage if name == "average" else Resample
        return super().__new__(kind)

    def __init__(
        self, in_shape: tuple[int, ...], factor: Factor, filter: str | Tensor = "average", *, offset: Factor = 0
    ) -> None:
        super().__init__(in_shape)
        self.factors = check_factors(self.in_shape, factor)
        self.block = math.prod(self.factors)
        dim = len(self.factors)
        coarse = (n // f for n, f in zip(self.in_shape[-dim:], self.factors, strict=True))
        self.out_shape = (*self.in_shape[:-dim], *coarse)


class BlockAverage(OrthogonalRows, Downsample):
    """The mean of each block; A A^T = I / N for blocks of N samples. V is one Householder reflection of each block, whose
    first sample holds the coordinate that is measured."""

    def __init__(self, in_shape: tuple[int, ...], factor: Factor, filter: str = "average", *, offset: Factor = 0) -> None:
        super().__init__(in_shape, factor)
        if len(self.factors) > 3:
            raise OptionError(f"Downsample works on one, two or three spatial axes, got {len(self.factors)}")
        self.gain = 1 / self.block
        s = torch.zeros(self.in_shape, dtype=torch.float64)
        s[grid(self.factors)] = self.block**-0.5
        self.register_buffer("s", s, persistent=False)

    def fused(self, inner: Operator) -> Operator | None:
        """On a periodic grid a block mean is a box filter and a decimation, so that after a blur it stays exact."""
        if not isinstance(inner, CircularBlur) or inner.per_channel or inner.dim != len(self.factors):
            return None
        from invgen.operators.decimate import Decimate

        box = Blur(self.in_shape, torch.full(self.factors, 1 / self.block, dtype=torch.float64)).to(inner.device)
        return Decimate(self.in_shape, self.factors, [f - 1 - f // 2 for f in self.factors]) @ (box @ inner)

    def forward(self, x: Tensor) -> Tensor:
        dim = len(self.factors)
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dim - 1]
        return pool(x.reshape(-1, 1, *x.shape[-dim:]), self.factors).reshape(-1, *self.out_shape)

    def _spread(self, y: Tensor) -> Tensor:
        """Returns each value of y over its whole block."""
        for axis, f in zip(range(-len(self.factors), 0), self.factors, strict=True):
            y = y.repeat_interleave(f, axis)
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        return self._spread(y / self.block)

    def V(self, z: Tensor) -> Tensor:
        # I - w w^T with w = (e_0 + 1 / root) / c, c^2 = 1 + 1 / root, root = sqrt(N): it takes e_0 to -1 / root
        root = self.block**0.5
        t = (root * self(z) + z[grid(self.factors)]) / (1 + 1 / root)
        x = z - self._spread(t / root)
        x[grid(self.factors)] -= t
        return x

    def Vt(self, x: Tensor) -> Tensor:
        return self.V(x)

    def U(self, z: Tensor) -> Tensor:
        return -z[grid(self.factors)]

    def Ut(self, y: Tensor) -> Tensor:
        z = y.new_zeros(len(y), *self.in_shape)
        z[grid(self.factors)] = -y
        return z


class Resample(Resize, Downsample):
    """Downsample by one of Pillow's filters."""

    def __init__(self, in_shape: tuple[int, ...], factor: Factor, filter: str = "bicubic", *, offset: Factor = 0) -> None:
        Downsample.__init__(self, in_shape, factor)
        self._set(self.out_shape[-len(self.factors) :], filter)
