"""Suites: what expands, what names a cell, and the sentences about mistakes."""

import dataclasses
import sys

import numpy as np
import pytest
import torch
import yaml

from invgen.benchmarks.suite import fingerprint
from invgen.benchmarks.suite.expand import expand, load, shard_of
from invgen.errors import FileError, OptionError


def test_a_suite_expands_into_every_combination_once(here):
    cells = expand("suite.yaml")
    # 3 problems (one of them a grid of two), 2 samplers, 2 images, 2 seeds
    assert len(cells) == len({c.key for c in cells}) == 3 * 2 * 2 * 2
    assert {c.problem for c in cells} == {
        "half",
        "mask: Mask.random(keep=0.3), 0.1",
        "mask: Mask.random(keep=0.5), 0.1",
    }
    assert {c.sampler for c in cells} == {"PiGDM(steps=3)", "DAPS(steps=2)"}
    assert {c.image for c in cells} == {"0.npy", "1.npy"}
    assert [c.key for c in expand("suite.yaml")] == [c.key for c in cells]
    assert [c.key for c in expand(yaml.safe_load((here / "suite.yaml").read_text()))] == [c.key for c in cells]
    # samplers and operators see the same noise for one image and seed
    for c in cells:
        same = [d for d in cells if (d.image, d.seed) == (c.image, c.seed)]
        assert len({(d.noise_seed, d.sampler_seed) for d in same}) == 1
    parts = [shard_of(cells, (i, 3)) for i in (1, 2, 3)]
    assert sorted(c.key for part in parts for c in part) == sorted(c.key for c in cells)
    with pytest.raises(OptionError, match="got 4/3"):
        shard_of(cells, (4, 3))


def keys(**changes):
    suite = load("suite.yaml").content | changes
    return {(c.problem, c.sampler, c.image, c.seed): c.key for c in expand(suite)}


@pytest.mark.slow
def test_the_name_of_a_cell_follows_from_what_determines_it(here):
    before = keys()
    # not from its neighbours, nor from defaults that are spelled out
    assert set(keys(seeds=[1]).values()) < set(before.values())
    spelled = keys(samplers=["PiGDM(steps=3, schedule='edm')"])
    assert set(spelled.values()) < set(before.values())
    assert not set(keys(samplers=["PiGDM(steps=4)"]).values()) & set(before.values())
    assert not set(keys(num_samples=2).values()) & set(before.values())
    assert not set(keys(metrics=["psnr"]).values()) & set(before.values())

    # an image: only its own cells
    np.save(here / "images" / "1.npy", np.zeros((1, 6, 6), np.float32))
    after = keys()
    assert {k for k in before if before[k] != after[k]} == {k for k in before if k[2] == "1.npy"}

    seeds = {(c.image, c.seed): (c.noise_seed, c.sampler_seed) for c in expand("suite.yaml")}
    # the user's code: what comes from that module, and a comment is no code
    text = (here / "my_suite.py").read_text()
    for new, differs in ((text + "# a comment\n", False), (text.replace("::2]", "1::2]"), True)):
        (here / "my_suite.py").write_text(new)
        sys.modules.pop("my_suite")
        fingerprint.forget()
        changed = keys()
        assert (changed != after) == differs
    # measurements stay what they were: seeds rest on the image and the seed, not on code
    assert seeds == {(c.image, c.seed): (c.noise_seed, c.sampler_seed) for c in expand("suite.yaml")}

    # what a module of the user's has loaded names nothing, because values are not the same on every machine; but results
    # that were made with other values do not count
    first = expand("suite.yaml")[0]
    record = {"is_of": first.identities()}
    assert first.made(record)
    sys.modules["my_suite"].smooth.means += 1
    moved = next(c for c in expand("suite.yaml") if c.key == first.key)
    assert not moved.made(record)


@pytest.mark.parametrize(
    ("old", "new", "line", "sentence"),
    [
        ("samplers:", "sampelrs:", 11, "sampelrs: unknown key 'sampelrs'; did you mean 'samplers'?"),
        ("    noise: 0.1\n", "", 4, "problems[0]: lacks the key noise"),
        ("operator: my_suite:Half", "operator: my_suite:Hlaf", 5, "problems[0].operator: module 'my_suite' has no 'Hlaf'"),
        ("Mask.random", "Mask.randm", 8, "unknown constructor of Mask 'randm'; did you mean 'random'?"),
        ("PiGDM(steps=3)", "PiGDMM", 12, "samplers[0]: unknown sampler 'PiGDMM'; did you mean 'PiGDM'?"),
        ("keep: [0.3, 0.5]", "keep: 0.3", 10, "problems[1].grid.keep: expected a list of values"),
        ("noise: 1e-1", "noise: []", 9, "problems[1].noise: the list is empty; expected one entry or more"),
        ("noise: 1e-1", "noise: -1", 9, "problems[1].noise: sigma of Gaussian must be a positive number"),
        ("seeds: 2", "seeds: [0, x]", 14, "seeds[1]: expected a whole number of 0 or more, got 'x'"),
        ("crps", "crsp", 16, "metrics[1]: unknown metric 'crsp'; did you mean 'crps'?"),
        ("psnr, crps", "psnr, ssim", 16, "metrics: ssim cannot be computed"),
        ("data: images", "data: imges", 1, "data: there is no file or folder"),
        ("seeds: 2", "seeds: 2\nseeds: 3", 15, "seeds is given twice"),
        ("seeds: 2", "seeds: [2", 15, "not well-formed YAML"),
    ],
)
def test_mistakes_are_told_with_their_line(here, old, new, line, sentence):
    text = (here / "suite.yaml").read_text()
    assert old in text
    (here / "suite.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(OptionError) as error:
        expand("suite.yaml")
    assert str(error.value).startswith(f"suite.yaml, line {line}: "), error.value
    assert sentence in str(error.value)


def test_baselines_are_taken_where_they_fit(here):
    suite = load("suite.yaml").content | {"baselines": ["TV(steps=5)", "Biharmonic"]}
    found = {(c.problem.partition(":")[0], c.sampler) for c in expand(suite)}
    both = {("half", "TV(steps=5)"), ("mask", "TV(steps=5)"), ("mask", "Biharmonic")}
    assert {pair for pair in found if pair[1] in suite["baselines"]} == both
    assert {sampler for _, sampler in found} - set(suite["baselines"]) == {"PiGDM(steps=3)", "DAPS(steps=2)"}
    with pytest.raises(OptionError, match="baselines: FBP fits none of the problems"):
        expand(suite | {"baselines": ["FBP"]})
    # a problem's own list goes before that of the suite
    own = [dict(p, baselines=["Adjoint"]) if p["name"] == "half" else p for p in suite["problems"]]
    assert ("half", "TV(steps=5)") not in {(c.problem, c.sampler) for c in expand(suite | {"problems": own})}


def test_a_metric_that_this_machine_lacks(here, monkeypatch):
    monkeypatch.setenv("INVGEN_WEIGHTS", str(here))
    monkeypatch.setenv("INVGEN_DATA", str(here))
    monkeypatch.setenv("TORCH_HOME", str(here))
    with pytest.warns(UserWarning, match="the metric lpips is left out: LPIPS needs the file lpips_alex"):
        cells = expand(load("suite.yaml").content | {"metrics": ["psnr", "lpips?", "crps?"]})
    assert {c.metrics for c in cells} == {("psnr", "crps")}
    with pytest.raises(OptionError, match="unknown metric 'lpps'; did you mean 'lpips'"):
        expand(load("suite.yaml").content | {"metrics": ["lpps?"]})


def test_shipped_suites_are_found_by_name(here):
    (here / "photo").write_text("a file of that name is written ./photo")
    # what a shipped suite reads from a folder lies where it is run, not where invgen is installed
    assert load("photo").name == "photo.yaml" and load("photo").folder == here
    with pytest.raises(OptionError, match="unknown suite 'phoot'; did you mean 'photo'. .a file is written"):
        load("phoot")
    with pytest.raises(OptionError, match="photo holds str"):
        load("./photo")


def test_a_suite_that_is_no_suite(here):
    with pytest.raises(FileError, match="cannot read the suite nothing.yaml"):
        expand("nothing.yaml")
    (here / "list.yaml").write_text("[1, 2]")
    with pytest.raises(OptionError, match="list.yaml holds list, expected the keys title, data"):
        expand("list.yaml")
    (here / "loop.yaml").write_text("data: &a [*a]\nproblems: []\n")
    with pytest.raises(OptionError, match="holds itself"):
        expand("loop.yaml")
    with pytest.raises(OptionError, match="lacks the key problems"):
        expand({})


def test_cells_are_frozen(here):
    with pytest.raises(dataclasses.FrozenInstanceError):
        expand("suite.yaml")[0].seed = 3


def test_keys_do_not_depend_on_the_number_of_threads(here):
    """A dense covariance and its eigenvectors differ in their last digits with the threads that compute them."""
    suite = load("suite.yaml").content | {"priors": "invgen.benchmarks.studies.suite_priors:smooth(size=24)"}
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append([cell.key for cell in expand(suite)])
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert found[0] == found[1]
