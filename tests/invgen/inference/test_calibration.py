"""Simulation-based calibration: the exact sampler passes at the stated rate, wrong ones are named for it."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import invgen
from invgen import operators, priors, samplers
from invgen.benchmarks.studies import mixture
from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.inference.simulation import sample, simulate, spawn
from invgen.pushforward import Flow, StandardNormal
from invgen.sampler import Sampler

D = 8


def gaussian():
    g = torch.Generator().manual_seed(0)
    C = torch.randn(D, D, generator=g, dtype=torch.float64)
    prior = priors.GaussianPrior(
        (D,), torch.linspace(-1, 1, D, dtype=torch.float64), covariance=C @ C.T / D + 0.1 * torch.eye(D)
    )
    return prior, operators.Matrix(torch.randn(4, D, generator=g, dtype=torch.float64)), 0.3


PRIOR, A, NOISE = gaussian()


@dataclass(frozen=True)
class Exact(Sampler):
    """The exact posterior of `gaussian()`, with its standard deviation times `scale`, moved by `shift` of them."""

    steps: int = 1
    scale: float = 1.0
    shift: float = 0.0
    noise: ClassVar[type] = invgen.Gaussian

    def run(self, post: invgen.Posterior, x: Tensor, randn) -> Iterator[Tensor]:
        H, S = post.A(torch.eye(D, dtype=x.dtype)).T, post.prior.covariance
        gain = S @ H.T @ torch.linalg.inv(H @ S @ H.T + NOISE**2 * torch.eye(len(H), dtype=x.dtype))
        S = S - gain @ H @ S
        mean = post.prior.mean + (post.y - post.A(post.prior.mean[None])) @ gain.T
        yield mean + self.shift * S.diagonal().sqrt() + self.scale * randn(x) @ torch.linalg.cholesky(S).T


@dataclass(frozen=True)
class Filled(Sampler):
    """The exact posterior of independent standard normal values of which some were measured, up to rounding."""

    steps: int = 1
    noiseless: ClassVar[bool] = True

    def run(self, post: invgen.Posterior, x: Tensor, randn) -> Iterator[Tensor]:
        z = randn(x)
        yield z + post.A.pinv(post.residual(z))


@dataclass(frozen=True)
class Ignorant(Sampler):
    """Samples of the prior, whatever was measured."""

    steps: int = 1

    def run(self, post: invgen.Posterior, x: Tensor, randn) -> Iterator[Tensor]:
        yield post.prior.mean + randn(x) @ torch.linalg.cholesky(post.prior.covariance).T


def calibrate(sampler, **options):
    return invgen.calibrate(PRIOR, A, NOISE, sampler, **options)


def test_the_exact_sampler_is_calibrated():
    c = calibrate(Exact())
    assert c.calibrated
    assert set(c.p_values) == set(c.ranks) == set(c.curves) == set(c.histograms)
    assert all(c.verdict(name) == "ok" for name in c.ranks)
    # 200 errors of 8 values each: a relative standard error of 3 to 5 %
    assert abs(c.spread_over_error - 1) < 0.15
    # of samples: (noise variance + posterior variance of A x) / noise variance, near 1 where the noise decides
    assert abs(c.residual_over_noise - 1) < 0.15
    assert c.coverage.inside and c.tarp.inside
    for level in (0.5, 0.8, 0.9, 0.95):
        nominal, coverage, low, high = c.interval(level)
        assert abs(nominal - level) < 1 / 51
        assert low <= coverage <= high


@pytest.mark.slow  # forty calibrations
def test_false_alarms_are_as_rare_as_stated():
    """At alpha = 0.2 at most 20 % of 40 exact runs are rejected, and 4 standard errors; few samples do not matter."""
    rejected = np.mean(
        [not calibrate(Exact(), num_simulations=40, num_samples=9, alpha=0.2, seed=k).calibrated for k in range(40)]
    )
    assert rejected <= 0.2 + 4 * (0.2 * 0.8 / 40) ** 0.5
    assert rejected > 0  # Bonferroni's correction is not so strict that nothing would ever be seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "name", "verdict"),
    [
        (Exact(scale=0.8), "joint region", "truths too far from the centre: too narrow or biased"),
        (Exact(scale=0.8), "log-likelihood", "samples fit the measurement too closely"),
        (Exact(scale=1.3), "joint region", "truths too near: too wide"),
        (Exact(scale=1.3), "log-likelihood", "samples fit the measurement too little"),
        (Exact(shift=-0.5), "mean", "samples too low"),
        (Exact(shift=0.5), "mean", "samples too high"),
        (Exact(scale=0.5), "value 3", "samples too narrow"),
        (Exact(scale=2.0), "value 3", "samples too wide"),
    ],
)
def test_wrong_samplers_are_named_for_what_is_wrong(sampler, name, verdict):
    c = calibrate(sampler)
    assert not c.calibrated
    assert c.verdict(name) == verdict
    assert "NOT calibrated" in str(c)
    if sampler.scale != 1:
        assert (c.spread_over_error < 0.9) == (sampler.scale < 1)
        assert (c.coverage.at(0.5)[1] < c.coverage.at(0.5)[2]) == (sampler.scale < 1)


def test_returning_the_prior_is_noticed_by_the_likelihood_alone():
    """Truths and samples both come from the prior: every quantity of the signal alone is uniform (Modrak et al., 2023)."""
    c = calibrate(Ignorant())
    assert c.verdict("log-likelihood") == "samples fit the measurement too little"
    assert [name for name in c.ranks if c.verdict(name) != "ok"] == ["log-likelihood"]


@pytest.mark.slow
def test_mmps_passes_on_gaussians_at_20_evaluations_where_first_order_fails():
    """Steps of first order leave its samples a fifth too narrow at 20; those of second order pass, stochastic or not."""
    options = {"num_simulations": 60, "num_samples": 9}
    first = calibrate(samplers.MMPS(steps=20, iterations=2, order=1, schedule="edm"), **options)
    assert not first.calibrated
    assert first.spread_over_error < 0.88
    for eta in (0.0, 1.0):
        second = calibrate(samplers.MMPS(steps=20, iterations=4, eta=eta), **options)
        assert second.calibrated
        assert abs(second.spread_over_error - 1) < 0.15


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler", [samplers.DampedDPS(steps=50, zeta=0.1), samplers.PnPDM(steps=20), samplers.DDNM(steps=50)]
)
def test_biased_samplers_fail_on_a_mixture(sampler):
    """The 25 components of MCGDiff's problem, one measurement: weak guidance, splitting stopped early, noise ignored."""
    row = torch.tensor([[1.0, -1.0, 0.5, 0.5, -0.5, 1.0, 0.0, -1.0]], dtype=torch.float64) / D**0.5
    c = invgen.calibrate(mixture.mixture(D), operators.Matrix(row), 0.5, sampler, num_simulations=100, num_samples=19)
    assert not c.calibrated
    assert c.p_values["log-likelihood"] < 0.05


def test_simulate():
    x, y = simulate(PRIOR, A, NOISE, 4000, seed=3)
    assert x.shape == (4000, D) and y.shape == (4000, 4)
    standard = (x - PRIOR.mean) / PRIOR.var.sqrt()
    assert standard.mean(0).abs().max() < 4 / 4000**0.5
    assert abs((y - A(x)).std().item() / NOISE - 1) < 4 / (2 * 16000) ** 0.5
    fewer = simulate(PRIOR, A, NOISE, 5, seed=3)
    assert torch.equal(fewer[0], x[:5]) and torch.equal(fewer[1], y[:5])
    assert not torch.equal(simulate(PRIOR, A, NOISE, 5, seed=4)[1], y[:5])
    assert spawn(3, 0) != spawn(3, 1) != spawn(-3, 1)


def test_noise_may_differ_between_detectors():
    sigma = torch.tensor([0.1, 1.0, 2.0, 4.0], dtype=torch.float64)
    x, y = simulate(PRIOR, A, invgen.Gaussian(sigma), 4000)
    torch.testing.assert_close((y - A(x)).std(0), sigma, rtol=0.05, atol=0)


class Learned(invgen.Denoiser):
    """A denoiser that cannot sample itself, as a network is."""

    def __init__(self):
        super().__init__((D,), sigma_min=PRIOR.sigma_min, sigma_max=PRIOR.sigma_max, data_std=PRIOR.data_std)
        self.inner = PRIOR

    def forward(self, x, sigma):
        return self.inner(x, sigma)


def test_every_kind_of_prior_can_be_drawn_from():
    def close(x, mean, std):
        assert (x.mean(0) - mean).abs().max() < 5 * std.max() / len(x) ** 0.5
        # 5 standard errors of 1000, and 3 % for the error of Heun's method with 32 steps
        torch.testing.assert_close(x.std(0), std, rtol=0.14, atol=0)

    mean, std = PRIOR.mean, PRIOR.var.sqrt()
    close(sample(PRIOR.rescaled(2.0, 3.0), 1000), 2 * mean + 3, 2 * std)
    close(sample(Learned(), 1000), mean, std)
    close(sample(Learned().rescaled(2.0, 3.0), 1000), 2 * mean + 3, 2 * std)
    close(sample(Flow(PRIOR, 32, method="heun"), 1000), mean, std)
    close(sample(StandardNormal((3,)), 1000), torch.zeros(3), torch.ones(3))

    class Flat(invgen.Prior):
        pass

    with pytest.raises(UnsupportedError, match="cannot draw from a Flat: a prior needs a method sample"):
        sample(Flat((3,)), 2)


@pytest.mark.slow
def test_a_prior_without_samples_of_its_own():
    c = invgen.calibrate(Learned(), A, NOISE, "mmps", 10, 4, prior_sampler=samplers.Ancestral(steps=8))
    flow = simulate(Learned(), A, NOISE, 10, prior_sampler=samplers.Heun(steps=8))[0]
    assert c.x.shape == (10, D)
    assert c.nfe > 0
    assert not torch.equal(c.x, flow)
    with pytest.raises(UnsupportedError, match="by an unconditional sampler, such as Heun or Ancestral, got DPS"):
        simulate(Learned(), A, NOISE, 10, prior_sampler=samplers.DPS())


def test_the_seed_decides_and_the_batch_does_not():
    options = {"num_simulations": 12, "num_samples": 5}
    a, b = (calibrate(samplers.DPS(steps=5), **options, max_batch=n) for n in (None, 7))
    other = calibrate(samplers.DPS(steps=5), **options, seed=1)
    for name in a.ranks:
        assert torch.equal(a.ranks[name], b.ranks[name])
    assert any(not torch.equal(a.ranks[name], other.ranks[name]) for name in a.ranks)


def test_own_quantities():
    largest = {"largest": lambda x, y: x.amax(1), "fit": lambda x, y: (y - A(x)).square().sum(1)}
    c = calibrate(Exact(), num_simulations=50, num_samples=9, quantities=largest)
    assert c.ranks["largest"].shape == (50,)
    assert torch.equal(c.ranks["fit"], 9 - c.ranks["log-likelihood"])
    with pytest.raises(OptionError, match="a test quantity 'mean' already"):
        calibrate(Exact(), num_simulations=10, quantities={"mean": lambda x, y: x[:, 0]})
    with pytest.raises(ShapeError, match=r"'all' must return one number a signal, \(B,\)"):
        calibrate(Exact(), num_simulations=10, quantities={"all": lambda x, y: x})


def test_values_that_are_measured_exactly_are_ties():
    """A projection returns measured values up to rounding: their ranks must not depend on the rounding."""
    prior = priors.GaussianPrior((1, 6, 6))
    mask = operators.Mask.random((1, 6, 6), 0.5)
    c = invgen.calibrate(prior, mask, invgen.Noiseless(), Filled(), num_simulations=60, num_samples=9)
    assert c.calibrated
    assert "log-likelihood" not in c.ranks
    assert np.isnan(c.residual_over_noise)
    assert json.loads(json.dumps(c.summary()))["residual_over_noise"] is None


@pytest.mark.slow
def test_signals_of_any_rank_and_nonlinear_operators():
    prior = priors.GaussianPrior((2, 3, 4, 5))
    A3 = operators.from_function(torch.tanh, (2, 3, 4, 5))
    c = invgen.calibrate(prior, A3, 0.5, samplers.AdaptiveDAPS(steps=2), num_simulations=10, num_samples=4)
    assert any(name.startswith("value (") for name in c.ranks)
    one = invgen.calibrate(priors.GaussianPrior((1,)), operators.Identity((1,)), 1.0, "dps", 10, 4)
    assert set(one.ranks) == {"log-likelihood", "value 0", "joint region", "random points (TARP)"}


@pytest.mark.slow
def test_plot_and_summary(tmp_path):
    c = calibrate(Exact(scale=0.6), num_simulations=60, num_samples=19)
    figure = c.plot(tmp_path / "calibration.png")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "coverage of joint credible regions"
    assert "log-likelihood\nsamples fit the measurement too closely" in titles
    with Image.open(tmp_path / "calibration.png") as picture:
        assert np.asarray(picture).std() > 0
    summary = json.loads(json.dumps(c.summary()))
    assert summary["calibrated"] is False
    assert summary["quantities"]["mean"]["ranks"] == c.ranks["mean"].tolist()
    assert len(summary["intervals"]) == 4
    lines = c.table().splitlines()
    assert lines[0] == "| credible regions | nominal | coverage | calibrated |"
    assert sum("**!**" in line for line in lines) > 0


def test_errors():
    for options, sentence in [
        ({"num_simulations": 5}, "at least 10 simulations"),
        ({"num_simulations": 0}, "positive whole number, got 0"),
        ({"num_samples": 3}, "at least 4 samples"),
        ({"alpha": 1.5}, "alpha of calibrate must be a number from 0 to 1"),
    ]:
        with pytest.raises(OptionError, match=sentence):
            calibrate(Exact(), **options)
    with pytest.raises(OptionError, match="unknown sampler 'dpz'; did you mean 'DPG' or 'DPS'"):
        calibrate("dpz")
    with pytest.raises(OptionError, match="must be an invgen Sampler"):
        calibrate(samplers.DPS)
    with pytest.raises(OptionError, match="set draws=1"):
        calibrate(samplers.TDS(draws=2))
    with pytest.raises(UnsupportedError, match="DDRM needs a LinearOperator.*samplers that fit: "):
        invgen.calibrate(PRIOR, operators.from_function(lambda x: x**2, (D,)), 0.1, "ddrm")
    with pytest.raises(ShapeError, match="takes signals of shape"):
        invgen.calibrate(PRIOR, operators.Identity((3,)), 0.1, "dps")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*args):
        from invgen.cli import main

        with pytest.raises(SystemExit) as end:
            main(["calibrate", *map(str, args)])
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out, printed.err

    return call


PROBLEM = ("-p", "GaussianPrior(shape=[6])", "-A", "Identity", "-n", "0.5")


@pytest.mark.slow
def test_command_line(run, tmp_path):
    code, out, err = run(*PROBLEM, "-s", "DPS(steps=5)", "-N", 20, "-k", 9, "-o", "there", "--seed", 4)
    assert (code, err) == (0, "")
    assert "20 simulations of 9 samples, seed 4" in out
    assert "| test quantity | mean rank | p-value | verdict |" in out
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == ["calibration.json", "calibration.png"]
    summary = json.loads((tmp_path / "there" / "calibration.json").read_text())
    again = invgen.calibrate(priors.GaussianPrior((6,)), operators.Identity((6,)), 0.5, samplers.DPS(steps=5), 20, 9, 4)
    assert summary["quantities"]["mean"]["ranks"] == again.ranks["mean"].tolist()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("-s", "DPZ"), "did you mean 'DPG' or 'DPS'?"),
        (("-s", "DDRM", "-A", "Quantize(levels=4)"), "samplers that fit: "),
        (("-n", "-1"), "must be a positive number"),
        (("--prior-sampler", "DPS"), "by an unconditional sampler"),
        (("--alpha", 2), "alpha of calibrate must be a number from 0 to 1"),
        (("--size", "12x"), "cannot read the size"),
        (("--device", "quantum"), "cannot work on device"),
    ],
)
def test_command_line_errors_are_one_sentence_and_leave_nothing(run, tmp_path, change, sentence):
    code, out, err = run(*PROBLEM, "-s", "DPS(steps=2)", "-N", 10, "-k", 4, *change)
    assert (code, out) == (2, "")
    assert sentence in err and err.startswith("invgen: ") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_interrupt_leaves_earlier_results(run, tmp_path, monkeypatch):
    assert run(*PROBLEM, "-s", "DPS(steps=2)", "-N", 10, "-k", 4)[0] == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(samplers.DPS, "run", interrupted)
    assert run(*PROBLEM, "-s", "DPS(steps=2)", "-N", 10, "-k", 4)[0] == 130
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
