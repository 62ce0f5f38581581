"""Editing: SDEdit between its guide and the prior, blending that leaves the rest of the image alone."""

import pytest
import torch
from torch import Tensor

from invgen import Gaussian, OptionError, Posterior, ShapeError, UnsupportedError, samplers
from invgen.forward import Operator
from invgen.noise import Noiseless, Poisson
from invgen.operators import Identity, Mask
from invgen.priors import GaussianPrior
from tests.invgen.samplers.gaussian_problems import (
    EYE,
    F64,
    SHAPE,
    N,
    assert_same_law,
    correlated,
    ddim,
    denoiser,
    distance,
    law,
    normal,
    propagate,
)

KEEP = torch.tensor([[1.0, 0, 0], [1, 0, 1]])


def painting(sigma: float = 0.0) -> Posterior:
    """A guide far off the prior: every value three standard deviations out."""
    prior = correlated()
    y = (prior.mean.flatten() + 3 * prior.covariance.diagonal().sqrt()).reshape(SHAPE)
    return Posterior(prior, Identity(SHAPE), Gaussian(sigma) if sigma else Noiseless(), y)


def trade(sampler: samplers.SDEdit, post: Posterior) -> tuple[float, float]:
    """Root mean square distance from the guide, and W2 from the prior, both over the root of the prior's variance."""
    m, P = law(sampler, post)
    prior = post.prior
    scale = prior.covariance.trace().sqrt()
    away = ((m - post.y.flatten()).square().sum() + P.trace()).sqrt() / scale
    return away.item(), distance((m, P), (prior.mean.flatten(), prior.covariance))


def test_sdedit_follows_its_recursion():
    post, sampler = painting(), samplers.SDEdit(steps=8, eta=0.5)
    start = post.y.flatten(), sampler.levels(post.prior)[0][0] ** 2 * EYE
    wanted = propagate(sampler, post, lambda s, s_next: ddim(*denoiser(post.prior, s), s, s_next, 0.5), start)
    assert_same_law(law(sampler, post), wanted, tol=1e-9)


def test_sdedit_trades_the_guide_for_the_prior():
    found = [trade(samplers.SDEdit(steps=100, sigma0=t), painting()) for t in (0.01, 0.1, 0.5, 2.5, 20.0)]
    away, unlikely = zip(*found, strict=True)
    # faithful with little noise: the guide, three standard deviations and more from the prior's mass
    assert away[0] < 0.05 and unlikely[0] > 2.9
    # realistic with much: the prior (5 % of discretisation), as far from the guide as its samples are, sqrt(1 + 9)
    assert unlikely[-1] < 0.07 and away[-1] == pytest.approx(10**0.5, rel=0.03)
    assert list(away) == sorted(away) and list(unlikely) == sorted(unlikely, reverse=True)
    assert away == pytest.approx(AWAY, abs=0.02), found
    assert unlikely == pytest.approx(UNLIKELY, abs=0.02), found


@pytest.mark.slow
def test_repeating_sdedit_goes_on_towards_the_prior():
    found = [trade(samplers.SDEdit(steps=50, sigma0=0.5, repeats=r), painting())[1] for r in (1, 3, 9)]
    assert found == pytest.approx(REPEATS, abs=0.02), found


def test_noise_in_the_guide_draws_it_towards_the_mean_value():
    clean, noisy = (law(samplers.SDEdit(steps=20, sigma0=0.01), painting(s))[0] for s in (0.0, 1.0))
    prior = painting().prior
    share = prior.data_std**2 / (prior.data_std**2 + 1)
    torch.testing.assert_close(noisy - prior.data_mean, share * (clean - prior.data_mean), rtol=0.05, atol=0.05)


def test_stroke_editing_keeps_the_photograph():
    post = painting()
    x = samplers.SDEdit(steps=30, sigma0=5.0, repeats=2, keep=KEEP)(post, 200)
    kept = (KEEP != 0).expand_as(x)
    torch.testing.assert_close(x[kept], post.y.expand_as(x)[kept])
    free = samplers.SDEdit(steps=30, sigma0=5.0, repeats=2)(post, 200)
    # what lies between values that were kept moves towards them, off the prior
    gap = (x - free).mean(0)[KEEP == 0]
    assert (x - post.y)[~kept].abs().mean() > 0.5 and gap.abs().max() > 0.2


def independent() -> GaussianPrior:
    return GaussianPrior(SHAPE, normal(*SHAPE), 0.5)


@pytest.mark.slow
def test_blending_keeps_the_outside_and_guides_the_inside():
    prior, image = independent(), 5 + normal(*SHAPE, seed=1)
    A = Mask(SHAPE, KEEP == 0)  # the wish is about the edited values
    post = Posterior(prior, A, Gaussian(0.3), prior.mean[KEEP == 0] + 2)
    x = samplers.BlendedDiffusion(steps=100, image=image, keep=KEEP)(post, 2000)
    kept = (KEEP != 0).expand_as(x)
    assert torch.equal(x[kept], image.expand_as(x)[kept])
    # independent values: inside it is DPS's guidance, and fraction=1 is exact there
    exact = prior.posterior(A, post.noise, post.y)
    x = samplers.BlendedDiffusion(steps=100, fraction=1.0, image=image, keep=KEEP)(post, 2000)[:, KEEP == 0]
    mean, std = exact.mean[KEEP == 0], exact.var[KEEP == 0].sqrt()
    # five standard errors, and 5 % of discretisation
    assert ((x.mean(0) - mean).abs() < (5 / 2000**0.5 + 0.05) * std).all()
    assert ((x.std(0) / std - 1).abs() < 5 / 4000**0.5 + 0.05).all()


def test_blending_starts_from_the_image_as_far_as_sigma0_lets_it():
    # little noise: the image shows through where nothing is asked for
    prior, image = independent(), torch.full(SHAPE, 5.0, dtype=F64)
    post = Posterior(prior, Mask(SHAPE, KEEP), Gaussian(1.0), torch.full((3,), 5.0, dtype=F64))
    low, high = (
        samplers.BlendedDiffusion(steps=30, image=image, keep=KEEP, sigma0=t)(post, 50)[:, KEEP == 0].mean()
        for t in (0.1, 34.0)
    )
    assert low > 4.5 and abs(high - prior.mean[KEEP == 0].mean()) < 0.5


class Curved(Operator):
    def forward(self, x: Tensor) -> Tensor:
        return (x**2).flatten(1)


def test_blending_takes_any_operator_and_noise():
    image = normal(*SHAPE, seed=1)
    for noise in (Gaussian(0.5), Poisson(0.1)):
        post = Posterior(independent(), Curved(SHAPE), noise, torch.full((N,), 2.0, dtype=F64))
        x = samplers.BlendedDiffusion(steps=20, image=image, keep=KEEP)(post, 4)
        assert torch.isfinite(x).all() and torch.equal(x[:, KEEP != 0], image[KEEP != 0].expand(4, -1))
    with pytest.raises(UnsupportedError, match="SDEdit needs a LinearOperator"):
        samplers.SDEdit()(post)


def test_blending_without_an_image_is_dps():
    post = Posterior(independent(), Mask(SHAPE, KEEP), Gaussian(0.3), normal(3))
    torch.testing.assert_close(samplers.BlendedDiffusion(steps=10)(post, 3), samplers.DampedDPS(steps=10)(post, 3))


def test_images_among_the_options_compare_by_content():
    a, b = (samplers.SDEdit(keep=KEEP.clone()) for _ in range(2))
    other = samplers.SDEdit(keep=1 - KEEP)
    assert a == b and hash(a) == hash(b) and repr(a) == repr(b)
    assert a != other and hash(a) != hash(other) and repr(a) != repr(other) and a != samplers.SDEdit()
    assert "keep=<tensor of shape (2, 3) #" in repr(a)
    image = normal(*SHAPE)
    assert samplers.BlendedDiffusion(image=image, keep=KEEP) == samplers.BlendedDiffusion(image=image.clone(), keep=KEEP)


def test_bad_options_are_refused_in_a_sentence():
    with pytest.raises(OptionError, match="sigma0 of SDEdit must be a positive number"):
        samplers.SDEdit(sigma0=0.0)
    with pytest.raises(OptionError, match="image and keep"):
        samplers.BlendedDiffusion(image=normal(*SHAPE))
    with pytest.raises(ShapeError, match=r"keep has shape \(4,\), expected one that broadcasts to the prior's \(2, 3\)"):
        samplers.SDEdit(keep=torch.ones(4))(painting())
    assert samplers.SDEdit.paper().steps == 500


AWAY = (0.018, 0.190, 1.163, 2.850, 3.143)
UNLIKELY = (3.156, 3.060, 2.207, 0.346, 0.046)
REPEATS = [2.210, 1.300, 0.318]
