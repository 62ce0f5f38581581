"""Ben-Hamu, Puny, Gat, Karrer, Singer & Lipman, "D-Flow: differentiating through flows for controlled generation"
(ICML 2024), Algorithm 1 and Section 4."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.forward import LinearOperator
from invgen.numerics.optimise import minimise
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.pushforward import Flow
from invgen.sampler import Sampler
from invgen.validation.hints import Count, NonNegative, Positive, Range


@dataclass(frozen=True)
class DFlow(Sampler):
    """Optimise the source point of the flow by L-BFGS through its ODE, with the norm of the point kept likely.

    Minimises -log p(y | x(z)) - lam log p(|z|), the density of the norm of a standard normal z. Any differentiable
    operator, any noise with a density. A point estimate for each random start. One solution of the ODE and its gradient a
    step, for each row, and one more; the paper's line search (strong Wolfe) takes one to 20 in each of its iterations.

    Args:
        steps: evaluations (the public replication's 20 times 20 iterations are at least 400).
        ode_steps: of the midpoint rule in the time of flow matching, two network evaluations each (6).
        lam: weight of the norm's density. The replication's 1e-2 to 1e-3 times the squared residual is
            lam / (2 sigma_y^2), 0.2 to 2 at sigma_y = 0.05.
        blend: the start is sqrt(blend) z_y + sqrt(1 - blend) z, z_y the source of A^T y under the reversed flow (0.1);
            nonlinear operators start from z.
        lr: of Adam instead of L-BFGS.
    """

    steps: Count = 50
    schedule: str | Sequence[float] = "flow"
    ode_steps: Count = 6
    lam: NonNegative = 1.0
    blend: Annotated[float, Range(0, 1, below=True)] = 0.1
    lr: Positive | None = None

    family: ClassVar[str] = "variational"
    backprop: ClassVar[bool] = True

    def start(self, post: Posterior, randn: Streams, rows: int) -> Tensor:
        return randn(torch.empty(rows, *post.prior.shape, dtype=post.prior.dtype, device=post.prior.device))

    def run(self, post: Posterior[Denoiser], z: Tensor, randn: Streams) -> Iterator[Tensor]:
        flow = Flow(post.prior, self.ode_steps, self.schedule, method="midpoint")
        if self.blend > 0 and isinstance(post.A, LinearOperator):
            mean = torch.full_like(z, post.prior.data_mean)
            back = mean + post.A.adjoint(post.residual(mean)) / post.A.norm() ** 2
            z = math.sqrt(self.blend) * flow.encode(back) + math.sqrt(1 - self.blend) * z
        n = z[0].numel() if len(z) else 1

        def loss(z: Tensor) -> tuple[Tensor, Tensor]:
            x, square = flow(z), z.square().flatten(1).sum(1)
            norm = 0.5 * square - 0.5 * (n - 1) * square.log()
            return -post.log_likelihood(x) + self.lam * norm, x

        for _, _, x in minimise(loss, z, self.steps, self.lr):
            yield x
