"""The main job on two problems with two samples each: what it leaves, and that the samples are worth having."""

import json

import pytest
import torch

from invgen.benchmarks import baselines, demo
from invgen.operators import Identity, Mask


@pytest.mark.slow
def test_demo_leaves_pictures_and_a_table(tmp_path, monkeypatch):
    monkeypatch.setenv("INVGEN_CACHE", str(tmp_path / "cache"))
    rows = demo.run(tmp_path / "out", quick=True, progress=False)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == rows
    assert (tmp_path / "out" / "results.md").read_text().count("\n") == len(rows) + 2
    assert {p.stem for p in (tmp_path / "out").glob("*.png")} == {"ct-23-CT_small", "super-resolution-x4", "overview"}
    ct = {r["method"]: r for r in rows if r["problem"] == "ct-23-CT_small"}
    mean = ct["PiGDM, mean of 2"]
    # streaks cost filtered backprojection 7 dB on this slice; less than 4 dB would mean that prior or guidance is broken
    assert mean["psnr"] > ct["FBP"]["psnr"] + 4
    # two samples that differ: their mean beats one by 10 log10(4/3) = 1.25 dB if both are independent draws
    assert 0.5 < mean["psnr"] - ct["PiGDM, one sample"]["psnr"] < 3.0
    # a posterior sample explains the data up to the noise: a chi-square over 4186 rays has a spread of 0.011
    assert 0.9 < ct["PiGDM, one sample"]["residual"] < 1.1


def test_total_variation_of_the_identity_is_scikit_images():
    from skimage.restoration import denoise_tv_chambolle

    y = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    ours = baselines.total_variation(Identity((1, 16, 16)), y, y, 0.3, iterations=5)
    theirs = torch.tensor(denoise_tv_chambolle(y.double().numpy(), weight=0.3, max_num_iter=30, channel_axis=0))
    torch.testing.assert_close(ours, theirs.float(), atol=1e-5, rtol=0)


def test_biharmonic_keeps_what_was_measured_and_continues_a_plane():
    # a plane is biharmonic, so that it is continued exactly up to the solver's rounding
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    plane = (0.3 + 0.02 * rows - 0.01 * columns)[None]
    mask = Mask.box((1, 24, 24), 8)
    filled = baselines.biharmonic(mask, mask(plane))
    torch.testing.assert_close(filled, plane, atol=1e-4, rtol=0)


def test_tuned_takes_the_best_weight():
    truth = torch.zeros(1, 4, 4)
    assert baselines.tuned(lambda w: torch.full((1, 4, 4), w), (3.0, -1.0, 2.0), truth)[0, 0, 0] == -1.0
