"""The ASTRA backend on the CPU, and its guards. The GPU part is tried only through stand-ins."""

import copy
import pickle
import types

import pytest
import torch

from invgen.errors import MissingExtraError
from invgen.operators.ct.geometries import FanBeamCT, ParallelBeamCT
from invgen.operators.ct.phantoms import EllipsePhantom
from invgen.operators.ct.projectors.astra import AstraProjector

astra = pytest.importorskip("astra")


def test_batches_offsets_and_units():
    options = {"pixel_size": 0.5, "det_offset": 0.7, "det_spacing": 0.6}
    theirs = ParallelBeamCT((2, 16, 20), 12, backend="astra", **options)
    ours = ParallelBeamCT((2, 16, 20), 12, **options)
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(3, 2, 16, 20, generator=g), torch.randn(3, *ours.out_shape, generator=g)
    # ASTRA's geometry is in single precision
    assert torch.allclose(theirs(x), ours(x), atol=1e-3)
    assert torch.allclose(theirs.adjoint(y), ours.adjoint(y), atol=1e-3)
    assert torch.allclose(theirs.fbp(y), ours.fbp(y), atol=1e-3)
    assert theirs(x[:0]).shape == (0, *ours.out_shape)
    assert theirs(x.double()).dtype == torch.float64
    assert torch.equal(theirs(x.movedim(-1, 0).contiguous().movedim(0, -1)), theirs(x))
    assert theirs.matched and ours.matched
    assert theirs.norm() == pytest.approx(ours.norm(), rel=1e-4)


def test_gradient_is_the_adjoint():
    A = ParallelBeamCT((8, 8), 5, backend="astra")
    x = torch.randn(2, 8, 8, requires_grad=True)
    y = A(x)
    (gradient,) = torch.autograd.grad(y.square().sum() / 2, x)
    assert torch.allclose(gradient, A.adjoint(y.detach()), rtol=1e-4, atol=1e-3)


def test_solves_by_conjugate_gradients():
    A, B = ParallelBeamCT((16, 16), 12, backend="astra"), ParallelBeamCT((16, 16), 12)
    y = B(torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)))
    level = B.norm() ** 2
    x = torch.zeros(1, 16, 16)
    assert torch.allclose(A.prox(x, y, 1.0, 0.1 * level), B.prox(x, y, 1.0, 0.1 * level), atol=1e-3)


def test_copies_and_pickles_make_their_own_projector():
    A = ParallelBeamCT((8, 8), 5, backend="astra")
    x = torch.rand(8, 8)
    y = A(x)
    copied = pickle.loads(pickle.dumps(A))
    assert copied.matrix._ids == {}
    assert torch.equal(copied(x), y)
    assert torch.equal(copy.deepcopy(A)(x), y)


def test_missing_or_old_astra_is_one_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "astra", None)
    with pytest.raises(MissingExtraError, match="pip install astra-toolbox"):
        ParallelBeamCT((8, 8), 5, backend="astra")(torch.zeros(8, 8))
    monkeypatch.setitem(__import__("sys").modules, "astra", types.SimpleNamespace(projector=object()))
    with pytest.raises(MissingExtraError, match="2.5 or later"):
        ParallelBeamCT((8, 8), 5, backend="astra")(torch.zeros(8, 8))


def test_mirrored_scan_of_the_gpu_path():
    """The three-dimensional rays are the two-dimensional ones with the y axis turned down."""
    A = ParallelBeamCT((6, 8), angles=[0.3, 1.9], det_offset=0.7, det_spacing=0.6, pixel_size=0.5, backend="astra")
    seen = {}

    def scan(kind, *numbers):
        seen[kind] = numbers[-1]

    fake = types.SimpleNamespace(
        create_proj_geom=scan,
        create_vol_geom=lambda *numbers: seen.update(volume=numbers),
        create_projector=lambda kind, *_: kind,
        projector3d=types.SimpleNamespace(delete=lambda _: None),
        projector=types.SimpleNamespace(delete=lambda _: None),
    )
    A.matrix._id(fake, 3), A.matrix._id(fake, 0)
    A.matrix._ids.clear()
    flat, deep = seen["parallel_vec"], seen["parallel3d_vec"]
    assert deep[:, [0, 3, 6]] == pytest.approx(flat[:, [0, 2, 4]])
    assert deep[:, [1, 4, 7]] == pytest.approx(-flat[:, [1, 3, 5]])
    assert (deep[:, [2, 5, 8, 9, 10]] == 0).all() and (deep[:, 11] == 0.5).all()


def test_zeros_from_the_gpu_are_an_error(monkeypatch):
    from invgen.errors import DivergedError

    A = ParallelBeamCT((8, 8), 5, backend="astra")
    silent = types.SimpleNamespace(projector3d=types.SimpleNamespace(direct_FP=lambda *_, out: out))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: types.SimpleNamespace(synchronize=lambda: None))
    monkeypatch.setattr(AstraProjector, "_id", lambda *_: 1)
    out = torch.zeros(1, A.matrix.shape[0])
    with pytest.raises(DivergedError, match="only zeros"):
        A.matrix._run_gpu(silent, torch.ones(1, 64), out, ((8, 8), (5, A.det_count)), turned=False)


def test_fan_beam_conventions_are_astras():
    import numpy as np

    N, offset = 64, 4.2
    phantom = EllipsePhantom(32.0, [(1.0, 0.6, 0.3, 0.2, -0.1, 25.0), (-0.4, 0.2, 0.25, 0.1, 0.3, -70.0)])
    ours = FanBeamCT((N, N), 17, source_origin=120.0, origin_det=80.0, det_offset=offset)
    t, image = ours.angles, phantom.image((N, N))
    c, s, ds = np.cos(t), np.sin(t), ours.det_spacing
    vectors = np.stack([120 * s, -120 * c, -80 * s - offset * c, 80 * c - offset * s, ds * c, ds * s], axis=1)
    scan = astra.create_proj_geom("fanflat_vec", ours.det_count, vectors)
    number = astra.create_projector("line_fanflat", scan, astra.create_vol_geom(N, N))
    theirs = torch.zeros(ours.out_shape)
    astra.projector.direct_FP(number, image, out=theirs)
    astra.projector.delete(number)
    # Joseph's interpolation against lengths of intersection: 2 % on edges of 64 pixels, 1 % on 128
    assert (ours(image) - theirs).norm() < 0.02 * theirs.norm()
    plain = astra.create_proj_geom("fanflat", ds, ours.det_count, t, 120.0, 80.0)  # no offset, the same sources
    assert astra.geom_2vec(plain)["Vectors"][:, :2] == pytest.approx(vectors[:, :2])
