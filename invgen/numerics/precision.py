"""Networks in half precision, where that does no harm."""

import copy
import math

import torch
from torch import Tensor

from invgen.conditional import DenoiserOf
from invgen.diffusion import Denoiser, Sigma
from invgen.errors import OptionError, UnsupportedError
from invgen.validation.arguments import checked

SHARE = 0.05  # of data_std: what rounding may add to the error of D


def has_bfloat16(device: torch.device) -> bool:
    """Returns whether the device computes in bfloat16: a GPU that says so, or a processor with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    found = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return device.type == "cpu" and any(ask() for ask in found if ask is not None)


class Cast(DenoiserOf):
    """`prior` with its networks in half precision up to a noise level, and as it is above: see `cast`."""

    def __init__(self, prior: Denoiser, dtype: torch.dtype, above: float) -> None:
        super().__init__(prior)
        self.low, self.above = copy.deepcopy(prior).to(dtype), float(above)

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        if not isinstance(sigma, Tensor) or sigma.ndim == 0:
            return (self.prior if sigma > self.above else self.low)(x, sigma)
        high = (sigma > self.above).expand(len(x))  # a level per sample, each with its own precision
        if high.all() or not high.any():
            return (self.prior if high.all() else self.low)(x, sigma)
        sigma, out = sigma.expand(len(x)), torch.empty_like(x)
        for rows, prior in ((high, self.prior), (~high, self.low)):
            out[rows] = prior(x[rows], sigma[rows])
        return out


@checked
def cast(prior: Denoiser, dtype: torch.dtype = torch.bfloat16, above: float | None = None) -> Denoiser:
    """Returns a copy of the prior whose networks run in half precision; samplers keep their state in float32.

    `prior.to(torch.bfloat16)` does the same in place for the priors of this package: the network's weights and inputs are
    cast, the combination to D is done in float32. Only the prediction of epsilon (or of the score) does not bear it: its
    rounding reaches D times sigma. Of such priors the networks are kept twice, as they are for high noise levels.

        prior = priors.cast(priors.load("ct"), torch.bfloat16).to("cuda")

    Args:
        prior: with networks inside; condition it first, cast(prior.condition(c)).
        dtype: torch.bfloat16 or torch.float16.
        above: noise level, in units of x, above which the networks stay as they are; infinite if none. By default infinite,
            and for a prediction of epsilon or the score where rounding reaches 5 % of data_std: at 6.4 data_std for
            bfloat16, at 51 data_std for float16.

    Raises:
        OptionError: another dtype, or a negative level.  UnsupportedError: the prior has no network to cast.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        raise OptionError(f"priors are cast to torch.bfloat16 or torch.float16, got {dtype!r}")
    if above is not None and not above >= 0:
        raise OptionError(f"above is a noise level of at least 0, got {above!r}")
    if not any(p.is_floating_point() for p in prior.parameters()):
        raise UnsupportedError(f"{type(prior).__name__} has no network whose weights could be cast to {dtype}")
    if above is None:
        times_sigma = any(getattr(part, "prediction", None) in ("epsilon", "score") for part in prior.modules())
        above = SHARE * prior.data_std / torch.finfo(dtype).eps if times_sigma else math.inf
    if above >= prior.sigma_max:
        return copy.deepcopy(prior).to(dtype)
    return Cast(prior, dtype, above)
