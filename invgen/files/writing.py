"""Results are written whole or not at all: under a temporary name first, then renamed.

The temporary name says which process writes, so that the next one sweeps away what a killed one left.
"""

import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from invgen.errors import FileError, InvgenError

LEFT = re.compile(r"\.(?:.*\.)?(?:unfinished-)?([0-9a-f]{8})-([0-9]+)-[0-9a-z_]+(?:\.unfinished.*)?")


@functools.cache
def _host() -> str:
    """Returns eight letters for this machine, or the container on it, among whose processes a number means one."""
    try:
        among = os.readlink("/proc/self/ns/pid")
    except OSError:
        among = ""
    return hashlib.sha256(f"{platform.node()} {among}".encode()).hexdigest()[:8]


def _alive(pid: int) -> bool:
    """Tells whether a process has this number; where that cannot be asked, it has."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True


def sweep(folder: Path) -> None:
    """Removes from a folder what processes of this machine that are no more have left unfinished."""
    for entry in folder.iterdir():
        left = LEFT.fullmatch(entry.name)
        if left and "unfinished" in entry.name and left[1] == _host() and not _alive(int(left[2])):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def work_folder(out: Path) -> Path:
    """Returns a new hidden folder in `out`, which is made if missing, and swept; the caller removes it.

    Raises:
        FileError: `out` cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        sweep(out)
        return Path(tempfile.mkdtemp(dir=out, prefix=f".unfinished-{_host()}-{os.getpid()}-"))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise FileError(
            f"cannot write to {out}: {getattr(error, 'strerror', None) or error}; choose another --out"
        ) from error


def require_writable(out: Path) -> None:
    """Makes and sweeps a folder, and sees that files can be written there; FileError if not."""
    work = work_folder(out)
    try:
        (work / "probe").write_bytes(bytes(4096))  # a full disk still makes folders
    except OSError as error:
        raise FileError(f"cannot write to {out}: {error.strerror or error}; choose another --out") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


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
        work = work_folder(out)
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
    work = path.with_name(f".{path.stem}.{_host()}-{os.getpid()}-{secrets.token_hex(3)}.unfinished{path.suffix}")
    try:
        yield work
        os.replace(work, path)
    except InvgenError:
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


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes under a temporary name, then renames: a kill leaves the old file or the new one, never half of one.

    Raises:
        FileError: it cannot be written, as on a full disk.
    """
    from safetensors import SafetensorError

    with atomic_file(path) as work:
        try:
            write(work)
        except InvgenError:
            raise
        except (RuntimeError, SafetensorError) as error:  # what torch.save and safetensors make of a failed write
            full = shutil.disk_usage(path.parent).free < 2**20
            reason = "no space is left on the disk" if full else str(error).strip().split("\n")[0][:200]
            raise FileError(f"cannot write {path}: {reason}") from error
        work.chmod(0o644)
