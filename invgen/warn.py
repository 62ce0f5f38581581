"""Warnings that point to the user's line, however deep in invgen they are raised."""

import contextlib
import sys
import warnings
from pathlib import Path

_HERE = Path(__file__).resolve().parent
# installed, the catalogues lie inside the package; in a checkout beside it
_FOLDERS = tuple(f"{folder}/" for folder in (_HERE, *(_HERE.parent / n for n in ("operators", "priors", "benchmarks"))))


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns in the name of the nearest caller that is neither invgen nor torch.

    Args:
        message: one sentence.
        category: of the warning.
    """
    torch = sys.modules.get("torch")
    between = (f"{Path(torch.__file__).parent}/",) if torch is not None else ()  # an operator is called through its module
    inside = (*_FOLDERS, *between, contextlib.__file__)
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
