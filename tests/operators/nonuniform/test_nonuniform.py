"""Non-uniform Fourier operators against direct sums, the Cartesian scanner, and laws of closure."""

import math

import numpy as np
import pytest
import torch

from invgen.errors import OptionError, ShapeError
from invgen.inference.checks import check_operator
from invgen.linalg import recorded
from invgen.operators import (
    MRI,
    ClosurePhases,
    LogClosureAmplitudes,
    NonCartesianMRI,
    NonUniformFourier,
    birdcage_maps,
    closure_sets,
    density_compensation,
    radial_trajectory,
    sky_points,
    spiral_trajectory,
)

G = torch.Generator().manual_seed(0)


def points(count, dim):
    return torch.rand(count, dim, generator=G, dtype=torch.float64) - 0.5


def direct_sums(x, p):
    """The definition, one term after the other in NumPy."""
    axes = [np.arange(n) - n // 2 for n in x.shape]
    place = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    return np.array([np.sum(x * np.exp(-2j * np.pi * (place @ k))) for k in p])


@pytest.mark.parametrize("size", [(9,), (6, 7), (3, 4, 5)])
def test_equals_direct_sums(size):
    p, w = points(11, len(size)), torch.rand(11, generator=G) + 0.5
    x = torch.randn(*size, generator=G, dtype=torch.float64)
    want = w.numpy() * direct_sums(x.numpy(), p.numpy())
    y = NonUniformFourier(size, p, weights=w)(x)
    np.testing.assert_allclose(torch.view_as_complex(y).numpy(), want, atol=1e-11)  # the transform's own precision
    z = NonUniformFourier(size, p, weights=w, complex=True)(torch.complex(x, x.flip(0)))
    both = want + 1j * w.numpy() * direct_sums(x.flip(0).numpy(), p.numpy())
    np.testing.assert_allclose(z.numpy(), both, atol=1e-11)
    single = NonUniformFourier(size, p, weights=w)(x.float())
    np.testing.assert_allclose(torch.view_as_complex(single).numpy(), want, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "dim", "kind"), [((2, 5, 6), 2, False), ((6, 5), 2, True), ((9,), 1, False)])
def test_contract(shape, dim, kind):
    check_operator(NonUniformFourier(shape, points(23, dim), weights=torch.rand(23, generator=G) + 0.5, complex=kind))


@pytest.mark.slow
@pytest.mark.parametrize("channels", [0, 1, 2])
@pytest.mark.parametrize("coils", [1, 3])
def test_contract_of_the_scanner(channels, coils):
    shape = (channels, 6, 5) if channels else (6, 5)
    maps = birdcage_maps((coils, 6, 5)) if coils > 1 else None
    check_operator(NonCartesianMRI(shape, radial_trajectory(5, 8), maps, complex=not channels))


def test_gram_is_the_operator_and_its_adjoint():
    x = torch.randn(2, 2, 7, 6, generator=G, dtype=torch.float64)
    for A in (
        NonUniformFourier((2, 7, 6), points(20, 2), weights=torch.rand(20, generator=G) + 0.1),
        NonCartesianMRI((2, 7, 6), radial_trajectory(4, 9), birdcage_maps((3, 7, 6))),
    ):
        torch.testing.assert_close(A.gram(x), A.adjoint(A(x)), atol=1e-11, rtol=0)


def test_on_a_full_grid_it_is_the_cartesian_scanner():
    rows, columns = ((torch.arange(n, dtype=torch.float64) - n // 2) / n for n in (6, 7))
    grid = torch.cartesian_prod(rows, columns)
    x = torch.randn(2, 6, 7, generator=G, dtype=torch.float64)
    A, B = NonCartesianMRI((2, 6, 7), grid), MRI((2, 6, 7), torch.ones(6, 7))
    torch.testing.assert_close(A(x), B(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(A.gram(x[None])[0], x, atol=1e-12, rtol=0)
    assert A.circulant.sub(1).abs().max() < 1e-12  # so that one iteration solves it
    torch.testing.assert_close(density_compensation(grid, (6, 7)), torch.ones(42, dtype=torch.float64), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "path", [radial_trajectory(51, 64), radial_trajectory(51, 64, golden=False), spiral_trajectory(8, 512, 2.5)]
)
def test_density_compensation_covers_the_disc(path):
    weights = density_compensation(path, (32, 32))
    assert (weights > 0).all() and path.norm(dim=1).max() <= 0.5 + 1e-9
    # of the square of k-space a disc is measured, pi / 4, and half a sample around it
    assert weights.sum().item() / 32**2 == pytest.approx(math.pi / 4, rel=0.08)


def test_gridding_is_near_the_image_and_the_solve_nearer():
    rows = torch.arange(32, dtype=torch.float64) - 16
    x = torch.exp(-(rows[:, None] ** 2 / 40 + (rows - 3) ** 2 / 20))[None]  # smooth: all of it is inside of the disc
    A = NonCartesianMRI((1, 32, 32), radial_trajectory(51, 64))
    y = A(x)
    assert (A.gridded(y) - x).norm() / x.norm() < 0.05
    with recorded() as solves:
        found = A.prox(torch.zeros_like(x).float(), y.float(), 1.0, 1e-3)
    assert (found - x).norm() / x.norm() < 0.01
    assert solves[0][1] <= 30  # to 1e-5; without the circulant preconditioner 60
    assert A.gridded(y.float()[None, None]).shape == (1, 1, 1, 32, 32)


def test_refusals():
    for call, error, words in (
        (lambda: NonUniformFourier((8, 8), torch.zeros(4, 3)), ShapeError, r"points must be \(M, dim\)"),
        (lambda: NonUniformFourier((8, 8), torch.full((4, 2), math.nan)), OptionError, "must be finite"),
        (lambda: NonUniformFourier((8, 8), torch.zeros(4, 2), weights=torch.ones(3)), ShapeError, "each of 4 points"),
        (lambda: NonUniformFourier((8, 8), torch.zeros(1, 2), weights=[0.0]), OptionError, "positive"),
        (lambda: NonCartesianMRI((1, 8, 8), torch.full((4, 2), 3.0)), OptionError, "divide k by the number of pixels"),
        (lambda: NonCartesianMRI((3, 8, 8), torch.zeros(4, 2)), OptionError, "image_shape of"),
        (lambda: NonCartesianMRI((1, 8, 8), torch.zeros(4, 2), torch.ones(2, 8, 7)), ShapeError, "complex tensor"),
        (lambda: ClosurePhases(4, [[1, 2]]), ShapeError, r"shape \(T, 3\)"),
        (lambda: ClosurePhases(4, [[1, 2, 5]]), OptionError, "from 1 to 4"),
        (lambda: closure_sets([0.0], [("A", "B")]), OptionError, "no three stations"),
    ):
        with pytest.raises(error, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def array(stations=5):
    names = [chr(65 + i) for i in range(stations)]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return names, pairs, closure_sets([1.0] * len(pairs), pairs)


@pytest.mark.parametrize("stations", [3, 4, 5, 7])
def test_independent_closures_are_as_many_as_an_array_has(stations):
    _, _, (triangles, quadrangles) = array(stations)
    assert len(triangles) == (stations - 1) * (stations - 2) // 2
    assert len(quadrangles) == stations * (stations - 3) // 2


def test_gains_of_stations_cancel():
    names, pairs, (triangles, quadrangles) = array()
    v = torch.randn(len(pairs), generator=G, dtype=torch.complex128)
    gain = torch.randn(len(names), generator=G, dtype=torch.complex128)
    at = [(names.index(a), names.index(b)) for a, b in pairs]
    spoilt = torch.stack([gain[a] * gain[b].conj() * v[k] for k, (a, b) in enumerate(at)])
    for A in (ClosurePhases(len(v), triangles), LogClosureAmplitudes(len(v), quadrangles)):
        torch.testing.assert_close(A(torch.view_as_real(v)), A(torch.view_as_real(spoilt)), atol=1e-12, rtol=0)
        check_operator(A)
    lead = triangles[0].tolist()  # A to B, B to C, C to A, which is A to C conjugated
    angle = sum((1 if k > 0 else -1) * v[abs(k) - 1].angle() for k in lead)
    got = ClosurePhases(len(v), triangles)(torch.view_as_real(v))[0]
    torch.testing.assert_close(got, torch.stack([angle.cos(), angle.sin()]), atol=1e-12, rtol=0)


def test_a_source_to_the_east_is_left_of_the_middle():
    view, size = 1e-9, 8
    u, v = torch.tensor([3e8, 1e8]), torch.tensor([-2e8, 5e8])
    x = torch.zeros(size, size, dtype=torch.float64)
    x[4 - 1, 4 - 2] = 1.0  # one pixel up, to the north, and two to the left, to the east
    east, north = 2 * view / size, 1 * view / size
    want = torch.exp(2j * math.pi * (u.double() * east + v.double() * north))
    y = NonUniformFourier((size, size), sky_points(u, v, view, size))(x)
    torch.testing.assert_close(torch.view_as_complex(y), want, atol=1e-11, rtol=0)
