"""Optimisers of one number a sample: every coefficient, every length of a step and every stop belongs to one row.

Both need one evaluation of the objective and its gradient a step, for all rows together, and never stall an accelerator.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from invgen.noise import Energy
from invgen.numerics.gradients import differentiating, leaf
from invgen.posterior import Posterior

# z, (B, *shape) -> what is minimised, (B,), and the signal that z stands for, (B, *signal)
Objective = Callable[[Tensor], tuple[Tensor, Tensor]]


class Adam:
    """Adam (Kingma & Ba, ICLR 2015) on the rows of a tensor; all it does is elementwise, so that rows do not meet.

    Args:
        lr: length of a step, in the units of x; a tensor for one of each value.
        betas, eps: of the running means, and the floor of their ratio, in units of the gradient.
    """

    def __init__(self, lr: float | Tensor, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.lr, self.betas, self.eps = lr, betas, eps
        self.mean: Tensor | float = 0.0
        self.square: Tensor | float = 0.0
        self.count = 0

    def step(self, x: Tensor, grad: Tensor, factor: float = 1.0) -> Tensor:
        """Returns x after one step of length factor * lr against grad, (B, *shape)."""
        a, b = self.betas
        self.count += 1
        self.mean = a * self.mean + (1 - a) * grad
        self.square = b * self.square + (1 - b) * grad.square()
        root = (self.square / (1 - b**self.count)).sqrt() + self.eps
        return x - factor * self.lr / (1 - a**self.count) * self.mean / root


def minimise(
    f: Objective,
    z: Tensor,
    steps: int,
    lr: float | None = None,
    floor: Tensor | None = None,
    size: float = 1.0,
    factor: Callable[[float], float] = lambda u: 1.0,
    project: Callable[[Tensor], Tensor] = lambda z: z,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields z, its value and its signal after each of `steps` steps, which cost steps + 1 evaluations of f.

    Args:
        f: the objective.
        z: the start, (B, *shape).
        lr: of Adam; None for L-BFGS, which needs no length of step.
        floor: (B,); a row whose value has come down to it stays where it is.
        size: typical size of the entries of z, which sets the first step of L-BFGS.
        factor: of Adam's lr, at a fraction of the steps from 0 to 1.
        project: applied to z after each step of Adam.
    """
    if lr is None:
        yield from lbfgs(f, z, steps, floor, size=size)
        return
    adam = Adam(lr)
    value, signal, grad = _evaluate(f, z)
    for k in range(steps):
        z = _where(_above(value, floor), project(adam.step(z, grad, factor(k / steps))), z)
        value, signal, grad = _evaluate(f, z)
        yield z, value, signal


def lbfgs(
    f: Objective, z: Tensor, steps: int, floor: Tensor | None = None, history: int = 10, size: float = 1.0
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Minimises by L-BFGS (Liu & Nocedal, 1989), each row with a memory and a line search of its own; see `minimise`.

    A step tries one point. A row for which it is good enough (Armijo's rule) goes there and takes a new direction; any
    other stays and will try a shorter way, its minimiser on the parabola through what it knows. So the cost does not
    depend on the batch, as that of a line search inside each iteration would.

    Args:
        f: the objective, see `minimise`.
        z: the start, (B, *shape).
        steps: how many points to try.
        floor: a value at which a row stops, (B,).
        history: how many pairs of steps and gradients a row remembers.
        size: the length of the first step.
    """
    shape, z = z.shape, z.flatten(1)
    rows, n = z.shape
    value, signal, grad = _evaluate(f, z, shape)
    # a start without a value is the error that the sampler reports
    z, signal = (_where(value.isfinite(), t, torch.full_like(t, torch.nan)) for t in (z, signal))
    moves, turns, rho = [torch.zeros_like(z)] * history, [torch.zeros_like(z)] * history, [z.new_zeros(rows, 1)] * history
    gamma = 0.1 * size * n**0.5 / grad.norm(dim=1, keepdim=True).clamp(min=1e-30)  # the first step: a tenth of |z|
    d, t = -gamma * grad, z.new_ones(rows, 1)
    for _ in range(steps):
        trial = z + t * d
        new_value, new_signal, new_grad = _evaluate(f, trial, shape)
        slope = _dot(grad, d)
        rounding = 4 * torch.finfo(value.dtype).eps * value.abs()
        enough = value + 1e-4 * (t * slope)[:, 0] + rounding
        good = (new_value <= enough) & _above(value, floor)
        move, turn = trial - z, new_grad - grad
        curvature = _dot(move, turn)
        keep = good[:, None] & (curvature > 1e-10 * _dot(move, move).sqrt() * _dot(turn, turn).sqrt())
        moves, turns, rho = (
            [torch.where(keep, later, now) for now, later in zip(old, [*old[1:], new], strict=True)]
            for old, new in (
                (moves, move),
                (turns, turn),
                (rho, 1 / curvature.where(keep, 1.0)),
            )
        )
        # no curvature to learn from: the function falls ever faster, and a longer step is tried
        gamma = torch.where(
            keep, curvature / _dot(turn, turn).where(keep, 1.0), torch.where(good[:, None], 4 * gamma, gamma)
        )
        short = -0.5 * slope * t**2 / ((new_value - value)[:, None] - t * slope)
        short = torch.where(short.isfinite(), short, 0.1 * t).clamp(min=0.1 * t, max=0.5 * t)
        z, value, signal, grad = (
            _where(good, new, old) for new, old in ((trial, z), (new_value, value), (new_signal, signal), (new_grad, grad))
        )
        d = torch.where(good[:, None], -_inverse_hessian(grad, moves, turns, rho, gamma), d)
        d = torch.where(_dot(grad, d) < 0, d, -gamma * grad)
        t = torch.where(good[:, None], 1.0, short)
        yield z.reshape(shape), value, signal


def _inverse_hessian(grad: Tensor, moves: list[Tensor], turns: list[Tensor], rho: list[Tensor], gamma: Tensor) -> Tensor:
    """Returns the product with the inverse Hessian by the two loops over the memory; empty places have rho = 0."""
    q, alphas = grad, []
    for s, y, r in zip(moves[::-1], turns[::-1], rho[::-1], strict=True):
        alphas.append(r * _dot(s, q))
        q = q - alphas[-1] * y
    q = gamma * q
    for s, y, r, alpha in zip(moves, turns, rho, reversed(alphas), strict=True):
        q = q + (alpha - r * _dot(y, q)) * s
    return q


def noise_floor(post: Posterior, stop: float = 1.0) -> Tensor:
    """Returns the value of -log p(y | x), (B,), at which residuals have `stop` times the size of the noise.

    That is where minus twice the log of p(y | x) / max p(y | .) equals the number of measured values: the discrepancy
    principle (Morozov, 1966), exact for Gaussian noise. A loss (`Energy`) has no such level: minus infinity.
    """
    if isinstance(post.noise, Energy):
        return torch.full((len(post.y),), -torch.inf, device=post.y.device)
    count = post.y[0].numel() * (2 if post.y.is_complex() else 1) if len(post.y) else 0
    return 0.5 * count * stop**2 - post.noise.log_prob(post.y, post.y)


def _evaluate(f: Objective, z: Tensor, shape: torch.Size | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the value, signal and gradient, the latter in the shape of z."""
    with differentiating():
        z = leaf(z)
        value, signal = f(z if shape is None else z.reshape(shape))
        (grad,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), signal.detach(), grad


def _above(value: Tensor, floor: Tensor | None) -> Tensor:
    return torch.ones_like(value, dtype=torch.bool) if floor is None else ~(value <= floor)


def _where(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(rows.reshape(-1, *[1] * (a.ndim - 1)), a, b)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, keepdim=True)
