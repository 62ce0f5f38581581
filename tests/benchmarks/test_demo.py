"""The main job on two problems with two samples each: what it leaves, and that the samples are worth having."""

import json
from functools import partial

import pytest
import torch

from invgen.benchmarks import demo
from invgen.benchmarks.methods.total_variation import TV
from invgen.operators import Identity
from invgen.priors import GaussianPrior


@pytest.mark.slow
def test_demo_leaves_pictures_and_a_table(tmp_path, monkeypatch):
    monkeypatch.setenv("INVGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(demo, "tuned_tv", partial(demo.tuned_tv, weights=(8.0, 24.0)))  # of five, each some seconds
    rows = demo.run(tmp_path / "out", quick=True, progress=False)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == rows
    assert (tmp_path / "out" / "results.md").read_text().count("\n") == len(rows) + 2
    assert {p.stem for p in (tmp_path / "out").glob("*.png")} == {"ct-23-CT_small", "super-resolution-x4", "overview"}
    ct = {r["method"]: r for r in rows if r["problem"] == "ct-23-CT_small"}
    mean = ct["AdaptivePiGDM, mean of 2"]
    # streaks cost filtered backprojection 7 dB on this slice; less than 4 dB would mean that prior or guidance is broken
    assert mean["psnr"] > ct["FBP"]["psnr"] + 4
    # two samples that differ: their mean beats one by 10 log10(4/3) = 1.25 dB if both are independent draws
    assert 0.5 < mean["psnr"] - ct["AdaptivePiGDM, one sample"]["psnr"] < 3.0
    # a posterior sample explains the data up to the noise: a chi-square over 4186 rays has a spread of 0.011
    assert 0.9 < ct["AdaptivePiGDM, one sample"]["residual"] < 1.1


def test_tuned_tv_takes_the_best_weight():
    truth = (torch.linspace(-1, 1, 16) > 0).float().expand(1, 16, 16)
    y = truth + 0.1 * torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    prior = GaussianPrior((1, 16, 16), var=0.25)
    problem = demo.Problem("step", "a step", truth, Identity((1, 16, 16)), 0.1, y, prior, 1)
    # of little smoothing, some, and so much that the edge fades, it takes some
    low, high = prior.value_range
    expected = TV(weight=10.0)(problem.posterior)[0]
    assert torch.equal(demo.tuned_tv(problem, [w * (high - low) for w in (1.0, 10.0, 100.0)]), expected)
