"""Texts to a prior that is ready for a signal: of its size, in its units, on its device."""

import re
from collections.abc import Container
from typing import TYPE_CHECKING

import torch

from invgen.diffusion import Denoiser, Prior
from invgen.errors import OptionError
from invgen.names import resolve

if TYPE_CHECKING:
    from invgen.diffusion import Prior


def parse_size(text: str | None, ranks: Container[int] = (1, 2)) -> tuple[int, ...] | None:
    """Returns  "256" or "240x320" as a tuple of sizes.

    Raises:
        OptionError: something else.
    """
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text) or text.count("x") + 1 not in ranks:
        raise OptionError(f"cannot read the size {text!r}; expected positive whole numbers joined by x, such as 240x320")
    return tuple(int(n) for n in text.split("x"))


def prepared(
    prior: str, size: tuple[int, ...] | None, rescale: tuple[float, float], device: str, base: Prior | None = None
) -> Prior:
    """Returns the prior of a name, for signals of a size, in other units, on a device.

    Args:
        prior: its name with options.
        size: shape of the signal; None for the prior's own.
        rescale: (scale, shift) of the units.
        device: of torch.
        base: the prior of that name, where it was made already.
    """
    return _on_device(_rescaled(_sized(prior, size, base or resolve.prior(prior)), rescale), device)


def _sized(spec: str, size: tuple[int, ...] | None, prior: Prior) -> Prior:
    if size is None:
        return prior
    if len(prior.shape) != 3:
        raise OptionError(f"prior {spec!r} is over signals of shape {tuple(prior.shape)}: leave out --size")
    shape = (prior.shape[0], *(size * 2)[:2])
    if shape == tuple(prior.shape):
        return prior
    other = resolve.prior(spec, shape)
    if tuple(other.shape) != shape:
        raise OptionError(f"prior {spec!r} has the one shape {tuple(prior.shape)}: leave out --size")
    return other


def _rescaled(prior: Prior, units: tuple[float, float]) -> Prior:
    if units == (1.0, 0.0):
        return prior
    if not isinstance(prior, Denoiser):
        raise OptionError(f"only a Denoiser can be rescaled, got {type(prior).__name__}: leave out --rescale")
    return prior.rescaled(*units)


def _on_device(prior: Prior, device: str) -> Prior:
    try:
        return prior.to(torch.device(device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise OptionError(
            f"cannot work on device {device!r} ({reason}); expected cpu, or cuda where there is one"
        ) from error
