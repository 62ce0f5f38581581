"""Kernel Stein discrepancy: how far samples are from a law that is known by its score alone, up to normalisation."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.metrics.two_sample import _median_distance
from invgen.validation.arguments import checked
from invgen.validation.hints import Index, Positive

if TYPE_CHECKING:
    from invgen.posterior import Posterior

Score = Callable[[Tensor], Tensor]


@checked
def kernel_stein_discrepancy(
    samples: Tensor,
    score: Score | Tensor,
    *,
    c: float | None = 1.0,
    beta: float = -0.5,
    unbiased: bool = True,
    dims: Index = 1,
) -> Tensor:
    """Returns the squared kernel Stein discrepancy of samples to the law with this score, with the inverse multiquadric
    kernel: ().

        mean over pairs of  s(x).s(y) k + s(x).grad_y k + s(y).grad_x k + tr grad_x grad_y k,  k = (c^2 + |x - y|^2)^beta

    (Liu, Lee & Jordan, ICML 2016; Chwialkowski et al., ICML 2016; the kernel of Gorham & Mackey, ICML 2017,
    which notices samples that run away, as a Gaussian kernel does not in many dimensions.) Zero for exact samples, in the
    mean; units of 1 / signal^2. Blind where Stein's method is: the weights of components that lie far apart leave no trace
    in the score, so that a wrong mixture of modes may pass. Compare with exact samples or with ranks for that.

    Args:
        samples: (N, *shape), where `shape` has `dims` axes.
        score: the gradient of the log-density, a function (N, *shape) -> (N, *shape), such as `posterior_score(post)`,
            or its values at the samples.
        c: width of the kernel in units of the signal; None takes the median distance between two samples, which makes the
            result change as 1 / unit^2 when the units do, but depends on the samples.
        beta: exponent, in (-1, 0).
        unbiased: the average over pairs of different samples (the U-statistic, which may be negative) or over all pairs
            (the V-statistic, never negative, about mean k_0(x, x) / N too large).
    """
    if not isinstance(samples, Tensor) or samples.ndim != dims + 1 or len(samples) < 2:
        got = tuple(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
        raise ShapeError(
            f"kernel_stein_discrepancy takes (N, *shape) with {dims} axes of shape and N >= 2, got {got}; pass dims="
        )
    if samples.is_complex():
        raise ShapeError("kernel_stein_discrepancy: the signals are complex; pass torch.view_as_real of them")
    if not -1 < beta < 0 or (c is not None and not c > 0):
        raise OptionError(f"kernel_stein_discrepancy needs c > 0 and -1 < beta < 0, got c={c!r} and beta={beta!r}")
    values = score if isinstance(score, Tensor) else score(samples)
    if not isinstance(values, Tensor):
        raise ShapeError(f"kernel_stein_discrepancy: the score must give a torch.Tensor, got {type(values).__name__}")
    if values.shape != samples.shape:
        raise ShapeError(
            f"kernel_stein_discrepancy: the score has shape {tuple(values.shape)} but the samples {tuple(samples.shape)}"
        )
    x, s = samples.reshape(len(samples), -1), values.reshape(len(samples), -1).to(samples)
    n, d = x.shape
    width = _median_distance(x).item() if c is None else c
    total = x.new_zeros(())
    for i in range(n):  # one row of the matrix at a time: the memory of one set of samples
        r = x[i] - x
        square = r.square().sum(1)
        base = width**2 + square
        # grad_x k = 2 beta base^(beta - 1) r and grad_y k = -grad_x k
        row = (
            s @ s[i] * base**beta
            + 2 * beta * base ** (beta - 1) * ((s - s[i]) * r).sum(1)
            - 2 * beta * d * base ** (beta - 1)
            - 4 * beta * (beta - 1) * base ** (beta - 2) * square
        )
        total = total + row.sum() - (row[i] if unbiased else 0.0)
    return total / (n * (n - 1) if unbiased else n**2)


@checked
def posterior_score(post: "Posterior", sigma: Positive | None = None) -> Score:
    """Returns the gradient of log p_sigma(x) + log p(y | x), a function (B, *shape) -> (B, *shape), for one measurement.

    The prior enters smoothed by `sigma`, its sigma_min by default, because a diffusion prior knows no other score: the
    target has the posterior's law as sigma goes to zero. (D - x) / sigma^2 divides by a small number: in single precision
    its error is about 1e-7 |x| / sigma^2, so that x in float64, or a larger sigma, serves where the prior can take it.

    Raises:
        UnsupportedError: the prior is not a Denoiser, or the noise has no density.
        ShapeError: the posterior is of a batch of measurements; pass post.rows(...) for each.
    """
    from invgen.diffusion import Denoiser

    prior = post.prior
    if not isinstance(prior, Denoiser):
        raise UnsupportedError(f"a posterior score needs a Denoiser prior, got {type(prior).__name__}")
    if post.batch.numel() != 1:
        raise ShapeError(f"posterior_score takes one measurement, got a batch of shape {tuple(post.batch)}")
    level = prior.sigma_min if sigma is None else sigma
    if not level > 0:
        raise OptionError(f"posterior_score: sigma must be positive, got {sigma!r}")

    def score(x: Tensor) -> Tensor:
        with torch.no_grad():
            rows = post.rows(torch.zeros(len(x), dtype=torch.long))
            return prior.score(x, level) + rows.likelihood_score(x).to(x.dtype)

    return score
