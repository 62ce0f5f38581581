"""Pairs of texts, answers with probabilities, and the picture of the row of translations."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invgen.benchmarks.gallery.rows import share

Pair = tuple[list[str], str]  # English words, Chinese signs
ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"]
ONES += ["fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
DIGITS, TEN = "\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d", "\u5341"


@dataclass(frozen=True)
class Answer:
    """A text, its translation, and the answers of several methods.

    Attributes:
        chinese, english: the text and its translation.
        law: English -> probability among the texts that were found, by the model.
        others: what other methods find, by name.
        stated: probability that the likeliest text is right, calibrated.
    """

    chinese: str
    english: str
    law: Mapping[str, float]
    others: dict[str, str]
    stated: float = math.nan

    def likeliest(self, count: int) -> list[str]:
        """Returns the texts of largest probability, the first one first."""
        return sorted(self.law, key=lambda text: -self.law[text])[:count]

    @property
    def found(self) -> dict[str, str]:
        """The answer of each method, by name."""
        return {"particles": self.likeliest(1)[0], **self.others}

    @property
    def right(self) -> bool:
        """Says whether the likeliest text is the one that was meant."""
        return self.found["particles"] == self.english

    @property
    def signs(self) -> list[float]:
        """Returns what may tell whether the answer is right: probabilities of the two likeliest texts, both lengths."""
        first, second = (*sorted(self.law.values(), reverse=True), 0.0)[:2]
        return [first, second, len(self.chinese), len(self.likeliest(1)[0].split())]


def calibrated(folds: Sequence[Sequence[Answer]]) -> list[Answer]:
    """Returns the answers with the probability that each is right, learnt from the other folds.

    A logistic regression, as Platt (1999) has it, on `Answer.signs`: the model is sure of every answer, and short texts are
    right more often than long ones.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    out = []
    for k, fold in enumerate(folds):
        others = [a for m, part in enumerate(folds) if m != k for a in part]
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(
            [a.signs for a in others], [a.right for a in others]
        )
        stated = model.predict_proba([a.signs for a in fold])[:, 1]
        out += [replace(a, stated=float(p)) for a, p in zip(fold, stated, strict=True)]
    return out


def split(pairs: Sequence[Pair], folds: int, k: int, length: int) -> tuple[list[Pair], list[Pair]]:
    """Returns pairs to learn from, and those of fold k that are short, of words that the others have.

    No English text is on both sides.

    Args:
        pairs: all of them.
        folds, k: how many parts there are, and which is held out.
        length: that held-out texts have fewer words than.
    """
    texts = sorted({" ".join(english) for english, _ in pairs})
    place = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)) % folds
    fold = dict(zip(texts, place.tolist(), strict=True))
    train = [p for p in pairs if fold[" ".join(p[0])] != k]
    known = {w for english, _ in train for w in english}
    test = [p for p in pairs if fold[" ".join(p[0])] == k and known.issuperset(p[0])]
    return train, [p for p in test if len(p[0]) < length and len(p[1]) <= 8]


def tally(texts: Sequence[str], signs: Sequence[str]) -> Tensor:
    """Returns how often each sign is in each text, (texts, signs)."""
    return torch.tensor([[text.count(sign) for sign in signs] for text in texts], dtype=torch.float64)


def gloss(chinese: str, words: Sequence[str], signs: Sequence[str], table: Tensor) -> str:
    """Returns the word to which each sign belongs, sign by sign, each word once.

    Args:
        chinese: the text.
        words, signs: of the rows and of the columns of the table.
        table: expected counts, (V, U).
    """
    share_of = table / table.sum(1, keepdim=True).clamp(min=1e-9)
    return " ".join(dict.fromkeys(words[int(share_of[:, signs.index(c)].argmax())] for c in chinese if c in signs))


def numerals() -> list[Pair]:
    """Returns the numbers from 1 to 99 in both languages. 24 and 42 have the same signs: no model of their counts knows."""
    pairs = []
    for n in range(1, 100):
        tens, ones = divmod(n, 10)
        english = [ONES[n - 1]] if n < 20 else [TENS[tens - 2], *([ONES[ones - 1]] if ones else [])]
        pairs.append((english, DIGITS[tens - 1] * (tens > 1) + TEN * (tens > 0) + DIGITS[ones - 1] * (ones > 0)))
    return pairs


def draw(answers: Sequence[Answer], path: Path) -> None:
    """Draws how often answers of some probability are right, and the likeliest texts for a few."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(10, 4.4), layout="constrained")
    left, rest = picture.subplots(1, 2, width_ratios=(1, 1.3))
    right, stated = np.array([a.right for a in answers]), np.array([a.stated for a in answers])
    for part in np.array_split(np.argsort(stated), 5):
        value, low, high = share(right[part].tolist())
        bars = [[max(value - low, 0)], [max(high - value, 0)]]
        left.errorbar(stated[part].mean(), value, yerr=bars, marker="o", color="C0", capsize=2)
    left.plot([0, 1], [0, 1], ":", color="gray")
    left.set(xlabel="stated probability of the answer", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    rest.axis("off")
    rest.set_title("English that was meant; the likeliest texts (green: right)", fontsize=9, loc="left")
    for row, a in enumerate(answers[k] for k in np.linspace(0, len(answers) - 1, 9).astype(int)):
        found = f"{a.stated:.2f}: " + ", ".join(a.likeliest(3))
        colour = "C2" if a.right else "C3"
        rest.text(0, 0.97 - row / 9, a.english, fontsize=9, weight="bold", va="top")
        rest.text(0, 0.925 - row / 9, f"   {found}", fontsize=8, va="top", color=colour)
    picture.savefig(path, dpi=80)
