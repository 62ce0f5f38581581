"""The command line, run in this process as `invgen ...` would: results, exit status, sentences, nothing half-written."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import invgen
from invgen import samplers
from invgen.cli import main
from invgen.names import resolve
from invgen.priors import recipes

MODULE = """
from invgen import LinearOperator, Operator
from invgen.priors import GaussianPrior


class Half(LinearOperator):
    def forward(self, x):
        return x[..., ::2]


class Shifted(LinearOperator):
    def forward(self, x):
        return x + 1


class Squared(Operator):
    def forward(self, x):
        return x**2


smooth = GaussianPrior(shape=(1, 12, 12))
colour = GaussianPrior(shape=(3, 12, 12))
"""
HALF = ("--operator", "my_cli:Half", "--prior", "my_cli:smooth", "--noise", "0.05", "--sampler", "DAPS(steps=4)")


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_cli.py").write_text(MODULE)
    picture = np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_cli", None)


@pytest.fixture
def run(capsys):
    def call(*args):
        with pytest.raises(SystemExit) as end:
            main([str(arg) for arg in args])
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out, printed.err

    return call


def left(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if "__pycache__" not in str(p))


def test_version_and_help(run):
    assert run("--version") == (0, f"invgen {invgen.__version__}\n", "")
    code, out, _ = run("--help")
    assert code == 0
    for command in ("reconstruct", "list", "check", "calibrate", "demo", "train", "data"):
        assert command in out
        assert run(command, "--help")[0] == 0


@pytest.mark.slow
def test_reconstruct_writes_what_solve_gives(here, run):
    code, out, err = run("reconstruct", "picture.png", *HALF, "--num-samples", 3, "--seed", 5, "--out", "out")
    # five evaluations a step along the flow, and a hundred gradients of the likelihood
    assert code == 0 and err.count("\n") == 1
    assert err.startswith("DAPS: 20 network evaluations, 820 applications of the operator a sample; "), err
    assert "Tikhonov" in out
    assert "mean of samples" in out
    arrays = ["baseline", "mean", "measurement", "samples", "std", "truth"]
    assert left(here / "out") == sorted([f"{a}.npy" for a in arrays] + ["mean.png", "posterior.png", "summary.json"])

    prior, A = resolve.prior("my_cli:smooth"), resolve.operator("my_cli:Half", (1, 12, 12))
    y = torch.from_numpy(np.load("out/measurement.npy"))
    again = invgen.solve(y, A, prior, 0.05, samplers.DAPS(steps=4), num_samples=3, seed=5)
    assert np.array_equal(np.load("out/samples.npy"), again.samples.numpy())
    assert np.array_equal(np.load("out/mean.npy"), again.mean.numpy())
    assert np.array_equal(np.load("out/std.npy"), again.std.numpy())

    truth, (low, high) = np.load("out/truth.npy"), prior.value_range
    levels = np.asarray(Image.open("picture.png"), dtype=np.float32)[None] / 255
    assert np.allclose(truth, low + levels * (high - low))
    summary = json.loads((here / "out" / "summary.json").read_text())
    rows = {row["estimate"]: row for row in summary["rows"]}
    mse = np.mean((again.mean.numpy() - truth) ** 2)
    assert abs(rows["mean of samples"]["psnr"] - 10 * np.log10((high - low) ** 2 / mse)) < 1e-3  # three decimals are kept
    assert abs(rows["each sample, average"]["residual_over_noise"] - again.residual.mean().item()) < 1e-4
    assert summary["nfe_per_sample"] == again.nfe
    assert summary["notes"] == [f"grey levels of 0 to 1 became the prior's {low:g} to {high:g}"]


@pytest.mark.slow
def test_reconstruct_a_measurement(here, run):
    y = np.random.default_rng(1).normal(size=(1, 12, 6)).astype(np.float32)
    np.save("y.npy", y)
    code, out, _ = run("reconstruct", "y.npy", "--measured", *HALF, "--num-samples", 2)
    assert code == 0
    assert np.array_equal(np.load("out/measurement.npy"), y)
    assert not (here / "out" / "truth.npy").exists()
    assert json.loads((here / "out" / "summary.json").read_text())["rows"][0]["psnr"] is None


@pytest.mark.slow
def test_other_units(here, run):
    """In the units 2 x + 3, with noise twice as strong, everything is 2 x + 3 of what it was."""
    args = ("--operator", "my_cli:Half", "--prior", "my_cli:smooth", "--sampler", "DAPS(steps=4)", "-k", 2)
    assert run("reconstruct", "picture.png", *args, "--noise", 0.05, "--out", "a")[0] == 0
    assert run("reconstruct", "picture.png", *args, "--noise", 0.1, "--out", "b", "--rescale", 2, 3)[0] == 0
    for name in ("truth", "measurement", "samples"):
        a, b = np.load(f"a/{name}.npy"), np.load(f"b/{name}.npy")
        # single precision: the shift costs about two of its seven digits at every one of the four steps
        assert np.allclose(b, 2 * a + 3, atol=1e-3), name
    code, _, err = run("reconstruct", "picture.png", *args, "--noise", 0.1, "--out", "c", "--rescale", 0, 1)
    assert (code, "positive scale" in err) == (2, True)


@pytest.mark.slow
def test_the_seed_decides(here, run):
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run("reconstruct", "picture.png", *HALF, "--num-samples", 1, "--seed", seed, "--out", out)[0] == 0
    a, b, c = (np.load(f"{out}/samples.npy") for out in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_pictures_are_fitted_to_the_prior_or_refused(here, run):
    Image.new("RGB", (40, 30), (200, 100, 50)).save("colour.png")
    args = ("--operator", "my_cli:Half", "--prior", "my_cli:smooth", "--noise", "0.1", "-s", "DAPS(steps=2)", "-k", 1)
    code, out, _ = run("reconstruct", "colour.png", *args)
    assert code == 0
    assert "Its colours became grey" in out
    assert "The middle 30 x 30 of its 30 x 40 pixels was cut out." in out
    code, _, err = run("reconstruct", "colour.png", *args, "--no-resize", "--out", "other")
    assert code == 2
    assert "30 x 40 pixels, the prior is over 12 x 12" in err
    assert not (here / "other").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"file": "gone.png"}, "there is no file gone.png"),
        ({"file": "my_cli.py"}, "not a PNG, JPEG, TIFF, NPY, NPZ, HDF5, DICOM, NIfTI, WAV or FLAC file"),
        ({"--operator": "ParalelBeamCT(num_angles=23)"}, "did you mean 'ParallelBeamCT'?"),
        ({"--operator": "my_cli:Gone"}, "has no 'Gone'"),
        ({"--prior": "photograph"}, "unknown prior 'photograph'"),
        ({"--prior": "gone.safetensors"}, "there is no weights file gone.safetensors"),
        ({"--prior": "gone.ckpt"}, "there is no weights file gone.ckpt; checkpoints of other projects are read by"),
        ({"--prior": "gone/folder"}, "there is no weights file gone/folder"),
        ({"--sampler": "DAPZ"}, "did you mean 'DAPS'?"),
        ({"--sampler": "DAPS(steps=0)"}, "steps of DAPS must be a positive whole number, got 0"),
        ({"--sampler": "DAPS(schedule='edn')"}, "unknown noise schedule 'edn'"),
        (
            {"--sampler": "DDRM", "--operator": "my_cli:Half"},
            "DDRM needs an SVDOperator, or an operator with a method svd(), got Half; samplers that fit:",
        ),
        ({"--sampler": "PiGDM", "--operator": "my_cli:Squared"}, "PiGDM needs a LinearOperator, got Squared"),
        ({"--noise": "-0.1"}, "sigma of Gaussian must be a positive number or a tensor, got -0.1"),
        ({"--noise": "little"}, "unknown noise 'little'"),
        ({"--size": "12x"}, "cannot read the size '12x'"),
        ({"--size": "16"}, "has the one shape"),
        ({"--device": "quantum"}, "cannot work on device 'quantum'"),
        ({"--out": "picture.png"}, "cannot write to picture.png"),
        ({"--out": "picture.png/out"}, "cannot write to picture.png/out"),
    ],
)
def test_one_sentence_and_nothing_left(here, run, change, sentence):
    options = dict(zip(HALF[::2], HALF[1::2], strict=True)) | {"--out": "out"} | change
    file = options.pop("file", "picture.png")
    before = left(here)
    code, out, err = run("reconstruct", file, *[part for item in options.items() for part in item])
    assert code == 2
    assert sentence in err
    assert err.startswith("invgen: ")
    assert err.count("\n") == 1, f"more than one line: {err}"
    assert "Traceback" not in err
    assert out == ""
    assert left(here) == before, "something half-written remains"


@pytest.mark.slow
def test_a_failed_run_keeps_the_earlier_results(here, run, monkeypatch):
    assert run("reconstruct", "picture.png", *HALF, "-k", 1)[0] == 0
    before = {name: (here / "out" / name).read_bytes() for name in left(here / "out")}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    code, _, err = run("reconstruct", "picture.png", *HALF, "-k", 1, "--seed", 9)
    assert code == 2
    assert "cannot write to out: No space left on device" in err
    assert {name: (here / "out" / name).read_bytes() for name in left(here / "out")} == before


def test_an_interrupt_leaves_nothing(here, run, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(samplers.DAPS, "run", interrupted)
    before = left(here)
    code, _, err = run("reconstruct", "picture.png", *HALF)
    assert code == 130
    assert "Traceback" not in err
    assert left(here) == before


def test_list(run):
    code, out, _ = run("list")
    assert code == 0
    for name in (*samplers.catalogue(), "identity", "gaussianprior"):
        assert f"  {name}  [" in out.lower()
    code, out, _ = run("list", "samplers", "--markdown")
    assert out.startswith("| sampler | needs |")
    assert out.count("\n") == 2 + len(samplers.catalogue())
    code, _, err = run("list", "sampler")
    assert code == 2
    assert "did you mean 'samplers'?" in err


def test_check(here, run):
    code, out, _ = run("check", "my_cli:Half", "--shape", "2x4x6")
    assert code == 0
    assert "Half((2, 4, 6) -> (2, 4, 3))" in out
    code, _, err = run("check", "my_cli:Shifted")
    assert code == 2
    assert "forward is not linear" in err
    code, _, err = run("check", "my_cli:Half", "--shape", "0x4")
    assert code == 2
    assert "cannot read the size '0x4'" in err


def test_warnings_are_said_once(here, run, monkeypatch):
    import warnings

    from invgen.commands import catalogue

    def text(kind):
        warnings.warn(f"about {kind}", UserWarning, stacklevel=1)
        return kind

    monkeypatch.setattr(catalogue, "text", text)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("list") == (0, "operators\n\npriors\n\nsamplers\n", "invgen: warning: about operators\n")


def test_wrong_use_is_explained(run):
    code, _, err = run("reconstruct")
    assert code == 2
    assert "Missing argument" in err
    code, _, err = run("reconstruct", "a.png", "--operater", "A")
    assert code == 2
    assert "No such option" in err


def test_demo_and_data_are_wired(here, run, monkeypatch):
    from invgen.benchmarks import demo
    from invgen.priors.data import fetch

    calls = []

    def run_demo(out, quick=False):
        calls.append(("demo", str(out), quick))
        out.mkdir()
        (out / "overview.png").write_bytes(b"picture")
        return []

    monkeypatch.setattr(demo, "run", run_demo)
    monkeypatch.setattr(fetch, "fetch", lambda name, folder: calls.append((name, str(folder))) or folder / name)
    monkeypatch.setenv("INVGEN_DATA", "usual")
    (here / "page.md").write_text("a\n<!-- demo:begin -->\n<!-- demo:end -->\nb\n")
    code, out, _ = run("demo", "--out", "somewhere", "--quick", "--readme", "page.md")
    assert code == 0
    assert "| problem |" in out
    page = (here / "page.md").read_text()
    assert page.startswith("a\n<!-- demo:begin -->\n| problem |") and page.endswith("<!-- demo:end -->\nb\n")
    assert (here / "docs" / "images" / "demo.png").read_bytes() == b"picture"
    code, _, err = run("demo", "--readme", "my_cli.py")
    assert (code, "lacks the markers <!-- demo:begin -->" in err) == (2, True)
    assert run("data", "ct", "--out", "there")[:2] == (0, "there/ct\n")
    assert run("data", "ct")[:2] == (0, "usual/ct\n")
    assert calls == [("demo", "somewhere", True), ("ct", "there"), ("ct", "usual")]


def test_unknown_recipe_and_data(here, run):
    code, _, err = run("train", "digits-va", "--data", ".", "--out", "runs")
    assert code == 2 and "unknown recipe 'digits-va'; did you mean 'digits-vae'" in err
    code, _, err = run("train", "giraffes", "--data", ".", "--out", "runs")
    assert (code, "there are photo, ct" in err and "digits-ar" in err) == (2, True)
    code, _, err = run("data", "cats", "--out", "data")
    assert (code, "there are: ct, photo" in err) == (2, True)
    assert not (here / "runs").exists()
    assert not (here / "data").exists()
    code, _, err = run("train", "ct", "--data", "gone", "--out", "runs")
    assert (code, "no CT slices" in err) == (2, True)
    assert not (here / "runs").exists()


@pytest.mark.slow
def test_a_prior_trained_here_reconstructs(here, run, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "ct", dataclasses.replace(recipes.RECIPES["ct"], widths=(8, 12), embedding=8))
    rng = np.random.default_rng(0)
    np.savez(here / "patient.npz", someone=rng.integers(-1000, 1000, (2, 128, 128)).astype(np.int16))
    code, out, err = run("train", "ct", "--data", here, "--out", "runs", "--steps", 2, "--batch", 2)
    assert code == 0, err
    assert (here / "runs" / "ct.safetensors").is_file()
    args = ("--operator", "Identity", "--noise", "0.1", "--sampler", "DAPS(steps=2)", "-k", 1, "--size", "32")
    code, out, err = run("reconstruct", "picture.png", "--prior", "runs/ct.safetensors", *args)
    assert code == 0, err
    assert np.load("out/samples.npy").shape == (1, 1, 32, 32)
