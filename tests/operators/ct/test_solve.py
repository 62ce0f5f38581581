"""Exact and iterative solves against dense matrices, the singular value decomposition, what is kept on disk."""

import math

import numpy as np
import pytest
import torch

import invgen
from invgen import samplers
from invgen.errors import UnsupportedError
from invgen.inference.checks import check_operator
from invgen.operators.ct import _symmetry as symmetry
from invgen.operators.ct import base as _tomography
from invgen.operators.ct._spectrum import Spectrum
from invgen.operators.ct.geometries import FanBeamCT, ParallelBeamCT
from invgen.priors import GaussianPrior

FAN = {"source_origin": 20.0, "origin_det": 15.0}
# all symmetry groups: square, rectangle, half turn, half turn and swap, one mirror, none
GROUPS = {
    "xys": lambda **o: ParallelBeamCT((12, 12), 8, **o),
    "xy": lambda **o: ParallelBeamCT((12, 9), 7, **o),
    "strip": lambda **o: ParallelBeamCT((2, 9, 12), 6, projector="strip", **o),
    "half": lambda **o: ParallelBeamCT((12, 12), angles=np.linspace(0.1, 2.0, 6), **o),
    "half, swap": lambda **o: ParallelBeamCT((12, 12), angles=[0.1, 0.2, math.pi / 2 - 0.1, math.pi / 2 - 0.2], **o),
    "none": lambda **o: ParallelBeamCT((12, 12), 6, det_offset=0.5, **o),
    "repeated view": lambda **o: ParallelBeamCT((12, 12), angles=np.linspace(0, math.pi, 6), **o),
    "fan xys": lambda **o: FanBeamCT((12, 12), 8, **FAN, **o),
    "fan x": lambda **o: FanBeamCT((12, 12), 7, **FAN, **o),
    "fan half": lambda **o: FanBeamCT((12, 9), 6, det_offset=0.2, **FAN, **o),
}


@pytest.fixture(params=GROUPS, ids=list(GROUPS))
def make(request, tmp_path, monkeypatch):
    monkeypatch.setenv("INVGEN_CACHE", str(tmp_path))
    return GROUPS[request.param]


def dense(A):
    n = math.prod(A.in_shape)
    return A(torch.eye(n, dtype=torch.float64).reshape(n, *A.in_shape)).reshape(n, -1).T


def draw(A, batch=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, *A.in_shape, dtype=torch.float64, generator=g)
    return x, torch.randn(batch, *A.out_shape, dtype=torch.float64, generator=g)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def test_blocks_diagonalise_the_dense_matrix(make):
    A = make(solver="exact")
    if len(A.in_shape) == 3:
        return
    spectrum, matrix = A._spectrum(), dense(A)
    values, _ = spectrum.tables(torch.empty(0, dtype=torch.float64))
    identity = torch.eye(len(matrix), dtype=torch.float64)
    rebuilt = spectrum.synthesise(values * spectrum.analyse(identity))
    assert (rebuilt - matrix @ matrix.T).abs().max() < 1e-11 * values.max()


@pytest.mark.slow
def test_exact_solve_prox_and_pinv_against_the_dense_matrix(make):
    A = make(solver="exact")
    matrix, (x, y) = dense(A), draw(A)
    gram, identity = matrix @ matrix.T, torch.eye(len(matrix), dtype=torch.float64)
    for var_x, var_y in ((1.0, 0.5), (2.0, 1e-6), (0.3, 40.0)):
        want = torch.linalg.solve(var_x * gram + var_y * identity, y.flatten(1).T).T
        condition = 1 + var_x * A.norm() ** 2 / var_y
        assert relative(A.solve(y, var_x, var_y).flatten(1), want) < 1e-14 * condition
        rhs = matrix.T @ (y.flatten(1).T - matrix @ x.flatten(1).T) / var_y
        normal = matrix.T @ matrix / var_y + torch.eye(matrix.shape[1], dtype=torch.float64) / var_x
        assert (
            relative(A.prox(x, y, var_x, var_y).flatten(1) - x.flatten(1), torch.linalg.solve(normal, rhs).T)
            < 1e-14 * condition
        )
    # one variance per sample
    var = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)
    each = torch.stack([A.solve(b, 1.0, v.item()) for b, v in zip(y, var, strict=True)])
    assert relative(A.solve(y, torch.ones(3, dtype=torch.float64), var.reshape(3, *[1] * len(A.out_shape))), each) < 1e-12
    # without noise: the pseudo-inverse, which reproduces what A can make
    pinv = torch.linalg.pinv(matrix, rtol=1e-5)
    assert relative(A.pinv(y).flatten(1), y.flatten(1) @ pinv.T) < 1e-5  # eigenvectors of the square: eps / 1e-10
    assert relative(A(A.pinv(A(x))), A(x)) < 1e-5


@pytest.mark.slow
def test_small_noise_tends_to_the_projection(make):
    A = make(solver="exact")
    x, truth = draw(A)[0], draw(A, seed=1)[0]
    y = A(truth)
    assert relative(A(A.prox(x, y, 1.0, 0.0)), y) < 1e-5  # singular values below 1e-5 of the largest count as zero
    for var_y in (1e-2, 1e-4, 1e-6):
        # a direction of singular value s keeps s var_y / (s^2 + var_y) <= sqrt(var_y) / 2 of what was missing
        left = (A(A.prox(x, y, 1.0, var_y)) - y).norm()
        assert left <= (0.5 * math.sqrt(var_y) + 1e-5 * A.norm()) * (truth - x).norm()


@pytest.mark.slow
def test_svd_contract(make):
    A = make()
    check_operator(A.svd(), dtype=torch.float32)
    S = A.double().svd()
    matrix = dense(A)
    want = torch.linalg.svdvals(matrix)
    got = S.s.flatten().sort(descending=True).values[: len(want)]
    assert (got - want).abs().max() < 1e-5 * want[0]  # smaller ones count as zero
    # white noise in the coordinates is white noise in the image: V V^T = I
    m = S.s.numel()
    V = S.V(torch.eye(m, dtype=torch.float64).reshape(m, *S.s.shape)).reshape(m, -1)
    assert (V.T @ V - torch.eye(V.shape[1], dtype=torch.float64)).abs().max() < 1e-6  # rounding of A A^T over 1e-10
    x, y = draw(A)
    assert relative(S.V(S.Vt(x)), x) < 1e-6
    assert relative(S.U(S.s * S.Vt(x)), A(x)) < 1e-5
    assert relative(S.V(S.s * S.Ut(y)), A.adjoint(y)) < 1e-5


@pytest.mark.slow
def test_conjugate_gradients_reach_the_exact_solution(make):
    exact, cg = make(solver="exact"), make(solver="cg")
    x, y = draw(exact)
    level = exact.norm() ** 2
    assert relative(cg.prox(x, y, 1.0, 1e-2 * level) - x, exact.prox(x, y, 1.0, 1e-2 * level) - x) < 1e-8
    assert relative(cg.solve(y, 1.0, 1e-2 * level), exact.solve(y, 1.0, 1e-2 * level)) < 1e-8


@pytest.mark.parametrize("shape", ["per value", "per detector pixel"])
def test_a_variance_per_measured_value(shape):
    A = ParallelBeamCT((12, 12), 8)
    matrix, (x, y) = dense(A), draw(A)
    size = A.out_shape if shape == "per value" else A.out_shape[-1:]
    var = 0.1 + torch.rand(size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    every = torch.diag(var.expand(A.out_shape).flatten())
    want = torch.linalg.solve(2.0 * matrix @ matrix.T + every, y.flatten(1).T).T
    assert relative(A.solve(y, 2.0, var).flatten(1), want) < 1e-7
    u = A.prox(x, y, 2.0, var)  # the gradient of its objective vanishes
    gradient = A.adjoint((A(u) - y) / var) + (u - x) / 2.0
    assert gradient.norm() < 1e-8 * A.adjoint(y / var).norm()


def test_ramp_preconditioner_halves_the_iterations(monkeypatch):
    A = ParallelBeamCT((64, 64), 60, solver="cg")
    g = torch.Generator().manual_seed(0)
    image = torch.nn.functional.avg_pool2d(torch.randn(1, 1, 128, 128, generator=g), 5, 1, 2)[0, 0, ::2, ::2]
    y = A(image) + 0.1 * torch.randn(A.out_shape, generator=g)
    calls = []
    project = A.matrix.apply
    monkeypatch.setattr(A.matrix, "apply", lambda x, turned: calls.append(turned) or project(x, turned))
    A.norm()
    counts = {}
    for name in ("ramp", "plain"):
        calls.clear()
        if name == "plain":
            monkeypatch.setattr(type(A), "_ramp", lambda *_: None)
        A.prox(torch.zeros_like(image), y, 1.0, 1e-2 * A.norm() ** 2)
        counts[name] = len(calls)
    assert counts["ramp"] <= 0.5 * counts["plain"]  # measured 10 against 25 iterations at 256 pixels


def test_single_precision_at_any_noise_level(tmp_path, monkeypatch):
    monkeypatch.setenv("INVGEN_CACHE", str(tmp_path))
    A = ParallelBeamCT((32, 32), 12)
    x, y = (t.float() for t in draw(A, 1))
    y = A(y.new_ones(1, 32, 32).cumsum(-1) / 32 + 0.1 * x)
    level = A.norm() ** 2
    for lam in (1e-1, 1e-3, 1e-6):
        u, exact = A.prox(x, y, 1.0, lam * level), A.prox(x.double(), y.double(), 1.0, lam * level)
        # float32 noise of y, 1e-7, over the square root of lam, the gain of the worst direction
        assert relative(u.double() - x, exact - x) < 1e-6 / math.sqrt(lam)


def test_svd_in_single_precision(tmp_path, monkeypatch):
    monkeypatch.setenv("INVGEN_CACHE", str(tmp_path))
    A = ParallelBeamCT((2, 24, 24), 15)
    S = A.svd()
    x = torch.randn(3, 2, 24, 24, generator=torch.Generator().manual_seed(0))
    z = S.Vt(x)
    assert relative(S.V(z), x) < 1e-4
    assert z.norm() == pytest.approx(x.norm().item(), rel=1e-4)
    assert relative(S.U(S.s * z), A(x)) < 1e-4  # singular values below 1e-4 of the largest count as zero
    assert relative(S.Ut(A(x)), S.s * z) < 1e-4
    half = A.solve(A(x).bfloat16(), 1.0, 0.1)
    assert half.dtype == torch.bfloat16 and half.isfinite().all()


def test_solves_are_differentiable():
    A = ParallelBeamCT((5, 5), 3, solver="exact").double()
    x, y = draw(A, 2)
    assert torch.autograd.gradcheck(lambda b: A.prox(x, b, 1.0, 0.3), y.requires_grad_())


def test_solver_option(monkeypatch, tmp_path):
    monkeypatch.setenv("INVGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(_tomography.Tomography, "max_block", 20)
    _, y = draw(ParallelBeamCT((12, 12), 8), 1)
    with pytest.raises(UnsupportedError, match="largest of these 136 rays has 30.*solver='cg'"):
        ParallelBeamCT((12, 12), 8, solver="exact").solve(y)
    with pytest.raises(UnsupportedError, match="more than 20"):
        ParallelBeamCT((12, 12), 12).svd()
    assert ParallelBeamCT((12, 12), 8)._exact() is None
    monkeypatch.undo()
    monkeypatch.setattr(_tomography.Tomography, "max_work", 1.0)
    assert ParallelBeamCT((12, 12), 8)._exact() is None  # too much work to do unasked
    assert ParallelBeamCT((12, 12), 8, solver="exact")._exact() is not None
    with pytest.raises(UnsupportedError, match="backend='auto'"):
        ParallelBeamCT((12, 12), 8, backend="astra").svd()


def test_kept_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("INVGEN_CACHE", str(tmp_path / "new"))
    monkeypatch.setattr(symmetry, "KEEP_ENTRIES", 0)
    monkeypatch.setattr(_tomography.Tomography, "max_work", 1.0)
    built = []
    work = symmetry.eigensystems
    monkeypatch.setattr(symmetry, "eigensystems", lambda *a: built.append(1) or work(*a))
    y = torch.randn(1, 8, 17, generator=torch.Generator().manual_seed(0))

    def solve(**options):
        return ParallelBeamCT((12, 12), 8, solver="exact", **options).solve(y, 1.0, 0.1)

    first = solve()
    (file,) = (tmp_path / "new").iterdir()
    assert torch.equal(solve(), first)
    assert len(built) == 1
    assert ParallelBeamCT((12, 12), 8)._exact() is None  # what "auto" does, and so its samples, does not depend on files
    # another geometry is another file
    solve(pixel_size=0.5, det_spacing=0.5)
    assert len(built) == 2
    # damaged, cut short, of another size: made anew and replaced
    whole = file.read_bytes()
    other = ParallelBeamCT((10, 10), 6, solver="exact")
    other.solve(torch.randn(1, *other.out_shape))
    stranger = symmetry.cache_file((*other.geometry(), np.dtype(np.float32).str)).read_bytes()
    for damage in (b"", b"not a file of arrays", whole[: len(whole) // 2], stranger):
        file.write_bytes(damage)
        count = len(built)
        assert torch.equal(solve(), first)
        assert len(built) == count + 1
        assert file.read_bytes()[:4] == whole[:4]
    assert not list((tmp_path / "new").glob("*.part"))


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("INVGEN_CACHE", str(blocked / "cache"))
    monkeypatch.setattr(symmetry, "KEEP_ENTRIES", 0)
    A = ParallelBeamCT((12, 12), 8)
    assert A.pinv(A(torch.ones(12, 12))).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("I0", [1e3, 1e4])
def test_photon_counts_of_a_fan_keep_a_preconditioner(I0, monkeypatch):
    from invgen import TransmissionPoisson, log_transform
    from invgen.operators.ct import base as _tomography
    from invgen.operators.ct.phantoms import EllipsePhantom

    A = FanBeamCT((64, 64), 24, source_origin=300.0, origin_det=200.0, pixel_size=1.3, solver="cg")
    image = 0.02 * EllipsePhantom(41.5).image((64, 64), 1.3)
    counts = TransmissionPoisson(I0).sample(A(image), torch.Generator().manual_seed(0))
    lines, variance = log_transform(counts, I0)
    used, cg = [], _tomography.cg

    def counting(M, *args, **options):
        return cg(lambda v: (used.append(1), M(v))[1], *args, **options)

    monkeypatch.setattr(_tomography, "cg", counting)
    x = A.prox(torch.zeros(1, 64, 64), lines[None], 0.01**2, variance[None])  # the prior's standard deviation is .01 per mm
    left = A.adjoint((lines - A(x)) / variance) - x / 0.01**2
    assert len(used) < 60 and left.norm() < 2e-5 * A.adjoint(lines / variance).norm()


@pytest.mark.slow
@pytest.mark.parametrize(("pixel_size", "mu", "I0"), [(1.3, 0.02, 1e3), (2.6, 0.02, 1e4), (2.6, 0.2, 1e4)])
def test_photon_counts_of_a_fan_have_the_exact_solver_as_a_preconditioner(pixel_size, mu, I0, tmp_path, monkeypatch):
    from invgen import TransmissionPoisson, log_transform
    from invgen.linalg import recorded
    from invgen.operators.ct.phantoms import EllipsePhantom

    monkeypatch.setenv("INVGEN_CACHE", str(tmp_path))
    fan = {"source_origin": 600.0, "origin_det": 400.0, "pixel_size": pixel_size}
    A = FanBeamCT((48, 48), 16, **fan)
    image = mu * EllipsePhantom(24 * pixel_size).image((48, 48), pixel_size)
    counts = TransmissionPoisson(I0).sample(A(image), torch.Generator().manual_seed(0))
    lines, variance = (t[None] for t in log_transform(counts, I0))
    for std in (1.0, 0.1, 0.01, 0.001):  # per mm: the widths that samplers ask for, from the first level to the last
        with recorded() as solves:
            gradient = A.weighted_adjoint(lines, std**2, variance)
        b = A.adjoint(lines / variance)
        left = std**2 * A.adjoint(A(gradient) / variance) + gradient - b  # the normal equations, which CG does not see
        # measured 3 to 7, and up to 49 behind line integrals of 6.3, where variances differ by a factor of 680
        assert [name for name, _ in solves] == ["CG"] and solves[0][1] < 60
        # measured 1e-3 at std = 1, where CG's 1e-5 among measurements passes A^T with a gain of 100; 4e-5 below
        assert left.norm() < (2e-3 if std == 1 else 1e-4) * b.norm()
    scaled = 1000 * A  # another unit of length keeps all of it
    again = scaled.weighted_adjoint(lines, 1e-6 * std**2, variance)
    assert relative(again, 1000 * gradient) < 1e-5
    u = A.prox(torch.zeros(1, 48, 48), lines, std**2, variance)
    assert relative(u, std**2 * gradient) < 1e-6


@pytest.mark.slow
def test_pull_is_what_solve_and_adjoint_give(tmp_path, monkeypatch):
    monkeypatch.setenv("INVGEN_CACHE", str(tmp_path))
    for solver in ("exact", "cg"):
        A = FanBeamCT((12, 12), 7, source_origin=40.0, origin_det=20.0, solver=solver).double()
        M = torch.stack([A(e.reshape(1, 12, 12))[0].flatten() for e in torch.eye(144, dtype=torch.float64)], 1)
        r = torch.randn(2, *A.out_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        uneven = torch.logspace(-1, 1, r[0].numel(), dtype=torch.float64)
        per_ray = uneven[torch.randperm(len(uneven), generator=torch.Generator().manual_seed(1))]
        for var_y in (0.3, per_ray.reshape(1, *A.out_shape)):
            var = torch.as_tensor(var_y, dtype=r.dtype).expand(1, *A.out_shape).flatten()
            for k, var_x in enumerate((0.2, 3.0)):
                exact = M.T @ torch.linalg.solve(var_x * M @ M.T + var.diag(), r[k].flatten())
                gradient = A.weighted_adjoint(r, torch.tensor([0.2, 3.0], dtype=torch.float64), var_y)[k].flatten()
                assert relative(gradient, exact) < 1e-6, (solver, k)


@pytest.mark.filterwarnings("ignore:.*do not explain the measurement")  # few steps
def test_auto_weighs_how_many_solves_follow_and_the_result_names_the_solver_and_its_file(tmp_path, monkeypatch):
    monkeypatch.setenv("INVGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(symmetry, "KEEP_ENTRIES", 0)
    monkeypatch.setattr(ParallelBeamCT, "max_work", 0.0)
    prior = GaussianPrior(shape=(1, 12, 12))
    A = ParallelBeamCT(prior.shape, 8)
    # so that three solves repay the diagonalisation
    monkeypatch.setattr(_tomography, "PER_SOLVE", Spectrum(A).work / A.matrix.entries / 1.5)
    y = A(torch.ones(prior.shape))

    def run(steps: int, num_samples: int = 1) -> invgen.Result:
        B = ParallelBeamCT(prior.shape, 8)
        return invgen.solve(y, B, prior, 0.5, samplers.DiffPIR(steps=steps), num_samples=num_samples)

    enough = 3
    assert "CG" in run(enough - 1).inner and "exact" not in run(enough - 1, num_samples=5).inner
    first, again = run(enough), run(enough)
    assert first.inner == f"{enough} exact solves"
    (file,) = tmp_path.iterdir()
    assert again.inner == f"{enough} exact solves, with eigenvectors of {file}"
    assert torch.equal(first.samples, again.samples)
