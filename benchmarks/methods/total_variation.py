"""Total variation: the classical prior of images with edges, by one algorithm for every linear operator."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from invgen.benchmarks.methods.classical import Classical, Linear, scaled_adjoint
from invgen.posterior import Posterior
from invgen.validation.hints import Count, Positive, Range

__all__ = ["TV"]

# ratios of the two blocks' norms, and of the first step sizes: found by counting iterations of the suites ct and photo
BALANCE, RATIO = 2.0, 0.3
RELAXATION = 1.9  # of the iterates, below 2
# the residuals are balanced to this factor, by changes of the step sizes that shrink, so that they end (Goldstein et al.)
APART, CHANGE, SHRINK = 1.5, 0.5, 0.95


@dataclass(frozen=True)
class TV(Classical):
    """The signal of least total variation (Rudin, Osher & Fatemi, 1992) among those that explain the measurement.

        min TV(x)   subject to   |(y - A x) / std| <= sqrt(m),      TV(x) = sum over pixels of |gradient x|

    The bound is Morozov's discrepancy principle: m measured values of noise `std` are that far from their clean values. So
    the only weight is the noise level that every sampler is told, and no truth is needed. The gradient of a pixel has all
    channels (the first axis of a signal of two axes or more) and directions, so that the edges of colours agree.

    By the primal-dual algorithm of Chambolle & Pock (J. Math. Imaging Vis. 2011, Algorithm 1), over-relaxed (Condat, J.
    Optim. Theory Appl. 2013), whose step sizes balance the primal and the dual residual of each measurement (Goldstein, Li,
    Yuan, Esser & Baraniuk, arXiv:1305.0546). The two blocks of its operator, gradient and A, are scaled to norms of a fixed
    ratio. A measurement has converged where both residuals, which vanish at the solution alone, are below `tol`.

    Args:
        steps: iterations at most, of one A and one A^T each.
        weight: instead of the bound: min |(y - A x) / std|^2 / 2 + weight TV(x), in 1 / units of the signal.
        tol: the residuals where it ends, over the norms of the terms that cancel in them.
    """

    steps: Count = 10_000
    weight: Positive | None = None
    tol: Annotated[float, Range(0, 1)] = 5e-4
    noiseless: ClassVar[bool] = False

    def refuses(self, post: Posterior) -> str | None:
        """Returns why total variation does not fit, as the end of a sentence, or None."""
        why = super().refuses(post)
        if why is None and post.A.in_dtype.is_complex:
            why = "needs real signals, got complex ones"
        return why

    def reconstruct(self, post: Linear) -> Tensor:
        """Returns the minimiser, (B, *shape), of each measurement."""
        return self.iterate(post)[0]

    def iterate(self, post: Linear) -> tuple[Tensor, Tensor]:
        """Returns the minimiser, (B, *shape), and how many iterations each measurement took, (B,)."""
        A, y = post.A, post.y
        dim = max(len(post.prior.shape) - 1, 1)  # spatial axes
        slope = 2 * dim**0.5  # the norm of the gradient, at most
        whiten = 1 / torch.as_tensor(post.noise.std(y), dtype=y.real.dtype, device=y.device).expand(y.shape)
        scale = BALANCE * slope / (A.norm() * whiten.flatten(1).amax(1))  # brings A's block to BALANCE times the gradient's
        whiten = whiten * like(scale, y)
        bound = scale * (y[0].numel() * (2 if y.is_complex() else 1)) ** 0.5
        size = slope * (1 + BALANCE**2) ** 0.5  # the norm of both blocks

        def K(x: Tensor) -> list[Tensor]:
            return [gradient(x, dim), whiten * A(x)]

        def transposed(p: Tensor, q: Tensor) -> Tensor:
            return gradient_adjoint(p, dim) + A.adjoint(whiten * q)

        x = scaled_adjoint(post)
        Kx, p, q, pull = K(x), torch.zeros_like(gradient(x, dim)), torch.zeros_like(y), torch.zeros_like(x)
        # the steps' product is 1 / size^2; their ratio puts the signal on the scale of the dual variable, at most 1
        ratio = torch.full((len(x),), RATIO * post.prior.data_std, dtype=y.real.dtype, device=y.device)
        change, answer = torch.full_like(ratio, CHANGE), x
        edges = 0.1 * x[0].numel() ** 0.5  # residuals are compared with this where a signal has next to no edges
        going, count = torch.ones_like(ratio, dtype=torch.bool), torch.zeros_like(ratio, dtype=torch.long)
        for _ in range(self.steps):
            tau, sigma = ratio / size, 1 / (ratio * size)
            x_new = x - like(tau, x) * pull
            K_new = K(x_new)
            ahead = [2 * new - old for new, old in zip(K_new, Kx, strict=True)]
            p_new = p + like(sigma, p) * ahead[0]
            p_new = p_new / p_new.square().sum((1, 2), keepdim=True).sqrt().clamp(min=1)
            q_new = q + like(sigma, q) * (ahead[1] - whiten * y)
            if self.weight is None:
                q_new = q_new * like((1 - sigma * bound / norm_of(q_new).clamp(min=1e-30)).clamp(min=0), q)
            else:
                q_new = q_new / like(1 + sigma * scale**2 * self.weight, q)
            pull_new = transposed(p_new, q_new)

            # both vanish where the conditions of the minimum hold, K^T (p, q) = 0 and K x in the duals' subdifferential
            primal = norm_of((x - x_new) / like(tau, x) - pull + pull_new)
            dual = norm_of((p - p_new) / like(sigma, p) - Kx[0] + K_new[0], (q - q_new) / like(sigma, q) - Kx[1] + K_new[1])
            primal = primal / norm_of(gradient_adjoint(p_new, dim)).clamp(min=edges)
            dual = dual / norm_of(K_new[0]).clamp(min=0.1 * edges * post.prior.data_std)
            count += going
            answer = torch.where(like(going, x), x_new, answer)
            going = going & ~((primal < self.tol) & (dual < self.tol))
            if not going.any():
                break

            x, p, q, pull = (
                old + RELAXATION * (new - old) for old, new in ((x, x_new), (p, p_new), (q, q_new), (pull, pull_new))
            )
            Kx = [old + RELAXATION * (new - old) for old, new in zip(Kx, K_new, strict=True)]
            longer, shorter = primal > APART * dual, dual > APART * primal
            ratio = torch.where(longer, ratio / (1 - change), torch.where(shorter, ratio * (1 - change), ratio))
            change = torch.where(longer | shorter, change * SHRINK, change)
        return answer, count


def like(row: Tensor, x: Tensor) -> Tensor:
    """Returns a number for each row, (B,), with the axes of x, (B, *shape)."""
    return row.reshape(-1, *[1] * (x.ndim - 1))


def norm_of(*parts: Tensor) -> Tensor:
    """Returns the Euclidean norm of each row over all parts, (B,)."""
    return torch.cat([torch.linalg.vector_norm(part.flatten(1), dim=1)[:, None] for part in parts], 1).norm(dim=1)


def gradient(x: Tensor, dim: int) -> Tensor:
    """Returns forward differences along the last `dim` axes, zero at the far edge, (B, dim, C, *spatial).

    Args:
        x: (B, [C,] *spatial).
        dim: number of spatial axes.
    """
    x = x.unsqueeze(1) if x.ndim == dim + 1 else x
    out = x.new_zeros(len(x), dim, *x.shape[1:])
    for k in range(dim):
        axis, n = k - dim, x.shape[k - dim]
        out[:, k].narrow(axis, 0, n - 1).copy_(x.narrow(axis, 1, n - 1) - x.narrow(axis, 0, n - 1))
    return out


def gradient_adjoint(p: Tensor, dim: int) -> Tensor:
    """Returns the transpose of `gradient`, minus the divergence, (B, C, *spatial)."""
    out = torch.zeros_like(p[:, 0])
    for k in range(dim):
        axis, n = k - dim, p.shape[k - dim]
        inner = p[:, k].narrow(axis, 0, n - 1)
        out.narrow(axis, 1, n - 1).add_(inner)
        out.narrow(axis, 0, n - 1).sub_(inner)
    return out
