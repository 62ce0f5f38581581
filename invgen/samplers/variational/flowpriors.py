"""Zhang, Yu, Zhu, Chang, Gao, Wu & Leong, "Flow priors for linear inverse problems via iterative corrupted trajectory
matching" (NeurIPS 2024), Algorithm 1."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.forward import LinearOperator
from invgen.linalg import dot
from invgen.noise import Gaussian
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.optimise import Adam
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.sampler import Sampler
from invgen.validation.hints import Count, NonNegative, Positive


@dataclass(frozen=True)
class FlowPriors(Sampler):
    """Iterated MAP along the flow: at each time match a corrupted measurement and raise the density, then step the ODE.

    In the path of flow matching, u_t = t u_1 + (1 - t) u_0 for signals u_1 = (x - data_mean) / data_std and noise u_0, the
    state moves against the gradient of -log p(u_t) + dt tr dv/du - log N(y_t; A u_(t + dt), ((t + dt) sigma_y)^2 I) with
    y_t = (t + dt) y + (1 - t - dt) A u_0, its trace by Hutchinson's probe. Linear operators, Gaussian noise. A point
    estimate for each random start, pulled towards the mode.

    lr=None scales the gradient by the inverse of the data's curvature plus 1 / (1 - t)^2, which bounds the prior's, so that
    the data are matched at any noise level and in any units; the data's gradient is taken with respect to u_(t + dt), and
    the prior's part is followed `rate` times per unit of t. The paper's form takes Adam, made anew at each time, so that
    with one iteration it moves each value by lr against the sign of its gradient; its weight of the data is 100 to 10000,
    which stands here for 1 / (2 (t + dt)^2 sigma_y^2), the value that its code takes for lambda = 0, at sigma_y = 0.01.

    Args:
        steps: times, uniform from that of the prior's sigma_max to 1 (100).
        iterations: at each time (1).
        rate: of the prior's gradient; does not depend on the steps.
        lr: of Adam (0.01), in units of data_std; None for the scaled gradient.
    """

    iterations: Count = 1
    rate: NonNegative = 10.0
    lr: Positive | None = None

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    family: ClassVar[str] = "variational"
    backprop: ClassVar[bool] = True

    @classmethod
    def paper(cls) -> "FlowPriors":
        """Adam's steps of 0.01, one at each of 100 times."""
        return cls(lr=0.01)

    def levels(self, prior: object) -> list[tuple[float, float]]:
        """The noise level data_std (1 - t) / t of each time and of the next."""
        first = 1 / (1 + prior.sigma_max / prior.data_std)
        t = [first + (1 - first) * k / self.steps for k in range(self.steps + 1)]
        sigma = [prior.data_std * (1 - u) / u for u in t[:-1]] + [0.0]
        return list(zip(sigma[:-1], sigma[1:], strict=True))

    def start(self, post: Posterior, randn: Streams, rows: int) -> Tensor:
        return randn(torch.empty(rows, *post.prior.shape, dtype=post.prior.dtype, device=post.prior.device))

    def run(self, post: Posterior, u: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, A, std = post.prior, post.A, post.prior.data_std
        mean = torch.full_like(u, prior.data_mean)
        goal, noise = post.residual(mean) / std, A(u)  # y and A u_0 for u = (x - mean) / std
        var_y = post.noise.var / std**2
        if isinstance(var_y, Tensor):
            var_y = var_y[(None,) * (goal.ndim - var_y.ndim)]  # per detector, not per sample
        for s, s_next in self.levels(prior):
            t, t_next = std / (std + s), std / (std + s_next)
            dt = t_next - t

            def velocity(u: Tensor, s: float = s, t: float = t) -> Tensor:
                return ((prior(mean + std * u / t, s) - mean) / std - u) / (1 - t)

            adam = None if self.lr is None else Adam(self.lr)
            for _ in range(self.iterations):
                with differentiating():
                    u = leaf(u)
                    v = velocity(u)
                    r = t_next * goal + (1 - t_next) * noise - A(u + dt * v)
                    probe = randn(u).sign()
                    (turned,) = torch.autograd.grad(dot(v, probe).sum(), u, create_graph=True)
                    trace = torch.zeros_like(v)
                    if adam is not None:
                        misfit = 0.5 * dot(r, r / (t_next**2 * var_y)).sum()
                        (data,) = torch.autograd.grad(misfit, u, retain_graph=True)
                    if turned.requires_grad:  # not where the velocity is linear
                        (trace,) = torch.autograd.grad(dt * dot(turned, probe).sum(), u)
                density = (u.detach() - t * v.detach()) / (1 - t) + trace  # the first is -grad log p(u_t)
                if adam is not None:
                    u = adam.step(u.detach(), data + density)
                    continue
                # without the Jacobian of u_(t + dt), which is at most (t + dt) / t: what it turns out of the range of A^T
                # is not in the curvature that scales the step
                data = t / t_next * A.adjoint(-r.detach() / (t_next**2 * var_y))
                grad = data + -math.expm1(-self.rate * dt / self.iterations) * density
                # (A^T A / var + I / width)^-1 grad, by the identity of Woodbury
                width = (1 - t) ** 2
                u = u.detach() - width * (grad - width * A.pull(A(grad), width, t_next**2 * var_y))
            u = u + dt * velocity(u)
            yield mean + std * u / t_next
