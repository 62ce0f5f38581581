"""Scenes: laws from standard normals, named parameters of a result, kinds by particles against evidence by enumeration."""

import pytest
import torch
from scipy import stats
from torch.distributions import (
    Bernoulli,
    Categorical,
    Exponential,
    Gamma,
    HalfNormal,
    Independent,
    LogNormal,
    MultivariateNormal,
    Normal,
    Uniform,
)

import invgen
from invgen import OptionError, ShapeError, UnsupportedError, operators, priors, samplers

F64 = torch.float64
Z = torch.randn(4000, 1, dtype=F64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "law", [Normal(2.0, 3.0), LogNormal(0.5, 0.4), Uniform(-1.0, 4.0), Exponential(2.0), HalfNormal(2.0)]
)
def test_codes_become_draws_of_the_law(law):
    scene = priors.Scene(lambda a: a[:, None], a=law)
    x = scene.values(Z)["a"]
    # 4000 draws: Kolmogorov's distance is below 1.63 / sqrt(4000) = 0.026 in 99 of 100 cases
    assert stats.kstest(x.numpy(), lambda v: law.cdf(torch.as_tensor(v)).numpy()).statistic < 0.026


def test_discrete_laws_and_vectors():
    scene = priors.Scene(
        lambda kind, on, place, pair: torch.cat([kind[:, None] + on[:, None] + place, pair], 1),
        kind=Categorical(torch.tensor([0.2, 0.5, 0.3])),
        on=Bernoulli(torch.tensor(0.25)),
        place=MultivariateNormal(torch.tensor([1.0, 2.0]), torch.tensor([[2.0, 0.9], [0.9, 1.0]])),
        pair=Independent(Normal(torch.zeros(2), torch.ones(2)), 1),
    )
    assert scene.latent_shape == (6,) and scene.shape == (4,)
    z = torch.randn(20000, 6, generator=torch.Generator().manual_seed(1))
    found = scene.scene(z)
    # a share of 20000 is right to 0.35 per cent, a covariance of 2 to 2 per cent; three of each
    torch.testing.assert_close(found["kind"].probabilities, torch.tensor([0.2, 0.5, 0.3]), atol=0.011, rtol=0)
    torch.testing.assert_close(found["on"].probabilities, torch.tensor([0.75, 0.25]), atol=0.011, rtol=0)
    want = torch.tensor([[2.0, 0.9], [0.9, 1.0]])
    torch.testing.assert_close(found["place"].samples.T.cov(), want, atol=0.12, rtol=0)
    low, high = found["pair"].interval(0.9)
    torch.testing.assert_close(high, torch.full((2,), 1.645), atol=0.06, rtol=0)
    torch.testing.assert_close(low, -high, atol=0.09, rtol=0)


def two_lines(kind, level, slope):
    """Three points of a flat line, or of one with a slope."""
    return level[:, None] + kind[:, None] * slope[:, None] * torch.tensor([-1.0, 0.0, 1.0])


LINES = priors.Scene(
    two_lines,
    kind=Categorical(torch.tensor([0.6, 0.4])),
    level=Normal(0.0, 1.0),
    slope=Normal(0.0, 0.7),
    value_range=(-3, 3),
)
Y = torch.tensor([[0.1, 0.4, 0.9], [0.3, 0.2, 0.4], [-0.9, 0.0, 0.8]])


def exact():
    """Log-evidence of both kinds, (2, batch), and the posterior of the level: linear and Gaussian given the kind."""
    rows = torch.tensor([[1.0, 1.0, 1.0], [-0.7, 0.0, 0.7]])
    logs = [
        torch.distributions.MultivariateNormal(torch.zeros(3), 0.09 * torch.eye(3) + B.T @ B).log_prob(Y)
        for B in (rows[:1], rows)
    ]
    return torch.stack(logs), Y.sum(1) / (3 + 0.09)  # both kinds have the same level: the slope is orthogonal to it


@pytest.mark.slow
def test_kinds_by_particles_agree_with_the_evidence_of_each():
    logs, level = exact()
    want = (logs + torch.tensor([0.6, 0.4]).log()[:, None]).softmax(0)
    sampler = samplers.TemperedSMC(steps=15, particles=1000, draws=1000)
    result = invgen.solve(Y, operators.Identity((3,)), LINES, 0.3, sampler, num_samples=2000)
    found = result.scene
    assert result.codes.shape == (2000, 3, 3)
    # effective draws are about 500 of 2000: a share of one half is right to 2.2 per cent, a mean of std .17 to .008; three
    torch.testing.assert_close(found["kind"].probabilities, want.T, atol=0.07, rtol=0)
    torch.testing.assert_close(found["level"].mean, level, atol=0.025, rtol=0)
    torch.testing.assert_close(found["level"].std, torch.full((3,), (1 / (1 + 3 / 0.09)) ** 0.5), atol=0.02, rtol=0)
    for kind in (0, 1):
        post = invgen.Posterior(LINES.given(kind=kind), operators.Identity((3,)), 0.3, Y)
        cloud = sampler.weighted(post, chains=2)
        assert cloud.samples.shape == (2, 1000, 3, 2)
        # a log-evidence of 1000 particles over three or four temperatures: about sqrt(4 / 1000) = 0.06; three
        torch.testing.assert_close(cloud.log_evidence.mean(0).float(), logs[kind], atol=0.2, rtol=0)


def test_parameters_of_a_result():
    result = invgen.solve(Y, operators.Identity((3,)), LINES, 0.3, samplers.PCN(steps=20), num_samples=6)
    torch.testing.assert_close(LINES(result.codes.flatten(0, 1)), result.samples.flatten(0, 1))
    assert set(result.scene) == {"kind", "level", "slope"} and result.scene["level"].samples.shape == (6, 3)
    with pytest.raises(OptionError, match="a continuous parameter has no probabilities"):
        _ = result.scene["level"].probabilities
    known = LINES.given(kind=1)
    torch.testing.assert_close(known.scene(torch.zeros(2, 2))["kind"].samples, torch.tensor([1, 1]))
    rescaled = invgen.solve(
        2 * Y, operators.Identity((3,)), LINES.rescaled(2.0), 0.6, samplers.PCN(steps=20), num_samples=6
    )
    torch.testing.assert_close(rescaled.scene["level"].samples, result.scene["level"].samples)


def test_wrong_scenes_say_so():
    with pytest.raises(OptionError, match="Gamma has no quantile function in torch.distributions; take Normal, LogNormal"):
        priors.Scene(lambda a: a[:, None], a=Gamma(2.0, 1.0))
    with pytest.raises(OptionError, match="parameters of a scene are name=law, a law of torch.distributions each, got a=3"):
        priors.Scene(lambda a: a[:, None], a=3)
    with pytest.raises(
        ShapeError, match=r"the renderer must give signals \(B, \*shape\), here of B = 2 scenes, got \(2,\)"
    ):
        priors.Scene(lambda a: a, a=Normal(0.0, 1.0))
    with pytest.raises(OptionError, match="the scene has no parameter 'size'; there are 'kind', 'level', 'slope'"):
        LINES.given(size=1)
    plain = priors.GaussianPrior((3,), 0.0, 1.0)
    result = invgen.solve(Y, operators.Identity((3,)), plain, 0.3, "DampedDPS(steps=4)")
    with pytest.raises(UnsupportedError, match="only samples of a priors.Scene have named parameters, got GaussianPrior"):
        _ = result.scene
