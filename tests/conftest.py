"""Fixtures of all tests."""

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def field_data():
    """A function that returns a file or folder of the field data, `field_data("inputs/u16.npy")`, or skips without it.

    The data lies in INVGEN_DATA, or in shared/data beside the checkout. For tests marked `data`.
    """

    def find(name: str) -> Path:
        for folder in (os.environ.get("INVGEN_DATA"), BESIDE):
            if folder and (Path(folder) / name).exists():
                return Path(folder) / name
        pytest.skip(f"{name} is not in INVGEN_DATA nor in {BESIDE}")

    return find
