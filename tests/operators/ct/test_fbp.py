"""Filtered backprojection: values in physical units from closed-form sinograms."""

import math

import numpy as np
import pytest
import torch

from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.operators.ct._fbp import angle_weights, parker_weights
from invgen.operators.ct.geometries import FanBeamCT, ParallelBeamCT
from invgen.operators.ct.phantoms import EllipsePhantom

N = 128
MU = 0.02  # 1/mm, water


def geometry(name, p):
    fan = {"source_origin": 250.0 * p, "origin_det": 120.0 * p, "pixel_size": p}
    return {
        "parallel": lambda: ParallelBeamCT((N, N), 180, pixel_size=p),
        "strip": lambda: ParallelBeamCT((N, N), 180, pixel_size=p, projector="strip"),
        "coarse detector": lambda: ParallelBeamCT((N, N), 180, pixel_size=p, det_spacing=1.3 * p),
        "fine detector": lambda: ParallelBeamCT((N, N), 180, pixel_size=p, det_spacing=0.5 * p),
        "offset": lambda: ParallelBeamCT((N, N), 180, pixel_size=p, det_offset=7.3 * p, det_count=200),
        "any angles": lambda: ParallelBeamCT((N, N), angles=np.random.default_rng(0).uniform(-3, 9, 400), pixel_size=p),
        "full turn": lambda: ParallelBeamCT((N, N), angles=np.arange(360) * np.pi / 180, pixel_size=p),
        "both ends": lambda: ParallelBeamCT((N, N), angles=np.linspace(0, np.pi, 181), pixel_size=p),
        "fan": lambda: FanBeamCT((N, N), 360, **fan),
        "fan, offset": lambda: FanBeamCT((N, N), 360, det_offset=5.2 * p, det_count=230, **fan),
        "curved": lambda: FanBeamCT((N, N), 360, detector="curved", **fan),
        "curved, offset": lambda: FanBeamCT((N, N), 360, det_offset=5.2 * p, det_count=230, detector="curved", **fan),
    }[name]()


NAMES = ["parallel", "strip", "coarse detector", "fine detector", "offset", "any angles", "full turn", "both ends"]
NAMES += ["fan", "fan, offset", "curved", "curved, offset"]
# pixels of another size: the quick tests see them with one geometry of each kind
CASES = [(name, 1.0) for name in NAMES] + [("parallel", 0.5), ("fan", 0.5)]
CASES += [pytest.param(name, 0.5, marks=pytest.mark.slow) for name in NAMES if name not in ("parallel", "fan")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "p"), CASES)
def test_gives_back_the_attenuation_in_its_units(name, p):
    A = geometry(name, p)
    phantom = EllipsePhantom(N * p / 2)
    truth = MU * phantom.image((N, N), p)
    y = MU * phantom.sinogram(*A.rays()).float()
    x = A.fbp(y)
    tissue = (truth - 0.2 * MU).abs() < 1e-8
    tissue = torch.nn.functional.avg_pool2d(tissue[None].float(), 7, 1, 3)[0] > 0.999  # away from the edges
    assert tissue.sum() > 500
    # 0.2 of water in the middle of the head, to half a percent of water (measured 0.1 % and less, .4 % for random angles)
    assert abs(x[tissue].mean().item() / MU - 0.2) < 5e-3
    psnr = -10 * math.log10(((x - truth) / MU).square().mean().item())
    # measured 31 dB; 26 with a coarse detector or random angles
    assert psnr > (25.0 if name in ("coarse detector", "any angles") else 30.0)


@pytest.mark.slow
def test_value_of_the_tissue_at_256_pixels():
    phantom = EllipsePhantom(128)
    truth = phantom.image((256, 256))
    A = ParallelBeamCT((256, 256), 90)
    x = A.fbp(phantom.sinogram(*A.rays()).float())
    assert x[(truth - 0.2).abs() < 1e-6].mean().item() == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize("filter_name", ["ram-lak", "shepp-logan", "cosine", "hamming", "hann"])
def test_windows_keep_the_mean_and_lose_noise(filter_name):
    A = ParallelBeamCT((64, 64), 90)
    phantom = EllipsePhantom(32, [(1.0, 0.7, 0.7, 0.0, 0.0, 0.0)])
    x = A.fbp(phantom.sinogram(*A.rays()).float(), filter_name=filter_name)
    assert x[24:40, 24:40].mean().item() == pytest.approx(1.0, abs=2e-3)
    noise = torch.randn(A.out_shape, generator=torch.Generator().manual_seed(0))
    left = A.fbp(noise, filter_name).std() / A.fbp(noise).std()
    # root of the mean of (window u)^2 over that of u^2, times what the interpolation takes away of high frequencies
    assert left <= {"ram-lak": 1.001, "shepp-logan": 0.95, "cosine": 0.8, "hamming": 0.75, "hann": 0.72}[filter_name]


def test_agrees_with_skimage_iradon():
    from skimage.transform import iradon

    A = ParallelBeamCT((63, 63), 60, det_count=63)
    y = A(EllipsePhantom(31.5).image((63, 63)))
    theirs = iradon(y.T.double().numpy(), np.rad2deg(A.angles), filter_name="ramp", circle=True, output_size=63)
    inside = torch.hypot(*torch.meshgrid(*[torch.arange(63) - 31.0] * 2, indexing="ij")) < 28
    difference = (A.fbp(y) - torch.from_numpy(theirs))[inside]
    assert difference.norm() < 0.05 * torch.from_numpy(theirs)[inside].norm()


@pytest.mark.slow
def test_batches_and_gradients():
    A = ParallelBeamCT((2, 8, 8), 6)
    y = torch.randn(3, 4, *A.out_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert A.fbp(y).shape == (3, 4, 2, 8, 8)
    assert torch.allclose(A.fbp(y)[1, 2], A.fbp(y[1, 2]))
    fan = FanBeamCT((8, 8), 6, source_origin=20, origin_det=10)
    for B in (A, ParallelBeamCT((8, 8), 6, det_spacing=1.5), fan):
        y = torch.randn(1, *B.out_shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(B.fbp, y)
        assert B.fbp(y[:0]).shape == (0, *B.in_shape)


def test_views_count_for_their_share_of_the_circle():
    pi = math.pi
    assert angle_weights(np.arange(4) * pi / 4, pi) == pytest.approx([pi / 4] * 4)
    assert angle_weights(np.array([5.0, 1.1, 0.3, pi]), pi).sum() == pytest.approx(pi)
    both_ends = angle_weights(np.linspace(0, pi, 5), pi)
    assert both_ends == pytest.approx([pi / 8, pi / 4, pi / 4, pi / 4, pi / 8])
    # a limited arc: the missing wedge is not given to the views at its ends
    limited = angle_weights(np.arange(60) * pi / 180, pi)
    assert limited == pytest.approx([pi / 180] * 60)
    assert angle_weights(np.array([1.0]), pi) == pytest.approx([pi])
    assert angle_weights(np.array([1.0, 1.0]), pi).sum() == pytest.approx(pi)


def test_bad_input_is_one_sentence():
    A = ParallelBeamCT((8, 8), 6)
    with pytest.raises(OptionError, match="ram-lak, shepp-logan, cosine, hamming, hann"):
        A.fbp(torch.zeros(A.out_shape), filter_name="ramp")
    with pytest.raises(ShapeError, match="fbp"):
        A.fbp(torch.zeros(3, 3))
    short = FanBeamCT((8, 8), angles=np.arange(200) * math.pi / 180, source_origin=20, origin_det=10)
    # half a turn and the opening of the fan that the detector sees
    with pytest.raises(UnsupportedError, match=r"over 211 degrees .*cover 199; use pinv"):
        short.fbp(torch.zeros(short.out_shape))


@pytest.mark.slow
@pytest.mark.parametrize(("degrees", "start", "detector"), [(223, 0, "flat"), (240, 300, "curved"), (330, 77, "flat")])
def test_a_short_scan_is_as_good_as_a_full_one(degrees, start, detector):
    fan = {"source_origin": 250.0, "origin_det": 120.0, "detector": detector}
    phantom = EllipsePhantom(N / 2)
    truth = phantom.image((N, N))
    full, short = (FanBeamCT((N, N), angles=np.deg2rad(start + np.arange(count)), **fan) for count in (360, degrees))
    y = phantom.sinogram(*full.rays()).float()
    error, least = ((A.fbp(part) - truth).square().mean().sqrt() for A, part in ((short, y[:degrees]), (full, y)))
    # .0239 and .0232; without weights, the missing views taken for equal to the others, .05 and more
    assert error < 1.06 * least


def test_weights_of_a_short_scan_count_every_line_once():
    angles, gamma = np.deg2rad(np.arange(0, 221, 0.5)), np.deg2rad(np.arange(-15, 15.1, 0.5))
    weight = parker_weights(angles + 1.0, gamma, gamma.max(), np.deg2rad(0.5))
    for view in range(len(angles)):
        for d in range(0, len(gamma), 7):
            other = angles[view] + np.pi - 2 * gamma[d]  # the same line from the other side
            k = int(np.round(np.rad2deg(other) * 2))
            mirrored = weight[k, len(gamma) - 1 - d] if 0 <= k < len(angles) else 0.0
            before = int(np.round(np.rad2deg(other - 2 * np.pi) * 2))
            mirrored += weight[before, len(gamma) - 1 - d] if before >= 0 else 0.0
            assert weight[view, d] + mirrored == pytest.approx(1, abs=1e-9)
    assert np.abs(np.diff(weight, axis=0)).max() < 0.12  # smooth: no step from view to view, even where the fan is narrow


@pytest.mark.data
@pytest.mark.slow
def test_a_short_scan_of_a_measured_disc(field_data):
    from scipy.io import loadmat

    file = loadmat(field_data("measured/htc2022/htc2022_01a_full.mat"), squeeze_me=True, struct_as_record=False)
    scan = file["CtDataFull"]
    angles, y = np.deg2rad(np.asarray(scan.parameters.angles, float))[::4], torch.as_tensor(scan.sinogram[::4]).float()
    fan = {"source_origin": 410.66, "origin_det": 143.08, "det_count": 560, "det_spacing": 0.2, "pixel_size": 0.14832 * 4}
    short = np.rad2deg(angles) <= 200  # half a turn and a fan of 11.6 degrees is 192
    full = FanBeamCT((128, 128), angles=angles, **fan).fbp(y, "hann")
    part = FanBeamCT((128, 128), angles=angles[short], **fan).fbp(y[torch.from_numpy(short)], "hann")
    # measured .9956 and 1.0038: what differs is the noise of half the photons
    assert np.corrcoef(part.flatten(), full.flatten())[0, 1] > 0.99
    assert (part.mean() / full.mean()).item() == pytest.approx(1, abs=0.01)
