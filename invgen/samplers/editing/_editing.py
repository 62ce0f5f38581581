"""Samplers that edit a given image: their options may hold tensors, which compare and print by content."""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.errors import ShapeError
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.validation.arguments import mask


def _content(value: object) -> object:
    """Returns a word that identifies a tensor's shape and values; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    values = value.detach().cpu().to(torch.float64).contiguous()
    word = hashlib.sha256(values.numpy().tobytes()).hexdigest()[:12]
    return f"tensor of shape {tuple(value.shape)} #{word}"


@dataclass(frozen=True, eq=False, repr=False)
class Editor(Sampler):
    """The base of samplers with tensors among their options; subclasses are dataclasses with eq=False, repr=False."""

    family: ClassVar[str] = "editing"

    def __post_init__(self) -> None:
        super().__post_init__()
        keep = getattr(self, "keep", None)
        if keep is not None:
            object.__setattr__(self, "keep", mask(f"keep of {type(self).__name__}", keep))

    def _options(self) -> tuple[tuple[str, object], ...]:
        return tuple((f.name, _content(getattr(self, f.name))) for f in dataclasses.fields(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Editor) and type(self) is type(other) and self._options() == other._options()

    def __hash__(self) -> int:
        return hash((type(self), self._options()))

    def __repr__(self) -> str:
        shown = (f"{k}=<{v}>" if str(v).startswith("tensor of") else f"{k}={v!r}" for k, v in self._options())
        return f"{type(self).__name__}({', '.join(shown)})"


def as_signal(name: str, value: Tensor, post: Posterior) -> Tensor:
    """Returns a tensor given as an option, broadcast to signals (B, *shape).

    Raises:
        ShapeError: it does not broadcast to the prior's shape.
    """
    shape = post.prior.shape
    try:
        value = value.expand(shape)
    except RuntimeError:
        raise ShapeError(
            f"{name} has shape {tuple(value.shape)}, expected one that broadcasts to the prior's {tuple(shape)}"
        ) from None
    return value.to(post.prior.device).expand(len(post.y), *shape)
