"""Zhang, Yu, Zhu, Chang, Gao, Wu & Leong, "Flow priors for linear inverse problems via iterative corrupted trajectory
matching" (NeurIPS 2024), Algorithm 1."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.forward import LinearOperator
from invgen.linalg import dot
from invgen.noise import Gaussian
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.optimise import Adam
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian, Posterior
from invgen.sampler import Sampler
from invgen.validation.hints import Count, Positive

Descent = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FlowPriors(Sampler):
    """Iterated MAP along the flow: at each time match a corrupted measurement and raise the density, then step the ODE.

    In the path of flow matching, u_t = t u_1 + (1 - t) u_0 for signals u_1 = (x - data_mean) / data_std and noise u_0, the
    state moves against the gradient of -log p(u_t) + dt tr dv/du - log N(y_t; A u_(t + dt), ((t + dt) sigma_y)^2 I) with
    y_t = (t + dt) y + (1 - t - dt) A u_0, its trace by Hutchinson's probe. Linear operators, Gaussian noise. A point
    estimate for each random start, pulled towards the mode.

    Adam is made anew at each time, so that with one iteration it moves each value by lr against the sign of its gradient.
    The paper's weight of the data is 100 to 10000, which stands here for 1 / (2 (t + dt)^2 sigma_y^2), the value that its
    code takes for lambda = 0, at sigma_y = 0.01. `DampedFlowPriors` matches the data at any noise level, in any units.

    Args:
        steps: times, uniform from that of the prior's sigma_max to 1.
        iterations: at each time.
        lr: of Adam, in units of data_std.
    """

    iterations: Count = 1
    lr: Positive = 0.01

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    family: ClassVar[str] = "variational"
    backprop: ClassVar[bool] = True

    def levels(self, prior: Denoiser) -> list[tuple[float, float]]:
        """Returns the noise level data_std (1 - t) / t of each time and of the next."""
        first = 1 / (1 + prior.sigma_max / prior.data_std)
        t = [first + (1 - first) * k / self.steps for k in range(self.steps + 1)]
        sigma = [prior.data_std * (1 - u) / u for u in t[:-1]] + [0.0]
        return list(zip(sigma[:-1], sigma[1:], strict=True))

    def start(self, post: Posterior, randn: Streams, rows: int) -> Tensor:
        return randn(torch.empty(rows, *post.prior.shape, dtype=post.prior.dtype, device=post.prior.device))

    def run(self, post: LinearGaussian, u: Tensor, randn: Streams) -> Iterator[Tensor]:
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

            var = t_next**2 * var_y
            descend = self.descent(post.A, t, dt, var)
            for _ in range(self.iterations):
                with differentiating():
                    u = leaf(u)
                    v = velocity(u)
                    r = t_next * goal + (1 - t_next) * noise - A(u + dt * v)
                    probe = randn(u).sign()
                    (turned,) = torch.autograd.grad(dot(v, probe).sum(), u, create_graph=True)
                    trace = torch.zeros_like(v)
                    data = self.slope(post.A, u, r, var, t / t_next)
                    if turned.requires_grad:  # not where the velocity is linear
                        (trace,) = torch.autograd.grad(dt * dot(turned, probe).sum(), u)
                density = (u.detach() - t * v.detach()) / (1 - t) + trace  # the first is -grad log p(u_t)
                u = descend(u.detach(), data, density)
            u = u + dt * velocity(u)
            yield mean + std * u / t_next

    def slope(self, A: LinearOperator, u: Tensor, r: Tensor, var: Tensor | float, ratio: float) -> Tensor:
        """Returns the gradient of the data term |r|^2 / (2 var) at u, (B, *shape); ratio is t / (t + dt)."""
        (data,) = torch.autograd.grad(0.5 * dot(r, r / var).sum(), u, retain_graph=True)
        return data

    def descent(self, A: LinearOperator, t: float, dt: float, var: Tensor | float) -> Descent:
        """Returns the step at time t, (u, gradient of the data, gradient of the prior) -> the next u; var is not used."""
        adam = Adam(self.lr)
        return lambda u, data, density: adam.step(u, data + density)
