"""A problem with few measured values, made linear and Gaussian around a point: dense algebra among those values."""

import math

import torch
from torch import Tensor

from invgen.posterior import Posterior
from invgen.random import Streams


def _flat(y: Tensor) -> Tensor:
    """Measured values as real numbers, (B, m)."""
    return (torch.view_as_real(y) if y.is_complex() else y).flatten(1)


class Linearised:
    """y = A(x0) + J (u - x0) + noise of the standard deviation at A(x0), for u near x0: exact if linear and Gaussian.

    Attributes:
        rows: J as signals, (B, m, *shape), with m the number of (real) measured values; one product with J^T each.
        residual, std: of the measured values, (B, m).
    """

    def __init__(self, post: Posterior, x0: Tensor) -> None:
        with torch.enable_grad():
            u = x0.detach().requires_grad_()
            outputs = post.A(u)
            flat = _flat(outputs)
            pulls = [torch.autograd.grad(value.sum(), u, retain_graph=True)[0] for value in flat.unbind(1)]
        self.post, self.x0, self.rows = post, x0, torch.stack(pulls, 1)
        clean = outputs.detach()
        std = torch.as_tensor(post.noise.std(clean), dtype=flat.dtype, device=x0.device).expand(clean.shape)
        self.residual = _flat(post.y - clean)
        self.std = (std[..., None].expand(*std.shape, 2) if clean.is_complex() else std).flatten(1)

    def gaussian(self, spread: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """log N(residual; 0, S), (B,), and S^-1 residual, (B, m), for S = noise variance + spread, (B, m, m).

        The spread is made symmetric and positive: the Jacobian of a network is neither quite.
        """
        residual = self.residual if residual is None else residual
        r, std = (residual / self.std).double(), self.std.double()
        K = spread.double() / (std[:, :, None] * std[:, None])
        # eigh refuses what is not finite; the states of such rows are not either, and the sampler says so
        K = torch.where(K.isfinite().flatten(1).all(1)[:, None, None], K, 0)
        l, Q = torch.linalg.eigh((K + K.mT) / 2)
        total = 1 + l.clamp(min=0)
        c = torch.einsum("bij,bi->bj", Q, r)
        log = -0.5 * (c**2 / total + total.log()).sum(1) - std.log().sum(1) - 0.5 * r.shape[1] * math.log(2 * math.pi)
        u = torch.einsum("bij,bj->bi", Q, c / total) / std
        return log, u.to(residual.dtype)

    def draw(self, var: float, randn: Streams) -> tuple[Tensor, Tensor]:
        """u from N(u; x0, var) p(y | u), and log N(u; x0, var) - log q(u) for the law q that it was drawn from, (B,).

        Where the problem is not linear and Gaussian, q is the law of the linearised one. Perturb and solve, see
        `Posterior.draw`.
        """
        start = var**0.5 * randn(self.x0)
        data = self.residual + self.std * randn(self.residual)
        flat = self.rows.flatten(2)
        spread = var * flat @ flat.mT
        log_y, _ = self.gaussian(spread)
        _, gain = self.gaussian(spread, data - torch.einsum("bin,bn->bi", flat, start.flatten(1)))
        step = start + var * torch.einsum("bi,bi...->b...", gain, self.rows)
        # Bayes' rule for the linearised problem: N(u) / q(u) = p(y) / p(y | u)
        left = (self.residual - torch.einsum("bin,bn->bi", flat, step.flatten(1))) / self.std
        log_likelihood = -0.5 * left.double().square().sum(1) - self.std.double().log().sum(1)
        return self.x0 + step, log_y - log_likelihood + 0.5 * left.shape[1] * math.log(2 * math.pi)
