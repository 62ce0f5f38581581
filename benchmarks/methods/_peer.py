"""The base of samplers of other packages: one call for a batch, torch's generator seeded for it, its cost counted."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.cost import charged
from invgen.diffusion import Denoiser
from invgen.forward import Operator
from invgen.method import Method, Run
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.trust import warn_untrusted

Guided = Posterior[Denoiser, Operator, Gaussian]  # for type hints


@dataclass(frozen=True)
class Peer(Method):
    """A sampler of another package. A subclass writes `draw`."""

    kind: ClassVar[str] = "peer"
    family: ClassVar[str] = "guided"
    prior: ClassVar[type] = Denoiser
    noise: ClassVar[type] = Gaussian
    one_level: ClassVar[bool] = True
    many_levels: ClassVar[bool] = True
    alone: ClassVar[bool] = False  # whether their formula holds for one signal at a time only

    @abstractmethod
    def draw(self, post: Guided) -> Tensor:
        """Returns a sample, (B, *shape), for each measurement post.y, (B, *out_shape), by torch's global random state."""

    def solve(self, post: Guided, num_samples: int, seed: int | Tensor, run: Run) -> Tensor:
        """Returns samples, (num_samples, *batch, *shape), with one seed for all: what each draws depends on its batch."""
        batch, device = math.prod(post.batch), post.prior.device
        rows = torch.arange(num_samples * batch)
        x = torch.empty(len(rows), *post.prior.shape, dtype=post.prior.dtype, device=device)
        warn_untrusted(post.prior)
        with torch.no_grad(), charged(run.cost, post.prior, post.A, len(rows)):
            for part in rows.split(1 if self.alone else run.max_batch or max(len(rows), 1)):
                index = torch.stack([part // batch, part % batch], 1)
                uniform = Streams(seed, index).uniform(torch.empty(len(part), 1, dtype=torch.float64, device=device))
                with torch.random.fork_rng([device] if device.type == "cuda" else []):
                    torch.manual_seed(int(uniform[0].item() * 2**31))
                    x[part] = self.draw(post.rows(index[:, 1])).to(x.dtype)
                self.check_samples(post.prior, x[part])
        return x.reshape(num_samples, *post.batch, *post.prior.shape)


class Clamped(Denoiser):
    """A prior that takes levels outside its range for its ends: their schedules end at zero."""

    def __init__(self, prior: Denoiser) -> None:
        names = ("sigma_min", "sigma_max", "value_range", "data_mean", "data_std")
        super().__init__(prior.shape, **{name: getattr(prior, name) for name in names})
        self.prior = prior

    @property
    def dtype(self) -> torch.dtype:
        return self.prior.dtype

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        return self.prior(x, level.clamp(self.sigma_min, self.sigma_max).expand(len(x)))
