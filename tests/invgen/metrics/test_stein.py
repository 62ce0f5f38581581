"""Kernel Stein discrepancy against its definition by automatic differentiation, and on laws with a known score."""

import pytest
import torch

import invgen
from invgen import operators, priors
from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.metrics import kernel_stein_discrepancy, posterior_score


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_autograd(x, s, c, beta):
    """All k_0(x_i, x_j), from the definition: derivatives of the kernel by torch."""

    def k(a, b):
        return (c**2 + (a - b).square().sum()) ** beta

    out = torch.zeros(len(x), len(x), dtype=x.dtype)
    for i, a in enumerate(x):
        for j, b in enumerate(x):
            da, db = torch.autograd.functional.jacobian(k, (a, b))
            mixed = torch.autograd.functional.hessian(k, (a, b))[0][1]
            out[i, j] = s[i] @ s[j] * k(a, b) + s[i] @ db + s[j] @ da + mixed.trace()
    return out


@pytest.mark.parametrize(("c", "beta"), [(1.0, -0.5), (0.4, -0.8)])
def test_is_the_definition(c, beta):
    x, s = normal(6, 3), normal(6, 3, 1)
    u = by_autograd(x, s, c, beta)
    v = kernel_stein_discrepancy(x, s, c=c, beta=beta, unbiased=False)
    torch.testing.assert_close(v, u.mean(), rtol=1e-10, atol=1e-12)
    off = (u.sum() - u.trace()) / 30
    torch.testing.assert_close(kernel_stein_discrepancy(x, s, c=c, beta=beta), off, rtol=1e-10, atol=1e-12)
    images = kernel_stein_discrepancy(x.reshape(6, 1, 3, 1), s.reshape(6, 1, 3, 1), c=c, beta=beta, dims=3)
    torch.testing.assert_close(images, off, rtol=1e-10, atol=1e-12)


def test_zero_on_average_for_the_right_law_and_not_for_a_wrong_one():
    d, sets = 4, 60
    values = torch.stack([kernel_stein_discrepancy(normal(50, d, k), lambda x: -x) for k in range(sets)])
    assert abs(values.mean()) < 4 * values.std() / sets**0.5
    # five standard deviations of the null away: samples shifted by 0.5, 40 % too wide, 40 % too narrow
    for wrong in (lambda x: x + 0.5, lambda x: 1.4 * x, lambda x: 0.6 * x):
        assert kernel_stein_discrepancy(wrong(normal(200, d)), lambda x: -x) > 5 * values.std() * 50 / 200
    assert kernel_stein_discrepancy(normal(50, d), lambda x: -x, unbiased=False) > 0


def test_median_width_makes_it_scale_as_the_score_does():
    x = normal(40, 3)
    one = kernel_stein_discrepancy(x, lambda v: -v, c=None, beta=-0.5)
    ten = kernel_stein_discrepancy(10 * x, lambda v: -v / 100, c=None, beta=-0.5)
    # k scales as unit^(2 beta), the scores and derivatives as 1 / unit each
    torch.testing.assert_close(ten, one * 10.0**-3, rtol=1e-10, atol=0)


def problem():
    g = torch.Generator().manual_seed(0)
    C = torch.randn(6, 6, generator=g, dtype=torch.float64)
    prior = priors.GaussianPrior(
        (6,), torch.linspace(-1, 1, 6, dtype=torch.float64), covariance=C @ C.T / 6 + 0.2 * torch.eye(6)
    )
    A = operators.Matrix(torch.randn(3, 6, generator=g, dtype=torch.float64))
    y = torch.randn(3, generator=g, dtype=torch.float64)
    return prior, invgen.Posterior(prior, A, 0.5, y)


def test_posterior_score_is_that_of_the_exact_posterior():
    prior, post = problem()
    law = prior.posterior(post.A, post.noise, post.y)
    x = law.sample(8, seed=1)
    want = torch.linalg.solve(law.covariance, (law.mean - x).T).T
    # the prior is smoothed by sigma_min, a thousandth of its smallest standard deviation: 1e-6 in the variance
    torch.testing.assert_close(posterior_score(post)(x), want, rtol=1e-4, atol=1e-4)


def test_posterior_samples_pass_and_the_posterior_of_another_measurement_does_not():
    prior, post = problem()
    score = posterior_score(post)
    exact = [kernel_stein_discrepancy(prior.posterior(post.A, post.noise, post.y).sample(100, k), score) for k in range(20)]
    exact = torch.stack(exact)
    other = prior.posterior(post.A, post.noise, post.y + 0.5).sample(100)  # one standard deviation of the noise
    # exact samples: about zero, whatever their number
    assert abs(exact.mean()) < 4 * exact.std() / 20**0.5
    assert kernel_stein_discrepancy(other, score) > exact.mean() + 6 * exact.std()
    assert kernel_stein_discrepancy(prior.sample(100), score) > exact.mean() + 6 * exact.std()


def test_errors():
    prior, post = problem()
    x = normal(5, 3)
    with pytest.raises(ShapeError, match="N >= 2"):
        kernel_stein_discrepancy(x[:1], lambda v: -v)
    with pytest.raises(ShapeError, match="the score has shape"):
        kernel_stein_discrepancy(x, lambda v: v[:, :2])
    with pytest.raises(ShapeError, match="complex"):
        kernel_stein_discrepancy(x.to(torch.complex128), x)
    for options in ({"beta": -1.0}, {"beta": 0.5}, {"c": 0.0}):
        with pytest.raises(OptionError, match="-1 < beta < 0"):
            kernel_stein_discrepancy(x, x, **options)
    batch = invgen.Posterior(prior, post.A, 0.5, post.y.expand(2, 3))
    with pytest.raises(ShapeError, match="one measurement"):
        posterior_score(batch)
    with pytest.raises(OptionError, match="sigma of posterior_score must be a positive number"):
        posterior_score(post, 0.0)

    class Flat(invgen.Prior):
        pass

    with pytest.raises(UnsupportedError, match="needs a Denoiser"):
        posterior_score(invgen.Posterior(Flat((6,)), post.A, 0.5, post.y.float()))
