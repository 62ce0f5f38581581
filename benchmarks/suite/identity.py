"""Identities of the parts of a cell: a name, which is exact, and a few numbers that are compared to a tolerance.

The name follows from specs, options, files and code (`fingerprint`). What those do not tell (weights that a
module of the user's loads, another version of a package that decodes pictures) shows in values: those of a signal, of an
operator and a denoiser at a fixed input. Values differ by round-off between processors, and by more than the tolerance only
where something else is computed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invgen.autoregressive import Autoregressive
from invgen.diffusion import Denoiser, Prior
from invgen.forward import Operator
from invgen.numerics.random import Streams
from invgen.pushforward import Generator

TOLERANCE = 1e-3  # of a norm: round-off of float32 is a thousandth of it, and so are figures compared to between machines
GROUPS = 4  # of values, each with sums of its own


@dataclass(frozen=True)
class Identity:
    """A prior, an operator or an image.

    Attributes:
        name: a hash.
        values: a norm, and sums of about its size; empty where nothing could be computed.
    """

    name: str
    values: tuple[float, ...] = ()

    def is_like(self, values: Sequence[float]) -> bool:
        """Tells whether values are its own, up to the tolerance."""
        if len(values) != len(self.values):
            return False
        size = max(abs(self.values[0]), abs(values[0])) if values else 0.0
        return all(
            a == b or abs(a - b) <= TOLERANCE * size or a != a and b != b for a, b in zip(self.values, values, strict=True)
        )


def values_of(x: Tensor) -> tuple[float, ...]:
    """Returns the norm of a tensor, and eight sums of its values times fixed waves: of each value in two of them."""
    x = x.detach().cpu()
    flat = (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).double().flatten()
    at = torch.arange(1, flat.numel() + 1, dtype=torch.float64)
    waves = [flat * (at * math.sqrt(p)).cos() for p in (2, 3)]
    sums = [wave[k::GROUPS].sum().item() * math.sqrt(2 * GROUPS) for wave in waves for k in range(GROUPS)]
    return (flat.norm().item(), *sums)


def of_operator(A: Operator, value_range: tuple[float, float]) -> tuple[float, ...]:
    """Returns the values of A at a fixed signal that fills a range."""
    return _computed(lambda: A(_signal(A.in_shape, value_range).to(A.device, A.in_dtype)))


def of_prior(prior: Prior) -> tuple[float, ...]:
    """Returns the values of a denoiser at a fixed noisy signal, of a decoder at a fixed code, of the first token's
    logits."""
    if isinstance(prior, Denoiser):
        sigma = min(max(prior.data_std, prior.sigma_min), prior.sigma_max)
        return _computed(lambda: prior(_signal(prior.shape, prior.value_range).to(prior.device, prior.dtype), sigma))
    if isinstance(prior, Generator):
        return _computed(lambda: prior(_signal(prior.latent_shape, (-1.7, 1.7)).to(prior.device, prior.dtype)))
    if isinstance(prior, Autoregressive):
        return _computed(lambda: prior.next_logits(torch.empty(1, 0, dtype=torch.int64, device=prior.device)))
    return ()


def _computed(make: Callable[[], Tensor]) -> tuple[float, ...]:
    try:
        with torch.no_grad():
            return values_of(make())
    except Exception:  # the cells that need it will say what is wrong, each for itself
        return ()


def _signal(shape: Sequence[int], value_range: tuple[float, float]) -> Tensor:
    """Returns values spread over a range, (1, *shape): 24 random bits each, the same on every machine."""
    low, high = value_range
    return low + (high - low) * Streams(0, [0]).uniform(torch.empty(1, *shape, dtype=torch.float64))
