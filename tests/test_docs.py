"""The site builds without a warning, and every block of code in a guide runs, in the order of the page."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import invgen
from invgen.cli import app

ROOT = Path(__file__).parents[1]
GUIDES = sorted(p for p in (ROOT / "docs" / "guides").glob("*.md") if p.stem != "index")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Figures of a guide that must come out: by its name, an expression over what its code has made, with a reason
FIGURES = {
    "ct": [
        "0.8 < result.residual.mean() < 1.3",  # samples explain a measurement of 45 views
        "limited.std.mean() > 1.05 * result.std.mean()",  # fewer views leave more open
        "(C(padded) - y_skimage).norm() < 0.03 * y_skimage.norm()",  # two ways to interpolate, one geometry
        "(from_counts.mean - x).norm() < (A.fbp(lines) - x).norm()",  # a prior helps at 1000 photons a ray
    ],
    "network": [
        "report.findings",  # an untrained network does not pass
        "0.002 < prior.sigma_min < 0.05 and prior.sigma_max > 2",  # `photo` was trained from 0.005 to 80
        "0.8 < result.residual.mean() < 1.3",
    ],
    "operator": ["result.residual.mean() < 1.5"],
    "reading": [
        "1.4 < result.residual.mean() < 1.9",  # the last noise, half of what it is, among 64 values of 32: 2 for all misfit
        "right.calibrated and not wrong.calibrated",
        "0.85 < right.spread_over_error < 1.15 and wrong.spread_over_error < 0.7",  # 3 per cent for 40
        "correction.held_out(0.9)[0] < 0.75 and abs(correction.held_out(0.9)[2] - 0.9) < 0.05",  # 32 values, 20 pairs twice
        "not usual.fit.elsewhere and foreign.fit.elsewhere",
    ],
    "sampler": ["result.reason"],
    "training": ["tuple(result.samples.shape) == (2, 1, 16, 16)"],
    "measurements": ["tuple(result.samples.shape) == (1, 1, 1, 16, 16)"],
    "scoring": ["result.auroc()['surprise'].value == 0", "result.auroc()['surprise, two-sided'].value == 1"],
    "editing": ["list(result.faithfulness) == sorted(result.faithfulness) and result.result.shape == (2, 1, 8, 8)"],
    "sound_and_video": ["metrics.spectral_convergence(result, x) < 0.3 and A.out_shape == (3, 2, 8, 8)"],
    "notebook": ["0.8 < result.residual.mean() < 1.3"],
}


def run_blocks(page: Path) -> dict:
    """Runs the blocks of a page in the current folder: writes files, runs commands, and Python in one namespace."""
    made: dict = {"__name__": "__main__"}
    for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        named = re.match(r"# (\w+\.(?:py|yaml))\n", text)
        if named:
            Path(named[1]).write_text(text)
        elif kind == "console":
            for line in text.splitlines():
                assert line.startswith("$ invgen "), f"{page.name}: no test runs {line!r}"
                done = CliRunner().invoke(app, shlex.split(line)[2:])
                assert done.exit_code == 0, f"{page.name}: {line}\n{done.output}\n{done.exception}"
        else:
            assert kind == "python", f"{page.name} has a block of {kind}, which no test runs"
            exec(compile(text, page.name, "exec"), made)
    return made


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::invgen.priors.PriorWarning")  # that of the untrained network in a guide
@pytest.mark.parametrize("page", GUIDES, ids=lambda p: p.stem)
def test_code_in_the_guides_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = run_blocks(page)
    assert made.get("result") is not None or page.stem == "suites"
    for figure in FIGURES.get(page.stem, []):
        assert eval(figure, made), f"{page.name}: {figure}"


def test_every_guide_is_two_clicks_from_the_start_page():
    start, listed = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("index.md", "guides/index.md"))
    assert len(GUIDES) == 13
    for page in GUIDES:
        assert f":link: guides/{page.stem}\n" in start
        assert f"\n{page.stem}\n" in listed


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """All pages but the pictures of the gallery, whose scripts test_readme.py runs; from a copy, offline."""
    copy = tmp_path / "docs"
    import shutil

    shutil.copytree(ROOT / "docs", copy, ignore=shutil.ignore_patterns("_build", "generated"))
    for name in ("examples", "priors", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "NOTICE"):
        (tmp_path / name).symlink_to(ROOT / name)
    out = tmp_path / "html"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-D", "sphinx_gallery_conf.plot_gallery=0"]
    command += ["-t", "no_tree"]
    done = subprocess.run([*command, "-b", "html", str(copy), str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    page = (out / "generated" / "api" / "invgen.solve.html").read_text(encoding="utf-8")
    assert "Draws samples from p(x | y)" in page
    loads = re.compile(r'<(script|link|img)[^>]*(src|href)="https?://')
    outside = [p.name for p in out.rglob("*.html") if loads.search(p.read_text(encoding="utf-8"))]
    assert not outside, f"pages that load something from the net: {outside[:5]}"


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == invgen.__version__
    assert cited["license"] == "Apache-2.0"
