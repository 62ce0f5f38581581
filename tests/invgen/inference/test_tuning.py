"""Tuning on simulated pairs: it finds what is known to be better, says so on other pairs, and survives an interrupt."""

import json
import sys

import pytest
import torch

import invgen
from invgen import FileError, MissingExtraError, OptionError, samplers
from invgen.inference.tuning import search_space
from invgen.names.resolve import load_sampler
from invgen.operators import Matrix
from invgen.priors import GaussianPrior

F64 = torch.float64


def problem() -> tuple[GaussianPrior, Matrix, float]:
    g = torch.Generator().manual_seed(0)
    root = torch.randn(4, 4, dtype=F64, generator=g)
    return GaussianPrior((4,), torch.zeros(4, dtype=F64), covariance=root @ root.T), Matrix(root[:2]), 0.3


def tune(budget: int = 6, sampler: invgen.Sampler | None = None, **options: object) -> invgen.Tuning:
    sampler = samplers.DampedDPS(steps=15, zeta=0.02) if sampler is None else sampler
    return invgen.tune(*problem(), sampler, budget, num_simulations=24, num_samples=6, progress=False, **options)


@pytest.mark.slow
def test_a_guidance_that_is_far_too_weak_is_found_out_and_mended():
    found = tune(10, space={"zeta": (0.01, 3.0)})
    # the published form guides with zeta = 1; a fiftieth of it nearly returns the prior
    assert found.sampler.zeta > 0.2 and found.sampler.steps == 15
    assert found.score < 0.8 * found.start_score
    # on pairs that chose nothing the interval excludes no gain
    assert found.gain - found.gain_interval > 0
    assert found.trials[0][0] == {"zeta": 0.02} and len(found.trials) == 10
    assert "better by" in str(found) and "zeta" in str(found)


@pytest.mark.slow
def test_where_nothing_is_better_the_start_is_kept():
    # MMPS is exact on a Gaussian but for its steps: 2 % of guidance removed cannot help by luck in the final
    found = tune(3, samplers.DampedDPS(steps=15), space={"zeta": [0.01, 0.02]})
    assert found.sampler == found.start and found.gain == 0


@pytest.mark.slow
def test_a_study_goes_on_where_it_stopped(tmp_path):
    study = tmp_path / "new" / "study.log"
    first = tune(3, study=study)
    with open(study, "a") as file:
        file.write('{"op_code": 6, "worker_id": "cut o')  # what a kill -9 leaves
    more = tune(5, study=study)
    assert more.trials[:3] == first.trials and len(more.trials) == 5
    assert tune(5, study=study).sampler == more.sampler
    with pytest.raises(OptionError, match=r"belongs to another problem \(start differs\)"):
        tune(5, samplers.DampedDPS(steps=16), study=study)


# four trials find no good setting
@pytest.mark.filterwarnings("ignore:.* not explain the measurement")
def test_a_tuned_sampler_is_a_small_file_that_solve_accepts(tmp_path):
    found, path = tune(4), tmp_path / "tuned.json"
    found.save(path)
    assert path.stat().st_size < 1000 and load_sampler(path) == found.sampler
    prior, A, noise = problem()
    result = invgen.solve(torch.zeros(2, dtype=F64), A, prior, noise, str(path), num_samples=2)
    assert result.sampler == found.sampler
    with pytest.raises(FileError, match="there is no file .*none.json"):
        invgen.solve(torch.zeros(2, dtype=F64), A, prior, noise, str(tmp_path / "none.json"))
    for content in (
        "{",
        "[]",
        json.dumps({"format": "other"}),
        json.dumps(json.loads(path.read_text()) | {"options": {"x": 1}}),
    ):
        path.write_text(content)
        with pytest.raises(FileError, match="not a file that invgen.tune has saved"):
            load_sampler(path)


def test_what_is_searched_by_default():
    space = search_space(samplers.DDNM(eta=0.5)) | search_space(samplers.PnPDM()) | search_space(samplers.AdaptiveDAPS())
    assert space["eta"] == (0.0, 1.0) and space["inner"] == ["auto", "exact", "langevin"] and "langevin_steps" not in space
    # ten times the decay would be a growth, which the class refuses
    assert space["rho_min"] == pytest.approx((0.01, 1.0)) and space["rho_decay"] == (pytest.approx(0.085), 1.0)
    assert search_space(samplers.DampedDPS(), {"zeta": (1, 2)}) == {"zeta": (1, 2)}
    for wrong, words in (
        ({"zetta": (1, 2)}, "no option 'zetta' to tune; it has"),
        ({"zeta": (2, 1)}, "must be a pair"),
        ({"zeta": []}, "must be a pair"),
        ({}, "nothing to tune"),
    ):
        with pytest.raises(OptionError, match=words):
            search_space(samplers.DampedDPS(), wrong)


def test_bad_input_is_one_sentence(monkeypatch):
    with pytest.raises(OptionError, match="budget of tune must be a positive whole number"):
        tune(0)
    with pytest.raises(OptionError, match="unknown metric 'energie'"):
        tune(1, metric="energie")
    with pytest.raises(OptionError, match="DPSS"):
        invgen.tune(*problem(), "DPSS")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"invgen-solvers\[tune\]"):
        tune(1)


def test_a_setting_that_diverges_is_a_trial_that_lost():
    found = tune(4, samplers.DampedDPS(steps=8), space={"zeta": [1.0, 1e200]})
    assert found.sampler.zeta == 1.0
    assert any(score == float("inf") for _, score in found.trials) or all(o["zeta"] == 1.0 for o, _ in found.trials)
