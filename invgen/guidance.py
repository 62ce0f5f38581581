"""A guided denoiser is a denoiser. Half of the field is a choice of D_y(x) = E[x_0 | x_sigma, y], put through the one step.

D_y = D + C A^T (noise + A C' A^T)^-1 (y - A D). A sampler of this family writes `guide`, the few lines that choose C and
C'; the base class below holds the loop that they share.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from invgen.diffusion import step
from invgen.errors import OptionError
from invgen.forward import LinearOperator, per_sample
from invgen.gradients import differentiating, leaf
from invgen.hints import Share
from invgen.linalg import dot, norm
from invgen.noise import Energy, Noiseless
from invgen.optimise import Adam
from invgen.posterior import Posterior
from invgen.random import Streams
from invgen.sampler import Sampler

Bend = Callable[[Tensor], Tensor]
LogPotential = Callable[[Tensor], Tensor]
Pullback = Callable[[Tensor], Tensor]
Value = TypeVar("Value")


@dataclass(frozen=True)
class GuidedSampler(Sampler):
    """Denoise, guide, step.

    Args:
        eta: 1 for ancestral steps (DDPM), 0 for the probability-flow ODE (DDIM).
    """

    eta: Share = 1.0

    family: ClassVar[str] = "guided"
    backprop: ClassVar[bool] = True

    def guide(self, post: Posterior, x: Tensor, s: float) -> Tensor:
        """D_y, an estimate of E[x_0 | x_sigma = x, y], (B, *shape)."""
        raise TypeError(f"{type(self).__name__} must define guide(self, post, x, s)")

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        for s, s_next in self.levels(post.prior):
            x = step(x, self.guide(post, x, s), s, s_next, self.eta, randn)
            yield x


def likelihood_guidance(post: Posterior, x: Tensor, s: float, share: float) -> tuple[Tensor, Tensor]:
    """D(x, s) and what the likelihood at D adds to it, both (B, *shape): sigma^2 grad_x log p(y | A(D)), damped.

    Damped by 1 + share * (what the uncertainty of D adds to the measurement along the residual, over the noise), so that no
    step overshoots; share = 0 is the plain gradient. Exact measurements are fitted along that line.
    """
    x0, vjp = post.prior.vjp(x, s)
    pull, bend = local_fit(post, x0, math.sqrt(post.prior.variance(s)))
    d = s**2 * vjp(pull)
    exact = isinstance(post.noise, Noiseless)
    return x0, (line_search(pull, d, bend, 0.0) if exact else line_search(pull, d, bend, share=share)) * d


def local_fit(post: Posterior, u: Tensor, reach: float, whole: bool = False) -> tuple[Tensor, Bend]:
    """The gradient of log p(y | u) at u, (B, *shape), and its curvature along a direction, d -> -d^T H d, (B, 1, ..., 1).

    The curvature is that along the residual r, (r^T J d)^2 / (|r|^2 var), which costs nothing beyond the gradient and is
    the whole of it, |J d|^2 / var, where r alone is pulled at. For a loss, whose noise is not known, it is found by a
    difference of its gradients over `reach` root mean square along d. Counts have the gradient of Fisher scoring,
    residual / variance with the variance kept above one photon's. Exact measurements count as if their noise were 1.

    Args:
        whole: take |J d|^2 / var, for directions that are not C times the gradient; one more application of A.
    """
    post = post.near(u, reach**2)
    A, noise, y = post.A, post.noise, post.y
    if isinstance(noise, Energy):
        pull = post.likelihood_score(u)

        def bend(d: Tensor) -> Tensor:
            h = reach * math.sqrt(d[0].numel()) / norm(d).clamp(min=1e-30)
            return dot(pull - post.likelihood_score(u + h * d), d) / h

        return pull, bend
    if isinstance(A, LinearOperator):
        clean = A(u)
    else:
        with differentiating():
            v = leaf(u)
            outputs = A(v)
        clean = outputs.detach()
    std = 1.0 if isinstance(noise, Noiseless) else noise.std(clean)
    r = (y - clean) / std
    pull = A.adjoint(r / std) if isinstance(A, LinearOperator) else torch.autograd.grad(outputs, v, r / std)[0]
    weight = per_sample(dot(r, r).clamp(min=1e-30), u)

    def along_residual(d: Tensor) -> Tensor:
        return dot(pull, d) ** 2 / weight

    def along_all(d: Tensor) -> Tensor:
        h = 1.0 if isinstance(A, LinearOperator) else reach * math.sqrt(d[0].numel()) / norm(d).clamp(min=1e-30)
        w = (A(d) if isinstance(A, LinearOperator) else A(u + h * d) - clean) / std
        return per_sample(dot(w, w), u) / h**2

    return pull, along_all if whole else along_residual


def line_search(pull: Tensor, d: Tensor, bend: Bend, prior: float = 1.0, share: float = 1.0) -> Tensor:
    """How far to go along d = C pull, (B, 1, ..., 1): to the top of log p(y | u) + log N(u; D, C) on the line from u = D.

    All of d where the data say little beside the prior, the least-squares step where they say much.

    Args:
        prior: weight of log N(u; D, C); 0 for exact measurements.
        share: of the curvature of the data that counts, below 1 to go further.
    """
    slope = dot(pull, d)
    # the Jacobian of a network is not quite positive: where d does not rise, stay
    return torch.where(slope > 0, slope / (prior * slope + share * bend(d).clamp(min=0)).clamp(min=1e-30), 0)


def paper_misfit(post: Posterior, x0: Tensor) -> Tensor:
    """What the papers descend: |y - A(x0)|, not squared, one number a row, (B, 1, ..., 1); a loss as it is."""
    if isinstance(post.noise, Energy):
        return -post.log_likelihood(x0)
    return norm(post.residual(x0))


def published(sampler: str, table: Mapping[str, Value], task: str) -> Value:
    """The published setting of a task, by its name in any case.

    Raises:
        OptionError: no such task; the sentence lists those that were published.
    """
    if task.lower() not in table:
        raise OptionError(f"{sampler} has no published settings for {task!r}; there are {', '.join(map(repr, table))}")
    return table[task.lower()]


def draw_near(
    mean: Tensor,
    std: float,
    look: Callable[[Tensor], tuple[Tensor, Bend, Pullback]],
    iterations: int,
    randn: Streams,
    reach: float | None = None,
) -> Tensor:
    """A draw of N(u; mean, std^2 I) g(u), (B, *shape), by perturbing and optimising, where g is of `perturbed` data.

    From v = mean + std z, conjugate gradients (Polak & Ribiere) with a line search to the top of N(u; v, std^2 I) g(u), one
    evaluation and two products with the Jacobian a step: the top of a posterior with perturbed data is a draw of it,
    where log g is a square (Papandreou & Yuille, 2010). For one linear measurement one step is exact; for more, what the
    steps do not reach keeps the noise z. The network sees signals with noise all along.

    Args:
        look: u -> gradient and curvature of log g at the point that the data see (`local_fit`), and the pullback from that
            point to u, whose Jacobian is taken for symmetric, as that of an exact denoiser is.
        reach: in place of std, how far the data may move u (`step_reach`).
    """
    reach = std if reach is None else reach
    start = std / reach * randn(mean)  # in units of the reach
    shift, before, p = start, None, None
    for _ in range(iterations):
        pull, bend, pullback = look(mean + reach * shift)
        g = reach * pullback(pull) - (shift - start)
        if before is None or p is None:
            p = g
        else:
            keep = (dot(g, g - before) / dot(before, before).clamp(min=1e-30)).clamp(min=0)
            p = g + keep * p
            p = torch.where(dot(g, p) > 0, p, g)
        curvature = dot(p, p) + bend(reach * pullback(p)).clamp(min=0)
        shift = shift + dot(g, p) / curvature.clamp(min=1e-30) * p
        before = g
    return mean + reach * shift


def step_reach(post: Posterior, std: float, s: float, s_next: float) -> float:
    """The standard deviation of x at s_next given x at s: that of the ancestral step, and what D does not know of x_0.

    The step takes x_0 = D for known (Bao, Li, Zhu & Zhang, "Analytic-DPM", ICLR 2022, have the same sum); data that may
    move x no further than its noise are left unfitted by the factor (s_next / s)^2, at any number of steps.
    """
    return math.hypot(std, (1 - (s_next / s) ** 2) * math.sqrt(post.prior.variance(s)))


def perturbed(post: Posterior, randn: Streams, weight: float = 1.0) -> Posterior:
    """The posterior with a draw of noise added to y, of variance 1 / weight for a likelihood to that power.

    For noise that is not Gaussian, of the variance at y. A loss has no noise, and is returned as it is.
    """
    if isinstance(post.noise, Energy):
        return post
    return replace(post, y=post.y + post.noise.std(post.y) / math.sqrt(weight) * randn(post.y))


def fit_gaussian(
    mean: Tensor, std: float, log_g: LogPotential, steps: int, lr: float, randn: Streams
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviations, (B, *shape) each, of the Gaussian with independent values that is nearest to
    N(mean, std^2 I) exp(log_g), in the sense of KL(q || .), by Adam on one reparametrised draw a step.

    Args:
        log_g: (B, *shape) -> (B,), differentiable; one evaluation a step.
        lr: length of Adam's steps, in units of std for the mean and relative for the standard deviations.
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
