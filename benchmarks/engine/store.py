"""Results of cells in a folder: one JSON file each, arrays as NPZ beside it, failures as files too.

    OUT/cells/ab/ab12...json         a result: what was computed, its numbers, the checksum of its arrays and its own
    OUT/cells/ab/ab12...npz          its arrays, written first, so that where the JSON file is, they are
    OUT/cells/ab/ab12...error.json   a cell that failed: the sentence and the traceback
    OUT/cells/ab/ab12...lock         somebody computes the cell (the lock ends with its process, the file may stay)

A file is written under a temporary name and renamed, so that at any time, after a `kill -9` or on a full disk, a result is
there whole or not at all. Nothing waits for the disk: what a power cut takes of the last half minute is missing or not what
its checksum says, and is computed again; so is what somebody has changed. Nothing is shared between cells: any number of
runners may use one folder.
"""

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from invgen.benchmarks.suite.cell import VERSION
from invgen.errors import FileError
from invgen.files.writing import atomic_file, write_text

if TYPE_CHECKING:
    import numpy as np


STALE = 3600.0  # seconds after which an unfinished file has no writer any more

State = Literal["done", "failed"]

# what a record must have, and of which type
CELL = {"problem": str, "sampler": str, "image": str, "seed": int}
RESULT = {"cell": dict, "metrics": dict, "nfe": int | float, "seconds": int | float, "array_bytes": int}
FAILURE = {"cell": dict, "error": str, "attempts": int}


class Store:
    """The results under a folder.

    Attributes:
        damaged: of the files that were read, those that are not what was written, and what is wrong with each.

    Raises:
        FileError: the folder cannot be made, or one of its files not written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.cells = self.folder / "cells"
        self.damaged: dict[Path, str] = {}

    def prepare(self) -> None:
        """Makes the folder, sees that it can be written to, and removes what writers that are gone have left unfinished."""
        try:
            self.cells.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"cannot write to {self.folder}: {error.strerror or error}; choose another --out") from error
        with atomic_file(self.cells / "probe") as probe:
            probe.write_text("x")
        (self.cells / "probe").unlink(missing_ok=True)
        for file in self.cells.glob("??/.*.unfinished.*"):
            try:
                if time.time() - file.stat().st_mtime > STALE:
                    file.unlink()
            except FileNotFoundError:  # another runner was quicker
                pass

    def path(self, key: str, suffix: str) -> Path:
        return self.cells / key[:2] / f"{key}{suffix}"

    # -- writing ---------------------------------------------------------------------------------------------------------

    def save(self, key: str, record: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        """Keeps a result: the arrays, then the record, then nothing is left of an earlier failure."""
        import numpy as np

        data = io.BytesIO()
        np.savez(data, **arrays)
        self._folder(key)
        if arrays:
            with atomic_file(self.path(key, ".npz")) as work:
                work.write_bytes(data.getbuffer())
        kept = {"array_bytes": 0, "array_sha256": ""}
        if arrays:
            kept = {"array_bytes": data.getbuffer().nbytes, "array_sha256": hashlib.sha256(data.getbuffer()).hexdigest()}
        self._write(key, ".json", {**record, **kept})
        self.path(key, ".error.json").unlink(missing_ok=True)

    def save_suite(self, content: Mapping[str, Any]) -> None:
        """Keeps what was asked for, beside the results: suite.json, of the latest run."""
        write_text(self.folder / "suite.json", json.dumps(content, indent=1, default=str) + "\n")

    def suite(self) -> dict[str, Any]:
        """Returns the request of the latest run; empty where none is stored."""
        found, _ = _json(self.folder / "suite.json")
        return found or {}

    def save_failure(self, key: str, record: Mapping[str, Any]) -> None:
        """Keeps the failure of a cell, and how often it has failed."""
        self._folder(key)
        attempts = (self.failure(key) or {}).get("attempts", 0) + 1
        self._write(key, ".error.json", {**record, "attempts": attempts})

    def _folder(self, key: str) -> None:
        folder = self.path(key, "").parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"cannot write to {folder}: {error.strerror or error}") from error

    def _write(self, key: str, suffix: str, record: Mapping[str, Any]) -> None:
        whole = {"version": VERSION, "key": key, **record}
        with atomic_file(self.path(key, suffix)) as work:
            work.write_text(json.dumps({**whole, "sha256": _checksum(whole)}, indent=1) + "\n", encoding="utf-8")

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Whether nobody else works on a cell now; others are told so until the block, or the process, ends.

        A courtesy that saves work: results are whole without it (as on Windows, where everybody is told yes).
        """
        try:
            import fcntl
        except ImportError:
            yield True
            return
        self._folder(key)
        path = self.path(key, ".lock")
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise FileError(f"cannot write {path}: {error.strerror or error}") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError:  # a file system without locks
                yield True
                return
            try:
                yield True
            finally:
                path.unlink(missing_ok=True)
        finally:
            os.close(handle)

    def drop_unfinished(self, key: str) -> None:
        """Removes what a writer of this cell that was stopped has left."""
        for file in self.path(key, "").parent.glob(f".{key}*.unfinished.*"):
            file.unlink(missing_ok=True)

    # -- reading ---------------------------------------------------------------------------------------------------------

    def record(self, key: str, arrays: bool = True) -> dict[str, Any] | None:
        """Returns the result of a cell; None if there is none, or it is damaged and has to be computed again.

        arrays: whether their bytes are checked too, and not their number alone.
        """
        found = self._read(key, ".json", RESULT)
        if found is None or not found["array_bytes"]:
            return found
        path = self.path(key, ".npz")
        try:
            same = path.stat().st_size == found["array_bytes"]
            if same and arrays:
                with path.open("rb") as file:
                    same = hashlib.file_digest(file, "sha256").hexdigest() == found.get("array_sha256")
        except FileNotFoundError:
            self.damaged[path] = "it is missing"
            return None
        except OSError as error:
            raise FileError(f"cannot read {path}: {error.strerror or error}") from error
        if not same:
            self.damaged[path] = "its bytes are not those that were written"
            return None
        self.damaged.pop(path, None)
        return found

    def failure(self, key: str) -> dict[str, Any] | None:
        """Returns the failure of a cell that has no result."""
        return self._read(key, ".error.json", FAILURE)

    def arrays(self, key: str) -> "dict[str, np.ndarray]":
        """Returns the arrays of a cell.

        Raises:
            FileError: they are missing or damaged.
        """
        import numpy as np

        path, found = self.path(key, ".npz"), self.record(key)
        if found is None or not found["array_bytes"]:
            what = next((f"{p.name}: {why}" for p, why in self.damaged.items() if p.stem == key), "it is missing")
            raise FileError(f"{path} is missing or damaged ({what}); run the suite again")
        with np.load(path, allow_pickle=False) as file:
            return dict(file)

    def states(
        self,
        keys: Iterable[str],
        stands: Callable[[str, Mapping[str, Any]], bool] = lambda key, record: True,
        arrays: bool = True,
    ) -> dict[str, State]:
        """Which of the cells are done and which have failed; the others are still to be computed.

        Args:
            stands: whether a record of a key still counts.
            arrays: as for `record`.
        """
        there = self._names()
        found: dict[str, State] = {}
        for key in keys:
            record = self.record(key, arrays) if f"{key}.json" in there else None
            if record is not None and stands(key, record):
                found[key] = "done"
                continue
            failure = self.failure(key) if f"{key}.error.json" in there else None
            if failure is not None and stands(key, failure):
                found[key] = "failed"
        return found

    def stored(self) -> list[str]:
        """Returns the cells that have a result or a failure."""
        return sorted({name.partition(".")[0] for name in self._names() if name.endswith(".json")})

    def _read(self, key: str, suffix: str, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the content of a cell's file; None, and a note in `damaged`, if it is not what was written."""
        path = self.path(key, suffix)
        found, why = _json(path)
        if found is None and not why:
            return None
        if found is not None:
            why = _amiss(key, found, fields)
        if why:
            self.damaged[path] = why
            return None
        self.damaged.pop(path, None)
        return found

    def _names(self) -> set[str]:
        """Returns the names of the files of all cells, unfinished ones left out."""
        found = set()
        try:
            folders = [entry.path for entry in os.scandir(self.cells) if entry.is_dir()]
        except FileNotFoundError:
            return found
        for folder in folders:
            found.update(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
        return found


def _json(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Returns the content of a JSON file, or None and what is wrong with it: nothing where it is missing."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None, ""
    except (ValueError, RecursionError):
        return None, "it is cut off, or no JSON"
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    return (value, "") if isinstance(value, dict) else (None, "it holds no record")


def _amiss(key: str, found: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    """Returns what is wrong with a record, or nothing."""
    if found.get("version") != VERSION:
        return f"it is of format {found.get('version')!r:.20}, this version of invgen reads {VERSION}"
    if found.get("sha256") != _checksum(found):
        return "its checksum does not fit"
    lacking = [name for name, kind in fields.items() if not isinstance(found.get(name), kind)]
    if not lacking:
        lacking = [name for name, kind in CELL.items() if not isinstance(found["cell"].get(name), kind)]
    if not lacking and not all(isinstance(v, int | float) for v in found.get("metrics", {}).values()):
        lacking = ["metrics"]
    if lacking:
        return f"it lacks {', '.join(lacking)}"
    return "" if found.get("key") == key else "it is the record of another cell"


def _checksum(record: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a record, whatever the order and the layout of its file, without the checksum itself."""
    plain = json.loads(json.dumps({name: value for name, value in record.items() if name != "sha256"}))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
