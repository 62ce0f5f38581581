"""Raw scans: counts, files and the rotation axis, on phantoms and on measured data."""

import numpy as np
import pytest
import torch

from invgen.errors import FileError, OptionError, ShapeError
from invgen.operators.ct.geometries import FanBeamCT, ParallelBeamCT
from invgen.operators.ct.phantoms import EllipsePhantom
from invgen.operators.ct.raw import find_center, line_integrals, read_scan


def scan(offset=0.0, views=90):
    A = ParallelBeamCT((64, 64), views, det_count=100, det_offset=offset)
    phantom = EllipsePhantom.random(32, generator=torch.Generator().manual_seed(1))
    return A, 0.02 * phantom.sinogram(*A.rays())


def counts(lines, seed=0):
    g = torch.Generator().manual_seed(seed)
    flat = 1000 + 200 * torch.rand(5, lines.shape[-1], dtype=torch.float64, generator=g)
    dark = 50 + torch.rand(3, lines.shape[-1], dtype=torch.float64, generator=g)
    return dark.mean(0) + (flat - dark.mean(0)).mean(0) * torch.exp(-lines), flat, dark


def test_counts_give_back_the_line_integrals():
    _, lines = scan()
    assert torch.allclose(line_integrals(*counts(lines)), lines.float(), atol=1e-5)
    data, flat, dark = counts(lines)
    data[3, 7] = 0.0  # below dark: the least signal there is
    got = line_integrals(data, flat, dark)
    assert got.isfinite().all() and got[3, 7] == got.max()
    assert torch.allclose(line_integrals(torch.exp(-lines), 1.0), lines.float(), atol=1e-6)
    with pytest.raises(ShapeError, match=r"flat must be a number, one view \(100,\)"):
        line_integrals(data, flat[:, :-1], dark)
    with pytest.raises(OptionError, match="brighter than dark"):
        line_integrals(data, dark, flat)
    with pytest.raises(OptionError, match="no count is above dark"):
        line_integrals(0 * data, flat, dark)


def test_reads_files(tmp_path):
    import h5py
    import tifffile

    A, lines = scan(views=6)
    data, flat, dark = counts(lines)
    stacked = [t[:, None].expand(-1, 2, -1).float().numpy() for t in (data, flat, dark)]  # two rows
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, array in zip(("data", "data_white", "data_dark"), stacked, strict=True):
            file[f"exchange/{name}"] = array
        file["exchange/theta"] = np.rad2deg(A.angles)
    (tmp_path / "views").mkdir()
    for k, view in enumerate(stacked[0]):
        tifffile.imwrite(tmp_path / "views" / f"{k:03}.tif", view)
    tifffile.imwrite(tmp_path / "flat.tif", stacked[1])
    np_dark = torch.from_numpy(stacked[2])
    for got in (
        read_scan(tmp_path / "a.h5", row=1),
        read_scan(tmp_path / "views", tmp_path / "flat.tif", np_dark, A.angles, row=0),
        read_scan(f"{tmp_path}/a.h5:/exchange/data", tmp_path / "flat.tif", np_dark, list(A.angles), row=0),
        read_scan(data.float(), flat.float(), dark.float(), A.angles),
    ):
        assert torch.allclose(got.lines, lines.float(), atol=1e-4)
        assert got.angles.numpy() == pytest.approx(A.angles)
    assert read_scan(tmp_path / "a.h5").lines.shape == (6, 2, 100)
    for call, error, words in (
        (lambda: read_scan(tmp_path / "none.h5"), FileError, "is not there"),
        (lambda: read_scan(tmp_path / "a.txt"), FileError, "is not there"),
        (lambda: read_scan(tmp_path / "a.h5", angles=[0.0, 1.0]), OptionError, "2 angles and 6 views"),
        (lambda: read_scan(tmp_path / "a.h5", row=2), OptionError, "no row 2"),
        (lambda: read_scan(torch.ones(4)), ShapeError, "views, detector"),
    ):
        with pytest.raises(error, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0.0, 3.3, -12.7])
def test_finds_the_axis(offset):
    A, y = scan(offset)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    # interpolation by linear pieces; measured .2 pixels at most
    assert find_center(y + 0.01 * y.max() * noise, A.angles) == pytest.approx(offset, abs=0.25)
    assert find_center(y, A.angles, det_spacing=0.5) == pytest.approx(0.5 * offset, abs=0.13)


def test_an_axis_that_cannot_be_found_is_one_sentence():
    A, y = scan()
    with pytest.raises(OptionError, match="half a turn, these cover 88 degrees in steps of about 2"):
        find_center(y[:45], A.angles[:45])
    with pytest.raises(ShapeError, match="lines must be"):
        find_center(y[:5], A.angles)


@pytest.mark.data
@pytest.mark.slow
def test_a_measured_tooth(field_data):
    lines, angles = read_scan(field_data("measured/tooth.h5"))
    axis = find_center(lines, angles)
    assert axis + 319.5 == pytest.approx(296, abs=0.5)  # by eye, as TomoPy's example has it
    below = {}
    for shift in (-3.0, 0.0, 3.0):  # what is outside of the tooth is air, and never negative
        A = ParallelBeamCT((480, 480), angles=angles, det_count=640, det_offset=axis + shift)
        below[shift] = A.fbp(lines[:, 0], "hann").clamp(max=0).square().mean().sqrt().item()
    assert below[0.0] < 0.85 * min(below[-3.0], below[3.0])  # measured .81


@pytest.mark.data
@pytest.mark.slow
def test_a_measured_disc_at_full_size(field_data):
    from scipy.io import loadmat

    file = loadmat(field_data("measured/htc2022/htc2022_01a_full.mat"), squeeze_me=True, struct_as_record=False)
    angles, y = np.deg2rad(file["CtDataFull"].parameters.angles[:-1:3]), torch.as_tensor(file["CtDataFull"].sinogram[:-1:3])
    fan = {"source_origin": 410.66, "origin_det": 143.08, "det_count": 560, "det_spacing": 0.2, "pixel_size": 0.14832}
    A = FanBeamCT((512, 512), angles=angles, **fan)
    x = A.fbp(y.float())
    mask = loadmat(field_data("measured/htc2022/htc2022_01a_recon_fbp_seg.mat"), squeeze_me=True)["reconFullFbpSeg"]
    found, disc = x > 0.5 * x.quantile(0.99), torch.as_tensor(mask) > 0
    assert np.corrcoef(found.flatten(), disc.flatten())[0, 1] > 0.97  # Matthews correlation; measured .98
