import warnings

import pytest
import torch

from invgen.errors import ConvergenceWarning
from invgen.linalg import cg, dot, gmres, norm


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def positive(batch, n, *, condition=100.0, dtype=torch.float64):
    """A batch of symmetric (Hermitian) matrices with eigenvalues from 1 to `condition`."""
    Q, _ = torch.linalg.qr(draw(batch, n, n, dtype=dtype))
    return (Q * torch.logspace(0, torch.tensor(condition).log10().item(), n, dtype=torch.float64)) @ Q.mH


def times(M):
    return lambda x: (M @ x[..., None])[..., 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_cg_solves(dtype):
    M, b = positive(4, 20, dtype=dtype), draw(4, 20, seed=1, dtype=dtype)
    want = torch.linalg.solve(M, b)
    # a relative residual of 1e-10 leaves an error of at most the condition number times that
    assert ((cg(times(M), b) - want).norm(dim=1) / want.norm(dim=1)).max() < 1e-8


def test_cg_works_on_signals_of_any_rank_and_from_a_start():
    M, b = positive(2, 12), draw(2, 3, 2, 2, seed=1)

    def apply(x):
        return times(M)(x.flatten(1)).reshape(x.shape)

    x = cg(apply, b)
    assert torch.allclose(apply(x), b, atol=1e-8)
    calls = []

    def counted(v):
        calls.append(1)
        return apply(v)

    again = cg(counted, b, x, tol=1e-9)  # a start that is good enough comes back after one residual
    assert len(calls) == 1 and torch.equal(again, x)


def test_preconditioned_cg_needs_fewer_iterations():
    d = torch.logspace(0, 6, 50, dtype=torch.float64)
    b, calls = draw(1, 50), []

    def apply(x):
        calls.append(1)
        return d * x

    x = cg(apply, b, precondition=lambda r: r / d)
    assert torch.allclose(x, b / d, atol=1e-12) and len(calls) <= 2


def test_a_sample_does_not_depend_on_its_batch():
    # one sample that converges at once, one ill-conditioned, one zero: elementwise products, so that bits may be compared
    d = torch.stack([torch.ones(30), torch.logspace(0, 4, 30), torch.logspace(0, 1, 30)]).double()
    b = draw(3, 30)
    b[2] = 0
    together = cg(lambda x: d * x, b)
    for i in range(3):
        assert torch.equal(cg(lambda x, i=i: d[i : i + 1] * x, b[i : i + 1])[0], together[i])
    together = gmres(lambda x: d * x, b, max_iter=5)
    for i in range(3):
        alone = gmres(lambda x, i=i: d[i : i + 1] * x, b[i : i + 1], max_iter=5)[0]
        assert torch.allclose(alone, together[i], atol=1e-12)  # its small batched least squares may round otherwise


def test_a_check_every_ten_iterations_changes_nothing():
    M, b = positive(3, 20), draw(3, 20, seed=1)
    assert torch.equal(cg(times(M), b, check_every=10), cg(times(M), b, check_every=1))


def test_cg_on_a_singular_system_that_has_solutions():
    M = positive(1, 10)
    M[:, :, -1] = M[:, -1] = 0
    b = draw(1, 10)
    b[:, -1] = 0
    x = cg(times(M), b)
    assert torch.allclose(times(M)(x), b, atol=1e-8) and x[0, -1] == 0


def test_stopping_short_is_a_warning_that_can_be_turned_off():
    M, b = positive(1, 30, condition=1e6), draw(1, 30)
    with pytest.warns(ConvergenceWarning, match="CG stopped after 3 iterations at a relative residual of"):
        cg(times(M), b, max_iter=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cg(times(M), b, max_iter=3, warn=False)
        cg(times(M), b[:0])  # an empty batch is solved


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gmres_solves_what_is_not_symmetric(dtype):
    M = draw(4, 8, 8, dtype=dtype) + 4 * torch.eye(8, dtype=dtype)
    b = draw(4, 8, seed=1, dtype=dtype)
    # eight iterations exhaust a space of eight dimensions
    assert torch.allclose(gmres(times(M), b, max_iter=8), torch.linalg.solve(M, b), atol=1e-9)


def test_gmres_minimises_the_residual_over_the_krylov_space():
    M, b = draw(1, 12, 12)[0] + 5 * torch.eye(12, dtype=torch.float64), draw(1, 12, seed=1)
    krylov = torch.stack([torch.linalg.matrix_power(M, k) @ b[0] for k in range(4)], 1)
    best = krylov @ torch.linalg.lstsq(M @ krylov, b[0]).solution
    assert torch.allclose(gmres(times(M), b, max_iter=4)[0], best, atol=1e-9)


def test_gmres_gives_a_linear_map_of_the_solution_without_another_product():
    inner, outer, b, calls = positive(2, 6), positive(2, 6), draw(2, 6), []

    def along(v):
        calls.append(v)
        return times(inner)(v)

    u = gmres(lambda v: v + times(outer)(times(inner)(v)), b, max_iter=3)
    image = gmres(lambda v, moved: v + times(outer)(moved), b, max_iter=3, along=along)
    assert torch.allclose(image, times(inner)(u), atol=1e-9) and len(calls) == 3


def test_gmres_survives_an_exhausted_space_and_a_zero():
    b = draw(2, 6)
    b[1] = 0
    x = gmres(lambda v: 2 * v, b, max_iter=5)
    assert torch.allclose(x, b / 2, atol=1e-12)
    with pytest.warns(ConvergenceWarning, match="GMRES"):
        gmres(times(positive(2, 6)), draw(2, 6), max_iter=2, warn=True)


def test_inner_products_and_norms_are_per_sample():
    a, b = draw(3, 2, 4, dtype=torch.complex128), draw(3, 2, 4, seed=1, dtype=torch.complex128)
    assert dot(a, b).shape == norm(a).shape == (3, 1, 1)
    want = torch.stack([torch.vdot(p.flatten(), q.flatten()).real for p, q in zip(a, b, strict=True)])
    assert torch.allclose(dot(a, b).flatten(), want)
    assert torch.allclose(norm(a) ** 2, dot(a, a))
