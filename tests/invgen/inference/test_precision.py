"""solve(precision=): networks in bfloat16 where that is faster and harmless, said in the result."""

import pytest
import torch

import invgen
from invgen import UnsupportedError, operators, priors
from invgen.inference import precision
from invgen.inference.precision import SHARE, in_precision, trial
from invgen.numerics.precision import cast
from invgen.posterior import Posterior


@pytest.fixture
def post():
    prior = priors.load("ct", (1, 16, 16))
    A = operators.Downsample(prior.shape, 2)
    return Posterior(prior, A, 0.1, torch.zeros(A.out_shape))


@pytest.mark.parametrize("name", ["ct", "mr"])
def test_rounding_adds_little_to_the_error_of_the_denoiser(name):
    prior = priors.load(name, (1, 32, 32))
    _, added = trial(prior, cast(prior))
    # measured: 0.003 and 0.001 at 128 x 128; bfloat16 has 8 bits, the denoisers err by 5 to 100 % of a signal's noise
    assert 0 < added < SHARE / 5


@pytest.mark.parametrize(
    ("gain", "added", "supported", "want"),
    [(2.0, 0.01, True, "bfloat16"), (1.1, 0.01, True, "float32"), (2.0, 0.2, True, "float32"), (2, 0, False, "float32")],
)
def test_auto_takes_what_is_faster_and_harmless(post, monkeypatch, gain, added, supported, want):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: supported)
    monkeypatch.setattr(precision, "trial", lambda prior, low: (gain, added))
    chosen, name = in_precision(post, "auto")
    dtypes = {p.dtype for p in chosen.prior.parameters()}
    assert name == want and dtypes == {torch.bfloat16 if want == "bfloat16" else torch.float32}
    assert {p.dtype for p in post.prior.parameters()} == {torch.float32}  # the caller's own stays as it is


def test_the_result_says_what_auto_took(post, monkeypatch):
    for supported, want in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(precision, "has_bfloat16", lambda device, supported=supported: supported)
        monkeypatch.setattr(precision, "trial", lambda prior, low: (2.0, 0.01))
        result = invgen.solve(post.y, post.A, post.prior, 0.1, "DiffPIR(steps=2)", precision="auto")
        assert result.precision == want


def test_the_result_says_it_and_samples_differ_by_rounding(post):
    a, b = (
        invgen.solve(post.y, post.A, post.prior, 0.1, "AdaptivePiGDM(steps=4)", precision=p)
        for p in ("float32", "bfloat16")
    )
    assert (a.precision, b.precision) == ("float32", "bfloat16") and "bfloat16" in repr(b) and "float" not in repr(a)
    assert b.samples.dtype == torch.float32
    difference = (a.samples - b.samples).square().mean().sqrt().item()
    # a few roundings of 2^-8 of the network's output, times the size of the data
    assert 0 < difference < 0.1 * post.prior.data_std


def test_bfloat16_needs_a_network(post):
    exact = Posterior(priors.GaussianPrior(post.prior.shape), post.A, 0.1, post.y)
    with pytest.raises(UnsupportedError, match="Denoiser with a network"):
        in_precision(exact, "bfloat16")
    assert in_precision(exact, "auto")[1] == "float32"
