"""The command that writes a card, on a tiny network and a few made-up pictures."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from invgen.conditional import ConditionalDenoiser
from invgen.priors.cards import baselines, card, evaluate, texts, write
from invgen.priors.data import held_out
from invgen.priors.load import load, metadata
from invgen.priors.recipes import DISTILLED, RECIPES
from invgen.priors.training.digits_family import FAMILY
from invgen.priors.training.train import train

PRIOR = "prior `digits`"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of pictures of bright squares, and the weights of a tiny prior trained on them for two steps."""
    root = tmp_path_factory.mktemp("cards")
    rng = np.random.default_rng(0)
    images = np.zeros((60, 28, 28), np.uint8)
    for k, image in enumerate(images):
        image[k % 10 : k % 10 + 12, 4 : 4 + 2 * (k % 5) + 6] = rng.integers(100, 255)
    labels = np.arange(60) % 10
    (root / "data").mkdir()
    np.savez(
        root / "data" / "d.npz", train_images=images, train_labels=labels, test_images=images[:25], test_labels=labels[:25]
    )
    recipe = dataclasses.replace(RECIPES["digits"], widths=(4, 6), embedding=8, batch=4)
    weights = train(recipe, root / "run", root / "data", steps=2, progress=False, sheet_minutes=60)
    return root / "data", weights


def run(made, folder, *options):
    assert write.main(["digits", "--data", str(made[0]), "--folder", str(folder), "--count", "20", *options]) == 0
    return json.loads((folder / "digits.json").read_text())


@pytest.mark.slow  # an ODE and 470 evaluations of a tiny network
def test_one_command_writes_all(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(baselines, "find_spec", lambda name: None)  # no BM3D, which takes its time
    first = run(made, tmp_path, "--weights", str(made[1]), "--images", str(tmp_path))
    assert first["manifest"] == write.manifest("digits", tmp_path)
    assert {"seed", "steps", "weights_sha256", "packages", "split", "sources"} <= set(first["manifest"])
    assert first["sets"]["test set"]["count"] == 2  # each twentieth
    rows = first["sets"]["test set"]["psnr"]
    assert list(rows)[-1] == PRIOR and {"noisy", "Wiener"} <= set(rows)
    assert all(len(row) == len(first["sigma"]) for row in rows.values())
    assert first["two_sample"]["count"] == 20 and first["likelihood"]["count"] == 16
    text = (tmp_path / "digits.md").read_text()
    assert text == write.card("digits", tmp_path) == capsys.readouterr().out[:-1]
    assert (tmp_path / "prior_digits.png").stat().st_size > 500

    # the same weights again: nothing is computed
    for name in ("two_sample", "likelihood"):
        monkeypatch.setattr(write, name, lambda *_, **__: pytest.fail("computed again"))
    monkeypatch.setattr(evaluate, "psnr", lambda *_, **__: pytest.fail("computed again"))
    assert run(made, tmp_path) == first
    monkeypatch.undo()
    monkeypatch.setattr(baselines, "find_spec", lambda name: None)

    # other weights: the baselines stay, what the prior did goes
    stored = json.loads((tmp_path / "digits.json").read_text())
    stored["sets"]["test set"]["psnr"]["noisy"][0] = 99.0
    (tmp_path / "digits.json").write_text(json.dumps(stored))
    about = {"invgen": json.dumps(metadata(made[1]))}
    other = {k: t + 0.1 for k, t in load_file(made[1]).items()}
    save_file(other, tmp_path / "other.safetensors", about)
    monkeypatch.setattr(write, "two_sample", lambda *_: first["two_sample"] | {"c2st": 0.25})
    monkeypatch.setattr(write, "likelihood", lambda *_, **__: first["likelihood"] | {"bits_per_value": 8.0})
    second = run(made, tmp_path, "--weights", str(tmp_path / "other.safetensors"))
    assert second["sets"]["test set"]["psnr"]["noisy"][0] == 99.0
    assert second["sets"]["test set"]["psnr"][PRIOR] != rows[PRIOR]
    assert second["manifest"]["weights_sha256"] != first["manifest"]["weights_sha256"]
    assert "8.000 bits per value" in (tmp_path / "digits.md").read_text()
    assert "in 25 % of cases" in (tmp_path / "digits.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data", "weights", "words"),
    [
        ("cats", "", "run/digits.safetensors", "no card for a prior 'cats'"),
        ("digits", "run", "run/digits.safetensors", "no pictures with labels"),
        ("digits", "data", "run/none.safetensors", "No such file"),
    ],
)
def test_bad_input_is_one_sentence(name, data, weights, words, made, tmp_path, capsys):
    root = made[0].parent
    options = ["--data", str(root / data), "--weights", str(root / weights), "--folder", str(tmp_path)]
    assert write.main([name, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1


@pytest.mark.slow
def test_held_out_views_are_the_held_out_ones(made):
    kept = held_out.held_out_views("digits", [made[0]], (1, 32, 32), 10)
    test = torch.stack(held_out.held_out("digits", [made[0]])["test set"])
    assert kept.shape == (10, 1, 32, 32)
    assert all((test == x).flatten(1).all(1).any() for x in kept)


def test_bits_per_value_of_a_known_law():
    """Independent Gaussians of standard deviation 0.5 on a fine grid: the differential entropy less the log of the step."""
    from invgen.priors import GaussianPrior

    prior = GaussianPrior((1, 8, 8), mean=0.0, var=0.25)
    x = 0.5 * torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = evaluate.likelihood(prior, x, step=0.01)
    expected = 0.5 * np.log2(2 * np.pi * np.e * 0.25) - np.log2(0.01)
    assert found["bits_per_value"] == pytest.approx(expected, abs=4 * found["standard_error"] + 1e-3)
    assert found["standard_error"] < 0.02


class TwoClasses(ConditionalDenoiser):
    """Numbers of deviation 1 around 1 or -1, by class; without one around 0: exact, and exact under guidance too."""

    def __init__(self):
        super().__init__((1, 1), sigma_min=0.01, sigma_max=50.0, value_range=(-3.0, 3.0), data_std=1.0)

    def forward(self, x, sigma, condition=None):
        centre = 0.0 if condition is None else 1.0 - 2.0 * condition
        return (x + sigma**2 * centre) / (1 + sigma**2)


def test_shares_of_classes_are_those_of_a_known_law():
    """Guidance by s makes N(s m, 1) of N(m, 1), so that a judge of the sign is right for a share Phi(s)."""
    found = evaluate.classes_seen(TwoClasses(), lambda x: torch.cat([x, -x], 1).flatten(1), classes=2, count=2000)
    for scale, (value, low, high) in found.items():
        share = 0.5 * (1 + math.erf(float(scale) / 2**0.5))
        # four standard errors of 4000 draws, and a solver that leaves 0.01 of the deviation
        assert value == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5 + 0.003)
        assert low <= value <= high  # rounded to three digits


def test_a_card_says_what_a_judge_sees():
    seen = {"1": [0.5, 0.44, 0.56], "2": [0.721, 0.67, 0.77]}
    (line,) = card._figures("digits", {"classes": {"judge": 0.891, "seen": seen}})
    assert "right on 89.1% of the test set" in line and "1: 50% (44% to 56%), 2: 72% (67% to 77%)." in line


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_has_what_its_card_says(name):
    for said in (texts.DATA, texts.LIMITS, texts.PACKAGES, texts.SPLITS, evaluate.LEVELS, evaluate.STEPS):
        assert said[name]


def test_bits_of_the_flow_are_those_of_pictures_with_its_noise():
    prior = load("digits-flow")
    blank = torch.full((3, 1, 32, 32), -1.0)
    found = evaluate.likelihood(prior, blank, step=2 / 255)
    assert f"noise of {prior.flow.NOISE}" in found["how"]
    # a cross-entropy is at least the entropy, here that of the noise in steps of one grey level; 0.05 is two and a half
    # standard errors of 3072 values. Held-out digits, harder than blank pictures, have 6.03 bits (the card)
    floor = 0.5 * np.log2(2 * np.pi * np.e * (prior.flow.NOISE**2 + (2 / 255) ** 2 / 12)) - np.log2(2 / 255)
    assert floor - 0.05 < found["bits_per_value"] < 6.1


def test_the_command_on_a_card_is_the_one_that_was_run():
    """Only what differs from the recipe is said; a run that the clock ended says its minutes."""
    recipe = dataclasses.asdict(RECIPES["photo"])
    training = {"recipe": recipe, "steps": recipe["steps"], "minutes": 60.0, "seed": 0, "device": "cpu", "bfloat16": True}
    assert card._command("photo", training) == (
        "invgen train photo --data BSDS500 --data data/photo --bfloat16 --out runs/photo"
    )
    training |= {"recipe": recipe | {"steps": 10**6, "batch": 4}, "steps": 900, "seed": 3, "device": "cuda"}
    assert card._command("photo", training) == (
        "invgen train photo --data BSDS500 --data data/photo --steps 1000000 --batch 4 --minutes 60 --seed 3 "
        "--out runs/photo"
    )
    recipe = dataclasses.asdict(FAMILY["digits-ar"])
    training = {"recipe": recipe, "steps": recipe["steps"], "minutes": 2.0, "seed": 0, "device": "cpu"}
    assert card._command("digits-ar", training) == "invgen train digits-ar --data data/digits --out runs/digits-ar"
    training |= {"recipe": dataclasses.asdict(DISTILLED["digits-consistency"]), "bfloat16": True}
    training["steps"] = training["recipe"]["steps"]
    assert card._command("digits-consistency", training) == (
        "invgen train digits-consistency --data data/digits --bfloat16 --out runs/digits-consistency"
    )
