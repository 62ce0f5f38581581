"""Suites that nobody means well with: what they grow to is counted before it is written out, and only invgen's own errors
come out of any text."""

import subprocess
import sys
import time

import pytest

from invgen.benchmarks.engine import runner
from invgen.benchmarks.engine.probe import Probe
from invgen.benchmarks.engine.runner import run
from invgen.benchmarks.suite import file as suite_file
from invgen.benchmarks.suite import reading
from invgen.benchmarks.suite.expand import expand, load
from invgen.errors import FileError, InvgenError, OptionError
from invgen.validation.limits import SETTING
from tests.fuzz import mutations, only_invgen_errors

GOOD = {
    "data": "images",
    "priors": "my_suite:smooth",
    "problems": [{"operator": "Mask.random(keep=0.5)", "noise": 0.1}],
    "samplers": ["PiGDM(steps=3)"],
}
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGES = "a: &a {k0: 1, k1: 2}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 10)}]}}\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


def sentence(error, *parts):
    text = str(error.value)
    assert "\n" not in text and len(text) < 1600, text[:2000]
    for part in parts:
        assert part in text, f"{part!r} is not in {text!r}"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            {"seeds": 1_000_000_000},
            ["seeds: 1000000000 seeds are more than the 100000 cells that a suite may have; split it"],
        ),
        ({"seeds": 10**4000}, ["seeds: expected a whole number of 9223372036854775807 or less"]),
        ({"seeds": 60_000}, ["60000 seeds x 2 images x 1 samplers and baselines x 1 operators", "= 120000 cells are more"]),
        ({"seeds": [0, 2**64]}, ["seeds[1]: expected a whole number of 18446744073709551615 or less"]),
        ({"seeds": [True]}, ["expected a whole number of 0 or more, got True"]),
        ({"seeds": [1.5]}, ["got 1.5"]),
        ({"seeds": -1}, ["got -1"]),
        (
            {"samplers": {"sampler": "DAPS", "grid": {k: list(range(100)) for k in "abcdefgh"}}},
            [f"the {100**8} combinations"],
        ),
        ({"data": {"source": "prior", "limit": 10**12}}, ["data.limit: 1000000000000 draws of the prior are more than"]),
        ({"num_samples": 10**12}, [f"num_samples: {10**12} signals of shape (1, 6, 6)", SETTING]),
        ({"problems": [{"operator": "Identity", "noise": []}]}, ["problems[0].noise: the list is empty"]),
        ({"data": "x" * 5000}, ["data: ", "name too long"]),
        ({"data": "x" * 100_000}, ["data: ", "of at most 10000 characters"]),
        ({"data": "x\0y"}, ["data: ", "no NUL"]),
        ({"priors": "x" * 5000}, ["priors: "]),
        ({"priors": "a/" + "x" * 5000}, ["priors: ", "name too long"]),
        ({"priors": "x\0.safetensors"}, ["no NUL"]),
        ({"samplers": "x" * 5000 + ".json"}, ["samplers: ", "name too long"]),
        ({"samplers": "D" * 5000}, ["samplers: unknown sampler"]),
        ({"problems": [{"operator": "Mask(mask='" + "x" * 5000 + ".npy')", "noise": 0.1}]}, ["operator: "]),
        ({"problems": [{"operator": "Mask(mask='a\\0.npy')", "noise": 0.1}]}, ["operator: ", "a string holds a NUL"]),
        ({"problems": [{"operator": "Identity", "noise": 0.1, "name": "n" * 20_000}]}, ["name: "]),
    ],
)
def test_what_is_too_much_is_one_sentence_at_once(here, change, parts):
    begin = time.process_time()
    with pytest.raises(InvgenError) as error:
        expand(GOOD | change)
    sentence(error, *parts)
    assert time.process_time() - begin < 10


def test_problems_are_counted_together(here, monkeypatch):
    monkeypatch.setattr(reading, "MOST_CELLS", 100)
    with pytest.raises(OptionError) as error:
        expand(GOOD | {"problems": [{"operator": "Identity", "noise": 0.1}] * 3, "seeds": 30})
    sentence(error, "problems[1]: 120 cells up to here are more than the 100 cells that a suite may have")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (LAUGHS, ["line 1: its aliases make more than 100000 values of the file"]),
        (MERGES, ["more than 100000 values"]),
        ("[" * 5000, ["deep"]),
        ("a:\n" + "".join(" " * k + "- \n" for k in range(1, 300)), ["deep"]),
        ("a: &a {b: *a}", ["an anchor holds itself"]),
        ("a: &a {<<: *a}", ["an anchor holds itself"]),
        ("<<: [1]", ["<< takes a mapping"]),
        ("? [a, b]\n: 1", ["line 1: a key is a list or a mapping"]),
        ("? &a [x, x]\n: 1", ["a key is a list"]),
        ("{seeds: 1, seeds: 2}", ["seeds is given twice"]),
        ("1: a\n'1': b", ["1 is given twice"]),
        ("data: 2001-99-99", ["line 1: cannot read '2001-99-99'", "put text in quotes"]),
        ("data: !!int ''", ["cannot read ''"]),
        ("data: !!bool maybe", ["cannot read 'maybe'"]),
        ("data: !!timestamp soon", ["cannot read 'soon'"]),
        ("data: !!binary x", ["not well-formed YAML"]),
        (
            "data: !!python/object/apply:os.system ['touch pwned']",
            ["line 1: the tag tag:yaml.org,2002:python/object/apply:os.system is not for suites"],
        ),
        ("data: !!python/name:os.system x", ["not well-formed YAML"]),
        ("seeds: " + "9" * 5000, ["cannot read '9999"]),
        ("a: \x01", ["special characters are not allowed"]),
        ("a: [", ["not well-formed YAML"]),
        ("", ["lacks the key problems"]),
        ("a: 1\n---\na: 2\n", ["found another document"]),
        ("data: !!set {a, b}", ["the tag tag:yaml.org,2002:set is not for suites"]),
        ("x" * 2000, ["holds str"]),
    ],
)
def test_texts_that_are_no_suite(here, text, parts):
    (here / "bad.yaml").write_text(text)
    begin = time.process_time()
    with pytest.raises(OptionError) as error:
        expand("bad.yaml")
    sentence(error, *parts)
    assert time.process_time() - begin < 10
    assert not (here / "pwned").exists()


def test_files_that_are_no_suite(here):
    (here / "large.yaml").write_bytes(b"# " + b"x" * suite_file.LARGEST)
    (here / "bytes.yaml").write_bytes(b"a: \xff\xfe")
    (here / "folder.yaml").mkdir()
    for name, part in (
        ("large.yaml", f"has more than {suite_file.LARGEST} bytes"),
        ("/dev/zero", f"has more than {suite_file.LARGEST} bytes"),
        ("bytes.yaml", "it is not text"),
        ("folder.yaml", "Is a directory"),
        ("no\0.yaml", "cannot read the suite no\\x00.yaml"),
        ("n" * 3000 + ".yaml", "name too long"),
        ("n" * 3000 + ":x", "there is no module"),
        ("n" * 3000, "unknown suite"),
    ):
        with pytest.raises((FileError, OptionError)) as error:
            load(name)
        sentence(error, part)


def test_merges_and_aliases_still_mean_what_they_say(here):
    (here / "shared.yaml").write_text(
        "seeds: &s [1, 2]\nx: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz: {<<: [*x, *y], d: *s, a: 5}\nw:\n  <<: *x\n  b: 7\n"
    )
    suite = load("shared.yaml")
    assert suite.content["z"] == {"a": 5, "b": 2, "c": 4, "d": [1, 2]}
    assert suite.content["w"] == {"a": 1, "b": 7}
    assert suite.lines["w", "b"] == 7 and suite.lines["w", "a"] == 2


SUITE = b"""\
title: "A suite"
shared: &shared {seeds: 2}
data: {source: images, limit: 1}
priors: [{prior: "my_suite:smooth", rescale: [1.0, 0.0]}]
problems:
  - {name: half, operator: "my_suite:Half", noise: 0.1}
  - {operator: Mask.random, noise: [1e-1], grid: {keep: [0.5]}, seeds: [0]}
samplers: [PiGDM(steps=2)]
baselines: PseudoInverse
num_samples: 3
metrics: [psnr, "coverage(level=0.5)"]
arrays: none
max_batch: 4
device: cpu
"""
PIECES = (
    """&a |*a|<<: |? |!!int |!!set |{|[|- |: |2001-01-01|nan|null|True|-1|1e400|__class__|os:system|(x=1)|.npy|%|~|../"""
)
PIECES = [*PIECES.encode().split(b"|"), b"|\n", b"\0", b"\xff", b"\t"]


@pytest.mark.slow
def test_fuzz_suites(here):
    """Damaged suites are read as far as the list of cells."""
    (here / "fuzz.yaml").write_bytes(SUITE.replace(b"shared: &shared {seeds: 2}\n", b""))
    assert len(expand("fuzz.yaml")) == 2 * 2
    for case, data in enumerate(mutations(SUITE.replace(b"shared: &shared {seeds: 2}\n", b""), 150, 0, PIECES)):
        (here / "fuzz.yaml").write_bytes(data)
        only_invgen_errors(expand, "fuzz.yaml", case=(case, data))
    assert {path.name for path in here.iterdir()} <= {"__pycache__", "fuzz.yaml", "images", "my_suite.py", "suite.yaml"}


def test_fuzz_yaml_alone(here):
    """Texts that hold all that YAML has are read or refused."""
    for case, data in enumerate(mutations(SUITE + LAUGHS[:200].encode() + b"m: {<<: *shared}\n", 150, 1, PIECES)):
        (here / "fuzz.yaml").write_bytes(data)
        only_invgen_errors(load, "fuzz.yaml", case=(case, data))


def test_no_suite_at_all(here):
    for nothing in (None, 5, [], b"photo", 1.5, object()):
        with pytest.raises(InvgenError):
            run(nothing, "out", progress=False)


@pytest.mark.slow
def test_a_script_without_a_guard_ends_with_one_sentence_that_names_it(here):
    """It gave six tracebacks, and took minutes."""
    (here / "script.py").write_text(
        "from invgen.benchmarks.engine.runner import run\n"
        "print('started')\n"
        "run('suite.yaml', 'out', executor='local:2', progress=False)\n"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stdout.count("started") <= 3  # once, and once in each worker
    assert done.stderr.count("Traceback") == 1, done.stderr
    assert 'put what starts the run under `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]
    assert not list((here / "out").rglob("*.npz"))
    assert time.monotonic() - begin < 240  # three imports of torch, seconds each on a machine that is not busy
    text = (
        (here / "script.py")
        .read_text()
        .replace("run('", "if __name__ == '__main__':\n    run('")
        .replace("local:2", "local:1")
    )
    (here / "script.py").write_text(text)
    subprocess.run([sys.executable, "script.py"], check=True, timeout=300)
    assert len(list((here / "out").glob("cells/??/*[0-9a-f].json"))) == 24


def test_a_check_of_many_cells_ends_soon(here, monkeypatch):
    """96 tiny cells took minutes: when time is up, one problem stands for the others of its sampler and prior."""
    suite = GOOD | {"problems": [{"operator": "Identity", "noise": [k / 10 for k in range(1, 25)]}], "seeds": 2}
    suite |= {"samplers": ["PiGDM(steps=3)", "PiGDM(steps=2)"], "data": "images/0.npy"}
    tried = []
    monkeypatch.setattr(runner, "probed", lambda cell: tried.append(cell.sampler) or Probe(0.5, 10.0, 20.0, 10**9))
    monkeypatch.setattr(runner, "PROBING", -1.0)
    estimate = runner.check(suite)
    assert tried == ["PiGDM(steps=3)", "PiGDM(steps=2)"]
    assert (estimate.total, estimate.seconds, estimate.nfe) == (96, 48.0, 960.0)
    monkeypatch.setattr(runner, "PROBING", 1e9)
    assert runner.check(suite).seconds == 48.0 and len(tried) == 2 + 48
