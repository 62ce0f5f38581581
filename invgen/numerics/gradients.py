"""Where gradients begin, in whatever mode the caller is, and the state that networks run in."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

Thing = TypeVar("Thing")


@contextmanager
def differentiating() -> Iterator[None]:
    """Records gradients, under `torch.no_grad()` and `torch.inference_mode()` too."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def leaf(x: Tensor) -> Tensor:
    """Returns x without its history, as something to differentiate by; to be called while `differentiating`."""
    return (x.clone() if x.is_inference() else x.detach()).requires_grad_()


def normal(x: Thing) -> Thing:
    """Returns a tensor, or an object with tensors as attributes: copied where `torch.inference_mode()` made them, which
    gradients
    may not pass. To be called outside that mode."""
    if isinstance(x, Tensor):
        return cast("Thing", x.clone()) if x.is_inference() else x
    made = {k: normal(v) for k, v in vars(x).items() if isinstance(v, Tensor) and v.is_inference()}
    if not made:
        return x
    other = copy.copy(x)
    other.__dict__.update(made)
    return other


@contextmanager
def running(*modules: object) -> Iterator[None]:
    """The state of a run: all parts of the modules in eval mode, no graph, and weights that gradients may pass.

    Dropout and batch statistics would make a sample depend on the global random state and on its neighbours in the batch.
    The modes are restored afterwards, and so are weights that `torch.inference_mode()` made, which stand back for copies.
    """
    parts = {id(part): part for module in modules if isinstance(module, nn.Module) for part in module.modules()}
    training = [part for part in parts.values() if part.training]
    replaced: list[tuple[dict[str, Any], str, Tensor]] = []
    with torch.inference_mode(False), torch.no_grad():
        try:
            for part in training:
                part.training = False
            for part in parts.values():
                for table in (part._parameters, part._buffers):
                    for name, value in table.items():
                        if value is not None and value.is_inference():
                            replaced.append((table, name, value))
            for table, name, value in replaced:
                copy = value.clone()
                table[name] = nn.Parameter(copy, requires_grad=False) if isinstance(value, nn.Parameter) else copy
            yield
        finally:
            for table, name, value in replaced:
                table[name] = value
            for part in training:
                part.training = True


def unit_cotangents(x: Tensor, out: Tensor) -> None:
    """Lets the gradient from `out` back to `x` pass in half precision at about unit size, whatever its size outside.

    Each sample's gradient is divided by a power of two on entering at `out` and multiplied by it on leaving at `x`, so that
    nothing changes but what would overflow or vanish between them. Both have one row a sample, in float32 or better.
    """
    if not (x.requires_grad and out.requires_grad):
        return
    size: list[Tensor] = []

    def enter(grad: Tensor) -> Tensor:
        size[:] = [power_of_two(grad)]
        return grad / size[0]

    out.register_hook(enter)
    x.register_hook(lambda grad: grad * size[0] if size else grad)


def power_of_two(v: Tensor) -> Tensor:
    """For each row of v the power of two just above its largest value, (B, 1, ..., 1); 1 for rows of zeros."""
    most = torch.linalg.vector_norm(v.detach().flatten(1), math.inf, 1) if v.numel() else v.new_zeros(len(v)).real
    exponent = torch.frexp(most)[1].clamp_(-100, 126)  # of zero it is 0
    return torch.pow(2.0, exponent).to(most.dtype).reshape(-1, *[1] * (v.ndim - 1))
