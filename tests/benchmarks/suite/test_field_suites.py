"""The shipped suites of speech and MRI: they expand, and every method fits its problem."""

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from invgen.benchmarks.methods import catalogue
from invgen.benchmarks.suite import parts, signals
from invgen.benchmarks.suite.expand import expand, load
from invgen.errors import OptionError


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    monkeypatch.setenv("INVGEN_DATA", str(tmp_path))
    (tmp_path / "speech").mkdir()
    for number in (591, 592, 593):
        x = np.sin(0.1 * np.arange(20_000)) * np.hanning(20_000) * 0.4
        wavfile.write(tmp_path / "speech" / f"ru_0{number}.wav", 16000, x.astype(np.float32))
    signals.signal_of.cache_clear()
    return tmp_path


def by_problem(found):
    grouped = {}
    for cell in found:
        grouped.setdefault(cell.problem, set()).add(cell.sampler.partition("(")[0])
    return grouped


def test_speech(recordings):
    found = by_problem(expand("speech"))
    # the spline everywhere, the linear filter where the problem is linear, the measurement where it is a recording
    linear = {"MMPS", "AdaptivePiGDM", "DiffPIR", "CubicSpline", "AutoregressiveWiener"}
    assert found["bandwidth extension x2"] == found["bandwidth extension x4"] == found["gaps of 10 ms"] == linear
    assert found["clipped at 0.15"] == {"DampedDPS", "AdaptiveDAPS", "CubicSpline", "Measurement"}


def test_speech_that_was_not_fetched_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("INVGEN_DATA", str(tmp_path))
    with pytest.raises(OptionError, match="fetch them with `invgen data speech`"):
        expand("speech")


def test_mri():
    found = by_problem(expand("mri"))
    both = {"AdaptivePiGDM", "ZeroFilling", "L1Wavelet", "TV"}
    assert {name: both | ({"SENSE"} if "four" in name else {"DiffPIR", "MMPS"}) for name in found} == found
    assert len(found) == 4


@pytest.mark.parametrize("k", [0, 1, 3])
def test_classical_methods_beat_the_adjoint_on_the_problems_of_speech(recordings, k):
    """Gaps aside: over 160 samples a cubic takes off, with the slope that noise gives it."""
    problem = load("speech").content["problems"][k]
    suite = {
        "data": "speech/ru_0592",
        "priors": "speech",
        "problems": [{key: problem[key] for key in ("name", "operator", "noise")}],
        "samplers": ["CubicSpline"],
        "metrics": ["snr", "lsd", "residual"],
    }
    (cell,) = expand(suite)
    post, truth = parts.problem_of(cell)
    x = catalogue.method("CubicSpline")(post)[0]
    start = post.A.adjoint(post.y[None])[0] if hasattr(post.A, "adjoint") else post.y
    assert (x - truth).square().mean() < (start - truth).square().mean()
    assert torch.isfinite(x).all()
