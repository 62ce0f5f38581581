"""Markov chains: the kernels that samplers share, their step sizes, and chains in a latent.

Every quantity is per row: each row of a batch is a chain of its own, with its own step size and its own decisions. A sample
is the end of its chain, so that samples are independent and `steps` is the burn-in.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Prior, needs_levels
from invgen.forward import LinearOperator, per_sample
from invgen.linalg import dot, norm
from invgen.noise import Gaussian
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.pushforward import Flow, Generator, StandardNormal
from invgen.sampler import Sampler
from invgen.validation.hints import Count

Score = Callable[[Tensor], Tensor]

# -- unadjusted kernels ------------------------------------------------------------------------------------------------


def langevin(x: Tensor, score: Score, h: float | Tensor, iterations: int, randn: Streams) -> Tensor:
    """Returns unadjusted Langevin steps x <- x + h score(x) + sqrt(2 h) z on a log-density with gradient `score`.

    On a Gaussian of precision q the stationary variance is 1 / (q (1 - h q / 2)), stable for h q < 2.

    Args:
        x: the state, (B, *shape).
        score: the gradient of the log-density.
        h: the step size, a number or (B, 1, ..., 1).
        iterations: the number of steps.
        randn: the source of noise.
    """
    if not isinstance(h, Tensor):
        for _ in range(iterations):
            x = torch.add(x, score(x), alpha=h).add_(randn(x), alpha=math.sqrt(2 * h))
        return x
    root = h.mul(2).sqrt()
    for _ in range(iterations):
        x = torch.addcmul(x, h, score(x)).addcmul_(root, randn(x))
    return x


def langevin_around(x: Tensor, var_x: float, score: Score, h: Tensor, iterations: int, randn: Streams) -> Tensor:
    """Returns `langevin` steps from x on N(u; x, var_x I) times a density with gradient `score`.

    Args:
        x: the state and the mean, (B, *shape).
        var_x: the variance.
        score: the gradient of the other log-density.
        h: the step size, (B, 1, ..., 1).
        iterations: the number of steps.
        randn: the source of noise.
    """
    root, pull, u = h.mul(2).sqrt(), h / var_x, x
    for _ in range(iterations):
        # u + h (score(u) + (x - u) / var_x): a step is four operations beside the score
        u = torch.lerp(u, x, pull).addcmul_(h, score(u)).addcmul_(root, randn(x))
    return u


def data_score(post: Posterior) -> Score:
    """Returns `post.likelihood_score` for many calls: what all have in common is computed once.

    That is y / variance for linear operators and Gaussian noise of one level; values differ in the last digit.
    """
    A, noise = post.A, post.noise
    if type(noise) is not Gaussian or not isinstance(A, LinearOperator) or isinstance(noise.sigma, Tensor):
        return post.likelihood_score
    precision = 1 / noise.sigma**2
    whitened = precision * post.y
    return lambda u: A.adjoint(torch.sub(whitened, A(u), alpha=precision))


def skrock(x: Tensor, score: Score, h: float | Tensor, stages: int, randn: Streams, eta: float = 0.05) -> Tensor:
    """Returns one step of SK-ROCK, a Runge-Kutta-Chebyshev scheme of `stages` evaluations of `score` (Abdulle,
    Almuslimani &
    Vilmart, 2018). Stable while h times the largest precision is below `skrock_stability`.

    Args:
        x: the state, (B, *shape).
        score: the gradient of the log-density.
        h: the step size, a number or (B, 1, ..., 1).
        stages: evaluations of the score.
        randn: the source of noise.
        eta: the damping.
    """
    w0 = 1 + eta / stages**2
    T = [1.0, w0]
    dT = [0.0, 1.0]
    for _ in range(2, stages + 1):
        T.append(2 * w0 * T[-1] - T[-2])
        dT.append(2 * T[-2] + 2 * w0 * dT[-1] - dT[-2])
    w1 = T[stages] / dT[stages]
    noise = (h.mul(2).sqrt() if isinstance(h, Tensor) else math.sqrt(2 * h)) * randn(x)
    before, now = x, x + w1 / w0 * h * score(x + 0.5 * stages * w1 * noise) + stages * w1 / w0 * noise
    for j in range(2, stages + 1):
        mu, nu = 2 * w1 * T[j - 1] / T[j], 2 * w0 * T[j - 1] / T[j]
        before, now = now, mu * h * score(now) + nu * now + (1 - nu) * before
    return now


def skrock_stability(stages: int, eta: float = 0.05) -> float:
    """Returns the largest stable product of step and precision of `skrock`; 2 for Langevin steps."""
    return (stages - 0.5) ** 2 * (2 - 4 / 3 * eta) - 1.5


# -- step sizes --------------------------------------------------------------------------------------------------------


def curvature(post: Posterior, x: Tensor, distance: float) -> Tensor:
    """Returns the curvature of -log p(y | u) around u = x along the direction of the gradient, (B, 1, ..., 1).

    |J v|^2 / noise variance, with products J v by finite differences: exact for a linear operator. For another it is the
    larger of the slope at x and the slope over the distance `distance`, because an operator that is flat at x (a square at
    zero) may be steep where the steps lead.
    """
    v = post.likelihood_score(x)
    v = v / norm(v).clamp(min=1e-30)
    clean = post.A(x)
    std = post.noise.std(clean)
    near, far = (norm((post.A(x + h * v) - clean) / std).flatten() / h for h in (1e-2 * distance, distance))
    return per_sample(torch.maximum(near, far) ** 2, x)


def largest_curvature(post: Posterior, x: Tensor, distance: float) -> Tensor:
    """Returns the largest curvature of -log p(y | u), (B, 1, ..., 1): a bound for linear-Gaussian problems, else an
    estimate.

    The estimate is the larger of `curvature` and of three power iterations on the Hessian, which is applied by differences
    of the gradient. They start from the gradient and from x: the gradient alone misses a stiff direction along which
    the data are already fitted.
    """
    if not isinstance(post.A, LinearOperator) or not isinstance(post.noise, Gaussian):
        largest, gradient = curvature(post, x, distance), post.likelihood_score(x)
        v, h = gradient / norm(gradient).clamp(min=1e-30) + x / norm(x).clamp(min=1e-30), 1e-2 * distance
        v = v / norm(v).clamp(min=1e-30)
        for _ in range(3):
            product = (gradient - post.likelihood_score(x + h * v)) / h
            size = norm(product)
            largest, v = torch.maximum(largest, size), product / size.clamp(min=1e-30)
        return largest
    std = torch.as_tensor(post.noise.least_std, dtype=x.dtype, device=x.device).expand(post.y.shape).flatten(1).amin(1)
    return per_sample((post.A.norm() / std) ** 2, x)


def local_step(post: Posterior, x: Tensor, var_x: float) -> Tensor:
    """Returns a stable Langevin step for N(u; x, var_x I) p(y | u) around u = x, per sample, (B, 1, ..., 1).

    0.1 of the inverse curvature, which keeps the discretisation bias of the stationary variance below about 5 per cent.
    """
    return 0.1 / (1 / var_x + curvature(post, x, math.sqrt(var_x)))


def proximal_draw(post: Posterior, x: Tensor, var_x: float, iterations: int, randn: Streams) -> Tensor:
    """Returns a draw of N(u; x, var_x I) p(y | u), (B, *shape): exact for linear operators and Gaussian noise, else by
    `iterations` Langevin steps from x."""
    if isinstance(post.A, LinearOperator) and isinstance(post.noise, Gaussian):
        return post.draw(x, var_x, randn)
    return langevin_around(x, var_x, data_score(post), local_step(post, x, var_x), iterations, randn)


class DualAveraging:
    """A step size for each row that brings the probability of acceptance to a target, then stays.

    Nesterov's dual averaging as Hoffman & Gelman use it ("The No-U-Turn Sampler", JMLR 2014, Section 3.2, with their
    gamma = 0.05, t_0 = 10, kappa = 0.75), pulled to the first step size and not to ten times it.

    Args:
        first: the first step size, (B, 1, ..., 1).
        target: probability of acceptance.
        steps: how many updates count; afterwards the kernel is fixed, as an invariant law demands.
        largest: a bound on the step size.
    """

    def __init__(self, first: Tensor, target: float, steps: int, largest: float = math.inf) -> None:
        self.value, self._centre = first.clamp(max=largest), first.log()
        self._target, self._steps, self._largest = target, steps, largest
        self._sum, self._mean, self._count = torch.zeros_like(first), self._centre, 0

    def update(self, probability: Tensor) -> None:
        """Takes in the probability with which each row accepted, (B, 1, ..., 1)."""
        if self._count >= self._steps:
            return
        self._count = k = self._count + 1
        self._sum = self._sum + self._target - probability
        log = (self._centre - math.sqrt(k) / (0.05 * (k + 10)) * self._sum).clamp(max=math.log(self._largest))
        self._mean = self._mean + k**-0.75 * (log - self._mean)
        self.value = (self._mean if k == self._steps else log).exp()


# -- accept or reject --------------------------------------------------------------------------------------------------


def metropolis(log_ratio: Tensor, randn: Streams) -> tuple[Tensor, Tensor]:
    """Which rows accept (bool), and their probability of doing so, (B, 1, ..., 1), for log-ratios of that shape.

    A proposal without a density (infinite or undefined) is rejected.
    """
    probability = torch.nan_to_num(log_ratio, nan=-math.inf).clamp(max=0).exp()
    return randn.uniform(log_ratio) < probability, probability


def choose(accepted: Tensor, new: tuple[Tensor, ...], old: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Row by row the new tensors where accepted, else the old ones."""
    return tuple(torch.where(per_sample(accepted.flatten(), a), a, b) for a, b in zip(new, old, strict=True))


def log_prior_change(prior: Denoiser, sigma: float, x: Tensor, new: Tensor, scores: tuple[Tensor, Tensor]) -> Tensor:
    """Returns log p_sigma(new) - log p_sigma(x) of a prior, (B, 1, ..., 1), given the scores at both, for the level sigma.

    From the density where the prior has one; else the integral of the score along the line between them by Simpson's rule,
    with one evaluation at the middle. The rule is exact for Gaussians, elsewhere its error is of fifth order in the length
    of the proposal; a network's score is only about a gradient, and a chain that uses it only about reversible.
    """
    if prior.has_density:
        return per_sample(prior.log_prob(new, sigma) - prior.log_prob(x, sigma), x)
    middle = prior.score(0.5 * (x + new), sigma)
    return dot(new - x, scores[0] + 4 * middle + scores[1]) / 6


# -- chains in a latent ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LatentChain(Sampler):
    """The base of chains over the latent z of x = g(z), z standard normal: p(z | y) ~ N(z; 0, I) p(y | A(g(z))).

    A diffusion prior is read as `Flow(prior, ode_steps)`, the map from noise to signal along the probability-flow ODE, so
    that the chain samples its posterior up to the discretisation of the ODE. A subclass writes `chain`.

    Args:
        ode_steps: of the midpoint rule, two network evaluations each, in each decoding, where the prior is a Denoiser.
    """

    schedule: str | Sequence[float] = "flow"
    ode_steps: Count = 5

    prior: ClassVar[type] = Generator
    family: ClassVar[str] = "mcmc"
    exact: ClassVar[str] = "as steps (and the ODE's) grow"

    def lifted(self, post: Posterior) -> Posterior[Any]:
        """Returns the problem with a Generator for its prior."""
        if not isinstance(post.prior, Denoiser):
            return post
        return replace(post, prior=Flow(post.prior, self.ode_steps, self.schedule, method="midpoint"))

    def refuses(self, post: Posterior) -> str | None:
        if isinstance(post.prior, Denoiser) and post.prior.one_level:
            return needs_levels(post.prior)
        post = self.lifted(post)
        why = super().refuses(post)
        if why is None and not isinstance(post.prior.latent, StandardNormal):
            why = f"needs a standard normal latent, got {type(post.prior.latent).__name__}"
        return why

    def levels(self, prior: Prior) -> list[tuple[float, float]]:
        """Returns None: a chain over z has no noise levels."""
        return []

    def start(self, post: Posterior, randn: Streams, rows: int) -> Tensor:
        return super().start(self.lifted(post), randn, rows)

    def chain(self, post: Posterior[Generator], z: Tensor, randn: Streams) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the algorithm: codes z, (B, *latent_shape), and their signals, (B, *shape), after each step."""
        raise TypeError(f"{type(self).__name__} must define chain(self, post, z, randn)")

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        # the states are codes where the prior is a Generator, signals where it is a Denoiser
        state = int(isinstance(post.prior, Denoiser))
        for both in self.chain(self.lifted(post), x, randn):
            yield both[state]


def decode(post: Posterior[Generator], z: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the signal of a latent code and its log-likelihood, (B, *shape) and (B, 1, ..., 1) in the rank of z."""
    x = post.prior(z)
    return x, per_sample(post.log_likelihood(x), z)


def decode_with_gradient(post: Posterior[Generator], z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns `decode`, and the gradient of the log-posterior log N(z; 0, I) + log p(y | g(z)), (B, *latent_shape)."""
    with differentiating():
        z = leaf(z)
        x, log = decode(post, z)
        (gradient,) = torch.autograd.grad(log.sum(), z)
    return x.detach(), log.detach(), gradient - z.detach()
