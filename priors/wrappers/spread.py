"""A denoiser on the workers of a Dask cluster."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from invgen.conditional import DenoiserOf
from invgen.diffusion import Denoiser, Sigma
from invgen.validation.hints import Count

if TYPE_CHECKING:
    from distributed import Client


class Spread(DenoiserOf):
    """`prior`, whose rows the workers of a Dask cluster denoise, some at a time: slices of a volume, several samples.

        slices = priors.Slices(priors.Spread(prior, client), count=64, max_batch=None)

    The rows are divided as one machine does that has this `max_batch`, so that workers of its kind give the same samples.
    For a gradient a worker evaluates its rows anew.

    Args:
        prior: the denoiser, which is sent to each worker once.
        client: of the cluster, a `distributed.Client`.
        max_batch: rows of one task.
    """

    def __init__(self, prior: Denoiser, client: "Client", *, max_batch: Count = 16) -> None:
        super().__init__(prior)
        del self.prior  # its network is not this process's: rows are counted here
        self._local = (prior,)
        self.client: Any = client  # whose methods return values or coroutines, which type checkers cannot tell apart
        self.max_batch = max_batch
        self.there: Any = client.scatter(prior, broadcast=True, hash=False)
        self.mmse = prior.mmse

    @property
    def dtype(self) -> torch.dtype:
        return self._local[0].dtype

    def variance(self, sigma: float) -> float:
        return self._local[0].variance(sigma)

    def start(self, z: Tensor, sigma: float) -> Tensor:
        return self._local[0].start(z, sigma)

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        level = sigma if isinstance(sigma, Tensor) and sigma.ndim else torch.as_tensor(float(sigma), dtype=torch.float64)
        return Remote.apply(x, level, self)

    def each(self, function: Any, level: Tensor, *rows: Tensor) -> Tensor:
        """Returns function(prior, level, *rows) of the workers, for parts of the rows, one after the other.

        Args:
            function: of the prior, the level and rows.
            level: a number, or one for each row.
            rows: tensors of as many rows.
        """
        parts = list(zip(*(t.detach().cpu().split(self.max_batch) for t in rows), strict=True))
        each = level.detach().cpu().expand(len(rows[0])).split(self.max_batch) if level.ndim else [level] * len(parts)
        work = zip(each, parts, strict=True)
        done = self.client.gather([self.client.submit(function, self.there, s, *part, pure=False) for s, part in work])
        return torch.cat(done).to(rows[0]) if done else torch.empty_like(rows[0])


class Remote(torch.autograd.Function):
    """D(x, sigma) of a `Spread`, and its vector-Jacobian products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, level: Tensor, spread: Spread) -> Tensor:
        ctx.spread = spread
        ctx.save_for_backward(x, level)
        return spread.each(denoised, level, x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, level = ctx.saved_tensors
        return ctx.spread.each(pulled, level, x, grads[0]), None, None


def denoised(prior: Denoiser, level: Tensor, x: Tensor) -> Tensor:
    """Returns D of rows, on a worker."""
    with torch.no_grad():
        return prior(x, level if level.ndim else level.item())


def pulled(prior: Denoiser, level: Tensor, x: Tensor, v: Tensor) -> Tensor:
    """Returns v times the Jacobian of D at rows, on a worker.

    Args:
        prior: the denoiser.
        level: a number, or one for each row.
        x, v: the rows, and a vector for each.
    """
    with torch.enable_grad():
        x = x.requires_grad_()
        return torch.autograd.grad(prior(x, level if level.ndim else level.item()), x, v)[0]
