"""Any text as a spec, any file as a saved sampler: an object or an InvgenError, nothing else, and soon."""

import json
import re

import pytest

from invgen import FileError, samplers
from invgen.names import resolve
from invgen.names.resolve import FORMAT, LARGEST, load_sampler
from invgen.names.spec import Call, parse
from tests.fuzz import cases, mutations, only_invgen_errors

SPECS = {
    "operator": [
        "Mask.random(keep=0.3, seed=1)",
        "Blur(kernel=gaussian_kernel(std=1.0))",
        "Downsample(factor=2)",
        "Mask(mask='keep.npy')",
        "my_mod:Op(a=1)",
        "./my_mod.py:Op.make(a=[1, 2.5, None, True, {'x': (1, -2)}])",
        "ParallelBeamCT(num_angles=5, angles=(0.0, 1.0))",
    ],
    "noise": ["0.05", "Poisson(gain=0.1)", "Gaussian(sigma=1e-3)", "TransmissionPoisson(photons=1e4)"],
    "sampler": ["DAPS(steps=5, schedule='edm')", "PiGDM", "DPS(steps=3, zeta=0.5)", "tuned.json"],
    "prior": ["GaussianPrior(shape=(1, 4, 4), var=0.5)", "digits", "weights.safetensors", "./model.pt", "my_mod:white"],
}
WORDS = rb"""( ) , = : . ' " \ # os:system __class__ lambda:0 * ** - + ~ 0x 1j 1e999 { } [ ] f'{x}' b' None @ | := if"""
PIECES = [*WORDS.split(), b"\0", b"\n", b"\xff\xfe", "é".encode(), b"9" * 5000, b"(" * 300, b" " * 500, b"\xe2\x80\xae"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_mod.py").write_text("from invgen.priors import GaussianPrior\nwhite = GaussianPrior(shape=(1, 4, 4))\n")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPECS)
def test_fuzz_specs(here, kind, monkeypatch):
    for seed, spec in enumerate(SPECS[kind]):
        for case, data in enumerate(mutations(spec.encode(), 40, seed, PIECES)):
            text = data.decode("utf-8", errors="surrogateescape" if case % 2 else "replace")
            if re.search(r"\d{4}", text):  # num_angles=99999 is a wish, and takes its time
                only_invgen_errors(parse, text, case=(case, text))
                continue
            shape = (1, 4, 4)
            call = getattr(resolve, kind)
            only_invgen_errors(call, text, *([shape] if kind in ("operator", "prior") else []), case=(case, text))
    assert {path.name for path in here.iterdir()} <= {"my_mod.py", "__pycache__"}


def test_fuzz_parse_gives_what_it_is_documented_to_give():
    for seed, spec in enumerate(s for specs in SPECS.values() for s in specs):
        for case, data in enumerate(mutations(spec.encode(), 40, 100 + seed, PIECES)):
            found = only_invgen_errors(parse, data.decode("utf-8", errors="replace"), case=case)
            if isinstance(found, tuple):
                assert_plain(found[2])


def assert_plain(value):
    """Literals and Calls alone, whatever was typed."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, Call):
        assert_plain(value.options)
    elif isinstance(value, list | tuple | set):
        for item in value:
            assert_plain(item)
    else:
        assert value is None or value is ... or type(value) in (int, float, complex, bool, str, bytes)


TUNED = {"format": FORMAT, "sampler": "DPS", "options": {"steps": 7, "zeta": 0.5}, "score": 1.0, "start": "DPS(steps=7)"}


def test_a_saved_sampler_comes_back(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(TUNED))
    assert resolve.sampler(str(tmp_path / "t.json")) == samplers.DPS(steps=7, zeta=0.5)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[" * 100_000, "more than 65536 bytes"),
        ("[" * 60_000, "not a file that invgen.tune has saved"),
        ('{"a":' * 10_000, "not a file that invgen.tune has saved"),
        (" " * LARGEST + "{}", "more than 65536 bytes"),
        ("[]", "does not say that it is of the format"),
        ("null", "does not say that it is of the format"),
        (json.dumps(TUNED | {"format": "2"}), "does not say that it is of the format"),
        (json.dumps(TUNED | {"sampler": ["DPS"]}), "lacks a sampler and its options"),
        (json.dumps(TUNED | {"sampler": "os:system"}), "unknown sampler 'os:system'"),
        (json.dumps(TUNED | {"options": None}), "lacks a sampler and its options"),
        (json.dumps(TUNED | {"options": {"stps": 3}}), "stps"),
        (json.dumps(TUNED | {"options": {"steps": {"a": [1]}}}), "steps"),
        (json.dumps(TUNED)[:-30], "not a file that invgen.tune has saved"),
        ('{"format": ' + "9" * 5000 + "}", "not a file that invgen.tune has saved"),
    ],
)
def test_files_that_are_no_saved_sampler(tmp_path, content, sentence):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(FileError) as error:
        load_sampler(tmp_path / "t.json")
    assert sentence in str(error.value) and len(str(error.value)) < 700


def test_paths_of_saved_samplers(tmp_path):
    (tmp_path / "d.json").mkdir()
    for path, sentence in (
        ("x" * 5000 + ".json", "name too long"),
        ("a\0.json", "null byte"),
        (str(tmp_path / "d.json"), "Is a directory"),
        (str(tmp_path / "no.json"), "there is no file"),
    ):
        with pytest.raises(FileError) as error:
            resolve.sampler(path)
        assert sentence in str(error.value) and len(str(error.value)) < 500


def test_fuzz_saved_samplers(tmp_path):
    path = tmp_path / "t.json"
    for case, data in enumerate(mutations(json.dumps(TUNED).encode(), 150, 0, [b"NaN", b"Infinity", b"[" * 3000, b"null"])):
        path.write_bytes(data)
        only_invgen_errors(load_sampler, path, case=(case, data))
    assert cases(1) >= 1
