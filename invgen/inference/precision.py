"""Whether a prior's networks may run in half precision: where it is faster, and changes less than the prior errs."""

import math
import time
from typing import Literal

import torch

from invgen.diffusion import Denoiser, Prior, noise_levels
from invgen.errors import UnsupportedError
from invgen.numerics.gradients import running
from invgen.numerics.precision import cast, has_bfloat16
from invgen.numerics.random import Streams
from invgen.posterior import Posterior

Precision = Literal["float32", "bfloat16", "auto"]
SHARE = 0.1  # of the denoiser's mean squared error: what rounding may add to it
ROWS, STEPS = 2, 6  # signals and noise levels of the trial
GAIN = 1.2  # how many times as fast bfloat16 has to be


def in_precision(post: Posterior, precision: Precision) -> tuple[Posterior, str]:
    """Returns the problem with the prior's networks in the precision asked for, and its name.

    "auto" is bfloat16 where a short run of the prior shows that it is faster and adds at most a tenth to the mean squared
    error of the denoiser, which the prior has to know (`prior.mmse`); else the precision of the prior. The operator,
    the states and the noise stay in the precision of the prior.

    Raises:
        UnsupportedError: bfloat16 for a prior without networks, or for one that is no Denoiser.
    """
    prior, used = prior_in_precision(post.prior, precision)
    return (post if prior is post.prior else post.changed(prior=prior)), used


def prior_in_precision(prior: Prior, precision: Precision) -> tuple[Prior, str]:
    """Returns a prior in a precision, and its name; see `in_precision`."""
    if precision == "float32":
        return prior, precision
    network = isinstance(prior, Denoiser) and any(p.dtype == torch.float32 for p in prior.parameters())
    if precision == "bfloat16":
        if not isinstance(prior, Denoiser) or not network:
            raise UnsupportedError(
                f'precision="bfloat16" needs a Denoiser with a network in float32, got {type(prior).__name__}; '
                'take precision="float32"'
            )
        return cast(prior), precision
    if not (isinstance(prior, Denoiser) and network and prior.mmse and has_bfloat16(prior.device)):
        return prior, "float32"
    low = cast(prior)
    gain, added = trial(prior, low)
    return (low, "bfloat16") if gain > GAIN and added < SHARE else (prior, "float32")


def trial(prior: Denoiser, low: Denoiser) -> tuple[float, float]:
    """Returns how many times as fast `low` is, and the largest share of the denoiser's squared error that it adds.

    Both denoise the states of a short run of the prior, a few levels from the highest to the lowest.
    """
    randn = Streams(0, range(ROWS))
    zero = torch.zeros(ROWS, *prior.shape, dtype=prior.dtype, device=prior.device)
    seconds, added = ([], []), 0.0
    with running(prior, low):
        levels = noise_levels(STEPS, prior.sigma_min, prior.sigma_max, "log", prior.data_std)
        x = prior.start(randn(zero), levels[0][0])
        for s, s_next in levels:
            found = []
            for net, times in zip((prior, low), seconds, strict=True):
                begin = time.perf_counter()
                found.append(net(x, s))
                if x.is_cuda:
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - begin)
            change = (found[1] - found[0]).square().mean().item()
            added = max(added, change / prior.variance(s)) if math.isfinite(change) else math.inf
            x = found[0] + s_next * randn(zero)
    return min(seconds[0][1:]) / min(seconds[1][1:]), added  # the first call sets up
