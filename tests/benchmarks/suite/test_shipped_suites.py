"""The suites that come with invgen, and their reference results."""

import math
import re
from pathlib import Path

import pytest
import yaml

from invgen import samplers
from invgen.benchmarks.methods import catalogue
from invgen.benchmarks.report import reference
from invgen.benchmarks.report.results import read
from invgen.benchmarks.suite.expand import expand
from invgen.benchmarks.suite.file import load, shipped, shipped_names
from invgen.errors import OptionError
from invgen.names import resolve

ROOT = Path(__file__).parents[3]
WITH_DATA = {"mri", "speech", "photo20", "ct_patients"}  # their signals are fetched by `invgen data`, or in a folder


def of(found):
    return {c.sampler for c in found}


def test_every_family_of_samplers_is_in_quick():
    listed = [spec for problem in load("quick").content["problems"] for spec in problem["samplers"]]
    found = {resolve.sampler(spec).family for spec in listed}
    families = {cls.family for cls in samplers.catalogue().values()}
    assert found == families - {"unconditional"}  # which takes no measurement


@pytest.mark.parametrize("name", shipped_names())
def test_a_suite_says_what_it_is_and_how_long_it_takes(name):
    text = shipped(name).read_text(encoding="utf-8")
    comment = re.match(r"(#.*\n)+", text)[0]
    assert re.search(r"minute", comment) and yaml.safe_load(text)["title"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the metric lpips is left out")
@pytest.mark.parametrize("name", sorted(set(shipped_names()) - WITH_DATA))
def test_a_suite_expands(name):
    found = expand(name)
    assert len(found) == len({c.key for c in found}) > 10
    if reference.path_of(name).is_file():
        known = {row.identity for row in read(reference.path_of(name)).rows}
        assert known == {(c.problem, c.facts()["prior"], c.sampler, c.image, c.seed) for c in found}


def test_references_have_no_failures():
    for path in sorted(reference.FOLDER.glob("*.csv")):
        results = read(path)
        assert path.stem in shipped_names()
        assert not [row.error for row in results.rows if row.error]
        # an infinite or missing number would be a cell that has not been looked at
        assert all(math.isfinite(v) for row in results.rows for v in row.values.values())


@pytest.mark.parametrize("name", ["README.md", "docs/results.md", "docs/suites.md"])
def test_the_pages_have_the_tables_of_the_references(name):
    page = (ROOT / name).read_text(encoding="utf-8")
    assert reference.refreshed(page) == page, f"run: invgen bench reference --write {name}"


def test_a_table_of_results(tmp_path):
    rows = [
        ("blur", "TV", "classical", "a", 20.0),
        ("blur", "TV", "classical", "b", 22.0),
        ("blur", "Wiener", "classical", "a", 30.0),
        ("mask", "TV", "classical", "a", 19.0),
        ("mask", "DPS", "sampler", "a", 25.5),
    ]
    head = "problem,prior,operator,noise,sampler,kind,image,seed,num_samples,psnr\n"
    lines = [f"{p},photo,A,0.1,{s},{k},{i},0,4,{v}\n" for p, s, k, i, v in rows]
    (tmp_path / "t.csv").write_text(head + "".join(lines))
    text = reference.table(read(tmp_path / "t.csv"))
    assert text.splitlines() == [
        "| problem | best classical method | `TV` | `DPS` |",
        "| --- | ---: | ---: | ---: |",
        "| blur | 30.00 (Wiener) | 21.00 |  |",
        "| mask |  | 19.00 | 25.50 |",
    ]


def test_samplers_beside_the_best_classical_method(tmp_path):
    rows = [
        ("TV", "classical", (20.0, 22.0, 24.0)),
        ("Wiener", "classical", (19.0, 19.0, 19.0)),
        ("MMPS", "sampler", (21.0, 22.0, 26.0)),
    ]
    head = "problem,prior,operator,noise,sampler,kind,image,seed,num_samples,psnr\n"
    lines = [f"blur,photo,A,0.1,{s},{k},{i},0,4,{v}\n" for s, k, values in rows for i, v in enumerate(values)]
    (tmp_path / "t.csv").write_text(head + "".join(lines))
    # the differences 1, 0, 2 have mean 1, standard error 1 / sqrt(3), and t(2) = 4.303 at 97.5 %
    assert (
        reference.differences(read(tmp_path / "t.csv"), "psnr").splitlines()[-1] == "| blur | TV | +1.00 (-1.48 to +3.48) |"
    )


def test_every_method_of_suites_is_found_by_name():
    for name in catalogue.others():
        assert type(catalogue.method(name)).__name__ == name
    with pytest.raises(OptionError, match="unknown sampler"):
        catalogue.method("Nothing")
