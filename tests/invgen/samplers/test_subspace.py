"""The subspace of the state that a gradient may be kept in (DiffStateGrad): an option of all that are guided by one."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from invgen import CallError, Gaussian, OptionError, Posterior, UnsupportedError, samplers
from invgen.operators import Matrix
from invgen.priors import GaussianMixture
from invgen.pushforward import Generator
from invgen.samplers.guided.base import GradientGuided
from tests.invgen.samplers.gaussian_problems import normal

SHAPE = (2, 4, 4)
TUNED = {"UniversalGuidance": {"forward": 0.02, "recurrences": 2}, "LGD": {"zeta": 0.02}, "MPGD": {"zeta": 0.3}}
TAKE_IT = [c for c in samplers.catalogue().values() if issubclass(c, GradientGuided)]
each = pytest.mark.parametrize("cls", [c for c in TAKE_IT if c is not samplers.PSLD], ids=lambda c: c.__name__)


def problem(shape: tuple[int, ...] = SHAPE, batch: tuple[int, ...] = ()) -> Posterior:
    prior = GaussianMixture(normal(3, *shape), [0.2, 0.3, 0.5], var=0.4)
    A = Matrix(normal(3, math.prod(shape), seed=1), shape)
    return Posterior(prior, A, Gaussian(3.0), normal(*batch, 3, seed=2))  # weak data: six steps do not amplify round-off


def short(cls: type[GradientGuided], **options: float) -> GradientGuided:
    return cls(steps=6, **TUNED.get(cls.__name__, {}), **options)


def test_every_sampler_that_is_guided_by_a_gradient_takes_it():
    assert {c.__name__ for c in TAKE_IT} >= {"DPS", "FreeDoM", "LGD", "MMPS", "MPGD", "PiGDM", "TMPD", "UniversalGuidance"}
    with pytest.raises(CallError, match="subspace"):
        samplers.DiffPIR(subspace=0.9)  # solves for the signal: there is no gradient


@each
def test_the_option_keeps_the_contract(cls):
    post, sampler = problem(), short(cls, subspace=0.9, subspace_every=2)
    x = sampler(post, 5)
    assert x.shape == (5, *SHAPE) and torch.equal(x, sampler(post, 5))
    assert not torch.equal(x, sampler(post, 5, 1)) and not torch.equal(x, short(cls)(post, 5))
    for same in (sampler(post, 5, max_batch=2), sampler(replace(post, y=post.y.expand(2, 3)), 5)[:, 0]):
        torch.testing.assert_close(same, x, rtol=1e-8, atol=1e-8)  # sums of another order, over six steps
    assert torch.equal(short(cls, subspace=1.0, subspace_every=2)(post, 5), short(cls)(post, 5))
    # all of a state but round-off, and the whole of it
    close = short(cls, subspace=1 - 1e-12)(post, 5)
    torch.testing.assert_close(close, short(cls)(post, 5), rtol=1e-8, atol=1e-8)


def test_the_guidance_is_projected_on_the_leading_singular_vectors_of_each_channel():
    post, x, share = problem(batch=(4,)), 3 * normal(4, *SHAPE, seed=3), 0.8
    for cls in (samplers.PiGDM, samplers.MMPS, samplers.TMPD, samplers.DampedDPS):
        s = cls(steps=6).levels(post.prior)[2][0]
        x0 = post.prior(x, s)
        free, got = (cls(steps=6, subspace=kept).guide(post, x, s) - x0 for kept in (1.0, share))
        for b in range(4):
            for c in range(2):
                U, S, Vh = torch.linalg.svd(x[b, c], full_matrices=False)
                power = S.square() / S.square().sum()
                r = next(r for r in range(1, 5) if power[:r].sum() >= share)
                wanted = U[:, :r] @ U[:, :r].T @ free[b, c] @ Vh[:r].T @ Vh[:r]
                torch.testing.assert_close(got[b, c], wanted, rtol=1e-9, atol=1e-12)


def test_the_steps_between_are_not_projected():
    post, x = problem(), normal(2, *SHAPE)
    sampler = samplers.DPS(steps=6, subspace=0.5, subspace_every=3)
    same = [torch.equal(sampler.within(post.prior, x, s, x), x) for s, _ in sampler.levels(post.prior)]
    assert same == [False, True, True, False, True, True]


def test_signals_that_are_no_matrices_are_refused():
    for shape in ((6,), (2, 2, 2, 2)):
        with pytest.raises(UnsupportedError, match=r"MMPS needs signals of shape \(H, W\) or \(C, H, W\) for subspace < 1"):
            samplers.MMPS(subspace=0.9)(problem(shape), 1)
    assert samplers.MMPS(steps=3, subspace=0.9)(problem((4, 5)), 1).shape == (1, 4, 5)
    for bad in (0.0, 1.5):
        with pytest.raises(OptionError, match="subspace of MMPS must be"):
            samplers.MMPS(subspace=bad)


class Turned(Generator):
    """x = -z over a mixture of codes, and back."""

    def __init__(self) -> None:
        super().__init__(SHAPE, GaussianMixture(normal(3, *SHAPE), var=0.4), data_std=1.0)

    def forward(self, z: Tensor) -> Tensor:
        return -z

    def encode(self, x: Tensor) -> Tensor:
        return -x


def test_in_a_latent_the_gradient_is_that_of_the_code():
    post = replace(problem(), prior=Turned())
    for cls in (samplers.PSLD, samplers.DampedDPS):
        x, free = (cls(steps=6, subspace=kept)(post, 3) for kept in (0.8, 1.0))
        assert torch.isfinite(x).all() and not torch.equal(x, free)


def test_it_is_a_projection_that_only_takes_away():
    prior, sampler = problem().prior, samplers.DPS(subspace=0.6)
    x, g, s = normal(2, *SHAPE), normal(2, *SHAPE, seed=1), sampler.levels(problem().prior)[0][0]
    once = sampler.within(prior, x, s, g)
    torch.testing.assert_close(sampler.within(prior, x, s, once), once, rtol=1e-9, atol=1e-12)
    assert (once.square().sum((1, 2, 3)) < g.square().sum((1, 2, 3))).all()
