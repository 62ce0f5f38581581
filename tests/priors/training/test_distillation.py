"""Consistency distillation: its loss on laws whose flow is known, its levels, and a run of two steps."""

import csv
import dataclasses

import pytest
import torch

from invgen.errors import OptionError
from invgen.priors import GaussianConsistency, GaussianPrior
from invgen.priors.load import load, metadata
from invgen.priors.recipes import DISTILLED
from invgen.priors.training import distillation, log
from tests.priors.training.test_digits_family import digits  # noqa: F401 (a fixture)

RECIPE = DISTILLED["digits-consistency"]
SHAPE = (1, 4, 4)


def objective(student: GaussianPrior, done: float) -> float:
    g = torch.Generator().manual_seed(0)
    clean = 0.5 * torch.randn(64, *SHAPE, generator=g)
    high = torch.logspace(-2, 1, 64)
    low = distillation.level_below(RECIPE, high, done)
    return distillation.loss(
        student, GaussianPrior(SHAPE, var=0.25), clean, high, low, torch.randn(clean.shape, generator=g)
    ).item()


def test_the_loss_is_nothing_for_the_consistency_function_and_no_other():
    right = [objective(GaussianConsistency(SHAPE, var=0.25), done) for done in (0.0, 1.0)]
    # Heun's step errs by the third order of the gap, and the gap falls eightfold
    assert right[0] < 0.2 and right[1] < 0.05 * right[0] + 1e-3
    for other in (GaussianConsistency(SHAPE, var=0.16), GaussianPrior(SHAPE, var=0.25)):
        assert objective(other, 1.0) > 10 * right[1] + 0.05


def test_levels_are_those_of_karras_and_end_at_zero():
    s = torch.tensor([40.0, 1.0, 1e-5])
    below = distillation.level_below(RECIPE, s, 0.0)
    gap = (40 ** (1 / 7) - 0.005 ** (1 / 7)) / 10
    assert below[0].item() == pytest.approx((40 ** (1 / 7) - gap) ** 7, rel=1e-5)
    assert below[1].item() == pytest.approx((1 - gap) ** 7, rel=1e-5) and below[2] < 1e-5
    assert ((distillation.level_below(RECIPE, s, 1.0) > below) | (s < 1e-4)).all()


@pytest.mark.slow
def test_a_short_distillation_is_stored_and_loaded(tmp_path, digits, monkeypatch):  # noqa: F811
    monkeypatch.setattr(log, "draw_samples", lambda prior, count, seed: torch.zeros(count, *prior.shape))
    recipe = dataclasses.replace(RECIPE, batch=4)
    path = distillation.distil(recipe, tmp_path / "run", digits, steps=2, progress=False)
    prior, about = load(path), metadata(path)
    assert prior.consistency and prior.sigma_max == 40.0 and about["training"]["recipe"]["teacher"] == "digits"
    assert prior.mmse and prior.mmse[-1][0] <= 40.0 and prior.condition(3).consistency
    assert not load("digits").consistency
    (row,) = csv.DictReader((tmp_path / "run" / "log.csv").read_text().splitlines())
    assert 0 < float(row["held_out_loss"]) < 10
    with pytest.raises(OptionError, match="there are: digits-consistency"):
        distillation.distil("ct-consistency", tmp_path, digits)
