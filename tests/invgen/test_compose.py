import pytest
import torch

from invgen import check_operator
from invgen.errors import OptionError, ShapeError
from invgen.forward import LinearOperator, Operator, SVDOperator, per_sample
from invgen.operators import Blur, CompressedSensing, Downsample, Grey, Identity, Mask, from_function, stack

SHAPE = (3, 4, 4)
KERNEL = torch.tensor([[0.0, 0.1, 0.0], [0.2, 1.0, 0.1], [0.0, 0.3, 0.0]])


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(A):
    n = A.in_shape.numel()
    return A(torch.eye(n, dtype=torch.float64).reshape(n, *A.in_shape)).reshape(n, -1).T


def orthogonal(shape):
    """A random orthogonal map: all the rows of a cosine transform with random signs, in the shape of the signal."""
    n = torch.Size(shape).numel()
    return CompressedSensing(shape, n, "dct")


def test_orthogonal_maps_keep_the_svd():
    Q = orthogonal(SHAPE)
    assert Q.orthogonal
    mask = Mask.random((48,), keep=0.4)
    A = mask @ Q
    assert isinstance(A, SVDOperator) and A.rank == mask.out_shape[0]
    assert torch.allclose(dense(A), dense(mask) @ dense(Q), atol=1e-13)
    check_operator(A)
    B = orthogonal((1, 4, 4)) @ Grey(SHAPE)
    assert isinstance(B, SVDOperator)
    check_operator(B)


def test_a_linear_operator_after_an_orthogonal_one_keeps_its_solve():
    calls = []

    class Counted(LinearOperator):
        def forward(self, x):
            return x[:, :5]

        def solve(self, b, var_x=1.0, var_y=0.0):
            calls.append(1)
            return b / (per_sample(var_x, b) + per_sample(var_y, b))

    A = Counted((48,)) @ orthogonal(SHAPE)
    b = draw(2, 5)
    assert torch.allclose(A.solve(b, 1.0, 0.5), b / 1.5) and calls
    check_operator(A)


def test_chains_are_linear_where_both_are():
    A = Grey(SHAPE) @ Blur(SHAPE, KERNEL, "reflect")
    assert isinstance(A, LinearOperator) and not isinstance(A, SVDOperator)
    check_operator(A)
    tanh = from_function(torch.tanh, SHAPE)
    B = Grey(SHAPE) @ tanh
    assert isinstance(B, Operator) and not isinstance(B, LinearOperator)
    x = draw(2, *SHAPE)
    assert torch.allclose(B(x), Grey(SHAPE)(torch.tanh(x)))
    check_operator(B)


def test_three_operators_compose_in_either_order():
    P, Q, R = Downsample((1, 4, 4), 2), Grey(SHAPE), Blur(SHAPE, KERNEL)
    x = draw(2, *SHAPE)
    assert torch.allclose(((P @ Q) @ R)(x), P(Q(R(x)))) and torch.allclose((P @ (Q @ R))(x), P(Q(R(x))))


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2, -0.5, 0.0])
@pytest.mark.parametrize("boundary", ["circular", "replicate"])
def test_multiples(factor, boundary):
    A = Blur(SHAPE, KERNEL, boundary)
    B = factor * A
    assert isinstance(B, SVDOperator) == (isinstance(A, SVDOperator) or factor == 0)  # nothing has a decomposition too
    assert torch.allclose(dense(B), factor * dense(A), atol=1e-13)
    assert torch.allclose(dense(A * factor), dense(B))
    if factor:
        check_operator(B)
        y = draw(2, *SHAPE)
        gram = 0.3 * dense(B) @ dense(B).T + 0.1 * torch.eye(48, dtype=torch.float64)
        want = torch.linalg.solve(gram, y.reshape(2, 48).T).T.reshape(2, *SHAPE)
        assert torch.allclose(B.solve(y, 0.3, 0.1), want, atol=1e-8)
    assert torch.allclose((-2 * from_function(torch.sin, (3,)))(torch.ones(3)), -2 * torch.ones(3).sin())


def test_sums_and_differences():
    A, B = Blur(SHAPE, KERNEL), Identity(SHAPE)
    assert torch.allclose(dense(A + B), dense(A) + dense(B)) and torch.allclose(dense(A - B), dense(A) - dense(B))
    assert torch.allclose(dense(-A), -dense(A))
    check_operator(A + 2 * B)
    C = A + from_function(torch.sin, SHAPE)
    assert not isinstance(C, LinearOperator)
    check_operator(C)


def test_transposes():
    A = Grey(SHAPE)
    assert A.T.in_shape == A.out_shape and A.T.out_shape == A.in_shape and A.T.T is A
    assert torch.allclose(dense(A.T), dense(A).T) and abs(A.T.norm() - A.norm()) < 1e-12
    check_operator(A.T)
    assert torch.allclose(dense(A @ A.T), dense(A) @ dense(A).T)


def test_stacks():
    parts = [Grey(SHAPE), Mask.random(SHAPE, keep=0.2), Downsample(SHAPE, 2)]
    A = stack(parts)
    assert isinstance(A, LinearOperator) and A.out_shape == (16 + A.operators[1].out_shape[0] + 12,)
    check_operator(A)
    x = draw(2, 5, *SHAPE)
    pieces = A.split(A(x))
    assert all(torch.equal(piece, part(x)) for piece, part in zip(pieces, parts, strict=True))
    B = stack([Grey(SHAPE), from_function(torch.tanh, SHAPE)])
    assert not isinstance(B, LinearOperator)
    check_operator(B)


def test_compositions_move_with_their_parts():
    A = 2 * (Mask.random((48,), keep=0.4) @ orthogonal(SHAPE))
    assert {b.dtype for b in A.to(torch.float64).buffers() if b.is_floating_point()} == {torch.float64}
    assert torch.equal(torch.load(_saved(A), weights_only=False)(draw(*SHAPE)), A(draw(*SHAPE)))


def _saved(A):
    import io

    file = io.BytesIO()
    torch.save(A, file)
    file.seek(0)
    return file


def test_wrong_operands_are_named():
    A = Grey(SHAPE)
    with pytest.raises(ShapeError, match=r"Grey takes \(3, 4, 4\) but Grey gives \(1, 4, 4\)"):
        A @ A
    with pytest.raises(OptionError, match="to measure a signal write A\\(x\\)"):
        A @ torch.zeros(SHAPE)
    with pytest.raises(OptionError, match="adds two operators, got 1"):
        A + 1
    with pytest.raises(ShapeError, match="A \\+ B needs equal shapes"):
        A + Identity(SHAPE)
    with pytest.raises(OptionError, match="to compose operators write A @ B"):
        A * A
    with pytest.raises(OptionError, match="at least one operator"):
        stack([])
    with pytest.raises(ShapeError, match="stack needs one in_shape"):
        stack([A, Identity((1, 4, 4))])
