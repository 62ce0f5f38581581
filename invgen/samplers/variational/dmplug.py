"""Wang, Zhang, Li, Wan, Chen & Sun, "DMPlug: a plug-in method for solving inverse problems with diffusion models"
(NeurIPS 2024), Section 3.1."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.numerics.optimise import minimise, noise_floor
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.pushforward import Flow
from invgen.sampler import Sampler
from invgen.validation.hints import Count, NonNegative, Positive


@dataclass(frozen=True)
class DMPlug(Sampler):
    """Search the noise from which a few DDIM steps lead to a signal that explains the measurement.

    Any differentiable operator, any noise with a density. No term keeps z near the prior: what regularises is the map, and
    stopping at the noise level (the paper stops where its iterates have stopped to vary). A point estimate for each random
    start: samples differ in what the data do not determine, by the law of the few-step map, not of the prior. The released
    code reports the iterate with the highest PSNR against the truth; here the last one stands.

    Args:
        steps: evaluations of the map and its gradient, one more in all.
        ode_steps: DDIM steps of the map (3).
        lr: of Adam (0.01, 5000 steps; 10000 for nonlinear operators); None for L-BFGS.
        stop: a row stays where its residual has come down to `stop` times the noise; 0 for never.
    """

    steps: Count = 50
    schedule: str | Sequence[float] = "flow"
    ode_steps: Count = 3
    lr: Positive | None = None
    stop: NonNegative = 1.0

    family: ClassVar[str] = "variational"
    backprop: ClassVar[bool] = True

    @classmethod
    def paper(cls, task: str = "linear") -> "DMPlug":
        """Returns the published optimiser and its steps, task "linear" or "nonlinear", and the levels of its 3 DDIM steps.

        They are those of DDPM's linear schedule at times 666, 333 and 0 of 1000, for data in [-1, 1].
        """
        return cls(steps=10_000 if task == "nonlinear" else 5000, schedule=(9.26, 1.44, 0.01), lr=0.01, stop=0.0)

    def start(self, post: Posterior, randn: Streams, rows: int) -> Tensor:
        return randn(torch.empty(rows, *post.prior.shape, dtype=post.prior.dtype, device=post.prior.device))

    def run(self, post: Posterior[Denoiser], z: Tensor, randn: Streams) -> Iterator[Tensor]:
        flow = Flow(post.prior, self.ode_steps, self.schedule)

        def loss(z: Tensor) -> tuple[Tensor, Tensor]:
            x = flow(z)
            return -post.log_likelihood(x), x

        floor = noise_floor(post, self.stop) if self.stop > 0 else None
        for _, _, x in minimise(loss, z, self.steps, self.lr, floor):
            yield x
