"""A prior p(x): the shape, the units and the density of the signals that it knows."""

import inspect
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from invgen.errors import OptionError
from invgen.html import card
from invgen.validation.arguments import checked, checked_class
from invgen.validation.hints import Count
from invgen.validation.signals import METHODS, explained

if TYPE_CHECKING:
    Shape = int | Sequence[int]
else:
    Shape = tuple[Count, ...]  # a number or a list becomes a tuple


def as_size(shape: Shape) -> torch.Size:
    """Returns the shape of a signal, which may be given as a number where it has one axis."""
    return torch.Size([shape] if isinstance(shape, int) else shape)


class Prior(nn.Module):
    """p(x) over signals of one shape.

    Attributes:
        shape: the shape of one signal, without batch axes.
        value_range: (low, high) of the values, for display and as the data range of metrics.
        data_mean, data_std: mean and standard deviation over all values of typical signals.
        sampling_rate: values a second, of a prior of recordings; None where time has no unit.
        read_from: which weights of which file the network has, in words; None where no file was read.
        component_std: standard deviation of a value within a component, where signals come from several; None where that is
            not known.
        size_step: of a prior that was trained on pieces of pictures, and so knows pictures of any size: what their sides
            are best a multiple of. None: it knows signals of its own shape.
    """

    read_from: str | None = None
    component_std: float | None = None
    size_step: int | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        checked_class(cls)
        for name in METHODS:
            if inspect.isfunction(method := vars(cls).get(name)):
                setattr(cls, name, explained(method, name))

    @checked
    def __init__(
        self,
        shape: Shape,
        *,
        value_range: tuple[float, float] = (-1.0, 1.0),
        data_mean: float = 0.0,
        data_std: float = 1.0,
        sampling_rate: float | None = None,
    ) -> None:
        super().__init__()
        self.shape = as_size(shape)
        self.value_range = (float(value_range[0]), float(value_range[1]))
        self.data_mean, self.data_std = float(data_mean), float(data_std)
        self.sampling_rate = None if sampling_rate is None else float(sampling_rate)
        if self.sampling_rate is not None and not 0 < self.sampling_rate < math.inf:
            raise OptionError(f"sampling_rate is values a second, a positive number or None, got {sampling_rate!r}")
        if not self.data_std > 0 or not self.value_range[1] > self.value_range[0]:
            raise OptionError(
                f"a prior needs data_std > 0 and value_range = (low, high) with low < high, got data_std={data_std!r} and "
                f"value_range={value_range!r}"
            )

    if TYPE_CHECKING:  # torch types the call of a module as Any

        def __call__(self, *args: Any, **kwargs: Any) -> Tensor: ...

        def log_prob(self, x: Tensor) -> Tensor:
            """Returns log p(x), (B,), of a prior whose density is known."""
            ...

    def bits(self, x: Tensor, bin_width: float, *, steps: int = 16, seed: int = 0) -> tuple[Tensor, str] | None:
        """Returns the bits a value that signals take under this prior, (B,), and of what kind they are; None without such.

        Bits of one kind alone can be compared. What has `log_prob` has "exact" ones; a prior that knows its density in
        another way overrides this.

        Args:
            x: (B, *shape), of discrete values with noise uniform over one bin: the mean of the bits is then an upper bound.
            bin_width: the distance of two values, as for `invgen.bits_per_dim`.
            steps: of the probability-flow ODE of a denoiser.
            seed: of what is estimated.
        """
        from invgen.numerics.density import bits_per_dim  # which is built on this module

        return (bits_per_dim(self.log_prob(x), x[0].numel(), bin_width), "exact") if hasattr(self, "log_prob") else None

    @property
    def device(self) -> torch.device:
        """The device of the parameters, the CPU for a prior without any."""
        table = next(itertools.chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if table is None else table.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which samplers keep their state: float64 for a float64 prior, else float32."""
        table = next(itertools.chain(self.parameters(), self.buffers()), None)
        return torch.float64 if table is not None and table.dtype == torch.float64 else torch.float32

    def extra_repr(self) -> str:
        read_from = "" if self.read_from is None else f", read_from={self.read_from!r}"
        return f"shape={tuple(self.shape)}, value_range={self.value_range}{read_from}"

    def __repr__(self) -> str:  # not torch's, which lists every layer of a network
        return f"{type(self).__name__}({' '.join(self.extra_repr().split())})"

    def _facts(self) -> dict[str, Any]:
        """Returns the rows of the table that a notebook shows; a value of None is left out."""
        number = sum(p.numel() for p in self.parameters())
        low, high = self.value_range
        return {
            "shape": tuple(self.shape),
            "values": f"{low:g} to {high:g}, mean {self.data_mean:.3g}, standard deviation {self.data_std:.3g}",
            "sampling rate": None if self.sampling_rate is None else f"{self.sampling_rate:g} values a second",
            "parameters": f"{number:,}" if number else None,
            "read from": self.read_from,
        }

    def _repr_html_(self) -> str:
        return card(type(self).__name__, self._facts())
