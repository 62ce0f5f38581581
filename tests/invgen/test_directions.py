"""The law of von Mises and Fisher against its closed forms."""

import math

import pytest
import torch

import invgen
from invgen.errors import ShapeError
from invgen.noise import VonMisesFisher


def test_density_on_the_sphere_is_the_closed_form():
    # d = 3: kappa / (4 pi sinh kappa) exp(kappa cos)
    y, clean = torch.tensor([[0.0, 0.6, 0.8]]).double(), torch.tensor([[0.0, 0.0, 5.0]]).double()
    for kappa in (0.5, 3.0):
        want = math.log(kappa / (4 * math.pi * math.sinh(kappa))) + kappa * 0.8
        assert VonMisesFisher(kappa).log_prob(y, clean).item() == pytest.approx(want, abs=1e-6)


def test_the_constant_holds_in_many_dimensions_where_the_bessel_function_underflows():
    # kappa -> 0 is the uniform law: minus the log of the area of the sphere, 2 pi^(d/2) / Gamma(d/2)
    d, y = 384, torch.eye(384)[:1]
    area = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)
    assert VonMisesFisher(1e-3).log_prob(y, -y).item() == pytest.approx(-area, abs=2e-3)
    # the ratio of two densities at one kappa is exp(kappa (cos - cos'))
    law = VonMisesFisher(60.0)
    assert (law.log_prob(y, y) - law.log_prob(y, -y)).item() == pytest.approx(120, abs=1e-3)


@pytest.mark.parametrize(("d", "kappa"), [(3, 4.0), (20, 30.0)])
def test_draws_have_the_mean_cosine_of_the_law(d, kappa):
    from scipy.special import ive

    clean = torch.randn(1, d, generator=torch.Generator().manual_seed(0)).expand(4000, -1)
    y = VonMisesFisher(kappa).sample(clean, torch.Generator().manual_seed(1))
    torch.testing.assert_close(y.norm(dim=1), torch.ones(4000))
    cosine = torch.cosine_similarity(y, clean, dim=1)
    mean = ive(d / 2, kappa) / ive(d / 2 - 1, kappa)
    # four standard errors of 4000 draws
    assert cosine.mean().item() == pytest.approx(mean, abs=4 * cosine.std().item() / math.sqrt(4000))
    with pytest.raises(ShapeError, match="at least two coordinates"):
        VonMisesFisher(1.0).sample(torch.ones(3, 1))


def test_it_joins_with_other_measurements():
    from invgen import operators

    one = operators.Identity((4,))
    y, A, noise = invgen.join((torch.ones(4), one, 0.5), (torch.eye(4)[0], one, VonMisesFisher(2.0)))
    x = torch.tensor([[1.0, 2.0, 0.0, 0.0]])
    parts = invgen.Gaussian(0.5).log_prob(torch.ones(1, 4), x) + VonMisesFisher(2.0).log_prob(torch.eye(4)[:1], x)
    torch.testing.assert_close(noise.log_prob(y[None], A(x)), parts)
