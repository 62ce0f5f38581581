"""Training from measurements: files in, rounds, interruptions, time, and an operator for each row of a batch."""

import time

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from invgen.cli import app
from invgen.commands.train_measured import measurements
from invgen.errors import FileError, InvgenError, OptionError, ShapeError, UnsupportedError
from invgen.forward import LinearOperator
from invgen.operators import Blur, Mask, ParallelBeamCT, gaussian_kernel
from invgen.priors.load import load, metadata
from invgen.priors.recipes import Recipe, network_for
from invgen.priors.training import measured
from invgen.priors.training.each import OperatorPerRow

SHAPE = (1, 8, 8)
SMALL = Recipe("small", SHAPE, (8, 8), 1, 2, "of a test", batch=4, steps=6, warmup=2, embedding=8)


class Spectrum(LinearOperator):
    """Complex measurements of a real signal, without a solve of their own."""

    def forward(self, x):
        return torch.fft.rfft2(x, norm="ortho")


def fields(count, seed=0):
    """Smooth fields around 0.5."""
    g = torch.Generator().manual_seed(seed)
    return 0.5 + 2 * Blur(SHAPE, gaussian_kernel(1.5))(torch.randn(count, *SHAPE, generator=g))


def masked(count, kinds=20):
    masks = [Mask.random(SHAPE, 0.5, seed=k) for k in range(kinds)]
    operators = [masks[k % kinds] for k in range(count)]
    return torch.cat([A(x[None]) for A, x in zip(operators, fields(count), strict=True)]), operators


def train(out, y, operators, **options):
    options = {"rounds": 2, "progress": False, "sampler": "MMPS(steps=3, iterations=1)"} | options
    return measured.train_measured(y, operators, 0.1, out, SMALL, **options)


def test_each_row_has_its_operator():
    g = torch.Generator().manual_seed(0)
    one = Mask.random(SHAPE, 0.5)
    operators = [one, Blur(SHAPE, gaussian_kernel(1.0)), Spectrum(SHAPE), one]
    A, x = OperatorPerRow(operators), torch.randn(4, *SHAPE, generator=g)
    y = A(x)
    assert A.out_shape == (80,) and not A.own_solve and OperatorPerRow(operators[:2]).own_solve and len(A.parts) == 3
    torch.testing.assert_close(y[0, :32], one(x[:1])[0])
    assert not y[0, 32:].any() and not y[1, 64:].any()
    torch.testing.assert_close(torch.view_as_complex(y[2].reshape(40, 2)), operators[2](x[2:3])[0].flatten())
    r, var = torch.randn(4, 80, generator=g), torch.tensor([0.5, 1.0, 2.0, 3.0])
    assert ((A(x) * r).sum() - (x * A.adjoint(r)).sum()).abs() < 1e-4
    # the same by conjugate gradients on the whole; to its tolerance of 1e-5
    plain = A.adjoint(super(OperatorPerRow, A).solve(r, var, 0.1))
    torch.testing.assert_close(A.weighted_adjoint(r, var, 0.1), plain, rtol=1e-3, atol=1e-4)
    with pytest.raises(OptionError, match="3 rows do not fit 4 measurements with an operator each: take a sampler"):
        A(x[:3])
    with pytest.raises(OptionError, match="one shape"):
        OperatorPerRow([one, Mask.random((1, 4, 4))])


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path, monkeypatch):
    y, operators = masked(70)
    whole = load(train(tmp_path / "whole", y, operators))
    of, batch, calls = measured.posterior, measured.Drawn.batch, []

    def killed(*given):
        calls.append(1)
        if len(calls) in (2, 5, 9):
            raise KeyboardInterrupt
        return (of if callable(given[0]) else batch)(*given)

    monkeypatch.setattr(measured, "posterior", killed)
    monkeypatch.setattr(measured.Drawn, "batch", lambda *given: killed(*given))
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", y, operators, checkpoint_minutes=0)
    monkeypatch.undo()
    parts = load(train(tmp_path / "parts", y, operators, checkpoint_minutes=0))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    assert whole.mmse == parts.mmse and metadata(tmp_path / "parts" / "small.safetensors")["training"]["round"] == 2
    left = {path.name for path in (tmp_path / "parts").iterdir()}
    assert left == {"small.safetensors", "rounds.csv", "measured.json", "log.csv", "draws02.npy"} | {
        f"round{k:02}.{kind}" for k in (1, 2) for kind in ("png", "safetensors")
    }
    # a row for each round, also for one whose row was written before an interruption and whose weights were not
    log = tmp_path / "parts" / "rounds.csv"
    (tmp_path / "parts" / "round02.safetensors").unlink()
    train(tmp_path / "parts", y, operators, checkpoint_minutes=0)
    assert [line.split(",")[0] for line in log.read_text().splitlines()] == ["round", "1", "2"]


@pytest.mark.slow
def test_samples_of_the_rounds_have_the_law_of_the_signals(tmp_path):
    # fields are Gaussian, so that the samples of the first round have their covariance as far as 300 half-seen ones tell
    y, operators = masked(300)
    train(tmp_path / "run", y, operators, rounds=1, steps=2, sampler="MMPS(steps=12)")
    drawn, clean = torch.from_numpy(np.load(tmp_path / "run" / "draws01.npy")).flatten(1), fields(4000, 1).flatten(1)
    assert (drawn.mean(0) - clean.mean(0)).abs().max() < 4 * clean.std() / 150**0.5
    found, true = drawn.T.cov(), clean.T.cov()
    assert (found - true).norm() / true.norm() < 0.25  # 1.0 for the zero matrix; 64 values, 300 half-seen signals
    filled = torch.stack([A.adjoint(v[None])[0] for A, v in zip(operators, y, strict=True)]).flatten(1)
    assert (filled.T.cov() - true).norm() / true.norm() > 0.6  # the zero-filled measurements do not


@pytest.mark.slow
def test_minutes_hold_for_draws_and_training_together(tmp_path):
    y, operators = masked(70)
    started = time.monotonic()
    path = train(tmp_path / "run", y, operators, steps=10**6, minutes=0.1, checkpoint_minutes=1)
    assert time.monotonic() - started < 6 + 10  # the Gaussian, the first draws, two sheets and two tables besides
    assert metadata(path)["training"]["steps"] < 10**5


@pytest.mark.slow
def test_another_run_in_the_folder_is_not_gone_on_with(tmp_path):
    y, operators = masked(8)
    train(tmp_path, y, operators, rounds=2, steps=2)
    with pytest.raises(OptionError, match="has a run on other measurements"):
        train(tmp_path, y + 1, operators, rounds=1, steps=1)
    with pytest.raises(OptionError, match="or of other operators"):  # the same values, seen through other masks
        train(tmp_path, y, operators[::-1], rounds=2, steps=2)
    train(tmp_path, y + 1, operators, rounds=1, steps=1, resume=False)
    assert not (tmp_path / "round02.safetensors").exists()


def test_folders_of_measurements(tmp_path):
    y, _ = masked(3)
    np.save(tmp_path / "a.npy", y.numpy())
    rows, operators = measurements(tmp_path, "Mask.random(keep=0.5, seed=7)", SHAPE)
    assert len(rows) == 3 and len({id(A) for A in operators}) == 1 and torch.equal(rows[2], y[2])
    np.savez(tmp_path / "b.npz", y=y.numpy(), seed=np.array([4, 9, 4], np.uint16))
    rows, operators = measurements(tmp_path, "Mask.random(keep=0.5)", SHAPE)
    assert len(rows) == 6 and operators[3] is operators[5] is not operators[4]
    assert torch.equal(operators[4].mask, Mask.random(SHAPE, 0.5, seed=9).mask)
    mask = np.zeros((1, 8, 8), bool)
    mask[0, :2] = True
    np.savez(tmp_path / "c.npz", y=np.ones((1, 16), np.float32), mask=mask)
    (tmp_path / "a.npy").unlink()
    (tmp_path / "b.npz").unlink()
    (row,), (A,) = measurements(tmp_path, "Mask", SHAPE)
    assert row.shape == (16,) and A.mask.sum() == 16
    angles = np.linspace(0, 3, 10).reshape(2, 5)
    np.savez(tmp_path / "c.npz", y=np.zeros((2, *ParallelBeamCT(SHAPE, angles=angles[0]).out_shape)), angles=angles)
    assert len(measurements(tmp_path, "ParallelBeamCT", SHAPE)[0]) == 2


@pytest.mark.parametrize(
    ("arrays", "operator", "sentence"),
    [
        ({"x": np.zeros((2, 32))}, "Mask.random(keep=0.5)", "has no array `y`, it holds x"),
        ({"y": np.zeros((2, 31)), "seed": np.arange(2)}, "Mask.random(keep=0.5)", r"\(31,\), the operator gives \(32,\)"),
        ({"y": np.zeros((2, 32)), "seed": np.arange(3)}, "Mask.random(keep=0.5)", "expected 2 values, one for each"),
        ({"y": np.zeros((2, 32)), "grain": np.arange(2)}, "Mask.random(keep=0.5)", "option of Mask.random 'grain'"),
        ({"y": np.zeros((2, 1, 8, 8)), "quality": np.array([5, 6])}, "JPEG", "needs a linear operator"),
    ],
)
def test_bad_folders_are_refused(tmp_path, arrays, operator, sentence):
    with pytest.raises(FileError, match="no measurements under"):
        measurements(tmp_path, operator, SHAPE)
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(InvgenError, match=sentence):
        measurements(tmp_path, operator, SHAPE)


def test_bad_calls_are_refused(tmp_path):
    y, operators = masked(3)
    for change, error, sentence in (
        ({"operators": operators[:2]}, ShapeError, "3 measurements do not fit 2 operators"),
        ({"y": y[:, 1:]}, ShapeError, r"measurement 0 has shape \(31,\), expected \(32,\)"),
        ({"y": y * torch.nan}, OptionError, "measurement 0 has values that are not finite"),
        ({"noise": 0.0}, OptionError, "positive standard deviation"),
        ({"recipe": "ct"}, ShapeError, "recipe 'ct' is for signals"),
        ({"recipe": "speach"}, OptionError, "unknown recipe 'speach'"),
        ({"sampler": "DDRM", "recipe": SMALL}, UnsupportedError, r"DDRM needs an SVDOperator.*sampler such as MMPS"),
    ):
        with pytest.raises(error, match=sentence):
            measured.train_measured(**{"y": y, "operators": operators, "noise": 0.1, "out": tmp_path, **change})
    with pytest.raises(OptionError, match="multiples of 8"):
        network_for((1, 28, 28))
    assert network_for((1, 4096)).widths == (64, 88, 112, 128) and network_for((3, 64, 64)).unshuffle == 2


@pytest.mark.slow
def test_the_command_trains_and_says_what_it_misses(tmp_path):
    y, _ = masked(8)
    np.savez(tmp_path / "m.npz", y=y.numpy(), seed=np.arange(8))
    call = ["train", "--measured", str(tmp_path), "--operator", "Mask.random(keep=0.5)", "--noise", "0.1"]
    done = CliRunner().invoke(
        app, [*call, "--shape", "1x8x8", "--rounds", "1", "--steps", "2", "--out", str(tmp_path / "o")]
    )
    assert done.exit_code == 0, done.output
    assert load(tmp_path / "o" / "own.safetensors").shape == SHAPE
    for arguments, sentence in (
        (call, "pass --shape, such as 1x32x32"),
        (call[:3], "needs --operator"),
        ([*call, "digits-gan"], "'digits-gan' is not trained from measurements"),
        ([*call, "--shape", "1by8"], "cannot read the shape '1by8'"),
        ([*call, "--data", str(tmp_path)], "not from both"),
        (["train", "--noise", "0.1"], "--noise tells of measurements"),
    ):
        assert sentence in str(CliRunner().invoke(app, arguments).exception)
