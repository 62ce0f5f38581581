"""Purification: what a prior makes of a signal that was tampered with, before a classifier sees it."""

from typing import Any

import torch
from torch import Tensor

from invgen.autoregressive import Autoregressive
from invgen.diffusion import Denoiser, noise_levels, step
from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.inference.simulation import rows_at_once
from invgen.numerics.gradients import running
from invgen.numerics.random import Streams
from invgen.posterior import PriorLike
from invgen.pushforward import Generator
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Positive, Seed


@checked
def purify(
    x: Tensor,
    prior: PriorLike,
    *,
    level: Positive,
    steps: Count = 12,
    num_samples: Count = 1,
    seed: Seed = 0,
    max_batch: Count | None = None,
    differentiable: bool = False,
) -> Tensor:
    """Returns signals near x that the prior finds likely, (num_samples, B, *shape).

    A Denoiser: noise of standard deviation `level` is added and taken off again by the reverse diffusion (DiffPure: Nie et
    al., ICML 2022). An Autoregressive prior: value by value, the likeliest level within `level` of x (PixelDefend: Song et
    al., ICLR 2018, Algorithm 1), one answer. A Generator with an encoder: what the code of x decodes to, `level` being the
    noise on x before (MagNet: Meng & Chen, CCS 2017).

    It removes perturbations that were made without knowledge of it. One who knows it differentiates through it: test a
    defence with `differentiable`, and many seeds (Athalye, Carlini & Wagner, ICML 2018).

    Args:
        x: signals, (B, *shape), in the units of the prior.
        prior: one of these three kinds.
        level: in the units of x: above the perturbation, below what distinguishes signals.
        steps: of the reverse diffusion.
        num_samples: how many for each signal, by different noise.
        seed: row i depends on the seed and on i only.
        max_batch: signals to work on at once.
        differentiable: keep the graph, so that gradients reach x.

    Raises:
        ShapeError: signals of another shape.
        OptionError: a level beyond the denoiser's range, or values that are not finite.
        UnsupportedError: another kind of prior.
    """
    if x.shape[1:] != prior.shape or not len(x):
        raise ShapeError(f"purify takes one or more signals of shape {tuple(prior.shape)}, got {tuple(x.shape)}")
    x = x.to(prior.device, prior.dtype)
    if not x.isfinite().all():
        raise OptionError("purify takes signals of finite values; replace those that are nan or infinite")
    method: Any  # (x, prior, level, steps, randn) -> the signals
    if isinstance(prior, Autoregressive):
        method = _pixel_defend
    elif isinstance(prior, Denoiser):
        prior.require_levels("purification")
        if not prior.sigma_min < level <= prior.sigma_max:
            raise OptionError(
                f"level must lie between the prior's {prior.sigma_min:g} and {prior.sigma_max:g}, got {level:g}"
            )
        method = _diffuse
    elif isinstance(prior, Generator) and prior.has_encoder:
        method = _decode
    else:
        raise UnsupportedError(
            f"{type(prior).__name__} cannot purify: give a Denoiser, an Autoregressive prior or a Generator with an encoder"
        )
    rows = torch.arange(num_samples * len(x))
    with running(prior), torch.set_grad_enabled(differentiable):
        parts = [
            method(x[(part % len(x)).to(x.device)], prior, level, steps, Streams(seed, part))
            for part in rows.split(max_batch or rows_at_once(prior))
        ]
        return torch.cat(parts).reshape(num_samples, *x.shape)


def _diffuse(x: Tensor, prior: Denoiser, level: float, steps: int, randn: Streams) -> Tensor:
    u = x + level * randn(x)
    for s, s_next in noise_levels(steps, prior.sigma_min, level, "edm", prior.data_std):
        u = step(u, prior(u, s), s, s_next, 1.0, randn)
    return u


def _pixel_defend(x: Tensor, prior: Autoregressive, level: float, steps: int, randn: Streams) -> Tensor:
    sites = x.flatten(1)[:, prior.order]
    near = (prior.levels - sites[..., None]).abs() <= level
    near |= torch.nn.functional.one_hot(prior.encode(x), len(prior.levels)).bool()  # x itself, where levels are coarse
    tokens = torch.empty(len(x), 0, dtype=torch.int64, device=x.device)
    for i in range(prior.sites):
        best = prior(tokens).masked_fill(~near[:, i], -torch.inf).argmax(1, keepdim=True)
        tokens = torch.cat([tokens, best], 1)
    return prior.decode(tokens)


def _decode(x: Tensor, prior: Generator, level: float, steps: int, randn: Streams) -> Tensor:
    return prior(prior.encode(x + level * randn(x)))
