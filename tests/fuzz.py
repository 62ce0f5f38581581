"""Damaged inputs for tests: bytes with one to three faults each, the same ones for the same seed.

    @pytest.mark.parametrize("name", FILES)
    def test_fuzz_npy(name, tmp_path):
        for case, data in enumerate(mutations(good, 40, seed=1)):
            (path := tmp_path / "x.npy").write_bytes(data)
            only_invgen_errors(read, path, case=case)

The environment variable INVGEN_FUZZ multiplies the number of cases: INVGEN_FUZZ=100 pytest -k fuzz is the long run.
"""

import os
import random
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from invgen.errors import InvgenError

_EDGES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
_NUMBERS = (b"0", b"-1", b"1e9", b"nan", b"inf", b"4294967296", b"18446744073709551616", b"9" * 400)


def cases(number: int) -> int:
    """Returns `number` times INVGEN_FUZZ, one at least."""
    return max(1, round(number * float(os.environ.get("INVGEN_FUZZ", "1"))))


def mutations(data: bytes, number: int, seed: int, pieces: Sequence[bytes] = ()) -> Iterator[bytes]:
    """Yields `cases(number)` damaged copies of `data`.

    Args:
        data: a good file.
        number: how many copies, before INVGEN_FUZZ.
        seed: copy k depends on the seed and k alone.
        pieces: what else may be spliced in, such as keywords of the format.
    """
    for k in range(cases(number)):
        rng = random.Random(f"{seed}:{k}")
        found = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 3))):
            rng.choice((_flip, _overwrite, _cut, _length, _number, _splice))(found, rng, pieces)
        yield bytes(found)


def only_invgen_errors(call: Callable[..., Any], *args: Any, case: object = None) -> Any:
    """Returns `call(*args)`, or the InvgenError that it raised; warnings are ignored.

    Raises:
        AssertionError: it raised something else, or its sentence is empty or longer than a screen.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call(*args)
    except InvgenError as error:
        assert 0 < len(str(error)) < 2000, f"case {case}: a sentence of {len(str(error))} letters: {str(error):.200}"
        return error
    except Exception as error:
        raise AssertionError(f"case {case}: {type(error).__name__}: {str(error):.300}") from error


def _flip(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    """One bit."""
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    """A few bytes by others."""
    at = rng.randrange(len(data) + 1)
    data[at : at + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(1, 9))


def _cut(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    """The end, or a part of the middle, left out."""
    at = rng.randrange(len(data) + 1)
    del data[at : rng.choice((len(data), at + rng.randrange(1, 65)))]


def _length(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    """A binary number of 1 to 8 bytes set to an edge: what headers take for a length, a count or an offset."""
    size = rng.choice((1, 2, 4, 8))
    if len(data) >= size:
        at = rng.choice((rng.randrange(len(data) - size + 1), rng.randrange(min(len(data) - size + 1, 512))))
        data[at : at + size] = (rng.choice(_EDGES) % (1 << 8 * size)).to_bytes(size, rng.choice(("little", "big")))


def _number(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    """A number written in digits set to another."""
    found = list(re.finditer(rb"\d+", data[:65536]))
    if found:
        match = rng.choice(found)
        data[match.start() : match.end()] = rng.choice(_NUMBERS)


def _splice(data: bytearray, rng: random.Random, pieces: Sequence[bytes]) -> None:
    """A part of the file, or one of the pieces, put somewhere else."""
    if pieces and rng.random() < 0.7:
        part = rng.choice(pieces)
    else:
        start = rng.randrange(len(data) + 1)
        part = bytes(data[start : start + rng.randrange(1, 129)])
    at = rng.randrange(len(data) + 1)
    data[at : at + rng.choice((0, len(part)))] = part
