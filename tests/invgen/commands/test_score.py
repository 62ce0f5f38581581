"""`invgen score`: a folder in, the table, p-values and curves out."""

import csv

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from invgen import priors
from invgen.cli import app
from invgen.errors import FileError
from invgen.plots import save_picture


@pytest.mark.slow
def test_a_folder_is_scored_and_what_was_made_is_told(tmp_path):
    prior = priors.load("digits-vae")
    for name, seed in (("a", 1), ("real", 2)):
        (tmp_path / name).mkdir()
        for k, x in enumerate(prior.sample(12, seed=seed)):
            save_picture(x, prior.value_range, tmp_path / name / f"{k:02d}.png")
    (tmp_path / "made").mkdir()
    for k in range(12):
        noise = np.random.default_rng(k).integers(0, 256, (32, 32), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "made" / f"{k:02d}.png")
    options = ["--prior", "digits-vae", "--reference", str(tmp_path / "real"), "--made", str(tmp_path / "made")]
    done = CliRunner().invoke(app, ["score", str(tmp_path / "a"), *options, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "0 of 12 files look made" in done.output
    with (tmp_path / "out" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [f"{k:02d}.png" for k in range(12)]
    assert all(0 < float(row["p_value"]) <= 1 and float(row["made"]) < 0.5 for row in rows)
    assert (tmp_path / "out" / "roc.png").stat().st_size > 5000 and (tmp_path / "out" / "summary.json").is_file()


def test_an_empty_folder_says_so(tmp_path):
    from invgen.commands.score import run

    with pytest.raises(FileError, match="there are no files in"):
        run(tmp_path, prior="digits-vae")
