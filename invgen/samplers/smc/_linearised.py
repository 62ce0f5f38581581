"""A problem made linear and Gaussian around a point, with dense algebra among few measured values; and the
effect of its operator beyond that, over a finite width."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from invgen.forward import Operator
from invgen.linalg import dot
from invgen.noise import Energy
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.random import Streams
from invgen.posterior import Posterior


def _flat(y: Tensor) -> Tensor:
    """Returns measured values as real numbers, (B, m)."""
    return (torch.view_as_real(y) if y.is_complex() else y).flatten(1)


def unnormalised(post: Posterior, x0: Tensor) -> Tensor:
    """Returns log p(y | x0) without its normalisation, (B,), which tempered would be a weight of its own."""
    if isinstance(post.noise, Energy):
        return post.log_likelihood(x0)
    clean = post.A(x0)
    r = (post.y - clean) / post.noise.std(clean)
    return -0.5 * dot(r, r).flatten()


def deviations(x0: Tensor, vjp: Callable[[Tensor], Tensor], s: float, directions: int = 4) -> tuple[Tensor, float]:
    """Returns a cubature of u ~ N(x0, s^2 dD/dx): moves from x0, both ways, (K, B, *shape), and their weight.

    A spherical-radial rule, in n = 1 that of Gauss and Hermite with three points: |z|^2 = n + 2 along fixed orthogonal
    directions, the same for all rows and levels, so that the result is smooth in both. M z for M = dD/dx, brought to the
    length that M^(1/2) z has, has the law wanted where the spectrum of M is flat or of zeros and ones.

    Args:
        x0: D(x, s), (B, *shape).
        vjp: products with dD/dx, of `Denoiser.vjp`.
        s: the noise level.
        directions: of the rule, at most n.
    """
    n = x0[0].numel()
    generator = torch.Generator().manual_seed(0)
    z = torch.linalg.qr(torch.randn(n, min(n, directions), generator=generator, dtype=torch.float64))[0].T
    moves = []
    for unit in z.to(x0):
        row = math.sqrt(n + 2) * unit.reshape(1, *x0.shape[1:]).expand_as(x0)
        image = vjp(row)
        length = (dot(row, image).clamp(min=0) / dot(image, image).clamp(min=1e-30)).sqrt()
        moves.append(s * length * image)
    return torch.stack(moves), n / (n + 2)


def changes(A: Operator, x0: Tensor, clean: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the even and the odd part, in the move, of A(x0 + move) - A(x0), (K, B, *out_shape) each.

    Args:
        clean: A(x0); moves: (K, B, *shape).
    """
    ahead, back = (torch.stack([A(x0 + sign * move) for move in moves]) for sign in (1, -1))
    return (ahead + back) / 2 - clean, (ahead - back) / 2


def centred(post: Posterior, x0: Tensor, moves: Tensor, weight: float) -> tuple[Posterior, Tensor, Tensor]:
    """Subtracts from the problem the mean rise of A over the moves of `deviations`.

    Args:
        post: the problem.
        x0: the centre, (B, *shape).
        moves, weight: from `deviations`.

    Returns:
        The problem, and the mean squared change of A over the noise: its odd and its even part, (B, 1, ..., 1) each.
    """
    clean = post.A(x0)
    even, odd = changes(post.A, x0, clean, moves)
    std = post.noise.std(clean)
    shift = weight * even.mean(0).nan_to_num()  # states that are not finite are the sampler's to report
    squares = [(part / std).abs().square().mean(0).flatten(1).mean(1) for part in (odd, even)]
    odd, even = (weight * square.reshape(-1, *[1] * (x0.ndim - 1)) for square in squares)
    return replace(post, y=post.y - shift), odd, even


class Linearised:
    """y = A(x0) + J (u - x0) + noise of the standard deviation at A(x0), for u near x0: exact if linear and Gaussian.

    Attributes:
        clean: A(x0), (B, *out_shape).
        rows: J as signals, (B, m, *shape), with m the number of (real) measured values; one product with J^T each.
        residual, std: of the measured values, (B, m).
    """

    def __init__(self, post: Posterior, x0: Tensor) -> None:
        with differentiating():
            u = leaf(x0)
            outputs = post.A(u)
            flat = _flat(outputs)
            gradients = [torch.autograd.grad(value.sum(), u, retain_graph=True)[0] for value in flat.unbind(1)]
        self.post, self.x0, self.rows = post, x0, torch.stack(gradients, 1)
        self.clean = clean = outputs.detach()
        std = torch.as_tensor(post.noise.std(clean), dtype=flat.dtype, device=x0.device).expand(clean.shape)
        self.residual = _flat(post.y - clean)
        self.std = (std[..., None].expand(*std.shape, 2) if clean.is_complex() else std).flatten(1)

    def beyond(self, moves: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """Returns the part of A beyond J over a finite width: a shift of its mean, (B, m), and a spread, (B, m, m).

        Args:
            moves: (K, B, *shape), taken from x0 both ways; they stand for the law of u - x0, the point x0 itself having
                the weight that they leave of 1.
        """
        parts = changes(self.post.A, self.x0, self.clean, moves)
        even, odd = (torch.stack([_flat(y) for y in part]) for part in parts)
        odd = odd - torch.einsum("bin,kbn->kbi", self.rows.flatten(2), moves.flatten(2))
        shift = weight * even.mean(0)
        spread = weight * (torch.einsum("kbi,kbj->bij", even, even) + torch.einsum("kbi,kbj->bij", odd, odd)) / len(moves)
        return shift, spread - shift[:, :, None] * shift[:, None]

    def gaussian(self, spread: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns log N(residual; 0, S), (B,), and S^-1 residual, (B, m), for S = noise variance + spread, (B, m, m).

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
        """Returns u from N(u; x0, var) p(y | u), and log N(u; x0, var) - log q(u) for the law q that it was drawn from,
        (B,).

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
