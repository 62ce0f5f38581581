"""Priors side by side: the right one has the entropy of the law, samples that nothing tells apart, and the least error."""

import math

import pytest
import torch

import invgen
from invgen import OptionError, ShapeError, UnsupportedError, priors, samplers
from invgen.autoregressive import MarkovChain
from invgen.diffusion import Denoiser
from invgen.operators import Mask, Matrix

N = 12
PLACE = torch.arange(float(N))
C = torch.exp(-(PLACE[:, None] - PLACE).abs() / 4)
TRUE = priors.GaussianPrior((N,), covariance=C)
WHITE = priors.GaussianPrior((N,), var=1.0)


class Unknown(Denoiser):
    """The right law, which does not tell its density."""

    def forward(self, x, sigma):
        return TRUE(x, sigma)


@pytest.fixture(scope="module")
def report():
    chain = MarkovChain(N, [-1.0, 0.0, 1.0], torch.zeros(3, 3))
    vae = priors.VAE(lambda z: z, lambda x: (x, torch.zeros_like(x)), N, (N,))
    known = {"true": TRUE, "white": WHITE, "network": Unknown((N,), sigma_min=0.001), "codes": vae, "chain": chain}
    given = dict.fromkeys(known, samplers.MMPS(steps=25)) | {"codes": samplers.LinearisedTDS(particles=20, draws=20)}
    A = Matrix(torch.eye(N)[::2] + 0.3 * torch.eye(N)[1::2], (N,))
    return invgen.compare_priors(known, TRUE.sample(200, seed=1), A, 0.2, given, problems=20, num_samples=10, bin_width=0.1)


@pytest.mark.slow
def test_bits_are_those_of_the_law(report):
    # -log p in bits a value, on average (log det C / N + log 2 pi + 1) / 2 log 2, and the grid's log2 of 10; a hundredth of
    # it is the noise of 200 signals of 12 values: 1 / sqrt(2 * 200 * 12) / log 2 = .02
    entropy = (torch.logdet(C) / N + math.log(2 * math.pi) + 1).item() / 2 / math.log(2) + math.log2(10)
    for name in ("true", "network"):
        assert report.rows[name].bits[0] == pytest.approx(entropy, abs=0.08)  # four standard errors
    assert report.rows["true"].how == "exact" and report.rows["network"].how == "flow ODE"
    # the divergence of N(0, C) from N(0, I), -log det C / 2 N for unit variances
    more = -torch.logdet(C).item() / 2 / N / math.log(2)
    assert report.rows["white"].bits[0] - report.rows["true"].bits[0] == pytest.approx(more, abs=0.08)
    assert report.rows["codes"].how == "bound" and report.rows["chain"].how == "3 levels"
    assert report.rows["chain"].bits[0] == pytest.approx(math.log2(3), abs=1e-6)


@pytest.mark.slow
def test_samples_of_the_law_cannot_be_told_apart(report):
    # 400 signals: a standard deviation of .025
    assert report.rows["true"].forest < 0.6 < 0.7 < report.rows["white"].forest
    assert abs(report.rows["true"].mmd) < 0.01 < report.rows["white"].mmd


@pytest.mark.slow
def test_the_right_prior_has_the_least_error_and_the_right_intervals(report):
    rows = report.rows
    assert rows["true"].crps.mean() < 0.8 * rows["white"].crps.mean()
    # 240 values that depend on each other, of ten samples each: a standard deviation of about .06
    assert abs(rows["true"].coverage.mean() - 0.5) < 0.2
    assert rows["codes"].reconstruction == 0 and math.isnan(rows["true"].reconstruction)
    assert rows["chain"].result is None and "MMPS needs a Denoiser" in rows["chain"].note
    assert rows["true"].evaluations == 25 and rows["true"].parameters > N * N


@pytest.mark.slow
def test_it_prints_a_table_and_draws_a_picture(report, tmp_path):
    lines = str(report).splitlines()
    assert len(lines) == 1 + 5 + 1 and lines[0].startswith("prior") and lines[-1].startswith("chain: MMPS needs")
    report.plot(tmp_path / "priors.png", count=2)
    assert (tmp_path / "priors.png").stat().st_size > 1000


def test_each_prior_says_its_own_bits():
    x, chain = TRUE.sample(4, seed=1), MarkovChain(N, [-1.0, 0.0, 1.0], torch.zeros(3, 3))
    bits, how = TRUE.bits(x, 0.1)
    torch.testing.assert_close(bits, invgen.bits_per_dim(TRUE.log_prob(x), N, 0.1))
    assert how == "exact" and chain.bits(x, 0.1)[1] == "3 levels"
    known = Unknown((N,), sigma_min=0.001).bits(x, 0.1, steps=8)
    assert known is not None and known[1] == "flow ODE"
    # the ODE starts at sigma_min .001, its eight steps are off by a few per cent of a bit
    torch.testing.assert_close(known[0].float(), bits, rtol=0, atol=0.05)
    assert Unknown((N,), sigma_min=0.1, sigma_max=0.1).bits(x, 0.1) is None  # one level has no flow
    assert priors.Decoder(lambda z: z, N, (N,)).bits(x, 0.1) is None  # a decoder has no density


def test_what_does_not_fit_is_said():
    x, A = TRUE.sample(20, seed=1), Mask((N,), torch.arange(N) < 6)
    with pytest.raises(OptionError, match="^there is no prior to compare"):
        invgen.compare_priors({}, x, A, 0.1)
    with pytest.raises(OptionError, match="^there is no prior 'b' among a"):
        invgen.compare_priors({"a": TRUE}, x, A, 0.1, {"b": "MMPS"})
    with pytest.raises(ShapeError, match=r"^prior 'a' needs ten or more held-out signals of shape \(12,\), got \(5, 12\)"):
        invgen.compare_priors({"a": TRUE}, x[:5], A, 0.1)
    with pytest.raises(UnsupportedError, match="mean and a log-variance"):
        priors.VAE(lambda z: z, lambda x: x, N, (N,)).evidence_bound(x)
