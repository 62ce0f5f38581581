"""Batched Krylov solvers: every coefficient, and the decision to stop, belongs to one sample."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from invgen.errors import ConvergenceWarning
from invgen.messages import warn

Map = Callable[[Tensor], Tensor]

_SOLVES: ContextVar[list[tuple[str, int]] | None] = ContextVar("solves", default=None)


@contextmanager
def recorded() -> Iterator[list[tuple[str, int]]]:
    """Yields a list that receives (name, iterations) of each iterative solve within the block."""
    solves: list[tuple[str, int]] = []
    token = _SOLVES.set(solves)
    try:
        yield solves
    finally:
        _SOLVES.reset(token)


def _record(name: str, iterations: int) -> None:
    solves = _SOLVES.get()
    if solves is not None:
        solves.append((name, iterations))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Returns the real inner product of each sample, of shape (B, 1, ..., 1); a and b have shape (B, *shape)."""
    product = (a.conj() * b).real if a.is_complex() or b.is_complex() else a * b
    return product.flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))


def norm(a: Tensor) -> Tensor:
    """Returns the Euclidean norm of each sample, of shape (B, 1, ..., 1)."""
    return torch.linalg.vector_norm(a.flatten(1), dim=1).reshape(-1, *[1] * (a.ndim - 1))


def solve_positive(matrix: Tensor, b: Tensor) -> Tensor:
    """Returns matrix^-1 b for a batch of symmetric positive definite matrices, (..., n, n), (..., n, k) -> (..., n, k).

    By Cholesky's factors: half the work of LU, and the batched LU of some builds of MKL fails on several threads. A matrix
    that is not positive, or not finite, gives NaN, so that a sampler which has diverged can say so.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.cholesky_solve(b, factor.where(failed[..., None, None] == 0, torch.nan))


def default_tolerance(dtype: torch.dtype) -> float:
    """Returns the relative residual that a solve in this precision can reach without stagnating."""
    return 1e-10 if dtype in (torch.float64, torch.complex128) else 1e-5


def cg(
    M: Map,
    b: Tensor,
    x: Tensor | None = None,
    *,
    tol: float | None = None,
    max_iter: int = 500,
    precondition: Map | None = None,
    check_every: int | None = None,
    warn: bool = True,
) -> Tensor:
    """Solves M x = b for symmetric positive (semi-)definite M by preconditioned conjugate gradients.

    Hestenes & Stiefel (1952). A sample whose relative residual |b - M x| / |b| has reached `tol` is frozen, so that its
    result does not depend on what it is batched with. On an accelerator the residuals are read back only every
    `check_every` iterations (10 there, 1 on the CPU), because each reading stalls the device.

    Args:
        M: the map, (B, *shape) -> (B, *shape).
        b: right-hand side, (B, *shape).
        x: start, (B, *shape); zeros by default.
        tol: relative residual, 1e-5 in single and 1e-10 in double precision by default.
        precondition: an approximation of the inverse of M, symmetric and positive.
        warn: whether stopping short of `tol` at `max_iter` is a ConvergenceWarning; turn it off where a fixed number of
            iterations is the algorithm.
    """
    tol = default_tolerance(b.dtype) if tol is None else tol
    every = check_every or (1 if b.device.type == "cpu" else 10)
    first = 0 if b.device.type == "cpu" else every
    r = b if x is None else b - M(x)
    x = torch.zeros_like(b) if x is None else x
    z = precondition(r) if precondition else r
    p, rz = z, dot(r, z)
    limit = tol * norm(b)
    active = norm(r) > limit
    for k in range(max_iter):
        if k >= first and k % every == 0 and not active.any():
            _record("CG", k)
            return x
        Mp = M(p)
        curvature = dot(p, Mp)
        active = active & (curvature > 0)  # breakdown: nothing more to gain in this direction
        alpha = torch.where(active, rz / curvature.where(active, 1), 0)
        x, r = x + alpha * p, r - alpha * Mp
        z = precondition(r) if precondition else r
        rz_next = dot(r, z)
        active = active & (norm(r) > limit)
        p = z + torch.where(active, rz_next / rz.where(active, 1), 0) * p
        rz = rz_next
    _record("CG", max_iter)
    if warn:
        _warn("CG", norm(r), norm(b), tol, max_iter)
    return x


def gmres(
    M: Callable[..., Tensor],
    b: Tensor,
    *,
    max_iter: int = 10,
    tol: float | None = None,
    warn: bool = False,
    along: Map | None = None,
) -> Tensor:
    """Solves M x = b for any square M by `max_iter` iterations of GMRES, without restarts, from zero.

    Saad & Schultz (1986), with modified Gram-Schmidt. One product with M an iteration and one small least-squares
    problem at the end, both batched; a sample whose Krylov space is exhausted is frozen.

    Args:
        M: the map, (B, *shape) -> (B, *shape).
        b: right-hand side, (B, *shape).
        max_iter: the number of iterations.
        tol: relative residual below which a sample is frozen; by default as in `cg`.
        warn: whether stopping short of `tol` is a ConvergenceWarning.
        along: a linear map that M goes through, such as the costly half of it. M is then called with v and along(v), and
            the result is along(x) in place of x. It costs nothing: x is a combination of the v that M has seen.
    """
    tol = default_tolerance(b.dtype) if tol is None else tol
    shape, one = b.shape, (-1, *[1] * (b.ndim - 1))
    beta = norm(b)
    basis = [b / beta.where(beta > 0, 1)]
    columns, images = [], []
    for _ in range(max_iter):
        if along is not None:
            images.append(along(basis[-1]))
        w = M(basis[-1], *images[-1:])
        scale = norm(w)
        h = []
        for q in basis:
            c = (q.conj() * w).flatten(1).sum(1).reshape(one)
            h.append(c.flatten())
            w = w - c * q
        length = norm(w)
        alive = length > 1e3 * torch.finfo(b.dtype).eps * scale
        h.append(torch.where(alive, length, 0).flatten().to(b.dtype))
        columns.append(h)
        basis.append(torch.where(alive, w / length.where(alive, 1), 0))
    k = len(columns)
    _record("GMRES", k)
    H = b.new_zeros(shape[0], k + 1, k)
    for j, column in enumerate(columns):
        H[:, : j + 2, j] = torch.stack(column, 1)
    e = b.new_zeros(shape[0], k + 1, 1)
    e[:, 0, 0] = beta.flatten().to(b.dtype)
    # the pseudo-inverse, not a QR solve: H loses rank where a Krylov space is exhausted. It refuses NaN; the caller sees it
    finite = H.isfinite().all(2, keepdim=True).all(1, keepdim=True)
    coefficients = torch.where(finite, torch.linalg.pinv(H.where(finite, 0)) @ e, torch.nan)

    def combined(vectors: list[Tensor]) -> Tensor:
        terms = (coefficients[:, j, 0].reshape(-1, *[1] * (v.ndim - 1)) * v for j, v in enumerate(vectors[:k]))
        return sum(terms, torch.zeros_like(vectors[0]))

    x, image = combined(basis), combined(images) if images else None
    if warn:
        _warn("GMRES", norm(b - (M(x) if image is None else M(x, image))), beta, tol, max_iter)
    return x if image is None else image


def _warn(name: str, residual: Tensor, scale: Tensor, tol: float, iterations: int) -> None:
    worst = (residual / scale.where(scale > 0, 1)).max().item() if residual.numel() else 0.0
    if worst > tol:
        warn(
            f"{name} stopped after {iterations} iterations at a relative residual of {worst:.1e}, above {tol:.0e}; "
            "the problem is ill-conditioned for an iterative solve",
            ConvergenceWarning,
        )
