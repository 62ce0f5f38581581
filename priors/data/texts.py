"""Real texts: the manual that comes with Python, and what `invgen data translations` fetches."""

import re
from pathlib import Path

import torch
from torch import Tensor

from invgen.errors import FileError

LETTERS = "abcdefghijklmnopqrstuvwxyz "


def manual() -> tuple[Tensor, Tensor]:
    """Returns the English of Python's manual as tokens, places in LETTERS: 338,000 to learn from, and the last tenth."""
    from pydoc_data.topics import topics

    text = re.sub(r"[^a-z]+", " ", " ".join(topics.values()).lower())
    tokens = torch.tensor([LETTERS.index(c) for c in text])
    cut = int(0.9 * len(tokens))
    return tokens[:cut], tokens[cut:]


def spelled(tokens: Tensor, gap: str = "_") -> list[str]:
    """Returns texts of tokens, (B, n); numbers that are no letter as `gap`."""
    return ["".join(LETTERS[t] if 0 <= t < len(LETTERS) else gap for t in row) for row in tokens.round().long().tolist()]


def excerpts(tokens: Tensor, length: int, count: int, seed: int) -> Tensor:
    """Returns excerpts from random places, (count, length), as signals of values 0, 1, 2, ...

    Args:
        tokens: of the whole text, (n,).
        length, count: of the excerpts.
        seed: of the places.
    """
    starts = torch.randint(0, len(tokens) - length, (count,), generator=torch.Generator().manual_seed(seed))
    return torch.stack([tokens[s : s + length] for s in starts.tolist()]).float()


def translations(folder: Path | str, words: int = 4, characters: int = 8) -> list[tuple[list[str], str]]:
    """Returns pairs (English words, Chinese characters), in the order of the alphabet, without places for names and tags.

    Args:
        folder: that `invgen data translations` wrote, or what `fetch` returns.
        words, characters: of the longest texts.

    Raises:
        FileError: they have to be fetched first.
    """
    path = Path(folder) / "zh_Hans.tsv"
    if not path.is_file():
        raise FileError(f"there is no {path}: fetch it with `invgen data translations`, or set INVGEN_DATA to its folder")
    pairs = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        english, chinese = (re.sub(r"%\(.*?\)\w|%\w|\{.*?\}|<.*?>|&\w+;|['\u2019]", "", text) for text in line.split("\t"))
        spoken, signs = re.findall("[a-z]+", english.lower()), re.sub(r"[^\u4e00-\u9fff]", "", chinese)
        if 1 <= len(spoken) <= words and 1 <= len(signs) <= characters:
            pairs.add((" ".join(spoken), signs))
    return [(a.split(), b) for a, b in sorted(pairs)]
