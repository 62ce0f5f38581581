"""The noun that a suite runs: what classical methods, exact draws, peers and samplers share, and what each says itself."""

from dataclasses import dataclass

import pytest
import torch

import invgen
from invgen.benchmarks.methods import catalogue
from invgen.errors import DivergedError, OptionError, UnsupportedError
from invgen.method import Method, Run
from invgen.operators import Identity, PhaseRetrieval
from invgen.priors import GaussianPrior
from invgen.sampler import Sampler
from invgen.samplers.smc.base import EnsembleSampler


@dataclass(frozen=True)
class Constant(Method):
    """The same value everywhere."""

    value: float = 0.5

    def solve(self, post, num_samples, seed, run):
        x = torch.full((num_samples, *post.batch, *post.prior.shape), self.value)
        self.check_samples(post.prior, x)
        return x


def posterior(A=None, noise=0.1, batch=()):
    A = Identity((1, 4, 4)) if A is None else A
    return invgen.Posterior(GaussianPrior((1, 4, 4)), A, noise, torch.ones(*batch, *A.out_shape))


def test_a_method_is_a_class_with_solve():
    assert Constant(0.25)(posterior(batch=(2,)), 3).shape == (3, 2, 1, 4, 4)
    assert repr(Constant()) == "Constant(value=0.5)" and hash(Constant()) == hash(Constant(0.5))
    with pytest.raises(UnsupportedError, match="Constant needs noise with a density.*; samplers that fit: "):
        Constant()(posterior(noise=invgen.Noiseless()))
    with pytest.raises(OptionError, match="value of Constant must be a finite number"):
        Constant("much")
    for value in (float("1e30"), -1e30):
        with pytest.raises(DivergedError, match="Constant ended at values from"):
            Constant(value)(posterior())


def test_a_seed_for_each_measurement_is_for_those_that_take_it():
    post = posterior(batch=(2,))
    for method in (Constant(), catalogue.method("Adjoint"), catalogue.method("Exact")):
        assert not method.takes_seeds
        with pytest.raises(OptionError, match="takes one seed for a batch"):
            method(post, seed=[1, 2])
    assert catalogue.method("PiGDM(steps=2)")(post, seed=[1, 2]).shape == (1, 2, 1, 4, 4)


def test_what_is_no_sampler_does_not_pose_as_one():
    for name, cls in catalogue.others().items():
        assert issubclass(cls, Method) and not issubclass(cls, Sampler), name
        assert not any(hasattr(cls, part) for part in ("schedule", "start", "run", "draw_chunk")), name


def test_a_classical_method_needs_no_levels():
    # a denoiser of one noise level is enough for a method that never asks it
    prior = invgen.priors.from_denoiser(lambda x: x, (1, 4, 4), level=0.1)
    post = invgen.Posterior(prior, Identity((1, 4, 4)), 0.1, torch.ones(1, 4, 4))
    assert catalogue.method("Adjoint").refuses(post) is None
    assert catalogue.method("PiGDM").refuses(post) is not None
    nonlinear = posterior(PhaseRetrieval((1, 4, 4)))
    assert catalogue.method("Adjoint").refuses(nonlinear) == "needs a LinearOperator, got PhaseRetrieval"


@dataclass(frozen=True)
class Pairs(EnsembleSampler):
    """Chains of two rows, each with its own number in every value."""

    steps: int = 1

    def run(self, post, x, randn, cloud):
        yield torch.arange(len(x)).reshape(-1, 1, 1, 1).expand(x.shape).to(x) % 2


def test_an_ensemble_is_a_sampler_with_draws_of_several_rows(monkeypatch):
    sampler, seen = Pairs(particles=2, draws=2), []
    assert (sampler.rows_a_draw, sampler.samples_a_draw) == (2, 2)
    draw = EnsembleSampler.draw_chunk

    def watched(self, post, index, seed, run):
        seen.append(index.tolist())
        assert isinstance(run, Run) and run.max_batch == 4
        return draw(self, post, index, seed, run)

    monkeypatch.setattr(EnsembleSampler, "draw_chunk", watched)
    x = sampler(posterior(batch=(2,)), 3, max_batch=4)
    # three samples of two measurements are two chains for each; four rows at once are two chains
    assert seen == [[[0, 0], [0, 1]], [[1, 0], [1, 1]]]
    assert x.shape == (3, 2, 1, 4, 4) and set(x.flatten().tolist()) <= {0.0, 1.0}
