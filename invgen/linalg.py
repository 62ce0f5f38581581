"""Batched Krylov solvers: every coefficient, and the decision to stop, belongs to one sample."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor

from invgen.errors import ConvergenceWarning
from invgen.messages import warn

Map = Callable[[Tensor], Tensor]

_SOLVES: ContextVar[list[tuple[str, int]] | None] = ContextVar("solves", default=None)
_AHEAD: ContextVar[int] = ContextVar("ahead", default=1)


@contextmanager
def recorded() -> Iterator[list[tuple[str, int]]]:
    """Yields a list that receives (name, iterations) of each iterative solve within the block."""
    solves: list[tuple[str, int]] = []
    token = _SOLVES.set(solves)
    try:
        yield solves
    finally:
        _SOLVES.reset(token)


@contextmanager
def expected(solves: int) -> Iterator[None]:
    """Says that about so many linear solves follow within the block: what is worth preparing depends on it."""
    token = _AHEAD.set(solves)
    try:
        yield
    finally:
        _AHEAD.reset(token)


def solves_ahead() -> int:
    """Returns how many linear solves are expected; 1 where nobody has said."""
    return _AHEAD.get()


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

    Saad & Schultz (1986), with classical Gram-Schmidt, twice. One product with M an iteration and one small least-squares
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
    k = max_iter
    w = b.flatten(1).unsqueeze(1)  # (B, 1, n)
    beta = length = torch.linalg.vector_norm(w, dim=2, keepdim=True)
    basis, columns, images = w[:, :0], [], []
    for j in range(k):
        q = w / length.where(length > 0, 1)
        basis, v = torch.cat([basis, q], 1), q.reshape(b.shape)
        if along is not None:
            images.append(along(v))
        w = M(v, *images[-1:]).reshape(q.shape)
        least = 1e3 * torch.finfo(b.dtype).eps * torch.linalg.vector_norm(w, dim=2, keepdim=True)
        once = torch.bmm(w, basis.mH)
        w = torch.baddbmm(w, once, basis, alpha=-1)
        again = torch.bmm(w, basis.mH)  # takes off what rounding left: as good as one vector after another
        w = torch.baddbmm(w, again, basis, alpha=-1)
        length = torch.linalg.vector_norm(w, dim=2, keepdim=True)
        alive = length > least
        w, length = w.where(alive, 0), length.where(alive, 0)
        columns.append(F.pad(torch.cat([once + again, length.to(b.dtype)], 2), (0, k - 1 - j)))
    _record("GMRES", k)
    H, e = torch.cat(columns, 1).mT, F.pad(beta.to(b.dtype), (0, k)).mT
    # the pseudo-inverse, not a QR solve: H loses rank where a Krylov space is exhausted. It refuses NaN; the caller sees it
    finite = H.isfinite().all(2, keepdim=True).all(1, keepdim=True)
    coefficients = torch.where(finite, torch.linalg.pinv(H.where(finite, 0)) @ e, torch.nan)

    def combined(vectors: Tensor, shape: torch.Size) -> Tensor:
        return torch.bmm(coefficients.mT.to(vectors.dtype), vectors).reshape(-1, *shape)

    x = combined(basis, b.shape[1:]) if warn or not images else b
    image = combined(torch.stack(images, 1).flatten(2), images[0].shape[1:]) if images else None
    if warn:
        _warn("GMRES", norm(b - (M(x) if image is None else M(x, image))), norm(b), tol, max_iter)
    return x if image is None else image


def _warn(name: str, residual: Tensor, scale: Tensor, tol: float, iterations: int) -> None:
    worst = (residual / scale.where(scale > 0, 1)).max().item() if residual.numel() else 0.0
    if worst > tol:
        warn(
            f"{name} stopped after {iterations} iterations at a relative residual of {worst:.1e}, above {tol:.0e}; "
            "the problem is ill-conditioned for an iterative solve",
            ConvergenceWarning,
        )
