"""The outside benchmarks: their problems, their figures, and a run of each in seconds."""

import math

import pytest
import torch

from invgen.benchmarks.studies.outside import bipsda, levy, page
from invgen.benchmarks.studies.outside.rows import EXACT, Row, best_of, load, save
from invgen.errors import FileError
from invgen.forward import LinearOperator
from invgen.priors import GaussianPrior
from invgen.samplers import DPS

F64 = torch.float64
GAUSS = "Gauss(0, .25), Fourier"


def dense(A: LinearOperator) -> torch.Tensor:
    return A(torch.eye(64, dtype=F64)).T


def test_operators_of_the_walks():
    assert torch.equal(dense(levy.operator("denoising")), torch.eye(64, dtype=F64))
    blur = dense(levy.operator("deconvolution"))
    torch.testing.assert_close(blur.sum(1), torch.ones(64, dtype=F64))
    assert (blur[0] > 1e-9).sum() == 13 and blur[0, 60] == pytest.approx(blur[0, 4].item())
    seen = dense(levy.operator("imputation"))
    assert seen.shape == (33, 64) and seen[:4].argmax(1).tolist() == [0, 3, 6, 8]
    fourier = dense(levy.operator("Fourier"))
    torch.testing.assert_close(fourier @ fourier.T, torch.eye(len(fourier), dtype=F64))  # orthonormal rows
    torch.testing.assert_close(fourier[0], torch.full((64,), 1 / 8, dtype=F64))


def test_figures_of_a_gaussian_walk():
    of = levy.problem(GAUSS, 6)
    summed = torch.tril(torch.ones(64, 64, dtype=F64))
    prior = GaussianPrior((64,), torch.zeros(64, dtype=F64), covariance=0.25 * summed @ summed.T)
    laws = [prior.posterior(of.A, of.sigma, y) for y in of.post.y]
    best = torch.stack([law.mean for law in laws])
    x = torch.stack([law.sample(400, seed=i) for i, law in enumerate(laws)], 1)
    found = levy.figures(of, best, x)
    assert abs(found["gap"]) < 0.2  # a mean of 400 samples: .01 dB in expectation, of six signals
    # samples at the mean are the most probable ones: nothing is covered; samples of the prior cover everything
    assert levy.figures(of, best, best.expand(19, -1, -1))["coverage"] == 0
    assert levy.figures(of, best, of.prior.sample(19 * 6, seed=9).reshape(19, 6, 64))["coverage"] == 1
    log = levy.log_posterior(of, x)
    exact = torch.stack([law.log_prob(x[:, i]) for i, law in enumerate(laws)], 1)
    torch.testing.assert_close(log - log[0], exact - exact[0], rtol=1e-6, atol=1e-5)
    assert of.truth.equal(levy.problem(GAUSS, 12).truth[:6])


@pytest.mark.slow
def test_a_run_on_walks(tmp_path, capsys):
    path = tmp_path / "levy.csv"
    page.complete("levy", path, samplers=["DDS:10"], problems=[GAUSS], signals=4, sweeps=400)
    rows = {row.sampler: row for row in load(path)}
    assert set(rows) == {EXACT, "DDS"} and all(row.figures for row in rows.values())
    assert rows["DDS"].nfe == 10
    # of four signals: a mean of 19 exact samples is .22 dB off in expectation
    assert rows[EXACT].figures["gap"] < 1 and rows["DDS"].figures["gap"] < 3
    page.complete("levy", path, samplers=["DDS:10"], problems=[GAUSS], signals=4, sweeps=400)  # nothing is left to do
    assert len(load(path)) == 2 and len(capsys.readouterr().out.splitlines()) == 2


def test_annealed_draws_have_the_moments_of_a_known_posterior():
    prior, (A, noise) = bipsda.mixture(), bipsda.parts("inpainting, 5")
    y = A(prior.sample(1, seed=3))[0]
    law = prior.posterior(A, noise, y)
    mean, var, x = bipsda.tempered(prior, A, noise, y, 1000, seed=0)
    std = law.var.sqrt()
    # some thousands of draws count: .02 deviations, five times that
    assert ((mean - law.mean).abs() < 0.1 * std).all() and ((var / law.var - 1).abs() < 0.15).all()
    assert x.shape == (1000, 10) and len(x.unique(dim=0)) == 1000


@pytest.mark.slow
def test_a_run_on_mixtures(tmp_path):
    path = tmp_path / "bipsda.csv"
    page.complete("bipsda", path, samplers=["MMPS:10"], problems=["inpainting, .1"], measurements=2, samples=300)
    exact, found = sorted(load(path), key=lambda r: r.budget)
    assert exact.sampler == EXACT and exact.figures["variance"] < 0.5  # eight of the variances are .01, of two 1 to 2
    assert found.figures["variance"] < 1 and found.figures["mean"] < 0.5 and abs(found.figures["mmd"]) < 0.05
    assert [cell[1] for cell in bipsda.cells(problems=("phase retrieval",))][:1] == [EXACT]
    assert "MMPS" not in [cell[1] for cell in bipsda.cells(problems=("phase retrieval",))]  # it is for linear operators


def test_rows_and_the_page(tmp_path):
    path = tmp_path / "rows.csv"
    rows = [
        Row("Laplace(1), denoising", EXACT, 0, figures={"gap": 0.2, "gap_std": 0.3, "coverage": 0.9}),
        Row("Laplace(1), denoising", "MMPS", 25, figures={"gap": 0.35, "gap_std": 0.3, "coverage": 0.8}),
        Row("Laplace(1), denoising", "DPS", 100, "DPS(zeta=0.1)", error="DivergedError: at step 3"),
    ]
    save(path, rows)
    assert sorted(load(path), key=str) == sorted(rows, key=str)
    text = page.markdown(rows, [Row("x-ray", "DPS", 100, figures={"mean": 1.0, "variance": 2.0, "mmd": math.nan})])
    assert "| `MMPS` | 25 |  | 0.35 ± 0.30, 0.80 |  |  |" in text and "| `DPS` | 100 |  | DivergedError |  |  |" in text
    assert "denoising of Laplace(1) (0.15 dB above exact samples, published 0.09)" in text
    path.write_text("a,b\n1,2\n")
    with pytest.raises(FileError, match="no table of this study"):
        load(path)


def test_the_search_takes_the_smallest_and_skips_failures():
    def score(sampler: DPS) -> float:
        if sampler.zeta > 2:
            raise ValueError
        return abs(sampler.zeta - 1)

    assert best_of(["DPS(zeta=3.0)", "DPS(zeta=0.1)", "DPS(zeta=0.9)"], score) == "DPS(zeta=0.9)"
