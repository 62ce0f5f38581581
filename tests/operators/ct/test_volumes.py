"""Cone beams and stacks: against rays that are followed one by one, closed forms, the fan in the plane of the orbit."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.inference.checks import check_operator
from invgen.operators import ConeBeamCT, FanBeamCT, ParallelBeamCT, ParallelBeamCT3D
from invgen.operators.ct.projectors.astra import AstraVolume

FAR = {"source_origin": 20.0, "origin_det": 9.0}


def tilted(count=4):
    """Views as ASTRA's cone_vec, whose detectors stand upright in none, and of which some look along z."""
    g = np.random.default_rng(0)
    source = g.standard_normal((count, 3))
    source[0] = 0.1, 0.2, 1.0
    source *= 20 / np.linalg.norm(source, axis=1, keepdims=True)
    across = np.cross(source, g.standard_normal((count, 3)))
    across *= 1.3 / np.linalg.norm(across, axis=1, keepdims=True)
    down = np.cross(source, across) / 20 + 0.1 * across
    return np.concatenate([source, -0.5 * source + across, across, down], axis=1)


CASES = {
    "circle": lambda: ConeBeamCT((5, 7, 6), 4, **FAR),
    "curved": lambda: ConeBeamCT((5, 7, 6), 3, detector="curved", **FAR),
    "helix": lambda: ConeBeamCT((5, 6, 7), 5, pitch=3.0, turns=2, **FAR),
    "offset, thick slices": lambda: ConeBeamCT((4, 7, 6), 3, det_offset=(0.7, -1.2), voxel_size=(1.7, 0.8), **FAR),
    "coarse detector, two volumes": lambda: ConeBeamCT((2, 5, 7, 6), 3, det_spacing=(2.0, 3.1), **FAR),
    "vectors": lambda: ConeBeamCT.from_vectors((5, 7, 6), tilted(), (6, 7), voxel_size=(1.2, 0.9)),
}


def followed(A):
    """The matrix by following each ray from plane to plane, (rays, voxels)."""
    size, voxel, views = A.in_shape[-3:], np.array(A.voxel_size), A.matrix.views
    sources, origins, steps = (t[..., ::-1] * [1, -1, 1] / voxel for t in (views.sources, views.origins, views.steps))
    matrix = np.zeros((views.rows, *views.origins.shape[:2], *size))
    for v, source in enumerate(sources):
        for u, first in enumerate(origins[v]):
            m = np.abs(first + steps[v] * (views.rows - 1) / 2 - source)[::-1].argmax()
            m = 2 - m
            for r in range(views.rows):
                along = first + r * steps[v] - source
                length = np.linalg.norm(along * voxel) / abs(along[m])
                for plane in range(size[m]):
                    at = source + along * ((plane - (size[m] - 1) / 2 - source[m]) / along[m]) + (np.array(size) - 1) / 2
                    a, b = (k for k in range(3) if k != m)
                    for i in (math.floor(at[a]), math.floor(at[a]) + 1):
                        for j in (math.floor(at[b]), math.floor(at[b]) + 1):
                            if 0 <= i < size[a] and 0 <= j < size[b]:
                                place = [0, 0, 0]
                                place[m], place[a], place[b] = plane, i, j
                                matrix[r, v, u][tuple(place)] += length * (1 - abs(at[a] - i)) * (1 - abs(at[b] - j))
    return torch.from_numpy(matrix.reshape(-1, math.prod(size)))


@pytest.mark.parametrize("name", CASES)
def test_equals_rays_followed_one_by_one(name):
    A = CASES[name]()
    matrix = followed(A)
    # what is rounded is a weight in float32, 6e-8, in sums of a few; in float64 a position of up to 20 voxels
    for dtype, bound in ((torch.float64, 1e-13), (torch.float32, 4e-7)):
        rays, voxels = (torch.eye(n, dtype=dtype) for n in matrix.shape)
        assert (A.matrix(voxels).double().T - matrix).abs().max() < bound * matrix.max()
        assert (A.matrix(rays, turned=True).double() - matrix).abs().max() < bound * matrix.max()


def test_contract():
    A = ConeBeamCT((3, 4, 5), 12, **FAR)
    check_operator(A)
    check_operator(ParallelBeamCT3D((2, 4, 5), 5))
    x = torch.randn(1, *A.in_shape, dtype=torch.float64, requires_grad=True)
    small = ConeBeamCT((2, 3, 2), 2, **FAR)
    x = torch.randn(1, *small.in_shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(small, x, check_forward_ad=True) and torch.autograd.gradgradcheck(small, x)
    assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(A)))(torch.ones(A.in_shape)), A(torch.ones(A.in_shape)))


@pytest.mark.parametrize("detector", ["flat", "curved"])
def test_is_a_fan_in_the_plane_of_the_orbit(detector):
    scan = {"source_origin": 50.0, "origin_det": 30.0, "detector": detector}
    A, B = ConeBeamCT((1, 24, 20), 9, det_count=(1, 44), **scan), FanBeamCT((24, 20), 9, det_count=44, **scan)
    x = torch.rand(24, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = A(x[None])
    assert y.shape == (1, 9, 44)
    assert torch.allclose(y[0], B(x), rtol=0, atol=1e-12 * y.max().item())
    assert torch.allclose(A.fbp(y)[0], B.fbp(y[0]), rtol=0, atol=1e-10)
    assert A.density == pytest.approx(B.density)  # a slice as thick as the detector's row, both at the axis


def ball(size, voxel, centre, radius, fine=4):
    """The part of each voxel that lies in a ball, (D, H, W)."""
    z, y, x = (((torch.arange(n * fine) + 0.5) / fine - n / 2) * p for n, p in zip(size, voxel, strict=True))
    inside = (z[:, None, None] - centre[2]) ** 2 + (-y[:, None] - centre[1]) ** 2 + (x - centre[0]) ** 2 <= radius**2
    return inside.double().reshape(size[0], fine, size[1], fine, size[2], fine).mean((1, 3, 5))


def chords(A, centre, radius):
    """The lengths of the rays of a scan in a ball."""
    v = A.matrix.views
    along = v.origins[..., None, :] + v.steps[:, None, None] * np.arange(v.rows)[:, None] - v.sources[:, None, None]
    along /= np.linalg.norm(along, axis=-1, keepdims=True)
    distance = np.linalg.norm(np.cross(centre - v.sources[:, None, None], along), axis=-1)
    return torch.from_numpy(2 * np.sqrt(np.clip(radius**2 - distance**2, 0, None))).permute(2, 0, 1)


@pytest.mark.parametrize("detector", ["flat", "curved"])
def test_closed_form_of_a_ball(detector):
    error = []
    for N in (16, 32):
        A = ConeBeamCT((N, N, N), 7, source_origin=2.0 * N, origin_det=N, detector=detector)
        centre, radius = np.array([0.1, 0.15, -0.1]) * N, 0.25 * N
        truth = chords(A, centre, radius)
        error.append(((A(ball((N, N, N), A.voxel_size, centre, radius)) - truth).norm() / truth.norm()).item())
    assert error[1] < 0.055 and error[1] < 0.55 * error[0]  # first order in the voxel: .069, .035 with 24, 48 voxels


@pytest.mark.parametrize("detector", ["flat", "curved"])
@pytest.mark.parametrize("short", [False, True])
def test_feldkamps_algorithm_finds_a_ball(detector, short):
    size, voxel, N = (16, 32, 32), (2.0, 1.0, 1.0), 32
    angles = np.arange(40) * (math.pi * 1.45 / 40 if short else 2 * math.pi / 40)
    A = ConeBeamCT(size, angles=angles, source_origin=2.0 * N, origin_det=N, detector=detector, voxel_size=(2.0, 1.0),
                   det_spacing=(1.5, 1.5))  # fmt: skip
    centre, radius = np.array([3.2, 4.8, 1.0]), 9.0
    truth = chords(A, centre, radius)
    inner = ball(size, voxel, centre, 0.7 * radius) == 1
    mean = A.fbp(truth, "hann")[inner].mean()
    assert abs(mean - 1) < 0.01  # the cone opens by 9 degrees: its cosine squared is .976, of which little is lost
    assert abs(A.fbp(2 * truth, "hann")[inner].mean() - 2 * mean) < 1e-9


def test_a_stack_is_slices_side_by_side():
    A, B = ParallelBeamCT3D((3, 12, 10), 7, det_offset=0.3), ParallelBeamCT((12, 10), 7, det_offset=0.3)
    x = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    y = A(x)
    assert y.shape == (2, 3, 7, A.det_count) and torch.allclose(y, B(x), atol=1e-5)
    assert torch.allclose(A.fbp(y), B.fbp(y), atol=1e-5)
    assert torch.allclose(A.prox(x, y, 0.5, 0.1), B.prox(x, y, 0.5, 0.1), atol=1e-4)
    assert ParallelBeamCT3D((1, 3, 12, 10), 7)(x[:, None]).shape == (2, 1, 3, 7, A.det_count)
    assert A.svd().s.shape[0] == 3


def test_views_of_astra_go_in_and_come_out():
    vectors = tilted()
    A = ConeBeamCT.from_vectors((5, 7, 6), vectors, (6, 7))
    assert AstraVolume(A.matrix).vectors() == pytest.approx(vectors)
    # a circle as vectors is the circle, with the rows of a slice the other way round
    B = ConeBeamCT((5, 7, 6), 6, det_count=(8, 12), **FAR)
    t, spacing = B.angles, B.det_spacing
    c, s, o = np.cos(t), np.sin(t), np.zeros(6)
    views = np.stack([20 * s, -20 * c, o, -9 * s, 9 * c, o, c * spacing[1], s * spacing[1], o, o, o, o + spacing[0]], 1)
    C = ConeBeamCT.from_vectors((5, 7, 6), views, (8, 12))
    x = torch.rand(5, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(C(x.flip(-2)), B(x), atol=1e-12) and C.density == pytest.approx(B.density)
    assert torch.allclose(C.adjoint(B(x)).flip(-2), B.adjoint(B(x)), atol=1e-10)


def test_threads_do_not_change_a_bit(monkeypatch):
    from invgen.operators.ct.projectors import threads as sharing

    monkeypatch.setattr(sharing, "LEAST", 1)
    A, results, threads = ConeBeamCT((12, 20, 20), 9, source_origin=40.0, origin_det=20.0), [], torch.get_num_threads()
    x = torch.rand(12, 20, 20, generator=torch.Generator().manual_seed(0))
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            y = A(x)
            results.append((y, A.adjoint(y), A.fbp(y)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_solves_take_few_iterations():
    A = ConeBeamCT((6, 32, 32), 30, source_origin=100.0, origin_det=50.0)
    g, calls, apply = torch.Generator().manual_seed(0), [], A.matrix.apply
    x, y = torch.randn(1, *A.in_shape, generator=g), torch.randn(1, *A.out_shape, generator=g)
    A.matrix.apply = lambda t, turned: calls.append(turned) or apply(t, turned)
    A.norm()
    calls.clear()
    var_x = 100 / A.norm() ** 2
    u = A.prox(x, y, var_x, 1.0)
    # one iteration is a product with A and one with A^T; without the ramp they are 45
    assert sum(calls) <= 20
    gradient = A.adjoint(A(u) - y) + (u - x) / var_x
    assert gradient.norm() < 2e-5 * A.adjoint(y - A(x)).norm()  # the tolerance is 1e-5


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: ConeBeamCT((8, 8), 4, **FAR), OptionError, r"volume_shape must be \(D, H, W\)"),
        (lambda: ConeBeamCT((4, 8, 8), 4, source_origin=5.0, origin_det=9.0), OptionError, "above 5.65685 mm"),
        (lambda: ConeBeamCT((4, 8, 8), 4, det_offset=90.0, **FAR), OptionError, "no ray meets the volume"),
        (lambda: ConeBeamCT((4, 8, 8), 4, detector="curved", backend="astra", **FAR), OptionError, "flat detectors alone"),
        (lambda: ConeBeamCT.from_vectors((4, 8, 8), np.zeros((3, 9)), (4, 4)), ShapeError, r"\(views, 12\)"),
        (lambda: ConeBeamCT.from_vectors((60, 60, 60), tilted(), (4, 4)), OptionError, "view 0 is not outside"),
        (lambda: ConeBeamCT((4, 8, 8), 4, pitch=1.0, **FAR).fbp(torch.zeros(6, 4, 12)), UnsupportedError, "circular"),
        (lambda: ConeBeamCT((4, 8, 8), 4, **FAR)(torch.zeros(4, 8, 8, dtype=int)), ShapeError, "floating point"),
        (lambda: ParallelBeamCT3D((8, 8), 4), OptionError, r"volume_shape must be \(D, H, W\)"),
    ],
)
def test_bad_input_is_one_sentence(make, error, words):
    with pytest.raises(error, match=words):
        make()
