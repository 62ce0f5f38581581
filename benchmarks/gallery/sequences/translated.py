"""Pairs of texts, answers with probabilities, and the picture of the row of translations."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Pair = tuple[list[str], str]
ONES = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
DIGITS = "\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d"
TEN = "\u5341"


@dataclass(frozen=True)
class Answer:
    """What was found for one text.

    Attributes:
        chinese, english: the text, and its translation.
        law: English -> weight.
        beam, gloss: what a beam finds, and the likeliest word for each sign.
    """

    chinese: str
    english: str
    law: dict[str, float]
    beam: str
    gloss: str

    def likeliest(self, count: int) -> list[str]:
        """Returns the texts of largest weight, the first one first."""
        return sorted(self.law, key=lambda text: -self.law[text])[:count]

    @property
    def best(self) -> str:
        """The text of largest weight."""
        return self.likeliest(1)[0]

    def flattened(self, power: float) -> "Answer":
        """Returns this answer with probabilities that are powers of the weights: a power below 1 is less sure."""
        top = max(self.law.values())
        law = {text: (w / top) ** power for text, w in self.law.items() if w > 0}
        total = sum(law.values())
        return replace(self, law={text: p / total for text, p in law.items()})


def heat(answers: Sequence[Answer]) -> float:
    """Returns the power with which the best answers have the smallest Brier score (temperature scaling, Guo et al. 2017)."""

    def score(power: float) -> float:
        return sum((a.flattened(power).law[a.best] - (a.best == a.english)) ** 2 for a in answers)

    return min(np.geomspace(0.1, 1.5, 20).tolist(), key=score)


def split(pairs: Sequence[Pair], folds: int, k: int, length: int) -> tuple[list[Pair], list[Pair]]:
    """Returns pairs to learn from, and pairs of fold k: short texts of words that the others have, none of which is theirs."""
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


def numerals() -> list[Pair]:
    """Returns the numbers from 1 to 99 in both languages."""
    small, tens = ONES.split(), TENS.split()
    english = [
        [*([tens[n // 10 - 2]] if n > 19 else []), *([small[n % (10 if n > 19 else 20) - 1]] if n < 20 or n % 10 else [])]
        for n in range(1, 100)
    ]
    signs = [
        ("" if n < 20 else DIGITS[n // 10 - 1]) + (TEN if n > 9 else "") + (DIGITS[n % 10 - 1] if n % 10 else "")
        for n in range(1, 100)
    ]
    return list(zip(english, signs, strict=True))


def draw(answers: Sequence[Answer], path: Path) -> None:
    """Draws how often answers of some probability are right, and the likeliest texts of a few."""
    from matplotlib.figure import Figure

    from invgen.benchmarks.gallery.rows import share

    picture = Figure(figsize=(10, 4.4), layout="constrained")
    left, rest = picture.subplots(1, 2, width_ratios=(1, 1.3))
    right = np.array([a.best == a.english for a in answers])
    stated = np.array([a.law[a.best] for a in answers])
    for part in np.array_split(np.argsort(stated), 5):
        value, low, high = share(right[part].tolist())
        left.errorbar(stated[part].mean(), value, yerr=[[value - low], [high - value]], marker="o", color="C0", capsize=2)
    left.plot([0, 1], [0, 1], ":", color="gray")
    left.set(xlabel="stated probability of the answer", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    rest.axis("off")
    shown = [answers[k] for k in np.linspace(0, len(answers) - 1, 9).astype(int)]
    for row, a in enumerate(shown):
        texts = ", ".join(f"{text} {a.law[text]:.2f}" for text in a.likeliest(3))
        rest.text(0, 1 - row / 9, f"{a.english}", fontsize=9, weight="bold", va="top")
        rest.text(0, 0.955 - row / 9, f"   {texts}", fontsize=8, va="top", color="C2" if a.best == a.english else "C3")
    picture.savefig(path, dpi=80)
