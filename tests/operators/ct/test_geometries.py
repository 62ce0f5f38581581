"""Projection: against dense matrices, ASTRA, skimage and the closed-form integrals of ellipses."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
import torch

from invgen.errors import OptionError, ShapeError
from invgen.inference.checks import check_operator
from invgen.operators.ct.geometries import FanBeamCT, ParallelBeamCT
from invgen.operators.ct.phantoms import EllipsePhantom

FAN = {"source_origin": 40.0, "origin_det": 25.0}
SMALL = {
    "uniform": lambda: ParallelBeamCT((12, 12), 8),
    "odd views, rectangle": lambda: ParallelBeamCT((12, 9), 5, pixel_size=0.5),
    "any angles, offset, channels": lambda: ParallelBeamCT((2, 8, 8), angles=[0.1, 0.5, 2.0], det_offset=0.7),
    "fine detector": lambda: ParallelBeamCT((8, 8), 6, det_spacing=0.6, det_count=20),
    "strip": lambda: ParallelBeamCT((9, 8), 6, projector="strip", det_spacing=1.4),
    "fan": lambda: FanBeamCT((9, 9), 6, det_offset=0.3, **FAN),
}


@pytest.fixture(params=SMALL, ids=list(SMALL))
def small(request):
    return SMALL[request.param]()


def dense(A, dtype=torch.float64):
    n = math.prod(A.in_shape)
    return A(torch.eye(n, dtype=dtype).reshape(n, *A.in_shape)).reshape(n, -1).T


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def test_contract(small):
    check_operator(small)


def test_adjoint_is_the_transpose_as_a_matrix(small):
    # one inner product at 1e-4 would not see an adjoint that is 7 % wrong; the matrix does
    m = math.prod(small.out_shape)
    for dtype, bound in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
        forward = dense(small, dtype)
        adjoint = small.adjoint(torch.eye(m, dtype=dtype).reshape(m, *small.out_shape)).reshape(m, -1)
        assert (forward - adjoint).abs().max() <= bound * forward.abs().max()


@pytest.mark.parametrize("columns", [1, 3, 16, 40])  # each takes another kernel
def test_kernels_agree_with_the_matrix(columns):
    A = ParallelBeamCT((12, 9), 5)
    matrix = dense(A)
    x = torch.randn(columns, *A.in_shape, generator=torch.Generator().manual_seed(0))
    y = torch.randn(columns, *A.out_shape, generator=torch.Generator().manual_seed(1))
    want = x.double().flatten(1) @ matrix.T
    assert relative(A(x).flatten(1).double(), want) < 1e-6
    assert relative(A(x.double()).flatten(1), want) < 1e-14
    assert relative(A.adjoint(y).flatten(1).double(), y.double().flatten(1) @ matrix) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("projector", ["linear", "strip"])
@pytest.mark.parametrize("spacing, offset, pixel", [(1.0, 0.0, 1.0), (0.8, 0.0, 0.5), (1.5, -2.2, 1.0)])
def test_equals_astra(projector, spacing, offset, pixel):
    options = {"angles": np.linspace(0, 3.3, 11), "det_spacing": spacing, "det_offset": offset, "pixel_size": pixel}
    ours = ParallelBeamCT((20, 32), projector=projector, **options)
    theirs = ParallelBeamCT((20, 32), projector=projector, backend="astra", **options)
    # ASTRA computes its geometry in single precision: measured up to 4e-5 of the largest weight
    assert (dense(ours) - dense(theirs)).abs().max() < 2e-4 * pixel
    m = math.prod(ours.out_shape)
    y = torch.eye(m).reshape(m, *ours.out_shape)
    assert (ours.adjoint(y) - theirs.adjoint(y)).abs().max() < 2e-4 * pixel


def test_agrees_with_skimage_radon():
    from skimage.transform import radon

    N = 128  # even: skimage turns about pixel N / 2, the centre of the N - 1 pixels in the lower right corner
    x = torch.zeros(N, N)
    x[1:, 1:] = EllipsePhantom((N - 1) / 2).image((N - 1, N - 1))
    angles = np.arange(30) * np.pi / 30
    A = ParallelBeamCT((N - 1, N - 1), angles=angles, det_count=N - 1)
    theirs = torch.from_numpy(radon(x.double().numpy(), np.rad2deg(angles), circle=True).T[:, 1:].copy())
    # two ways to interpolate differ at first order in the pixel: measured .0080, .0038, .0017 at 64, 128, 256
    assert relative(A(x[1:, 1:].double()), theirs) < 0.005


@pytest.mark.slow
@pytest.mark.parametrize("geometry", ["linear", "strip", "offset", "fan"])
def test_closed_form_sinogram_of_ellipses(geometry):
    def error(N):
        make = {
            "linear": lambda: ParallelBeamCT((N, N), 24),
            "strip": lambda: ParallelBeamCT((N, N), 24, projector="strip"),
            "offset": lambda: ParallelBeamCT((N, N), 24, det_offset=5.3, det_count=2 * N),
            "fan": lambda: FanBeamCT((N, N), 24, source_origin=2 * N, origin_det=N, det_offset=3.0),
        }
        A = make[geometry]()
        phantom = EllipsePhantom(N / 2)
        y = A(phantom.image((N, N)).double())
        width = A.spacing if geometry == "strip" else 0.0
        return relative(y, phantom.sinogram(*A.rays(), width=width)), A, y

    coarse, (fine, A, y) = error(64)[0], error(128)
    # the image is piecewise constant, so the error is of first order in the pixel; measured .026 to .030 at 128 pixels
    assert fine < 0.032
    assert fine < 0.65 * coarse
    if geometry != "fan":  # every parallel view sees all the mass
        mass = y.sum(1) * A.det_spacing
        assert (mass / mass.mean() - 1).abs().max() < 2e-3


def test_strip_conserves_the_mass_of_each_pixel():
    # Joseph's method undersamples a single pixel by up to 25 %; areas do not
    strip = ParallelBeamCT((16, 16), 12, projector="strip", det_spacing=0.7, pixel_size=0.5, det_count=40)
    mass = dense(strip).reshape(12, 40, -1).sum(1) * strip.det_spacing
    assert torch.allclose(mass, torch.full_like(mass, 0.25), rtol=1e-12)


def test_units_scale_with_the_pixel():
    x = torch.rand(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, half = ParallelBeamCT((16, 16), 7), ParallelBeamCT((16, 16), 7, pixel_size=0.5)
    assert torch.allclose(half(x), 0.5 * one(x), rtol=1e-13)
    fan, small = FanBeamCT((16, 16), 7, **FAN), FanBeamCT((16, 16), 7, source_origin=20, origin_det=12.5, pixel_size=0.5)
    assert torch.allclose(small(x), 0.5 * fan(x), rtol=1e-12)


def test_mirrored_and_swapped_images_permute_the_sinogram():
    x = torch.rand(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    A = ParallelBeamCT((16, 16), 12)
    y = A(x)
    half_turn = torch.cat([y, y.flip(-1)])  # views on [0, 2 pi)
    k = torch.arange(12)
    assert torch.allclose(A(x.flip(-1)), half_turn[12 - k], atol=1e-12)  # x -> -x: t -> pi - t
    assert torch.allclose(A(x.flip(0, 1)), y.flip(-1), atol=1e-12)  # half a turn
    assert torch.allclose(A(x.flip(0, 1).T), half_turn[(6 - k) % 24], atol=1e-12)  # x <-> y: t -> pi / 2 - t


def test_a_list_of_angles_gives_the_rows_of_the_full_scan():
    x = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    full, rows = ParallelBeamCT((16, 16), 20), [3, 4, 11, 4]
    some = ParallelBeamCT((16, 16), angles=torch.from_numpy(full.angles[rows]))
    # the full scan has other mirror images, so that its sums of some 20 terms go in another order
    torch.testing.assert_close(some(x), full(x)[rows], rtol=1e-6, atol=1e-6)
    assert torch.equal(
        some.matrix.matrix(x.reshape(1, -1)), full.matrix.matrix(x.reshape(1, -1)).reshape(20, -1)[rows].reshape(1, -1)
    )


def test_det_offset_is_where_the_axis_projects():
    # the axis three detector pixels to the right moves the whole sinogram three pixels to the right
    x = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    centred, moved = (ParallelBeamCT((16, 16), 9, det_count=40, det_offset=d, det_spacing=0.7) for d in (0.0, 2.1))
    assert torch.allclose(moved(x)[:, 3:], centred(x)[:, :-3], atol=1e-5)
    # one pixel at the centre of rotation lands on the stated detector coordinate
    x = torch.zeros(15, 15)
    x[7, 7] = 1
    A = ParallelBeamCT((15, 15), 4, det_count=64, det_offset=(29.0 - 31.5) * 0.5, det_spacing=0.5)
    assert (A(x).argmax(-1) == 29).all()
    A = FanBeamCT((15, 15), 4, det_count=64, det_offset=(29.0 - 31.5) * 0.5, det_spacing=0.5, **FAN)
    assert (A(x).argmax(-1) == 29).all()


def test_a_distant_source_is_a_parallel_beam():
    x = torch.rand(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    angles = np.linspace(0.05, 2.9, 7)
    fan = FanBeamCT((16, 16), angles=angles, source_origin=1e8, origin_det=0.0, det_count=23, det_spacing=1.0)
    parallel = ParallelBeamCT((16, 16), angles=angles, det_count=23)
    assert relative(fan(x), parallel(x)) < 1e-6


def test_norm(small):
    exact = torch.linalg.matrix_norm(dense(small), 2).item()
    assert small.norm() == pytest.approx(exact, rel=1e-3)


def test_norm_of_dense_views():
    # |A|^2 = 0.966 views N for unit pixels (measured .9655 to .970 for N 64 to 256)
    assert ParallelBeamCT((96, 96), 30).norm() == pytest.approx(math.sqrt(0.966 * 30 * 96), rel=0.02)


@pytest.mark.slow
def test_derivatives_of_any_order():
    A = ParallelBeamCT((4, 5), 2)
    x = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, *A.out_shape, dtype=torch.float64, requires_grad=True)
    for f, at in ((A, x), (A.adjoint, y)):
        assert torch.autograd.gradcheck(f, at, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(f, at)
    _, pullback = torch.func.vjp(A, x.detach())
    assert torch.allclose(pullback(y.detach())[0], A.adjoint(y.detach()))
    assert torch.allclose(torch.func.vmap(A)(x.detach()), A(x.detach()))
    assert torch.allclose(torch.func.vmap(torch.func.grad(lambda v: A(v).square().sum() / 2))(x), A.adjoint(A(x)))


def test_batches_precisions_and_layouts(small):
    x = torch.randn(3, *small.in_shape, generator=torch.Generator().manual_seed(0))
    y = small(x)
    for one, into in zip(x, y, strict=True):
        assert torch.allclose(small(one), into, atol=1e-5)
    assert small(x[:0]).shape == (0, *small.out_shape)
    assert small.adjoint(y[:0]).shape == (0, *small.in_shape)
    assert small(x.double()).dtype == torch.float64
    assert small(x.bfloat16()).dtype == torch.bfloat16
    turned = x.movedim(-1, 0).contiguous().movedim(0, -1)  # not contiguous
    assert torch.equal(small(turned), y)
    wide = x.repeat_interleave(2, -1)[..., ::2]
    assert torch.equal(small(wide), y)
    with pytest.raises(ShapeError, match="floating point"):
        small(torch.ones(1, *small.in_shape, dtype=torch.long))


def test_copies_pickles_and_precision(small):
    x = torch.randn(2, *small.in_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = small(x)
    for copied in (copy.deepcopy(small), pickle.loads(pickle.dumps(small)), copy.deepcopy(small).double()):
        assert torch.equal(copied(x), y)


def test_no_warning_of_beta_state():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        A = ParallelBeamCT((8, 8), 4)
        A.adjoint(A(torch.ones(8, 8)))


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "neither"),
        ({"num_angles": 4, "angles": [0.0]}, "both"),
        ({"angles": []}, "empty list"),
        ({"angles": [0.0, math.nan]}, "non-finite"),
        ({"angles": [[0.0]]}, "shape"),
        ({"angles": "all"}, "list of numbers"),
        ({"num_angles": 0}, "num_angles"),
        ({"num_angles": 2.5}, "num_angles"),
        ({"num_angles": 4, "pixel_size": 0.0}, "pixel_size"),
        ({"num_angles": 4, "det_spacing": -1.0}, "det_spacing"),
        ({"num_angles": 4, "det_count": 0}, "det_count"),
        ({"num_angles": 4, "det_offset": math.inf}, "det_offset"),
        ({"num_angles": 4, "projector": "siddon"}, "'linear', 'strip'"),
        ({"num_angles": 4, "backend": "cuda"}, "'auto', 'sparse', 'astra'"),
        ({"num_angles": 4, "solver": "best"}, "'auto', 'exact', 'cg'"),
    ],
)
def test_bad_options_are_one_sentence(options, words):
    with pytest.raises(OptionError, match=words) as caught:
        ParallelBeamCT((8, 8), **options)
    assert "\n" not in str(caught.value)


def test_bad_geometry_is_one_sentence():
    for shape in ((8,), (8, 0), "8", (1, 2, 3, 4)):
        with pytest.raises(OptionError, match="image_shape"):
            ParallelBeamCT(shape, 4)
    with pytest.raises(OptionError, match="outside|source_origin must be above"):
        FanBeamCT((64, 64), 4, source_origin=40.0, origin_det=10.0)
    with pytest.raises(OptionError, match="no ray meets the image.*det_offset"):
        ParallelBeamCT((16, 16), 4, det_offset=296.0)
    with pytest.raises(OptionError, match=r"about 81.0 GiB.*backend='auto'.*max_bytes"):
        ParallelBeamCT((2048, 2048), 720, backend="sparse")
    with pytest.raises(OptionError, match=r"GiB.*max_bytes"):
        FanBeamCT((2048, 2048), 720, source_origin=3000.0, origin_det=0.0, backend="sparse")


@pytest.mark.parametrize("projector", ["linear", "strip"])
@pytest.mark.parametrize("spacing", [0.5, 1.0, 2.0])
def test_estimate_of_the_memory(monkeypatch, projector, spacing):
    # an offset, so that it has no mirror images and cannot be folded
    make = lambda: ParallelBeamCT(  # noqa: E731
        (64, 64), 30, projector=projector, det_spacing=spacing, det_offset=0.1, backend="sparse"
    )
    bytes_needed = 16 * len(make().matrix.matrix.build()[2])
    monkeypatch.setattr(ParallelBeamCT, "max_bytes", int(1.1 * bytes_needed))
    make()
    monkeypatch.setattr(ParallelBeamCT, "max_bytes", int(0.9 * bytes_needed))
    with pytest.raises(OptionError, match="GiB"):
        make()
