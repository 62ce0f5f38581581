"""What tests/fuzz.py itself does: the damaged copies are reproducible, differ from the file, and reach all of it."""

import pytest

from invgen.errors import OptionError
from tests.fuzz import cases, mutations, only_invgen_errors

DATA = bytes(range(256)) + b"shape: (16, 16)"


def test_copies_are_the_same_for_the_same_seed_and_damaged(monkeypatch):
    monkeypatch.setenv("INVGEN_FUZZ", "1")
    first = list(mutations(DATA, 200, 0, [b"keyword"]))
    assert first == list(mutations(DATA, 200, 0, [b"keyword"]))
    assert first != list(mutations(DATA, 200, 1, [b"keyword"]))
    assert sum(copy == DATA for copy in first) < 10  # a byte may be overwritten with itself
    assert any(len(copy) < len(DATA) // 2 for copy in first)
    assert any(b"keyword" in copy for copy in first)
    assert len(list(mutations(b"", 50, 0))) == 50  # an empty file too


def test_the_environment_multiplies_the_number(monkeypatch):
    monkeypatch.setenv("INVGEN_FUZZ", "3")
    assert cases(7) == 21
    monkeypatch.setenv("INVGEN_FUZZ", "0.01")
    assert cases(7) == 1


def test_anything_but_an_invgen_error_is_told_with_its_case():
    def fails(error):
        raise error

    assert isinstance(only_invgen_errors(fails, OptionError("no")), OptionError)
    assert only_invgen_errors(int, "3") == 3
    with pytest.raises(AssertionError, match="case 5: KeyError"):
        only_invgen_errors(fails, KeyError("x"), case=5)
    with pytest.raises(AssertionError, match="case 6"):
        only_invgen_errors(fails, OptionError(""), case=6)
