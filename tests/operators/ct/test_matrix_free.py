"""The projector without a matrix: against the matrix, for any geometry, batch and number of threads."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from invgen.inference.checks import check_operator
from invgen.operators.ct.geometries import FanBeamCT, ParallelBeamCT
from invgen.operators.ct.phantoms import EllipsePhantom
from invgen.operators.ct.projectors import choice
from invgen.operators.ct.projectors.tables import lines_of, table

FAN = {"source_origin": 40.0, "origin_det": 25.0}
NEAR = {"source_origin": 22.7, "origin_det": 3.0}  # the source just outside of the image: rays of a view in both directions
CASES = {
    "eight mirrors": lambda: ParallelBeamCT((12, 12), 8),
    "eight mirrors, odd image": lambda: ParallelBeamCT((33, 33), 6),
    "four mirrors": lambda: ParallelBeamCT((12, 9), 5, pixel_size=0.5),
    "no mirrors, channels": lambda: ParallelBeamCT((2, 8, 8), angles=[0.1, 0.5, 2.0], det_offset=0.7),
    "fine detector": lambda: ParallelBeamCT((8, 8), 6, det_spacing=0.6, det_count=20),
    "repeated views": lambda: ParallelBeamCT((12, 12), angles=[0.3, 0.3, 1.0]),
    "strip": lambda: ParallelBeamCT((9, 8), 6, projector="strip", det_spacing=1.4),
    "strip, fine": lambda: ParallelBeamCT((12, 12), 7, projector="strip", det_spacing=0.3),
    "strip, one pixel": lambda: ParallelBeamCT((12, 12), 7, projector="strip", det_spacing=54.3, det_count=1),
    "strip, offset": lambda: ParallelBeamCT((12, 12), angles=np.linspace(0, 3, 9), projector="strip", det_offset=0.7),
    "fan": lambda: FanBeamCT((9, 9), 8, **FAN),
    "fan, offset": lambda: FanBeamCT((32, 31), 9, det_offset=1.0, **NEAR),
    "fan, near": lambda: FanBeamCT((32, 32), 8, **NEAR),
    "curved": lambda: FanBeamCT((9, 9), 8, detector="curved", **FAN),
    "curved, near, offset": lambda: FanBeamCT((32, 31), 9, detector="curved", det_offset=1.0, **NEAR),
}


def independent(A):
    """The matrix by another way, (rays, pixels): Joseph's interpolation, or areas of clipped squares, ray by ray."""
    angle, s = (t.flatten().numpy() / (1, A.pixel_size)[k] for k, t in enumerate(A.rays()))
    if A.projector == "linear":
        return torch.from_numpy(linear(np.stack([np.cos(angle), np.sin(angle)], 1), s, A.size) * A.pixel_size)
    borders = A._along(borders=True) / A.pixel_size
    return torch.from_numpy(strip(A.angles, borders, A.size) * A.pixel_size / (A.det_spacing / A.pixel_size))


def linear(normals, s, size):
    """Each ray steps through rows or columns and shares itself between two pixels: dense, (rays, pixels)."""
    height, width = size
    matrix = np.zeros((len(s), height, width))
    for ray, ((x, y), distance) in enumerate(zip(normals, s, strict=True)):
        steep = abs(x) >= abs(y)
        image = matrix[ray] if steep else matrix[ray].T
        a, b = (x, -y) if steep else (-y, x)  # columns count to the right, rows downwards
        for i, row in enumerate(image):
            position = (distance - b * (i - (len(image) - 1) / 2)) / a + (len(row) - 1) / 2
            for j in (math.floor(position), math.floor(position) + 1):
                if 0 <= j < len(row):
                    row[j] += max(0.0, 1 - abs(position - j)) / abs(a)
    return matrix.reshape(len(s), -1)


def strip(angles, borders, size):
    """The area of each pixel between two borders: the square is clipped by a half-plane, dense, (rays, pixels)."""
    height, width = size
    matrix = np.zeros((len(angles), len(borders) - 1, height, width))
    for view, t in enumerate(angles):
        for i in range(height):
            for j in range(width):
                x, y = j - (width - 1) / 2, (height - 1) / 2 - i
                corners = [(x - 0.5, y - 0.5), (x + 0.5, y - 0.5), (x + 0.5, y + 0.5), (x - 0.5, y + 0.5)]
                below = [area(clip(corners, math.cos(t), math.sin(t), border)) for border in borders]
                matrix[view, :, i, j] = np.diff(below)
    return matrix.reshape(-1, height * width)


def clip(corners, c, s, border):
    """The part of a polygon where c x + s y <= border (Sutherland & Hodgman 1974)."""
    kept = []
    for (x, y), (u, v) in zip(corners, corners[1:] + corners[:1], strict=True):
        a, b = c * x + s * y - border, c * u + s * v - border
        kept += [(x, y)] if a <= 0 else []
        kept += [(x + (u - x) * a / (a - b), y + (v - y) * a / (a - b))] if a * b < 0 else []
    return kept


def area(corners):
    pairs = zip(corners, corners[1:] + corners[:1], strict=True)
    return sum(x * v - u * y for (x, y), (u, v) in pairs) / 2 if corners else 0.0


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("name", CASES)
def test_equals_the_matrix(name):
    A = CASES[name]()
    free, n, m = A.matrix.free, *A.matrix.shape[::-1]
    matrix = independent(A)
    # what is rounded is a weight in float32, 6e-8; in float64 a position of up to 33 pixels, 33 * 1.1e-16 a term
    for dtype, bound in ((torch.float64, 3e-14), (torch.float32, 1e-7)):
        pixels, rays = torch.eye(n, dtype=dtype), torch.eye(m, dtype=dtype)
        columns = free(pixels).double().T  # by eights, as a batch
        assert relative(columns, matrix) < bound
        assert relative(free(rays, turned=True).double(), matrix) < bound
        some = range(0, n, 7)
        single = torch.cat([free(pixels[k : k + 1]) for k in some]).double().T  # one at a time, by its mirrors
        assert relative(single, matrix[:, list(some)]) < bound
        single = torch.cat([free(rays[k : k + 1], turned=True) for k in range(0, m, 5)]).double()
        assert relative(single, matrix[::5]) < bound


@pytest.mark.parametrize("name", CASES)
def test_tables_stay_within_a_padded_row(name):
    # a weight of zero is no excuse: what lies beyond may be nan
    A = CASES[name]()
    for scan in (A.matrix.free.plain, A.matrix.free.mirrored):
        geometry = scan.geometry
        for by_row, jobs in scan.jobs.items():
            steps, across = A.size if by_row else A.size[::-1]
            for v, lo, hi, _ in jobs:
                last, view = hi + geometry.strip, geometry.views[v]
                lines = tuple(np.zeros((4, last - lo)))
                lines_of(view, geometry.rays[:, lo:last], by_row, steps, across, geometry.pixel, *lines)
                source = geometry.source * (view[0] if by_row else view[1])
                index, weight = np.zeros(hi - lo + 1, np.int32), np.zeros((geometry.taps, hi - lo + 1))
                for i in range(steps):
                    begin, end = table(lines, i, steps, across, geometry, lo, hi, source, index, weight)
                    met = index[begin:end]
                    assert not len(met) or 0 <= met.min() <= met.max() <= across + 1


@pytest.mark.parametrize("count", [1, 2, 5, 8, 11])
def test_batches_of_any_size(count):
    A = ParallelBeamCT((40, 40), 12)
    free, matrix = A.matrix.free, A.matrix.matrix
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(count, A.matrix.shape[1], generator=g), torch.randn(count, A.matrix.shape[0], generator=g)
    assert relative(free(x), matrix(x)) < 1e-6
    assert relative(free(y, turned=True), matrix(y, turned=True)) < 1e-6
    assert free(x[:0]).shape == (0, A.matrix.shape[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eight mirrors", "strip, offset", "fan, offset", "curved"])
def test_contract_and_derivatives(name, monkeypatch):
    monkeypatch.setattr(choice, "SMALL", 0)
    A = CASES[name]()
    check_operator(A)
    A = ParallelBeamCT((4, 5), 2) if name == "eight mirrors" else A
    x = torch.randn(1, *A.in_shape, dtype=torch.float64, requires_grad=True)
    if A.matrix.shape[1] < 200:
        assert torch.autograd.gradcheck(A, x, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(A, x)


def test_threads_do_not_change_a_bit(monkeypatch):
    from invgen.operators.ct.projectors import threads as sharing

    monkeypatch.setattr(sharing, "LEAST", 1)
    A = FanBeamCT((64, 64), 24, source_origin=90.0, origin_det=30.0)
    free, threads = A.matrix.free, torch.get_num_threads()
    g = torch.Generator().manual_seed(0)
    for count in (1, 3):
        x, y = torch.randn(count, 64 * 64, generator=g), torch.randn(count, free.shape[0], generator=g)
        results = []
        try:
            for number in (1, 2, 5):
                torch.set_num_threads(number)
                results.append((free(x), free(y, turned=True)))
        finally:
            torch.set_num_threads(threads)
        for forward, adjoint in results[1:]:
            assert torch.equal(forward, results[0][0]) and torch.equal(adjoint, results[0][1])


@pytest.mark.parametrize("projector", ["linear", "strip"])
@pytest.mark.parametrize("detector", ["flat", "curved"])
def test_closed_form_of_a_fan(detector, projector):
    def error(N):
        A = FanBeamCT((N, N), 12, source_origin=0.9 * N, origin_det=N, detector=detector, projector=projector)
        phantom = EllipsePhantom(N / 2)
        fine = torch.linspace(-0.5, 0.5, 9, dtype=torch.float64)[1::2] if projector == "strip" else torch.zeros(1)
        along = torch.from_numpy(A._along())[:, None] + fine * A.det_spacing
        gamma = torch.from_numpy(A._opening(along.numpy()))
        angle = torch.from_numpy(A.angles)[:, None, None] - gamma
        truth = phantom.sinogram(angle, (A.source_origin * gamma.sin()).expand_as(angle)).mean(-1)
        return ((A(phantom.image((N, N)).double()) - truth).norm() / truth.norm()).item()

    # first order in the pixel, as for the parallel beam
    assert error(128) < 0.035


def test_a_strip_of_a_fan_conserves_mass_and_is_the_parallel_one_far_away():
    A = FanBeamCT((16, 16), 7, source_origin=1e7, origin_det=0.0, projector="strip", det_spacing=1.0, det_count=30)
    B = ParallelBeamCT((16, 16), angles=A.angles, projector="strip", det_spacing=1.0, det_count=30)
    x = torch.rand(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert relative(A(x), B(x)) < 1e-5  # of first order in the size over the distance
    # a pixel of one square millimetre adds its area times the magnification at its place, over the spacing
    A = FanBeamCT((17, 17), 7, source_origin=40.0, origin_det=25.0, projector="strip", det_spacing=1.3)
    x = torch.zeros(17, 17, dtype=torch.float64)
    x[8, 8] = 1
    assert A(x).sum(1) * A.det_spacing == pytest.approx(np.full(7, 65 / 40), rel=2e-3)


def test_clinical_sizes_are_taken():
    for A in (
        ParallelBeamCT((512, 512), 720),
        ParallelBeamCT((2048, 2048), 720),
        FanBeamCT((512, 512), 1000, source_origin=800.0, origin_det=600.0, detector="curved"),
    ):
        assert A.matrix.free is not None and A._exact() is None


@pytest.mark.slow
def test_kernels_work_where_nothing_can_be_written(tmp_path):
    code = (
        "import torch; from invgen.operators.ct.projectors import choice as p; p.SMALL = 0\n"
        "from invgen.operators import ParallelBeamCT; A = ParallelBeamCT((16, 16), 4)\n"
        "print(float(A(torch.ones(16, 16)).sum()))"
    )
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    place = {"NUMBA_CACHE_DIR": str(blocked / "cache"), "HOME": str(blocked)}
    out = subprocess.run([sys.executable, "-c", code], env={**os.environ, **place}, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert float(out.stdout) == pytest.approx(4 * 256, rel=2e-2)  # four views, each sees all the mass


def test_a_matrix_where_it_is_faster():
    def ways(A, *counts, dtype=torch.float32):
        parts = {A.matrix.matrix: "whole", A.matrix.folded: "folded", A.matrix.free: "free"}
        return [parts[A.matrix.way(torch.zeros(count, 1, dtype=dtype))] for count in counts]

    even, uneven = {"num_angles": 30}, {"angles": np.linspace(0, 2, 30) ** 1.1, "det_offset": 0.3}
    small, large = ParallelBeamCT((32, 32), **even), ParallelBeamCT((200, 200), **even)
    assert ways(small, 1, 8, 9) == ["folded", "folded", "whole"]  # eight mirror images of each
    assert ways(small, 1, 2, 3, dtype=torch.float64) == ["folded", "folded", "whole"]
    assert ways(large, 1, 17) == ["folded", "whole"]
    assert ways(ParallelBeamCT((200, 200), **uneven), 1, 8, 9) == ["free", "free", "whole"]
    assert ways(ParallelBeamCT((32, 32), **uneven), 1, 17) == ["whole", "whole"]
    assert ways(ParallelBeamCT((512, 512), 180), 1, 17) == ["free", "free"]
    assert ways(ParallelBeamCT((32, 32), backend="sparse", **even), 1, 17) == ["folded", "whole"]
    assert math.isclose(small.matrix.entries, len(small.matrix.matrix.build()[2]), rel_tol=0.15)
