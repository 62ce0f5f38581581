"""Says in one sentence why a call of a prior failed: a value of another kind, a signal of another shape."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from invgen.errors import InvgenError, OptionError, ShapeError
from invgen.validation.hints import check, fits, shown

RAW = (AttributeError, IndexError, TypeError, ValueError, RuntimeError, OverflowError)
# methods of a prior -> the attribute that holds the shape of one entry of their first argument
SIGNALS = {"log_prob": "shape", "score": "shape", "encode": "shape"}
METHODS = (*SIGNALS, "variance")


def explain(prior: Any, name: str, x: Any, shape: Sequence[int], sigma: Any = 0.0) -> None:
    """Raises the sentence for a call that has failed, where the arguments are to blame.

    Args:
        prior: whose method failed.
        name: of the method, "" for the call of the prior itself.
        x: its first argument, which should be (B, *shape).
        shape: of one entry.
        sigma: a noise level, or one for each entry.

    Raises:
        OptionError: x is no tensor, or sigma no noise level.
        ShapeError: x has another shape.
    """
    owner = type(prior).__name__ + (name and f".{name}")
    if not isinstance(x, Tensor):
        raise OptionError(f"x of {owner} must be a tensor, got {shown(x)}")
    if not isinstance(sigma, Tensor) and not fits(sigma, float):
        raise OptionError(f"sigma of {owner} must be a tensor or a finite number, got {shown(sigma)}")
    if isinstance(sigma, Tensor) and sigma.ndim and sigma.shape != x.shape[:1]:
        raise ShapeError(f"{owner} takes one sigma for each of {len(x)} entries, got {tuple(sigma.shape)}")
    if tuple(x.shape[1:]) != tuple(shape):
        wanted = ", ".join(map(str, shape))
        raise ShapeError(f"{owner} takes a tensor of shape (B, {wanted}), got {tuple(x.shape)}")


def explained(method: Callable, name: str) -> Callable:
    """Returns a method of a prior that says in a sentence which argument is wrong, where it fails."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except InvgenError:
            raise
        except RAW:
            try:
                given = list(signature.bind(self, *args, **kwargs).arguments.values())[1:]
            except TypeError as error:
                raise OptionError(f"{type(self).__name__}.{name}: {error}") from None
            if name == "variance":
                check(f"sigma of {type(self).__name__}.variance", given[0], float)
            else:
                explain(self, name, given[0], getattr(self, SIGNALS[name]), *given[1:2])
            raise

    return wrapped
