"""The README keeps its word: its tables are those of the code, its links and commands exist, its scripts run."""

import re
import sys
from pathlib import Path

import pytest
import torch

from invgen import FileError, Posterior, check_operator, solve
from invgen.commands import catalogue
from invgen.operators import Matrix
from invgen.priors import GaussianPrior

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MORE, COMMANDS = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("more.md", "command_line.md"))
SCRIPTS = re.findall(r"```python\n(.*?)```", README + MORE, re.DOTALL)


def test_tables_go_between_their_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n<!-- samplers:begin -->\nAN EARLIER TABLE\n<!-- samplers:end -->\nend\n")

    def refresh(text):
        return catalogue.between(text, "samplers", catalogue.markdown("samplers"))

    assert catalogue.write(page, refresh)
    assert not catalogue.write(page, refresh)
    new = page.read_text()
    assert "AN EARLIER TABLE" not in new
    assert new.startswith("# Page\n") and new.endswith("end\n")
    assert "| `DAPS` |" in new
    page.write_text("no markers")
    with pytest.raises(FileError, match="lacks the markers"):
        catalogue.write(page, refresh)
    assert [p.name for p in tmp_path.iterdir()] == ["page.md"]


def test_the_readme_is_short():
    assert README.count("\n") < 200


def test_every_entry_says_what_it_is():
    for kind, rows in catalogue.TABLES.items():
        headings, entries = rows()
        assert entries
        for entry in entries:
            assert len(entry) == len(headings)
            for heading, cell in zip(headings, entry, strict=True):
                assert cell.strip(), f"{kind}: {entry[0]} has no {heading}; write a docstring"


def test_the_two_commands():
    rules = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in ("demo", "test"):
        assert f"make {command}" in README
        assert command in rules


@pytest.mark.parametrize("page", [p for p in PAGES if p.exists()], ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_commands_in_the_readme_parse():
    """Every `invgen ...` line names a command and options that exist, and operators and samplers that resolve."""
    import shlex

    import typer

    from invgen.cli import app
    from invgen.names import resolve

    commands = typer.main.get_command(app).commands
    lines = re.findall(r"^    (invgen .*)$", f"{README}\n{COMMANDS}", re.MULTILINE)
    assert lines
    for line in lines:
        _, command, *words = shlex.split(line)
        found = commands[command]
        while words and words[0] in getattr(found, "commands", {}):  # bench run
            found = found.commands[words.pop(0)]
        options = {option for p in found.params for option in (*p.opts, *p.secondary_opts)}
        assert {w for w in words if w.startswith("--")} <= options, line
        for option, find in (("--operator", lambda s: resolve.operator(s, (1, 16, 16))), ("--sampler", resolve.sampler)):
            if option in words and ":" not in (spec := words[words.index(option) + 1]):
                find(spec)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SCRIPTS)))
def test_scripts_in_the_readme_run(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(SCRIPTS[number], f"README.md and docs/more.md, script {number + 1}", "exec"), {"__name__": "__main__"})


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_examples_run(path, tmp_path, monkeypatch, capsys):
    import runpy

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip(), "an example prints what it found"


IMPORTS = """
import torch
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar
from torch import Tensor
from invgen import Denoiser, Gaussian, Generator, LinearOperator, Posterior
from invgen.diffusion import per_sample_sigma, step
from invgen.samplers.guided.base import GuidedSampler
from invgen.samplers.mcmc.base import LatentChain, choose, decode, metropolis
from invgen.samplers.smc.base import ParticleSampler
from invgen.numerics.random import Streams
"""


def recipes():
    """What the code of CONTRIBUTING.md defines, each piece in about ten lines."""
    made = {}
    exec(IMPORTS, made)
    for recipe in re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL):
        assert recipe.count("\n") <= 10
        exec(recipe, made)
    return made


def test_the_operator_the_guided_sampler_and_the_denoiser_of_contributing_work():
    """Each put to the use that the page promises."""
    made = recipes()
    A = made["EveryOther"]((1, 4, 8))
    check_operator(A)
    prior = made["Shrink"]((1, 4, 8), data_std=2.0)
    x, sigma = torch.randn(3, 1, 4, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 1.0, 10.0])
    assert torch.allclose(prior(x, sigma), 4 / (4 + sigma.reshape(3, 1, 1, 1) ** 2) * x)
    result = solve(torch.ones(A.out_shape), A, prior, 0.1, made["Proximal"](steps=20), num_samples=16)
    assert result.samples.shape == (16, 1, 4, 8)
    # the measured pixels were 1 with noise 0.1, and the prior is wide
    assert (result.mean[..., ::2] - 1).abs().mean() < 0.2


@pytest.mark.slow
def test_the_chain_and_the_particles_of_contributing_draw_from_the_posterior():
    made, y = recipes(), torch.tensor([1.0, 2.0])
    A, prior = made["EveryOther"]((4,)), GaussianPrior(shape=(4,), var=4.0)
    exact = prior.posterior(A, 2.0, y)  # means 0.5, 0, 1, 0, variances 2 and 4
    post = Posterior(prior, A, 2.0, y)
    # 800 samples: standard errors of 0.07 of a mean, 5 per cent of a variance; the flow lacks 1 per cent
    x = made["CrankNicolson"](steps=100)(post, 800)
    assert (x.mean(0) - exact.mean).abs().max() < 0.25
    assert (x.var(0) / exact.var - 1).abs().max() < 0.2
    # DDPM's step lacks variance, some 2 per cent at 200 steps
    cloud = made["Bootstrap"](steps=200, particles=400).weighted(post, chains=10)
    assert (cloud.mean.mean(0) - exact.mean).abs().max() < 0.15
    assert abs(cloud.log_evidence.exp().mean().log().item() - exact.log_evidence) < 0.1


@pytest.mark.slow
def test_the_generator_and_the_metric_of_contributing_work():
    made, g = recipes(), torch.Generator().manual_seed(0)
    x = solve(
        torch.tensor([0.5]), Matrix(torch.tensor([[0.0, 1.0]])), made["Arc"](), 0.05, "LinearisedTDS", num_samples=8
    ).samples
    torch.testing.assert_close(torch.linalg.vector_norm(x, dim=1), torch.ones(8))
    assert (x[:, 1] - 0.5).abs().max() < 0.25  # five standard deviations of the noise
    # standard normal values: log variance 0, mean of squared error over variance 1 + O(1 / samples), for the right spread
    scores = [
        made["dawid_sebastiani"](w * torch.randn(64, 400, 8, generator=g), torch.randn(400, 8, generator=g), dims=1).mean()
        for w in (0.5, 1.0, 2.0)
    ]
    assert scores[1] < min(scores[0], scores[2]) and abs(scores[1] - 1) < 0.1
