"""An accelerator that no machine has: tensors without values, and whatever would stall or miss an accelerator is an error.

The tensors are torch's on the device "meta", which have a shape, a dtype and a device alone. A tensor of the processor that
meets one of them is an error, and so is, inside a loop, reading a value, for which the processor would wait. What is
read before a loop (norms, tables) is allowed and is one. Tensors that claim to lie on "cuda" (FakeTensorMode) cannot be
indexed in a build of torch for processors, and take ten times as long.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")
aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default, aten.masked_select.default}
COPIES = {aten._to_copy.default, aten.copy_.default}


class HostRead(AssertionError):
    """A value of the accelerator was read inside a loop."""


class Elsewhere(AssertionError):
    """A tensor of the processor met one of the accelerator."""


def _target(args: Any, kwargs: dict[str, Any]) -> torch.device:
    """Returns where a copy goes."""
    return torch.device(kwargs.get("device") or args[0].device)


class Finished(Exception):
    """The loop has ended, and its result is read."""


class Accelerator(TorchDispatchMode):
    """The mode: `phase` says whether reading a value is allowed ("before"), an error ("loop"), or the end ("after")."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = "before"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        there = [a for a in tensors if a.is_meta]
        if there and (func in READS or (func in COPIES and _target(args, kwargs).type == "cpu")):
            return self._read(func, there[0])
        if there and func not in COPIES:  # copies are meant, and numbers may lie on the processor
            for a in tensors:
                if a.ndim and not a.is_meta:
                    raise Elsewhere(f"{func}: a tensor {tuple(a.shape)} on {a.device} met one on the accelerator")
        return func(*args, **kwargs)

    def _read(self, func: Any, x: Tensor) -> Any:
        if self.phase == "loop":
            raise HostRead(f"{func}: a value {tuple(x.shape)} of the accelerator is read inside a loop")
        if self.phase == "after":
            raise Finished
        if func in COPIES:
            return torch.ones(x.shape, dtype=x.dtype)
        if func in (aten.nonzero.default, aten.masked_select.default):
            raise Elsewhere(f"{func}: a shape that depends on values")
        return True if x.dtype == torch.bool or func is aten.equal.default else x.dtype.is_floating_point and 1.0 or 1

    def there(self, x: Tensor) -> Tensor:
        """Returns a tensor like x on the accelerator."""
        return torch.empty(x.shape, dtype=x.dtype, device=DEVICE)

    def move(self, module: nn.Module) -> None:
        """Moves in place what `module.to(device)` moves."""
        for part in module.modules():
            for table in (part._buffers, part._parameters):
                for name, value in table.items():
                    if value is not None:
                        moved = self.there(value)
                        table[name] = nn.Parameter(moved, False) if isinstance(value, nn.Parameter) else moved

    def watched(self, states: Iterator[Tensor]) -> Iterator[Tensor]:
        """Yields the states of an algorithm: from the first on it is in its loop."""
        for x in states:
            self.phase = "loop"
            yield x
        self.phase = "after"
