"""The job of `invgen gallery`."""

import shutil
from pathlib import Path

from invgen.benchmarks.gallery.rows import MEASURED, Row, find
from invgen.files.writing import atomic_folder


def run(number: int, out: str | Path, *, quick: bool = False, keep: bool = False) -> Row:
    """Runs a row of the gallery and writes, all or nothing, its pictures and summary.json into a folder.

    Args:
        number: of the system.
        out: the folder.
        quick: the reduced form, under a minute, on what ships.
        keep: store the figures of this full run as those that the list shows, and its first picture in docs/images.

    Returns:
        The row; its files are in `out`.
    """
    row_of = find(number)
    with atomic_folder(out) as folder:
        row = row_of(folder, quick)
        (folder / "summary.json").write_text(row.json(), encoding="utf-8")
    row = Row(row.number, row.figures, tuple(Path(out) / path.name for path in row.files), row.note)
    if keep and not quick:
        MEASURED.mkdir(exist_ok=True)
        shutil.copyfile(Path(out) / "summary.json", MEASURED / f"row{number:02d}.json")
        images = MEASURED.resolve().parents[2] / "docs" / "images"
        if row.files and images.is_dir():
            (images / "gallery").mkdir(exist_ok=True)
            shutil.copyfile(row.files[0], images / "gallery" / f"row{number:02d}{row.files[0].suffix}")
    return row
