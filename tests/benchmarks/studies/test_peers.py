"""Peers by network evaluations: what is needed of fabricated runs, and a small search and run of the real thing."""

import math

import pytest
import torch

from invgen.benchmarks.studies.peers import candidates, page, picture, problems, runs
from invgen.benchmarks.studies.peers.runs import Run
from invgen.errors import FileError


def fabricated():
    def judged(sampler, *of, vjps=0):
        each = {"psnrs": "20 22", "coverages": "0.4 0.6", "seconds": 0.1}
        return [
            Run("judged", "digits", sampler, b, psnr, psnr, cov, 0.1 / psnr, float(b), float(b * vjps), **each)
            for b, psnr, cov in of
        ]

    return [
        *(
            Run("tuning", "digits", f"AzulaDPS(zeta={z})", b, crps=c)
            for z, b, c in ((0.3, 10, 2.0), (1.0, 10, 1.0), (0.3, 25, 1.0))
        ),
        Run("tuning", "digits", "AzulaPiGDM(eta=0.5)", 10, crps=2.5),
        Run("tuning", "digits", "AzulaPiGDM(eta=1.0)", 10, error="diverged"),
        *judged("MMPS", (5, 23.5, 0.40), (10, 24.0, 0.49), (25, 24.05, 0.50), vjps=3),
        *judged("DiffPIR", (5, 23.0, 0.2), (10, 23.2, 0.5), (25, 23.98, 0.3)),
        *judged("AzulaDPS(zeta=1.0)", (5, 20.0, 0.3), (10, 22.0, 0.45)),
        *judged("AzulaDPS(zeta=0.3)", (25, 23.96, 0.47), (50, 24.06, 0.481), vjps=1),
        Run("judged", "digits", "AzulaMMPS()", 5, error="AzulaMMPS ended"),
    ]


def test_what_is_needed_is_the_least_that_is_near_enough():
    of = page.of_problem(fabricated(), "digits")
    _, near, _, both = page.tests(of).values()  # the best mean is 24.06 dB
    assert page.needed(of, True, near, page.evaluations).budget == 10
    assert page.needed(of, False, near, page.evaluations).budget == 25
    assert page.needed(of, False, both, page.evaluations).budget == 50
    # by passes DiffPIR with 25 and no product is before MMPS with 10 and 30 products
    assert page.needed(of, True, near, page.passes).sampler == "DiffPIR"
    table = page.needs(fabricated(), ["digits"])
    row = "10 (40 passes, 0.1 s): `MMPS` | 50 (100 passes, 0.1 s): `AzulaDPS` | 0.20 |"
    assert f"| mean within 0.1 dB, coverage within 0.02 | {row}" in table
    assert "not at any" in page.needs([r for r in fabricated() if r.sampler != "AzulaDPS(zeta=0.3)"], ["digits"])


def test_the_search_chooses_by_the_score_and_leaves_out_the_worst():
    made = fabricated()
    assert runs.chosen(made, "digits", "AzulaDPS", 15) == "AzulaDPS(zeta=1.0)"
    assert runs.chosen(made, "digits", "AzulaDPS", 25) == "AzulaDPS(zeta=0.3)"
    assert runs.chosen(made, "digits", "AzulaPiGDM", 10) is None  # 2.5 times the best
    assert runs.chosen(made, "digits", "AzulaMMPS", 10) is None  # not tuned
    found = list(runs.judged(["digits"], [10], made))
    assert found == [("digits", spec, 10) for spec in (*candidates.OURS, "AzulaDPS(zeta=1.0)")]


def test_settings_and_steps():
    assert candidates.settings("AzulaDPS") == [f"AzulaDPS(zeta={z}, sigma_min=0.001)" for z in (0.3, 1.0, 3.0)]
    for name in candidates.GRIDS:
        assert {candidates.package(spec) for spec in candidates.settings(name)} <= {"azula", "deepinv"}
    assert candidates.with_evaluations("MMPS", 5) == "MMPS(steps=5)"
    assert candidates.with_evaluations("DeepinvDPS(weight=3.0)", 5) == "DeepinvDPS(steps=6, weight=3.0)"
    assert candidates.with_evaluations("DeepinvPiGDM(process='ve')", 5) == "DeepinvPiGDM(steps=5, process='ve')"


def test_the_mean_of_ever_more_samples():
    draws = torch.Generator().manual_seed(0)
    truth = 0.5 * torch.randn(2, 1, 100, 100, generator=draws)
    samples = 0.2 + 0.5 * torch.randn(3, 2, 1, 100, 100, generator=draws)
    found = runs.figures(samples, truth, 2.0)
    # a mean square of 10^4 values has a relative error of sqrt(2 / 10^4), which is 0.06 dB
    assert found["psnr"].tolist() == pytest.approx([10 * math.log10(4 / 0.29)] * 2, abs=0.25)
    assert found["psnr_of_mean"].tolist() == pytest.approx([10 * math.log10(4 / (0.29 + 0.25 / 3))] * 2, abs=0.25)
    # the truth lies between the least and the largest of three in half of all cases, but for the shift
    assert found["coverage"].tolist() == pytest.approx([0.49] * 2, abs=0.02)


def test_a_stored_run_is_read_and_not_made_again(tmp_path):
    store = tmp_path / "runs.csv"
    runs.save(store, fabricated())
    assert list(map(repr, runs.load(store))) == list(map(repr, fabricated()))  # nan is not equal to itself
    wanted = iter([("digits", "MMPS", 5)])
    assert len(runs.complete(store, "judged", wanted)) == len(fabricated())
    store.write_text("a,b\n1,2\n")
    with pytest.raises(FileError, match="no table of these runs"):
        runs.load(store)


def test_the_page_and_the_picture(tmp_path):
    store, out = tmp_path / "runs.csv", tmp_path / "page.md"
    runs.save(store, fabricated())
    out.write_text("# Peers\n<!-- peers:begin -->\n<!-- peers:end -->\n")
    page.main(["--store", str(store), "--write", str(out), "--picture", str(tmp_path / "p.png")])
    text = out.read_text()
    assert "| `AzulaDPS` | 20.00 (30 %) | 22.00 (45 %) | 23.96 (47 %) | 24.06 (48 %) | 2.0 |" in text
    assert "`AzulaDPS(zeta=1.0)` | `AzulaDPS(zeta=0.3)` |" in text and "not run in full" in text
    assert (tmp_path / "p.png").stat().st_size > 5000
    kept = picture.shown({"digits": page.curves(fabricated(), "digits")})
    assert kept["azula"] == ["AzulaDPS"] and not kept["deepinv"] and set(kept["invgen"]) == {"MMPS", "DiffPIR"}


def test_ours_run_and_keep_to_their_evaluations(tmp_path):
    wanted = iter([("digits", "MMPS", 3), ("digits", "DiffPIR", 3)])
    found = runs.complete(tmp_path / "runs.csv", "judged", wanted, signals=2)
    assert [r.nfe for r in found] == [3, 3] and [r.vjps for r in found] == [9, 0]
    assert all(len(r.psnrs.split()) == 2 and 5 < r.psnr < 40 for r in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", candidates.GRIDS)
def test_peers_keep_to_their_evaluations(tmp_path, name):
    pytest.importorskip(candidates.package(name), exc_type=Exception)
    wanted = (("digits", spec, 4) for spec in candidates.settings(name))
    for run in runs.complete(tmp_path / "runs.csv", "tuning", wanted, signals=1):
        assert run.nfe == 4 or run.error


def test_ct_says_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv("INVGEN_DATA", str(tmp_path))
    with pytest.raises(FileError, match="invgen data ct"):
        problems.PROBLEMS["ct"].posterior("judged")
