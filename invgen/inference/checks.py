"""`check_operator`: tells the author of an operator, in words, what breaks the contract."""

import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from invgen.errors import CheckError, OperatorError
from invgen.forward import LinearOperator, Operator, SVDOperator, has_gradient
from invgen.html import card
from invgen.linalg import dot, norm
from invgen.numerics.random import Streams
from invgen.posterior import OperatorLike
from invgen.validation.arguments import checked
from invgen.validation.hints import Positive, Seed

DENSE = 1024  # up to this many inputs and outputs the whole matrix is compared, above it some of its columns
PROBES = 8  # random measurements that the adjoint is held against the columns with
SHARE = 0.25  # of the time, for the columns


@dataclass
class Report:
    """The checks that passed: name -> relative error (0 for a yes-or-no check)."""

    operator: str
    passed: dict[str, float] = field(default_factory=dict)
    breaches: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was sampled, or left out
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [f"{self.operator}: {len(self.passed)} checks passed in {self.seconds:.1f} s"]
        lines += [f"  {name:<28} {error:.1e}" for name, error in self.passed.items()]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    def _repr_html_(self) -> str:
        rows = {name: f"relative error {error:.1e}" if error else "ok" for name, error in self.passed.items()}
        rows |= {f"note {k}": note for k, note in enumerate(self.notes, 1)}
        return card(f"{self.operator}: {len(self.passed)} checks passed in {self.seconds:.1f} s", rows)


@checked
def check_operator(
    A: OperatorLike,
    *,
    dtype: torch.dtype = torch.float64,
    seed: Seed = 0,
    tol: Positive | None = None,
    seconds: Positive = 20.0,
) -> Report:
    """Checks the contract of an operator and, if it is linear, compares it with its own matrix.

    Checked: shapes, batch axes, independence of the batch, inputs left unchanged, determinism, precision kept, gradients
    (unless it says `differentiable = False`); for a linear operator linearity, the adjoint, `solve`, `prox` and `pinv`; for
    an SVDOperator also U, V and s. A large or slow one is compared in some of its columns, and what is derived from
    `forward` and `adjoint` alone (conjugate gradients) is left out where it would take too long: the report says so. To
    compare every entry, check a small instance of the same class.

    Args:
        A: the operator; with up to 1024 values in and out the whole matrix is compared.
        dtype: the precision to check in; torch.float32 for an operator that has no double precision.
        seed: of the random signals and measurements.
        tol: largest relative error, by default 1e-9 in double and 1e-4 in single precision; iterative solves get 100 times.
        seconds: about how long the check may take; what does not fit is sampled or left out.

    Returns:
        A Report; print it.

    Raises:
        CheckError: lists every breach.
    """
    begin = time.perf_counter()
    checks = _Checks(A, dtype, seed, tol or (1e-9 if dtype == torch.float64 else 1e-4), seconds)
    stages = [checks.contract]
    if isinstance(A, LinearOperator):
        stages += [checks.linear, *[checks.svd] * isinstance(A, SVDOperator), checks.solves]
    for stage in stages:
        # what follows a breach stands on it, but a basis may be the reason why the derived adjoint is wrong
        if checks.report.breaches and not (stage == checks.svd and "linearity" in checks.report.passed):
            continue
        try:
            stage()
        except Exception as error:  # an author's mistake of any kind is what this function reports
            checks.report.breaches.append(_failure(error))
    report = checks.report
    report.seconds = time.perf_counter() - begin
    if report.breaches:
        raise CheckError(f"{report.operator} breaks its contract:\n  - " + "\n  - ".join(report.breaches))
    return report


def _failure(error: Exception) -> str:
    """Returns one sentence about an exception: the method of the operator that was called, and what it said where."""
    if isinstance(error, OperatorError) and error.__cause__ is None:
        return str(error)
    origin = (error.__cause__ if isinstance(error, OperatorError) else None) or error
    frames = traceback.extract_tb(origin.__traceback__)
    # the door of invgen.validation.batches calls the method: the frame after it is the operator's
    doors = [i for i, frame in enumerate(frames[:-1]) if frame.name == "_called"]
    method, last = frames[doors[0] + 1].name if doors else frames[-1].name, frames[-1]
    return f"{method} fails at {last.filename}:{last.lineno} with {type(origin).__name__}: {origin}"


class _Checks:
    def __init__(self, A: Operator, dtype: torch.dtype, seed: int, tol: float, seconds: float) -> None:
        self.A, self.seed, self.tol, self.seconds = A, seed, tol, seconds
        self.once = 0.0  # seconds of one application to one signal
        self.dtype = dtype.to_complex() if A.in_dtype.is_complex else dtype
        try:
            self.report = Report(f"{type(A).__name__}({A.extra_repr()})")
        except Exception:  # forward itself fails, which the first check reports
            self.report = Report(type(A).__name__)
        self.draws = 0

    def random(self, batch: int, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        self.draws += 1
        empty = torch.empty(batch, *shape, dtype=dtype or self.dtype, device=self.A.device)
        return Streams(self.seed + self.draws, list(range(batch)))(empty)

    def yes(self, name: str, ok: bool, breach: str) -> bool:
        if ok:
            self.report.passed[name] = 0.0
        else:
            self.report.breaches.append(breach)
        return ok

    def close(self, name: str, got: Tensor, want: Tensor, breach: str, tol: float | None = None) -> None:
        if got.shape != want.shape:
            self.report.breaches.append(f"{name}: shape {tuple(got.shape)}, expected {tuple(want.shape)}")
            return
        error = (torch.linalg.vector_norm(got - want) / torch.linalg.vector_norm(want).clamp(min=1e-300)).item()
        tol = tol or self.tol
        if error <= tol:
            self.report.passed[name] = error
        else:
            self.report.breaches.append(f"{breach} (relative error {error:.1e}, allowed {tol:.0e})")

    def contract(self) -> None:
        A, x = self.A, self.random(3, self.A.in_shape)
        before = x.clone()
        y = A(x)
        self.yes(
            "out_shape",
            y.shape == (3, *A.out_shape),
            f"forward gives {tuple(y.shape)} for a batch of 3, but out_shape says {tuple(A.out_shape)}",
        )
        self.yes("input unchanged", torch.equal(x, before), "forward modifies its input in place")
        precise = y.dtype in (self.dtype, self.dtype.to_real(), self.dtype.to_complex())
        self.yes("precision kept", precise, f"forward turns {self.dtype} into {y.dtype}; cast the tables, not the signal")
        self.yes(
            "finite", bool(torch.isfinite(y).all()), "forward gives values that are not finite on standard normal input"
        )
        if self.report.breaches:
            return
        begin = time.perf_counter()
        again = A(x)
        self.once = (time.perf_counter() - begin) / 3
        self.yes(
            "deterministic", torch.equal(again, y), "two calls with the same input differ; draw randomness in __init__"
        )
        single = torch.cat([A(x[i : i + 1]) for i in range(3)])
        self.close("batch independence", single, y, "a batch gives other values than its members one by one")
        nested = A(x.reshape(3, 1, *A.in_shape))
        self.close("batch axes", nested.reshape(y.shape), y, "two batch axes give other values than one")
        if not has_gradient(A):
            self.report.notes.append("no gradient was asked for: the operator says differentiable = False")
            return
        x = x.requires_grad_()
        z = A(x)
        if self.yes("differentiable", z.requires_grad, "the output has no gradient with respect to the input"):
            (grad,) = torch.autograd.grad(z, x, torch.ones_like(z))
            self.yes("gradient finite", bool(torch.isfinite(grad).all()), "the gradient has values that are not finite")

    def linear(self) -> None:
        A = self.A
        assert isinstance(A, LinearOperator)
        x, z = self.random(2, A.in_shape), self.random(2, A.in_shape)
        y = A(x)
        self.close(
            "linearity",
            A(2 * x - 3 * z),
            2 * y - 3 * A(z),
            "forward is not linear; subclass Operator instead of LinearOperator, or remove the constant",
        )
        v = self.random(2, A.out_shape, y.dtype)
        scale = (norm(y) * norm(v)).max()
        gap = (dot(v, y).flatten() - dot(A.adjoint(v), x).flatten()).abs().max() / scale
        self.yes("adjoint (inner product)", gap.item() <= self.tol, f"<A x, y> and <x, A^T y> differ by {gap:.1e}")
        n, m = math.prod(A.in_shape), math.prod(A.out_shape)
        affordable = int(self.seconds * SHARE / max(self.once, 1e-9))
        if max(n, m) <= DENSE and n + m <= affordable:
            # one inner product does not see an adjoint that is a few per cent wrong: compare the matrices
            self.M = self._matrix(A, torch.arange(n), n, self.dtype, A.in_shape)
            transposed = self._matrix(A.adjoint, torch.arange(m), m, y.dtype, A.out_shape)
            self.close("adjoint (matrix)", transposed, self.M.T, "adjoint is not the transpose of forward")
            return
        count = min(n, max(affordable, 1), 256)
        some = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))[:count].sort().values
        self.report.notes.append(f"the adjoint was compared in {count} of {n} columns of the matrix, at random places")
        v = self.random(min(PROBES, max(affordable, 1)), A.out_shape, y.dtype)
        back = self._real(A.adjoint(v).flatten(1))
        back = back[:, torch.cat([some, some + n]) if self.dtype.is_complex else some]
        columns = torch.cat([self._matrix(A, part, n, self.dtype, A.in_shape) for part in some.split(16)], 1)
        if self.dtype.is_complex:  # each part has its real, then its imaginary unit vectors
            ends = torch.cat([torch.arange(len(p) * 2) // len(p) for p in some.split(16)])
            columns = torch.cat([columns[:, ends == 0], columns[:, ends == 1]], 1)
        wanted = self._real(v.flatten(1)) @ columns
        self.close("adjoint (columns)", back, wanted, "adjoint is not the transpose of forward in some columns")

    def _matrix(
        self, apply: Callable[[Tensor], Tensor], at: Tensor, size: int, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> Tensor:
        """Returns columns of the real matrix of a map; complex values count as two real ones, which covers maps between
        both."""
        eye = torch.zeros(len(at), size, dtype=dtype, device=self.A.device)
        eye[torch.arange(len(at)), at] = 1
        basis = torch.cat([eye, 1j * eye]) if dtype.is_complex else eye
        return self._real(apply(basis.reshape(-1, *shape)).flatten(1)).T

    @staticmethod
    def _real(rows: Tensor) -> Tensor:
        return torch.cat([rows.real, rows.imag], 1) if rows.is_complex() else rows

    def svd(self) -> None:
        A = self.A
        assert isinstance(A, SVDOperator)
        x = self.random(2, A.in_shape)
        y = self.random(2, A.out_shape, A(x).dtype)
        self.yes("s >= 0", bool((A.s >= 0).all()), "a singular value is negative")
        c = A.Vt(x)
        self.close("V V^T = I", A.V(c), x, "V(Vt(x)) is not x")
        self.close("Vt is an isometry", norm(c).flatten(), norm(x).flatten(), "Vt changes the norm of signals")
        u = A.Ut(y)
        self.close(
            "U is an isometry",
            norm(A.U(u)).flatten(),
            norm(u).flatten(),
            "U changes the norm of the coordinates with s > 0",
        )
        reached = torch.where(A.s > 0, u, 0)
        self.close("Ut is zero where s is", u, reached, "Ut gives values where s = 0")
        self.close("Ut U = I", A.Ut(A.U(reached)), reached, "Ut(U(z)) is not z on the coordinates with s > 0")
        s = A.s.to(c.real.dtype if c.is_complex() else c.dtype)
        self.close("A = U s V^T", A.U(s * c), A(x), "forward is not U diag(s) V^T")

    def solves(self) -> None:
        A = self.A
        assert isinstance(A, LinearOperator)
        derived = type(A).solve is LinearOperator.solve and type(A).prox is LinearOperator.prox
        if derived and 2000 * self.once > self.seconds:  # hundreds of iterations for each solve
            self.report.notes.append(
                "solve, prox, pinv and norm, conjugate gradients on what was checked, were left out: one application takes "
                f"{self.once:.2g} s"
            )
            return
        tol = self.tol if isinstance(A, SVDOperator) else 100 * self.tol
        x = self.random(2, A.in_shape)
        y = self.random(2, A.out_shape, A(x).dtype)
        size = A.norm() ** 2 or 1.0
        vx, vy = 1.0 / size, 0.1
        u = A.solve(y, vx, vy)
        back = vx * A(A.adjoint(u)) + vy * u
        self.close("solve", back, y, "solve(b) does not solve (var_x A A^T + var_y I) u = b", tol)
        vx = torch.tensor([0.5 / size, 2.0 / size], dtype=self.dtype.to_real(), device=A.device)
        u = A.solve(y, vx, vy)
        column = vx.reshape(-1, *[1] * len(A.out_shape))
        back = column * A(A.adjoint(u)) + vy * u
        self.close("solve, one variance a sample", back, y, "solve fails with var_x of shape (B,)", tol)
        gradient = A.adjoint(u)
        self.close(
            "weighted_adjoint",
            A.weighted_adjoint(y, vx, vy),
            gradient,
            "weighted_adjoint(r) is not A^T (var_x A A^T + var_y I)^-1 r",
            10 * tol,
        )
        vx = 1.0 / size
        p = A.prox(x, y, vx, vy)
        gradient = A.adjoint(A(p) - y) / vy + (p - x) / vx
        scale = norm(A.adjoint(y)) / vy + norm(x) / vx
        worst = (norm(gradient) / scale).max().item()
        self.yes("prox", worst <= tol, f"prox is not the minimiser: the gradient there is {worst:.1e} of its terms")
        clean = A(x)
        again = A(A.pinv(clean))
        # A A^+ A = A is all that an iterative pseudo-inverse can promise where A is ill-conditioned
        self.close("pinv", again, clean, "A(pinv(y)) is not y for a y in the range of A", max(tol, 1e-3))
        if hasattr(self, "M") and 200 * self.once < self.seconds:
            exact = torch.linalg.matrix_norm(self.M, 2).item()
            gap = abs(A.norm() - exact) / max(exact, 1e-300)
            self.yes("norm", gap < 0.01, f"norm() is {A.norm():.4g}, the largest singular value is {exact:.4g}")
