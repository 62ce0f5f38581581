"""Fingerprints: what a result depends on changes them, and nothing else does."""

import inspect

import pytest

from invgen.benchmarks.suite import fingerprint, scores
from invgen.names import resolve, user_code
from invgen.priors import GaussianPrior

KERNEL = "Blur(kernel=gaussian_kernel(std=1.0))"


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
    specs = {
        "sampler": ("DPS", resolve.sampler("DPS")),
        "particles": ("LinearisedTDS", resolve.sampler("LinearisedTDS")),
        "operator": ("Downsample(factor=2)", resolve.operator("Downsample(factor=2)", (1, 4, 4))),
        "kernel": (KERNEL, resolve.operator(KERNEL, (1, 8, 8))),
        "prior": ("GaussianPrior(shape=(1, 4, 4))", GaussianPrior(shape=(1, 4, 4))),
    }
    found = {name: fingerprint.of_spec(*spec) for name, spec in specs.items()}
    return found | {"metric": fingerprint.of_function(scores.METRICS["psnr"])}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "seen_by"),
    [
        ("invgen.numerics.random", {"sampler", "particles", "operator", "kernel", "prior"}),
        ("invgen.linalg", {"sampler", "particles", "operator", "kernel", "prior"}),
        ("invgen.sampler", {"sampler", "particles"}),
        ("invgen.samplers.smc.base", {"particles"}),
        ("invgen.samplers.guided.dps", {"sampler"}),
        ("invgen.samplers.smc._linearised", {"particles"}),
        ("invgen.metrics.image", {"metric"}),
        ("invgen.operators.kernels", {"kernel"}),
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


HINTED = """
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, overload

T = TypeVar("T")
if TYPE_CHECKING:
    from numpy import ndarray

    Values = ndarray
else:
    Values = float


class Net(Generic[T]):
    kernel: "ndarray"
    gain: float = 2.0

    @overload
    def forward(self, x: int) -> int: ...

    def forward(self, x: Values, *rest: int) -> Values:
        y: Values = self.gain * x
        return y
"""
PLAIN = """
from dataclasses import dataclass

Values = float


class Net:
    gain = 2.0

    def forward(self, x, *rest):
        y = self.gain * x
        return y
"""
OPTIONS = """
@dataclass
class Sampler:
    steps: int = 10
"""


def test_type_hints_do_not_count(tmp_path):
    def of(text):
        (tmp_path / "mine.py").write_text(text)
        return fingerprint.user_source(str(tmp_path / "mine.py"))

    assert of(HINTED + OPTIONS) == of(PLAIN + OPTIONS)
    assert of(HINTED + OPTIONS) != of(HINTED.replace("2.0", "2.5") + OPTIONS)
    # those of options do: a value is made what they say
    assert of(PLAIN + OPTIONS) != of(PLAIN + OPTIONS.replace("int", "float"))


def test_an_option_that_names_a_file_stands_for_its_bytes(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"one")
    (tmp_path / "b.mat").write_bytes(b"one")
    (tmp_path / "c.mat").write_bytes(b"two")
    a, b, c = (fingerprint.plain({"file": str(tmp_path / name)}) for name in ("a.mat", "b.mat", "c.mat"))
    assert a == b != c
    assert fingerprint.plain("no/such.mat") == "no/such.mat" and fingerprint.plain("a.\0") == "a.\0"
    (tmp_path / "folder" / ".git").mkdir(parents=True)
    (tmp_path / "folder" / "a").write_bytes(b"one")
    before = fingerprint.of_path(tmp_path / "folder")
    (tmp_path / "folder" / ".git" / "index").write_bytes(b"hidden")
    assert fingerprint.of_path(tmp_path / "folder") == before
    (tmp_path / "folder" / "a").rename(tmp_path / "folder" / "b")
    assert fingerprint.of_path(tmp_path / "folder") != before


def test_an_object_that_is_there_already_is_its_code_and_its_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import math\nfrom pathlib import Path\nfrom invgen import samplers\nfrom invgen.noise import Gaussian\n"
        "n = int(Path('n').read_text())\nshort = samplers.DPS(steps=n)\nlaw = Gaussian(0.1 * n)\n"
    )
    found = []
    for n in ("3", "3", "4"):
        (tmp_path / "n").write_text(n)
        user_code._loaded.clear()  # as in another process
        made = {"mine.py:short": resolve.sampler, "mine.py:law": resolve.noise}
        found.append([fingerprint.of_spec(spec, make(spec)) for spec, make in made.items()])
    assert found[0] == found[1]
    assert all(a != b for a, b in zip(found[0], found[2], strict=True))
