import pytest
import torch

from invgen import check_operator
from invgen.errors import OptionError, ShapeError
from invgen.forward import LinearOperator, Operator, SVDOperator


class Dense(LinearOperator):
    """y = M x on signals of shape (2, 3)."""

    def __init__(self, M):
        super().__init__((2, 3), dtype=torch.complex64 if M.is_complex() else torch.float32)
        self.register_buffer("M", M)

    def forward(self, x):
        return x.flatten(1) @ self.M.to(x.dtype).T


class DenseSVD(SVDOperator):
    def __init__(self, M):
        super().__init__((2, 3))
        left, s, right = torch.linalg.svd(M)
        full = torch.zeros(len(M), 6, dtype=M.dtype)
        full[:, : len(s)] = left[:, : len(s)]
        s = torch.cat([s, s.new_zeros(6 - len(s))])
        self.register_buffer("s", torch.where(s > 1e-12, s, 0))
        self.register_buffer("left", full * (self.s > 0))
        self.register_buffer("right", right)

    def U(self, z):
        return z @ self.left.to(z.dtype).T

    def Ut(self, y):
        return y @ self.left.to(y.dtype)

    def V(self, z):
        return (z @ self.right.to(z.dtype)).reshape(-1, 2, 3)

    def Vt(self, x):
        return x.flatten(1) @ self.right.to(x.dtype).T


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


WIDE, TALL = draw(4, 6), draw(8, 6)
DEFICIENT = draw(5, 3) @ draw(3, 6, seed=1)


@pytest.fixture(params=["wide", "tall", "deficient", "wide SVD", "deficient SVD"])
def pair(request):
    M = {"wide": WIDE, "tall": TALL, "deficient": DEFICIENT}[request.param.split()[0]]
    return (DenseSVD if "SVD" in request.param else Dense)(M), M


def test_any_number_of_batch_axes(pair):
    A, M = pair
    x = draw(3, 2, 5, 2, 3)
    y = A(x)
    assert y.shape == (3, 2, 5, len(M))
    assert torch.allclose(y, x.flatten(-2) @ M.T)
    assert torch.allclose(A(x[0, 0, 0]), y[0, 0, 0]) and A(x[0, 0, 0]).shape == A.out_shape
    assert A(x[:0]).shape == (0, 2, 5, len(M))
    assert A.adjoint(y).shape == x.shape and A.pinv(y[0, 0, 0]).shape == (2, 3)
    assert A.prox(x, y[0, 0], 1.0, 1.0).shape == x.shape  # one measurement for many signals
    assert torch.equal(A.prox(x=x, y=y, var_y=2.0), A.prox(x, y, 1.0, 2.0))
    assert torch.equal(A.solve(b=y[0, 0], var_y=0.1), A.solve(y[0, 0], 1.0, 0.1))


def test_derived_methods_against_the_matrix(pair):
    A, M = pair
    m = len(M)
    x, y = draw(2, 2, 3, seed=2), draw(2, m, seed=3)
    assert A.out_shape == (m,)
    assert torch.allclose(A.adjoint(y).flatten(1), y @ M)
    for var_x, var_y in ((1.0, 0.1), (torch.tensor(2.0), 0.3), (torch.tensor([0.5, 2.0]), torch.tensor([[0.1], [1.0]]))):
        vx, vy = (torch.as_tensor(v).double().flatten().expand(2) for v in (var_x, var_y))
        for i in range(2):
            gram = vx[i] * M @ M.T + vy[i] * torch.eye(m, dtype=M.dtype)
            assert torch.allclose(A.solve(y, var_x, var_y)[i], torch.linalg.solve(gram, y[i]), atol=1e-7)
            hessian = M.T @ M / vy[i] + torch.eye(6, dtype=M.dtype) / vx[i]
            want = torch.linalg.solve(hessian, M.T @ y[i] / vy[i] + x[i].flatten() / vx[i])
            assert torch.allclose(A.prox(x, y, var_x, var_y)[i].flatten(), want, atol=1e-7)
    assert torch.allclose(A.pinv(y).flatten(1), y @ torch.linalg.pinv(M).T, atol=1e-7)
    assert abs(A.norm() / torch.linalg.matrix_norm(M, 2).item() - 1) < 1e-3
    assert torch.allclose(A.T(y).flatten(1), y @ M)


def test_a_variance_for_every_value(pair):
    A, M = pair
    y, noise = draw(2, len(M)), draw(2, len(M), seed=1).exp()
    got = A.solve(y, 0.5, noise)
    for i in range(2):
        want = torch.linalg.solve(0.5 * M @ M.T + torch.diag(noise[i]), y[i])
        assert torch.allclose(got[i], want, atol=1e-7)


def test_contract(pair):
    check_operator(pair[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projection_on_the_solutions_where_there_is_no_noise(dtype):
    A = DenseSVD(WIDE)
    x, y = draw(2, 2, 3, dtype=dtype), draw(2, 4, seed=1, dtype=dtype)
    u = A.prox(x, y, 1.0, 0.0)
    assert u.dtype == dtype
    assert torch.allclose(A(u), y, atol=1e-5 if dtype == torch.float32 else 1e-12)
    assert torch.allclose(u, x + A.pinv(y - A(x)), atol=1e-5 if dtype == torch.float32 else 1e-12)


def test_singular_values_that_are_rounding_errors_are_left_out():
    A = DenseSVD(WIDE)
    A.s[3] = 1e-9 * A.s[0]
    y = draw(2, 4)
    assert A.pinv(y, rtol=1e-6).abs().max() < 100 < A.pinv(y).abs().max()
    assert A.pinv(y.float()).abs().max() < 100  # below ten epsilons of single precision


def test_complex_signals():
    M = draw(4, 6, dtype=torch.complex128)
    A = Dense(M)
    y = draw(2, 4, dtype=torch.complex128)
    assert torch.allclose(A.adjoint(y).flatten(1), y @ M.conj())
    check_operator(A)


def test_the_adjoint_can_be_differentiated():
    A, y = Dense(WIDE), draw(1, 4).requires_grad_()
    (grad,) = torch.autograd.grad((A.adjoint(y) ** 2).sum(), y)
    assert torch.allclose(grad, 2 * y.detach() @ WIDE @ WIDE.T)
    with torch.no_grad():
        assert not A.adjoint(y).requires_grad


def test_shapes_and_precision_of_a_bare_operator():
    class Cube(Operator):
        def forward(self, x):
            return x[:, :2] ** 3

    A = Cube(4)
    assert A.in_shape == (4,) and A.out_shape == (2,) and repr(A) == "Cube((4,) -> (2,))"
    assert A(torch.ones(4, dtype=torch.float64)).dtype == torch.float64
    check_operator(A)


def test_wrong_input_is_named():
    A = Dense(WIDE)
    with pytest.raises(ShapeError, match=r"Dense takes a tensor of shape \(\*batch, 2, 3\), got \(3, 2\)"):
        A(torch.zeros(3, 2))
    with pytest.raises(ShapeError, match=r"Dense.adjoint takes a tensor of shape \(\*batch, 4\), got \(2, 3\)"):
        A.adjoint(torch.zeros(2, 3))
    with pytest.raises(ShapeError, match="takes a torch.Tensor, got list"):
        A([1, 2])
    with pytest.raises(ShapeError, match="Dense.prox"):
        A.prox(torch.zeros(2, 3), torch.zeros(5))
    for shape in ((0, 3), (-1,), 0):
        with pytest.raises(OptionError, match="positive sizes"):
            Operator(shape)
    with pytest.raises(TypeError, match="must define forward"):
        Operator((2,))(torch.zeros(2))
