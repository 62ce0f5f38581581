"""Cells: what a record tells, and several of them computed by one call of the sampler."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from invgen import samplers
from invgen.benchmarks.engine import compute as work
from invgen.benchmarks.engine.runner import run
from invgen.benchmarks.engine.store import Store
from invgen.benchmarks.engine.tasks import tasks_of
from invgen.benchmarks.report.page import report
from invgen.benchmarks.suite import parts
from invgen.benchmarks.suite.cell import Cell
from invgen.benchmarks.suite.expand import expand
from invgen.errors import OptionError
from invgen.names import resolve
from invgen.noise import Gaussian
from invgen.operators import Mask
from invgen.posterior import Posterior
from invgen.priors import GaussianPrior
from invgen.sampler import Cost, Sampler

SUITE = {
    "data": "images",
    "priors": "my_suite:smooth",
    "problems": {"operator": "my_suite:Half", "noise": 0.1},
    "samplers": ["AdaptivePiGDM(steps=3)", "AdaptiveDAPS(steps=2)"],
    "num_samples": 5,
    "metrics": ["psnr", "residual"],
}


def test_a_prior_in_two_sizes_is_two_in_the_tables():
    cell = Cell("k", "p", "A", "0.1", "photo", "DPS", "face", 0, 1, "s", "i", "p", 0, 0)
    assert [replace(cell, size=size).facts()["prior"] for size in (None, (64, 96))] == ["photo", "photo 64x96"]


@pytest.mark.slow
def test_a_run_keeps_what_it_was_asked_for_and_its_report_is_named_after_it(here):
    run(SUITE | {"title": "Halves & wholes"}, "out", progress=False)
    assert Store("out").suite() == {"file": "the suite", **SUITE, "title": "Halves & wholes"}
    report("out", formats=("html", "md"))
    assert "<title>Halves &amp; wholes" in (here / "out" / "report.html").read_text()
    (here / "out" / "suite.json").unlink()
    report("out", formats=("html",))
    assert "<title>out" in (here / "out" / "report.html").read_text()


def test_a_suite_that_asks_runs_its_networks_in_bfloat16_and_says_so(here):
    np.save("images/0.npy", np.linspace(-1, 1, 256, dtype=np.float32).reshape(1, 16, 16))
    asks = {
        "data": "images/0.npy",
        "priors": {"prior": "ct", "size": "16x16"},
        "problems": {"operator": "Downsample(factor=2)", "noise": 0.1},
        "samplers": ["DiffPIR(steps=2)"],
    }
    plain, spelled, half, auto = (expand(asks | more)[0] for more in (
        {}, {"precision": "float32"}, {"precision": "bfloat16"}, {"precision": "auto"}))  # fmt: skip
    # who does not ask has the key that cells had before one could ask
    assert plain.key == spelled.key and len({plain.key, half.key, auto.key}) == 3
    assert [c.facts()["prior"] for c in (plain, half)] == ["ct 16x16", "ct 16x16 (bfloat16)"]
    (a, x), (b, y) = (work.compute([cell])[0] for cell in (plain, half))
    assert [record["made_by"]["precision"] for record in (a, b)] == ["float32", "bfloat16"]
    difference = abs(x["mean"] - y["mean"]).max()
    # the same noise: roundings of 2^-9 of the network's output, in two steps; values reach 1
    assert 0 < difference < 0.05
    with pytest.raises(OptionError, match=r"precision: .*needs a Denoiser with a network in float32, got GaussianPrior"):
        expand(asks | {"priors": "my_suite:smooth", "data": "images/1.npy", "precision": "bfloat16"})
    with pytest.raises(OptionError, match=r"precision: .*bfloat16"):
        expand(asks | {"precision": "float16"})


@pytest.mark.slow
def test_a_record_tells_what_it_took(here):
    run(SUITE, "out", progress=False)
    record = Store("out").record(expand(SUITE)[0].key)
    assert record["kind"] == "sampler"
    assert record["calibration"]["levels"] == pytest.approx([1 / 3, 2 / 3])
    # AdaptivePiGDM(steps=3): at each step one evaluation of the network, and two products with its Jacobian (the second is
    # the width)
    assert record["cost"]["nfe"] == record["nfe"] == 3 and record["cost"]["vjps"] == 6
    assert {"commit", "commit_of_invgen"} <= record["environment"].keys()


class Counted(Mask):
    """Counts by itself how many rows it is applied to, it or its adjoint."""

    rows = 0

    def forward(self, x):
        Counted.rows += len(x)
        return super().forward(x)

    def adjoint(self, y):
        Counted.rows += len(y)
        return super().adjoint(y)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["DampedDPS", "DampedMPGD", "RedDiff", "AdaptiveDAPS"])
def test_applications_of_the_operator_are_counted(spec):
    prior, cost = GaussianPrior(shape=(1, 4, 4)), Cost()
    A = Counted(prior.shape, (torch.arange(16) % 3 > 0).reshape(1, 4, 4))
    post = Posterior(prior, A, Gaussian(0.1), torch.randn(2, *A.out_shape, generator=torch.Generator().manual_seed(0)))
    Counted.rows = 0
    sampler = samplers.get(spec)(steps=4)
    sampler(post, 3, cost=cost)
    assert cost.operator_calls * 6 >= Counted.rows > 0  # differentiation through A is counted by `cost` alone
    assert "adjoint" not in vars(A)  # nothing stays behind
    assert (cost.vjps > 0) == sampler.backprop


BATCHED = [
    "AdaptivePiGDM(steps=4)",
    "DPS(steps=4)",
    "AdaptiveDAPS(steps=3)",
    "DDRM(steps=4)",
    "LinearisedTDS(steps=4, particles=6)",
    "RegressionEnKG(steps=4)",
    "SCG(steps=4)",
]


@pytest.mark.slow
@pytest.mark.parametrize("spec", BATCHED)
def test_a_measurement_with_a_seed_of_its_own_is_as_good_as_alone(spec):
    """To the round-off of single precision, which other sizes of batches change: some 1e-7 a step, times the steps."""
    prior = GaussianPrior(shape=(1, 4, 4))
    A = Mask(prior.shape, (torch.arange(16) % 3 > 0).reshape(1, 4, 4))
    y = torch.randn(3, *A.out_shape, generator=torch.Generator().manual_seed(0))
    sampler, seeds = resolve.sampler(spec), [5, 2**40, 2**63 - 1]
    together = sampler(Posterior(prior, A, Gaussian(0.2), y), 4, seeds, max_batch=7)
    for k, seed in enumerate(seeds):
        alone = sampler(Posterior(prior, A, Gaussian(0.2), y[k]), 4, seed)
        torch.testing.assert_close(together[:, k], alone, rtol=1e-5, atol=1e-5)


def test_seeds_that_do_not_fit_the_measurements_are_refused():
    prior = GaussianPrior(shape=(1, 4, 4))
    A = Mask(prior.shape, torch.ones(1, 4, 4))
    post = Posterior(prior, A, 0.1, torch.zeros(2, *A.out_shape))
    with pytest.raises(OptionError, match="a list of 2, one for each measurement"):
        samplers.PiGDM(steps=2)(post, 1, [1, 2, 3])


def test_cells_of_a_batch_differ_in_the_image_alone(here):
    cells = expand("suite.yaml")
    for task in tasks_of(cells, 8):
        assert len({(c.problem, c.operator, c.sampler, c.seed, c.prior) for c in task}) == 1
        assert len({c.image for c in task}) == len(task) == 2
    assert sorted(c.key for task in tasks_of(cells, 8) for c in task) == sorted(c.key for c in cells)
    assert tasks_of(cells, 1) == [(c,) for c in cells]


@pytest.mark.slow
def test_a_run_in_batches_gives_what_a_run_without_gives(here, monkeypatch):
    report = run("suite.yaml", "alone", progress=False)
    calls = []
    monkeypatch.setattr(
        work, "_solved", lambda cells, posts, real=work._solved: calls.append(len(cells)) or real(cells, posts)
    )
    assert run("suite.yaml", "batches", batch=8, progress=False).done == report.done == 24
    assert calls == [2] * 12
    for cell in expand("suite.yaml"):
        one, other = (Store(out).record(cell.key) for out in ("alone", "batches"))
        assert one["cell"] == other["cell"] and one["nfe"] == other["nfe"]
        # psnr in dB: 1e-5 of round-off at values of 1 is 1e-4 dB
        assert one["metrics"] == pytest.approx(other["metrics"], abs=1e-3)
        one, other = (Store(out).arrays(cell.key) for out in ("alone", "batches"))
        for name in one:
            torch.testing.assert_close(torch.as_tensor(one[name]), torch.as_tensor(other[name]), rtol=1e-5, atol=1e-5)


@dataclass(frozen=True)
class Own(Sampler):
    """A sampler that knows nothing of batches."""

    def __call__(self, post, num_samples=1, seed=0, **options):
        assert post.batch == () and isinstance(seed, int)
        return torch.zeros(num_samples, *post.prior.shape)


@pytest.mark.slow
def test_a_sampler_with_a_call_of_its_own_gets_one_cell_at_a_time(here):
    suite = SUITE | {"samplers": f"{__file__}:Own"}
    assert run(suite, "out", batch=4, progress=False).done == 2


def test_one_bad_image_of_a_batch_fails_alone(here):
    (here / "my_metric.py").write_text(
        "import pathlib\ndef odd(samples, truth, posterior):\n"
        "    if pathlib.Path('now').exists() and truth[0, 0, 0] < 0.2: raise ValueError('odd')\n    return 1.0\n"
    )
    suite = SUITE | {"metrics": ["my_metric.py:odd"], "samplers": "PiGDM(steps=3)"}
    cells = expand(suite)
    (here / "now").touch()  # only now: the rehearsal of `expand` computes the metric too
    from invgen.benchmarks.engine.tasks import run_task

    store = Store("out")
    store.prepare()
    values = [parts.problem_of(cell)[1][0, 0, 0].item() for cell in cells]
    assert sorted(v < 0.2 for v in values) == [False, True], values
    assert run_task(tuple(cells), "out") == ["failed" if v < 0.2 else "done" for v in values]
