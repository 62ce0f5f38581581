"""The condition under which a prior makes a given picture, and a copy of the prior that makes it better."""

import copy

import torch
from torch import Tensor

from invgen.conditional import ConditionalDenoiser
from invgen.errors import OptionError, ShapeError
from invgen.numerics.gradients import differentiating
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Positive, Seed


@checked
def invert_condition(
    prior: ConditionalDenoiser,
    x: Tensor,
    start: Tensor,
    *,
    steps: Count = 200,
    rate: Positive = 0.01,
    draws: Count = 8,
    seed: Seed = 0,
) -> Tensor:
    """Returns the vector, of the length of `start`, under which the prior denoises a picture best: Imagic's first step.

    Kawar et al., "Imagic" (CVPR 2023), section 3: argmin_c E |D(x + sigma eps; c) - x|^2 / min(sigma^2, data_std^2) by Adam
    from `start`, near which the answer stays.

    Args:
        prior: one that takes vectors, such as `cifar`.
        x: the picture, (*shape).
        start: the vector of the wanted text, (V,).
        steps, rate: of Adam.
        draws: noisy pictures a step.
        seed: of their noise.
    """
    c = start.detach().clone().requires_grad_(True)
    length, generator = start.norm(), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam([c], rate)
    with differentiating():
        for _ in range(steps):
            loss = _loss(prior, x, c * (length / c.norm()), draws, generator)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return (c * (length / c.norm())).detach()


@checked
def fine_tuned(
    prior: ConditionalDenoiser,
    x: Tensor,
    condition: Tensor,
    *,
    steps: Count = 100,
    rate: Positive = 1e-4,
    draws: Count = 8,
    seed: Seed = 0,
) -> ConditionalDenoiser:
    """Returns a copy of the prior trained to make one picture under one condition: Imagic's second step.

    Args:
        prior: whose weights stay as they are.
        x: the picture, (*shape).
        condition: what `invert_condition` found, (V,).
        steps, rate: of Adam, on all weights.
        draws: noisy pictures a step.
        seed: of their noise.
    """
    tuned = copy.deepcopy(prior).requires_grad_(True)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(tuned.parameters(), rate)
    with differentiating():
        for _ in range(steps):
            loss = _loss(tuned, x, condition, draws, generator)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return tuned.requires_grad_(False)


def _loss(prior: ConditionalDenoiser, x: Tensor, condition: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Returns the weighted error of the denoiser at random levels, even in log sigma: those that decide what is seen."""
    if x.shape != prior.shape:
        raise ShapeError(f"the picture has shape {tuple(x.shape)}, expected that of the prior, {tuple(prior.shape)}")
    if condition.ndim != 1 or not condition.is_floating_point():
        raise OptionError(f"a condition to start from is one vector, got shape {tuple(condition.shape)}")
    low, high = 0.1 * prior.data_std, min(10 * prior.data_std, prior.sigma_max)
    sigma = low * (high / low) ** torch.rand(draws, generator=generator)
    s = sigma.view(-1, *[1] * x.ndim)
    noisy = x + s * torch.randn(draws, *x.shape, generator=generator)
    error = prior(noisy, sigma, condition.expand(draws, -1)) - x
    return (error.square() / s.clamp(max=prior.data_std) ** 2).mean()
