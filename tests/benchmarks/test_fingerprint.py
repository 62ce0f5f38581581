"""Fingerprints: what a result depends on changes them, and nothing else does."""

import inspect

import pytest

from invgen import names, samplers
from invgen.benchmarks import fingerprint, scores
from invgen.priors import GaussianPrior


@pytest.fixture
def written(monkeypatch):
    """Changes what is read as the source of a module."""

    def change(module, make):
        real = inspect.getsource
        monkeypatch.setattr(
            inspect, "getsource", lambda m: make(real(m)) if getattr(m, "__name__", "") == module else real(m)
        )
        fingerprint.forget()

    yield change
    monkeypatch.undo()
    fingerprint.forget()


def hashes():
    return {
        "sampler": fingerprint.of_object(samplers.DPS()),
        "particles": fingerprint.of_object(samplers.TDS()),
        "operator": fingerprint.of_object(names.operator("Downsample(factor=2)", (1, 4, 4))),
        "prior": fingerprint.of_object(GaussianPrior(shape=(1, 4, 4))),
        "metric": fingerprint.of_function(scores.METRICS["psnr"]),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "seen_by"),
    [
        ("invgen.random", {"sampler", "particles", "operator", "prior"}),
        ("invgen.linalg", {"sampler", "particles", "operator", "prior"}),
        ("invgen.sampler", {"sampler", "particles"}),
        ("invgen.particles", {"particles"}),
        ("invgen.samplers.dps", {"sampler"}),
        ("invgen.samplers._linearised", {"particles"}),
        ("invgen.metrics.image", {"metric"}),
        ("invgen.errors", set()),
    ],
)
def test_code_below_the_classes_counts(written, module, seen_by):
    before = hashes()
    written(module, lambda text: text + "\nCHANGED = True\n")
    after = hashes()
    assert {name for name in before if before[name] != after[name]} == seen_by


@pytest.mark.slow
def test_comments_and_docstrings_do_not_count(written):
    before = hashes()
    written("invgen.sampler", lambda text: '"""Another first line."""\n' + text.split('"""', 2)[2] + "\n# a comment\n")
    assert hashes() == before
