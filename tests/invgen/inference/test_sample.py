"""The front door `invgen.sample`, and the command `invgen sample`."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import invgen
from invgen import cli, samplers
from invgen.commands.sample import conditioned, generate
from invgen.errors import OptionError, UnsupportedError
from invgen.priors import GaussianMixture

PRIOR = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), [0.3, 0.7], 0.1)


def test_a_prior_that_can_sample_itself_is_asked_unless_a_sampler_is_given():
    torch.testing.assert_close(invgen.sample(PRIOR, 5, 3), PRIOR.sample(5, 3))
    by_name = invgen.sample(PRIOR, 5, 3, sampler="DPMSolver(steps=10)")
    torch.testing.assert_close(by_name, samplers.DPMSolver(steps=10)(PRIOR, 5, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler", ["Heun(steps=32)", "DPMSolver(steps=32)", "DPMSolver(steps=32, order=3)", "Ancestral(steps=200)"]
)
def test_unconditional_samplers_draw_the_mixture(sampler):
    x = invgen.sample(PRIOR, 4000, 0, sampler=sampler)
    right = x[:, 0] > 0
    assert abs(right.float().mean().item() - 0.7) < 0.03
    torch.testing.assert_close(x[right].mean(0), torch.tensor([2.0, 1.0]), rtol=0, atol=0.03)
    torch.testing.assert_close(x[right].var(0), torch.tensor([0.1, 0.1]), rtol=0.15, atol=0)


def test_a_sample_does_not_depend_on_its_batch():
    whole = invgen.sample(PRIOR, 6, 1, sampler="DPMSolver(steps=8, order=3)")
    torch.testing.assert_close(invgen.sample(PRIOR, 6, 1, sampler="DPMSolver(steps=8, order=3)", max_batch=2), whole)


def test_a_posterior_sampler_is_refused():
    with pytest.raises(UnsupportedError, match="unconditional sampler"):
        invgen.sample(PRIOR, 2, sampler="DPS")


def test_the_command_writes_samples_pictures_and_a_sheet(tmp_path):
    spec = "ct"
    done = CliRunner().invoke(
        cli.app, ["sample", spec, "-k", "2", "-s", "DPMSolver(steps=2)", "--size", "32", "-o", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    assert "2 samples of 1 x 32 x 32" in done.output
    x = np.load(tmp_path / "out" / "samples.npy")
    assert x.shape == (2, 1, 32, 32) and np.isfinite(x).all()
    with Image.open(tmp_path / "out" / "sample_001.png") as picture:
        assert picture.size == (32, 32)
    assert (tmp_path / "out" / "sheet.png").stat().st_size > 1000
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["shape"] == [1, 32, 32] and summary["sampler"] == "DPMSolver(steps=2)"


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(5,), (1, 50)])
def test_signals_without_pictures_get_a_sheet_too(shape, tmp_path):
    summary = generate(f"GaussianPrior(shape={shape})", num_samples=3, out=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["samples.npy", "sheet.png", "summary.json"]
    assert summary["shape"] == list(shape)


def test_conditions():
    first = conditioned(PRIOR, "0", None)
    torch.testing.assert_close(first.mean, torch.tensor([-2.0, 0.0]))
    guided = conditioned(PRIOR, "1", 2.0)
    assert isinstance(guided, invgen.ClassifierFree) and guided.scale == 2
    assert conditioned(PRIOR, None, None) is PRIOR
    with pytest.raises(OptionError, match="guidance needs a condition"):
        conditioned(PRIOR, None, 2.0)
    with pytest.raises(UnsupportedError, match="knows no conditions"):
        conditioned(PRIOR.rescaled(2.0), "1", None)
