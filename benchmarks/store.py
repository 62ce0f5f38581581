"""Results of cells in a folder: one JSON file each, arrays as NPZ beside it, failures as files too.

    OUT/cells/ab/ab12...json         a result: what was computed, its numbers, the size of its arrays
    OUT/cells/ab/ab12...npz          its arrays, written first, so that where the JSON file is, they are
    OUT/cells/ab/ab12...error.json   a cell that failed: the sentence and the traceback
    OUT/cells/ab/ab12...lock         somebody computes the cell (the lock ends with its process, the file may stay)

A file is written under a temporary name and renamed, so that at any time, after a `kill -9` or on a full disk, a result is
there whole or not at all. Nobody waits for the disk: what a power cut takes of the last half minute is missing or shorter
than its record says, and is computed again. Nothing is shared between cells: any number of runners may use one folder.
"""

import csv
import io
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from invgen.errors import FileError
from invgen.writing import atomic_file, write_text

if TYPE_CHECKING:
    import numpy as np

VERSION = 1  # of the result files; part of what names a cell
STALE = 3600.0  # seconds after which an unfinished file has no writer any more

State = Literal["done", "failed"]


class Store:
    """The results under a folder.

    Raises:
        FileError: the folder cannot be made, or one of its files not written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.cells = self.folder / "cells"
        self._rows: dict[str, dict[str, Any]] = {}  # of results that were read: they do not change

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

    def save(self, key: str, record: Mapping[str, Any], arrays: "Mapping[str, np.ndarray]") -> None:
        """Keeps a result: the arrays, then the record, then nothing is left of an earlier failure."""
        import numpy as np

        data = io.BytesIO()
        np.savez(data, **arrays)
        self._folder(key)
        if arrays:
            with atomic_file(self.path(key, ".npz")) as work:
                work.write_bytes(data.getbuffer())
        size = data.getbuffer().nbytes if arrays else 0
        self._write(key, ".json", {"version": VERSION, "key": key, **record, "array_bytes": size})
        self.path(key, ".error.json").unlink(missing_ok=True)

    def save_suite(self, content: Mapping[str, Any]) -> None:
        """Keeps what was asked for, beside the results: suite.json, of the latest run."""
        write_text(self.folder / "suite.json", json.dumps(content, indent=1, default=str) + "\n")

    def suite(self) -> dict[str, Any]:
        """What the latest run was asked for; empty where nothing says so."""
        return _read(self.folder / "suite.json") or {}

    def save_failure(self, key: str, record: Mapping[str, Any]) -> None:
        """Keeps the failure of a cell, and how often it has failed."""
        self._folder(key)
        attempts = (_read(self.path(key, ".error.json")) or {}).get("attempts", 0) + 1
        self._write(key, ".error.json", {"version": VERSION, "key": key, **record, "attempts": attempts})

    def _folder(self, key: str) -> None:
        folder = self.path(key, "").parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"cannot write to {folder}: {error.strerror or error}") from error

    def _write(self, key: str, suffix: str, record: Mapping[str, Any]) -> None:
        with atomic_file(self.path(key, suffix)) as work:
            work.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

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

    def record(self, key: str) -> dict[str, Any] | None:
        """The result of a cell; None if there is none, or it is damaged and has to be computed again."""
        found = _read(self.path(key, ".json"))
        if found is None or found.get("version") != VERSION or found.get("key") != key or "array_bytes" not in found:
            return None
        if found["array_bytes"]:
            try:
                size = self.path(key, ".npz").stat().st_size
            except FileNotFoundError:
                return None
            if size != found["array_bytes"]:
                return None
        return found

    def failure(self, key: str) -> dict[str, Any] | None:
        """How a cell failed, if it did and has no result."""
        return _read(self.path(key, ".error.json"))

    def arrays(self, key: str) -> "dict[str, np.ndarray]":
        """The arrays of a cell.

        Raises:
            FileError: they are missing or damaged.
        """
        import numpy as np

        path = self.path(key, ".npz")
        try:
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        except Exception as error:  # zipfile and numpy raise many kinds for a damaged file
            raise FileError(f"{path} is missing or damaged ({error}); remove it and run the suite again") from error

    def states(self, keys: Iterable[str]) -> dict[str, State]:
        """Which of the cells are done and which have failed; the others are still to be computed."""
        there = self._names()
        found: dict[str, State] = {}
        for key in keys:
            if f"{key}.json" in there and self._row(key) is not None:
                found[key] = "done"
            elif f"{key}.error.json" in there and self.failure(key) is not None:
                found[key] = "failed"
        return found

    def stored(self) -> list[str]:
        """The cells that have a result or a failure."""
        return sorted({name.partition(".")[0] for name in self._names() if name.endswith(".json")})

    def rows(self, keys: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """A flat row for each cell, done or failed: what it is, its metrics, network evaluations, seconds, its error."""
        rows = []
        for key in self.stored() if keys is None else keys:
            row = self._rows.get(key) or self._row(key)
            if row is not None:
                rows.append(dict(row))
                continue
            record = self.failure(key)
            if record is not None:
                rows.append({"key": key, **record["cell"], "error": record["error"]})
        return rows

    def _row(self, key: str) -> dict[str, Any] | None:
        """The row of a result, read anew."""
        record = self.record(key)
        if record is None:
            return None
        values = {"nfe": record["nfe"], "seconds": record["seconds"], "error": ""}
        self._rows[key] = {"key": key, **record["cell"], **record["metrics"], **values}
        return self._rows[key]

    def write_csv(self, path: str | Path) -> int:
        """All rows as one CSV file; their number. Columns that a cell does not have are empty in its row."""
        rows = self.rows()
        columns = list(dict.fromkeys(name for row in rows for name in row if name != "error")) + ["error"]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())
        return len(rows)

    def _names(self) -> set[str]:
        """The names of the files of all cells, unfinished ones left out."""
        found = set()
        try:
            folders = [entry.path for entry in os.scandir(self.cells) if entry.is_dir()]
        except FileNotFoundError:
            return found
        for folder in folders:
            found.update(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
        return found


def _read(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds; None if it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # ValueError: cut off, or not text
        return None
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    return value if isinstance(value, dict) else None
