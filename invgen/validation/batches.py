"""The door of every operator: any number of batch axes, and checks of what goes in and of what comes out.

Authors write `forward`, `adjoint`, ... for exactly one batch axis; `wrapped` is put around them once, by
`Operator.__init_subclass__`.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

from invgen.errors import InvgenError, OperatorError, OptionError, ShapeError
from invgen.validation.hints import NonNegative, check, shown

if TYPE_CHECKING:
    from invgen.forward import Operator

Variance = float | Tensor

# which tensors of a method carry a batch, and the attribute that names their shape
BATCHED = {
    "forward": ("in_shape",),
    "adjoint": ("out_shape",),
    "pinv": ("out_shape",),
    "solve": ("out_shape",),
    "weighted_adjoint": ("out_shape",),
    "prox": ("in_shape", "out_shape"),
    "fbp": ("out_shape",),
    "U": ("spectral_shape",),
    "V": ("spectral_shape",),
    "Ut": ("out_shape",),
    "Vt": ("in_shape",),
}
GIVES = {"forward": "_out_shape", "solve": "out_shape"} | dict.fromkeys(
    ("adjoint", "pinv", "weighted_adjoint", "prox"), "in_shape"
)


def any_batch(method: Callable, name: str) -> Callable:
    """Returns a method written for one batch axis as one that takes any number of them and checks both ends.

    Raises:
        ShapeError: from the method: a tensor of another shape, of another kind of number or on another device.
        OptionError: a variance that is none.
        OperatorError: the author's code fails, or gives something else than its contract says.
    """
    shapes = BATCHED[name]
    count = len(shapes)
    names = [p for p in inspect.signature(method).parameters if p != "self"]

    @functools.wraps(method)
    def wrapped(self: "Operator", *args: Any, **kwargs: Any) -> Tensor:
        if len(args) < count:
            args += tuple(kwargs.pop(n) for n in names[len(args) : count] if n in kwargs)
        if len(args) < count:
            raise OptionError(f"{_name(self, name)} needs a value for {', '.join(names[len(args) : count])}")
        tensors, rest = args[:count], args[count:]
        wanted = [getattr(self, shape) for shape in shapes]
        batches = [_batch_of(self, name, t, w) for t, w in zip(tensors, wanted, strict=True)]
        if name in ("solve", "weighted_adjoint", "prox"):
            kwargs = _variances(self, name, tensors, dict(zip(names[count:], rest, strict=False)) | kwargs)
            rest = ()
        batch = batches[0]
        if len(batch) == 1 and batch[0] and all(b == batch for b in batches):
            return _called(self, name, method, tensors, rest, kwargs)
        try:
            batch = np.broadcast_shapes(*batches)  # torch.broadcast_shapes imports sympy, for seconds
        except ValueError as error:
            text = " and ".join(str(tuple(b)) for b in batches)
            raise ShapeError(f"{_name(self, name)} needs batch axes that agree, got {text}") from error
        if not math.prod(batch):
            return _of_none(self, name, method, tensors, wanted, batch)
        flat = [t.expand(*batch, *w).reshape(-1, *w) for t, w in zip(tensors, wanted, strict=True)]
        out = _called(self, name, method, flat, rest, kwargs)
        return out.reshape(*batch, *out.shape[1:])

    wrapped.__dict__["_any_batch"] = True
    return wrapped


@overload
def per_sample(variance: Tensor, like: Tensor) -> Tensor: ...
@overload
def per_sample(variance: Variance, like: Tensor) -> Variance: ...
def per_sample(variance: Variance, like: Tensor) -> Variance:
    """Returns a variance given per sample, (B,) or (B, 1, ..., 1), in the rank of `like`; anything else unchanged."""
    if isinstance(variance, Tensor) and variance.ndim and variance.numel() == len(like) == variance.shape[0]:
        return variance.reshape(-1, *[1] * (like.ndim - 1))
    return variance


def per_entry(variance: Variance, like: Tensor) -> bool:
    """Returns whether a variance differs between the values of one sample, which no spectral formula can express."""
    variance = per_sample(variance, like)
    if not isinstance(variance, Tensor) or variance.numel() == 1:
        return False
    return variance.ndim != like.ndim or math.prod(variance.shape[1:]) > 1


def _name(operator: "Operator", method: str) -> str:
    return type(operator).__name__ + ("" if method == "forward" else f".{method}")


def _batch_of(operator: "Operator", method: str, t: Tensor, shape: tuple[int, ...]) -> torch.Size:
    """Returns the batch axes of a tensor, once its class, shape and kind of number are right."""
    if not isinstance(t, Tensor):
        raise ShapeError(f"{_name(operator, method)} takes a torch.Tensor, got {type(t).__name__}; use torch.as_tensor")
    k = len(shape)
    if t.ndim < k or t.shape[t.ndim - k :] != shape:
        wanted = ", ".join(map(str, shape))
        raise ShapeError(f"{_name(operator, method)} takes a tensor of shape (*batch, {wanted}), got {tuple(t.shape)}")
    if t.is_complex() and method not in ("U", "V") and not operator.takes_complex:
        raise ShapeError(
            f"{_name(operator, method)} takes real numbers, got {t.dtype}; pass real and imaginary part as two channels, "
            "or take an operator on complex signals"
        )
    if not (t.is_floating_point() or t.is_complex()):
        raise ShapeError(f"{_name(operator, method)} takes floating point numbers, got {t.dtype}; convert with .float()")
    return t.shape[: t.ndim - k]


def _far(x: Tensor) -> bool:
    """Returns whether reading values of x would stall an accelerator."""
    return x.device.type != "cpu"


def _variances(operator: "Operator", method: str, tensors: Sequence[Tensor], options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options of `solve`, `weighted_adjoint` and `prox` with variances that are finite, not negative and not
    both zero.

    A variance computed from a state that has diverged passes with that state: the sampler says at which step it was.
    """
    for key in ("var_x", "var_y"):
        if key not in options:
            continue
        value = options[key]
        if isinstance(value, np.ndarray) and value.ndim:
            value = options[key] = check(f"{key} of {_name(operator, method)}", value, Tensor)
        if not isinstance(value, Tensor):
            options[key] = check(f"{key} of {_name(operator, method)}", value, NonNegative)
        elif not (value.is_floating_point() and (_far(value) or bool(((value >= 0) & value.isfinite()).all()))):
            if not all(t.isfinite().all() for t in tensors):
                continue
            raise OptionError(
                f"{key} of {_name(operator, method)} must be finite and not negative everywhere, got {shown(value)} of "
                f"{value.dtype} with other values in it"
            )
    if all(isinstance(options.get(key), float) and options[key] == 0 for key in ("var_x", "var_y")):
        raise OptionError(f"var_x and var_y of {_name(operator, method)} are both zero; one of them must be positive")
    return options


def _called(
    operator: "Operator",
    name: str,
    method: Callable,
    tensors: Sequence[Tensor],
    rest: Sequence[Any],
    kwargs: dict[str, Any],
) -> Tensor:
    """Returns the author's method on one batch axis; what it raises or returns amiss is told with the operator's name."""
    try:
        out = method(operator, *tensors, *rest, **kwargs)
    except (InvgenError, torch.cuda.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        given = " and ".join(f"{t.dtype} of shape {tuple(t.shape)}" for t in tensors)
        table = next(iter(operator.buffers()), tensors[0])
        if table.device != tensors[0].device:
            raise ShapeError(
                f"{_name(operator, name)} got a tensor on {tensors[0].device} but its tables are on {table.device}; move "
                "one with .to()"
            ) from error
        text = " ".join(str(error).split()) or "no message"
        raise OperatorError(
            f"{_name(operator, name)} fails on {given} with {type(error).__name__}: {text[:160]}{'...' * (len(text) > 160)}"
        ) from error
    if not isinstance(out, Tensor):
        raise OperatorError(
            f"{_name(operator, name)} must give a torch.Tensor, got {shown(out)}; end it with torch.as_tensor"
        )
    wanted = getattr(operator, GIVES[name]) if name in GIVES else None
    rows = len(tensors[0])
    if out.ndim < 1 or len(out) != rows or (wanted is not None and out.shape[1:] != wanted):
        expected = f"({rows}, {', '.join(map(str, wanted))})" if wanted is not None else f"({rows}, ...)"
        raise OperatorError(
            f"{_name(operator, name)} gives shape {tuple(out.shape)} for a batch of {rows}, expected {expected}"
        )
    return out


def _of_none(
    operator: "Operator",
    name: str,
    method: Callable,
    tensors: Sequence[Tensor],
    wanted: Sequence[tuple[int, ...]],
    batch: tuple[int, ...],
) -> Tensor:
    """Returns the result for a batch of no rows: that of one row of zeros, of which none is kept."""
    rows = [torch.cat([t.new_zeros(1, *w), t.reshape(-1, *w)[:0]]) for t, w in zip(tensors, wanted, strict=True)]
    out = _called(operator, name, method, rows, (), {})
    return out[:0].reshape(*batch, *out.shape[1:])
