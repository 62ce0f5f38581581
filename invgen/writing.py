"""Results are written whole or not at all: under a temporary name first, then renamed."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invgen.errors import FileError


@contextmanager
def atomic_folder(out: str | Path) -> Iterator[Path]:
    """A new folder inside `out` to write in; its files move to `out` when the block ends well and vanish when it does not.

    A summary.json moves last, so that where it is, the other files are.

    Raises:
        FileError: `out` cannot be made or written to (said before the block starts), or writing fails.
    """
    out = Path(out)
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    work = None
    try:
        try:
            out.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(dir=out, prefix=".unfinished-"))
        except OSError as error:
            raise FileError(f"cannot write to {out}: {error.strerror or error}; choose another --out") from error
        yield work
        for file in sorted(work.iterdir(), key=lambda f: (f.name == "summary.json", f.name)):
            os.replace(file, out / file.name)
    except FileError:
        raise
    except OSError as error:
        if work is None or not str(error.filename or work).startswith(str(out)):
            raise
        raise FileError(f"cannot write to {out}: {error.strerror or error}") from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        for folder in made:  # those that this call made, unless something has come into them
            try:
                folder.rmdir()
            except OSError:
                break


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary path with the suffix of `path`, renamed to it when the block ends well and removed when it does not.

    Raises:
        FileError: it cannot be written, or its suffix is of no format that the writer knows.
    """
    path = Path(path)
    # the random part tells apart two machines that write to one folder
    work = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(3)}.unfinished{path.suffix}")
    try:
        yield work
        os.replace(work, path)
    except FileError:
        raise
    except (OSError, ValueError) as error:  # ValueError: matplotlib's and Pillow's word for an unknown format
        raise FileError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        if work.exists():
            work.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file whole or not at all; FileError if it cannot be written."""
    with atomic_file(path) as work:
        work.write_text(text, encoding="utf-8")
