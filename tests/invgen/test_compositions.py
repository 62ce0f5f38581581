"""Random compositions of operators against dense matrices: forward, adjoint, solve, prox, pinv and norm."""

import math
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from invgen import OptionError, ShapeError, operators
from invgen.forward import LinearOperator

F64 = torch.float64
N = 6
EXAMPLES = 30 * int(os.environ.get("INVGEN_FUZZ", "1"))
fixed = settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None)


class Plain(LinearOperator):
    """A matrix without an SVD, so that everything is derived."""

    def __init__(self, matrix):
        super().__init__((matrix.shape[1],))
        self.register_buffer("matrix", matrix)

    def forward(self, x):
        return x @ self.matrix.to(x.dtype).T


def random_matrix(m, n, seed, rank=None):
    g = torch.Generator().manual_seed(seed)
    u = torch.randn(m, n, dtype=F64, generator=g)
    return (
        u if rank is None else torch.randn(m, rank, dtype=F64, generator=g) @ torch.randn(rank, n, dtype=F64, generator=g)
    )


def rotation(n, seed):
    return torch.linalg.qr(random_matrix(n, n, seed))[0]


def leaf(n, kind, seed):
    if kind == "identity":
        return operators.Identity((n,))
    if kind == "mask":
        return operators.Mask.random((n,), 0.6, seed)
    if kind == "matrix":
        return operators.Matrix(random_matrix(max(n - 1, 1), n, seed))
    if kind == "deficient":
        return operators.Matrix(random_matrix(n, n, seed, max(n // 2, 1)))
    if kind == "rotation":
        return operators.Matrix(rotation(n, seed))
    if kind == "blur":
        return operators.Blur((n,), torch.tensor([0.25, 0.5, 0.25], dtype=F64))
    return Plain(random_matrix(max(n - 2, 1), n, seed))


KINDS = ("identity", "mask", "matrix", "deficient", "rotation", "blur", "plain")
NUMBERS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, -0.3, 1e-3])
SEEDS = st.integers(0, 1000)


@st.composite
def linear(draw, depth=2):
    """A composition over R^N."""
    A = leaf(N, draw(st.sampled_from(KINDS)), draw(SEEDS))
    for _ in range(draw(st.integers(0, depth))):
        step = draw(st.sampled_from(["scale", "scale", "after", "before", "sum", "cancel", "stack", "gram", "twice"]))
        if step == "scale":
            A = draw(NUMBERS) * A
        elif step == "after":
            A = leaf(math.prod(A.out_shape), draw(st.sampled_from(KINDS)), draw(SEEDS)) @ A
        elif step == "before":
            A = A @ operators.Matrix(rotation(N, draw(SEEDS)))
        elif step == "sum":
            A = A + operators.Matrix(random_matrix(math.prod(A.out_shape), N, draw(SEEDS)))
        elif step == "cancel":
            A = A + draw(st.sampled_from([-1.0, 0.0])) * A
        elif step == "stack":
            A = operators.stack([A, draw(NUMBERS) * leaf(N, draw(st.sampled_from(KINDS)), draw(SEEDS))])
        elif step == "gram":
            A = A.T @ A
        else:
            A = -(2.0 * A)
    return A


def dense(A):
    return A(torch.eye(math.prod(A.in_shape), dtype=F64).reshape(-1, *A.in_shape)).flatten(1).T


@pytest.mark.slow
@fixed
@given(linear(), st.sampled_from([(1.0, 0.5), (0.3, 2.0), (0.0, 1.0)]), SEEDS)
def test_everything_derived_agrees_with_the_dense_matrix(A, variances, seed):
    M, (vx, vy) = dense(A), variances
    m, size = M.shape[0], max(torch.linalg.matrix_norm(M, 2).item(), 1.0)
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(3, N, dtype=F64, generator=g), torch.randn(3, m, dtype=F64, generator=g)
    tol = 1e-7 * size**2  # iterative solves stop at a relative residual of 1e-10 and A A^T has eigenvalues up to size^2
    shaped = y.reshape(3, *A.out_shape)
    assert torch.allclose(A(x).flatten(1), x @ M.T, atol=1e-10 * size)
    assert torch.allclose(A.adjoint(shaped).flatten(1), y @ M, atol=1e-10 * size)
    system = vx * M @ M.T + vy * torch.eye(m, dtype=F64)
    exact = torch.linalg.solve(system, y.T).T
    assert torch.allclose(A.solve(shaped, vx, vy).flatten(1), exact, atol=tol)
    want = x + vx * (torch.linalg.solve(system, (y - x @ M.T).T).T @ M)
    assert torch.allclose(A.prox(x, shaped, vx, vy).flatten(1), want, atol=tol * size)
    assert A(torch.zeros(0, N, dtype=F64)).shape == (0, *A.out_shape)
    assert A.solve(shaped[:0], torch.ones(0), vy).shape == (0, *A.out_shape)
    assert A.norm(1000) == pytest.approx(torch.linalg.matrix_norm(M, 2).item(), rel=1e-2, abs=1e-7)


@pytest.mark.slow
@fixed
@given(linear(depth=3), SEEDS)
def test_a_pseudo_inverse_is_one(A, seed):
    M = dense(A)
    x = torch.randn(2, N, dtype=F64, generator=torch.Generator().manual_seed(seed))
    values = torch.linalg.svdvals(M)
    above = values[values > 1e-10 * values.max().clamp(min=1e-300)]
    if len(above) and above.min() < 1e-2 * above.max():
        return  # an iterative pseudo-inverse promises nothing where the matrix is ill-conditioned
    y = A(x)
    want = y.flatten(1) @ torch.linalg.pinv(M, rtol=1e-8).T
    assert torch.allclose(A.pinv(y).flatten(1), want, atol=1e-5 * max(1.0, want.abs().max().item()))


SVDS = [lambda: leaf(N, "mask", 0), lambda: leaf(N, "matrix", 0), lambda: leaf(N, "blur", 0), lambda: leaf(N, "plain", 0)]


@pytest.mark.parametrize("make", SVDS)
@pytest.mark.parametrize("factor", [0, 0.0, -0.0, torch.tensor(0.0), np.float32(0)])
def test_zero_times_an_operator_measures_the_noise_alone(make, factor):
    A = make()
    Z = factor * A
    y, x = torch.ones(2, *A.out_shape, dtype=F64), torch.ones(2, N, dtype=F64)
    assert torch.equal(Z.solve(y, 3.0, 0.5), y / 0.5)  # (0 + var_y I)^-1 b, exactly
    assert torch.equal(Z.prox(x, y, 3.0, 0.5), x) and not Z.pinv(y).any() and not Z(x).any()
    assert Z.norm() == 0 and (A @ operators.Identity((N,)) + (-1) * A).norm() < 1e-6
    x.requires_grad_()
    assert not torch.autograd.grad(Z(x).sum(), x)[0].any()  # a gradient of zero, not the lack of one
    both = operators.stack([A, Z]).solve(torch.cat([y, y], 1), 1.0, 1.0)[:, A.out_shape[0] :]
    assert torch.allclose(both, y, atol=1e-8)  # by conjugate gradients, to 1e-10 relative


@pytest.mark.parametrize("factor", [math.nan, math.inf, -math.inf, 1j, "2", None, True, np.ones(2), torch.ones(2)])
def test_a_factor_that_is_no_finite_number_is_refused(factor):
    for times in (lambda a, c: a * c, lambda a, c: c * a):
        with pytest.raises(OptionError, match=r"c of c \* A must be a finite number, got "):
            times(leaf(N, "mask", 0), factor)
    with pytest.raises(OptionError, match="requires a gradient"):
        torch.tensor(2.0, requires_grad=True) * leaf(N, "mask", 0)


@pytest.mark.parametrize("factor", [np.float64(-2), np.int64(-2), torch.tensor(-2.0), -2])
def test_numbers_of_numpy_and_torch_are_numbers(factor):
    A, x = leaf(N, "matrix", 0), torch.ones(N, dtype=F64)
    assert torch.equal((factor * A)(x), -2 * A(x)) and torch.equal((A * factor)(x), -2 * A(x))


def test_real_and_complex_operators_are_not_mixed():
    F, real = operators.Fourier((N,), complex=True), operators.Blur((N,), torch.ones(3))
    for mix in (lambda: F @ real, lambda: real @ F, lambda: F + real, lambda: operators.stack([real, F])):
        with pytest.raises(ShapeError, match="real.*complex|complex.*real"):
            mix()
    with pytest.raises(ShapeError, match="CircularBlur takes real numbers, got torch.complex64"):
        real(torch.zeros(N, dtype=torch.complex64))
    for method in (real.adjoint, real.solve, real.pinv):
        with pytest.raises(ShapeError, match="takes real numbers"):
            method(torch.zeros(N, dtype=torch.complex64))
    magnitude = operators.PhaseRetrieval((N, N), complex=True)
    assert not magnitude.out_dtype.is_complex  # found by looking, though out_shape was set
    # a selection takes both kinds, and what follows it is asked for what it gives
    mask = operators.Mask.random((N,), 0.5)
    M = mask @ F
    z = torch.randn(2, N, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    assert M.out_dtype.is_complex and torch.allclose(M.adjoint(M(z)), F.adjoint(mask.adjoint(mask(F(z)))))
    with pytest.raises(ShapeError, match="CircularBlur takes real signals but RotatedInput gives complex"):
        operators.Blur(mask.out_shape, torch.ones(3)) @ M
