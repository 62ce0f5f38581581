"""Gaussian fits of a posterior near a point, and draws of it by perturbing and optimising, for DCPS and MGPS."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.linalg import dot
from invgen.noise import Energy
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.optimise import Adam
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.data_term import Curvature, LogPotential, Pullback


def draw_near(
    mean: Tensor,
    std: float,
    fit: Callable[[Tensor], tuple[Tensor, Curvature, Pullback]],
    iterations: int,
    randn: Streams,
    width: float | None = None,
) -> Tensor:
    """Returns a draw of N(u; mean, std^2 I) g(u), (B, *shape), by perturbing and optimising; g is of `perturbed` data.

    From v = mean + std z, conjugate gradients (Polak & Ribiere) with a line search to the top of N(u; v, std^2 I) g(u), one
    evaluation and two products with the Jacobian a step: the top of a posterior with perturbed data is a draw of it,
    where log g is a square (Papandreou & Yuille, 2010). For one linear measurement one step is exact; for more, what the
    steps do not change keeps the noise z. The network sees signals with noise all along.

    Args:
        mean, std: of the Gaussian.
        fit: u -> gradient and curvature of log g at the point that the data see (`local_fit`), and the pullback from that
            point to u, whose Jacobian is taken for symmetric, as that of an exact denoiser is.
        iterations: gradient steps.
        randn: the source of noise.
        width: in place of std, how far the data may move u (`step_width`).
    """
    width = std if width is None else width
    start = std / width * randn(mean)  # in units of the width
    shift, before, p = start, None, None
    for _ in range(iterations):
        gradient, curvature, pullback = fit(mean + width * shift)
        g = width * pullback(gradient) - (shift - start)
        if before is None or p is None:
            p = g
        else:
            keep = (dot(g, g - before) / dot(before, before).clamp(min=1e-30)).clamp(min=0)
            p = g + keep * p
            p = torch.where(dot(g, p) > 0, p, g)
        total = dot(p, p) + curvature(width * pullback(p)).clamp(min=0)
        shift = shift + dot(g, p) / total.clamp(min=1e-30) * p
        before = g
    return mean + width * shift


def step_width(post: Posterior[Denoiser], std: float, s: float, s_next: float) -> float:
    """Returns the standard deviation of x at s_next given x at s: `std` of the ancestral step, and that of D about x_0.

    The step takes x_0 = D for known (Bao, Li, Zhu & Zhang, "Analytic-DPM", ICLR 2022, have the same sum); data that may
    move x no further than its noise are left unfitted by the factor (s_next / s)^2, at any number of steps.
    """
    return math.hypot(std, (1 - (s_next / s) ** 2) * math.sqrt(post.prior.variance(s)))


def perturbed(post: Posterior, randn: Streams, weight: float = 1.0) -> Posterior:
    """Returns the posterior with a draw of noise added to y, of variance 1 / weight for a likelihood to that power.

    For noise that is not Gaussian, of the variance at y. A loss has no noise, and is returned as it is.
    """
    if isinstance(post.noise, Energy):
        return post
    return post.changed(y=post.y + post.noise.std(post.y) / math.sqrt(weight) * randn(post.y))


def fit_gaussian(
    mean: Tensor, std: float | Tensor, log_g: LogPotential, steps: int, lr: float | Tensor, randn: Streams
) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviations, (B, *shape) each, of the Gaussian with independent values that is nearest to
    N(mean, std^2 I) exp(log_g), in the sense of KL(q || .), by Adam on one reparametrised draw a step.

    Args:
        mean, std: of the Gaussian; std is a number, or (B, 1, ..., 1).
        log_g: (B, *shape) -> (B,), differentiable; one evaluation a step.
        steps: of Adam.
        lr: length of Adam's steps, in units of std for the mean and relative for the standard deviations; a tensor
            (B, 2, 1, ..., 1) has one of its own for either.
        randn: the source of noise.
    """
    moments = torch.zeros(len(mean), 2, *mean.shape[1:], dtype=mean.dtype, device=mean.device)  # shift / std, log scale
    adam = Adam(lr)
    for _ in range(steps):
        z = randn(mean)
        with differentiating():
            moments = leaf(moments)
            shift, log_scale = moments.unbind(1)
            data = log_g(mean + std * (shift + log_scale.exp() * z))
            (grad,) = torch.autograd.grad(-data.sum(), moments)
        shift, log_scale = moments.detach().unbind(1)
        # the divergence of the Gaussians is known
        grad = grad + torch.stack([shift, (2 * log_scale).exp() - 1], 1)
        moments = adam.step(moments.detach(), grad)
    shift, log_scale = moments.unbind(1)
    return mean + std * shift, std * log_scale.exp()
