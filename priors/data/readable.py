"""One sentence for every folder or file of training data that is missing, empty or damaged."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invgen.errors import InvgenError


class DataError(InvgenError, ValueError):
    """A data folder that is missing, empty or unreadable."""


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """A block that reads one file of training data.

    Raises:
        DataError: the file is damaged or not of its kind; the sentence names it.
    """
    try:
        yield
    except InvgenError:
        raise
    except (ArithmeticError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError, ValueError,
            zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise DataError(f"{path} cannot be read ({reason:.200}): repair it, or take it out of the folder") from error
