"""EM of a Gaussian from measurements: against maximum likelihood found by another method, and against the truth."""

import pytest
import torch

from invgen.errors import OptionError
from invgen.operators import Blur, Mask, Matrix, gaussian_kernel
from invgen.priors.training.gaussian_em import fit_gaussian, fit_low_rank

SIGMA, SHAPE, F64 = 0.3, (1, 2, 2), torch.float64
KEPT = ([1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1])


def measurements(count, spectrum=(0.5, 1.0, 2.0, 3.0)):
    """Signals of N(mean, S) seen through six masks and two matrices in turn: y, operators, mean, S."""
    g = torch.Generator().manual_seed(0)
    mean = torch.tensor([1.0, -0.5, 0.0, 2.0], dtype=F64)
    root = torch.linalg.qr(torch.randn(4, 4, generator=g, dtype=F64))[0] * torch.tensor(spectrum, dtype=F64).sqrt()
    every = [Mask(SHAPE, torch.tensor(kept).reshape(SHAPE)) for kept in KEPT]
    every += [Matrix(torch.randn(3, 4, generator=g), SHAPE) for _ in range(2)]
    operators = [every[k % 8] for k in range(count)]
    x = (mean + torch.randn(count, 4, generator=g, dtype=F64) @ root.T).reshape(-1, *SHAPE)
    clean = [A(v[None])[0] for A, v in zip(operators, x, strict=True)]
    return [c + SIGMA * torch.randn(c.shape, generator=g, dtype=F64) for c in clean], operators, mean, root @ root.T


def most_likely(y, operators, low_rank=False):
    """Maximum likelihood by L-BFGS and autograd, over the mean and a triangular root, or a column and a number."""
    start = (
        torch.randn(4, 1, dtype=F64, generator=torch.Generator().manual_seed(1)) if low_rank else torch.eye(4, dtype=F64)
    )
    mean, root, log_c = (t.requires_grad_() for t in (torch.zeros(4, dtype=F64), start, torch.zeros((), dtype=F64)))
    rows = {}
    for v, A in zip(y, operators, strict=True):
        rows.setdefault(A, []).append(v)
    tables = [(A(torch.eye(4, dtype=F64).reshape(4, *SHAPE)).T, torch.stack(v)) for A, v in rows.items()]

    def covariance():
        return root @ root.T + log_c.exp() * torch.eye(4, dtype=F64) if low_rank else root.tril() @ root.tril().T

    def closure():
        optimizer.zero_grad()
        loss = torch.zeros((), dtype=F64)
        for M, v in tables:
            law = torch.distributions.MultivariateNormal(M @ mean, M @ covariance() @ M.T + SIGMA**2 * torch.eye(len(M)))
            loss = loss - law.log_prob(v).sum() / len(y)
        loss.backward()
        return loss

    parameters = [mean, root, log_c] if low_rank else [mean, root]
    optimizer = torch.optim.LBFGS(parameters, max_iter=60, line_search_fn="strong_wolfe")
    optimizer.step(closure)
    return mean.detach(), covariance().detach(), -closure().item() * len(y)


def rises(likelihood):
    """Whether no round lowers the likelihood, but by the round-off of its sum."""
    return all(b >= a - 1e-8 for a, b in zip(likelihood, likelihood[1:], strict=False))


@pytest.mark.slow
def test_em_rises_to_the_maximum_of_the_likelihood_which_is_near_the_truth():
    y, operators, mean, S = measurements(800)
    prior, likelihood = fit_gaussian(y, operators, SIGMA, iterations=120)
    best_mean, best_S, value = most_likely(y, operators)
    covariance = prior.basis[0] * prior.spectrum @ prior.basis[0].T
    assert rises(likelihood) and abs(likelihood[-1] - value) < 5e-3  # half a standard error of one number would cost .125
    # About half of the values are seen: at least 200 signals' worth. A twentieth of their standard errors from the best
    error, errors = (S.diagonal().max() / 200).sqrt(), S.diagonal().max() * (2 / 200) ** 0.5
    assert (prior.mean.flatten() - best_mean).abs().max() < error / 20
    assert (covariance - best_S).abs().max() < errors / 20
    # and four of them from the truth
    assert (prior.mean.flatten() - mean).abs().max() < 4 * error and (covariance - S).abs().max() < 4 * errors


@pytest.mark.slow
def test_em_of_low_rank_rises_to_its_maximum_too():
    y, operators, *_ = measurements(400, (0.3, 0.3, 0.3, 4.0))
    prior, likelihood = fit_low_rank(y, operators, SIGMA, iterations=150, rank=1)
    best_mean, best_S, value = most_likely(y, operators, low_rank=True)
    assert rises(likelihood) and abs(likelihood[-1] - value) < 5e-3
    assert (prior.mean.flatten() - best_mean).abs().max() < 5e-3 and (prior.covariance - best_S).abs().max() < 2e-2


def test_the_trace_of_an_operator_without_singular_values_is_estimated():
    # Of equal measurements the two differ by the probe alone: 64 values, whose mean square errs by a fifth
    g = torch.Generator().manual_seed(0)
    known = Blur((1, 8, 8), gaussian_kernel(1.0))
    other = Blur((1, 8, 8), gaussian_kernel(1.0), boundary="reflect")
    y = known(torch.randn(60, 1, 8, 8, generator=g, dtype=F64)) + 0.1 * torch.randn(60, 1, 8, 8, generator=g, dtype=F64)
    exact, likelihood = fit_low_rank(y, [known] * 60, 0.1, iterations=10, rank=4)
    estimate, none = fit_low_rank(y, [other] * 60, 0.1, iterations=10, rank=4)
    assert rises(likelihood) and all(v != v for v in none)
    assert 0.6 < estimate.c / exact.c < 1.6


def test_the_denoiser_of_low_rank_is_that_of_its_covariance():
    prior, _ = fit_low_rank(*measurements(40)[:2], SIGMA, iterations=3, rank=2)
    x = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=F64)
    for s in (0.1, 3.0):
        gain = prior.covariance @ torch.linalg.inv(prior.covariance + s**2 * torch.eye(4, dtype=F64))
        expected = (prior.mean.flatten() + (x - prior.mean).flatten(1) @ gain.T).reshape(x.shape)
        torch.testing.assert_close(prior(x, s), expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(prior(x, torch.full((5,), s, dtype=F64)), expected, rtol=1e-10, atol=1e-10)
        assert prior.variance(s) == pytest.approx(s**2 * gain.trace().item() / 4, rel=1e-9)


def test_what_measures_nothing_or_is_too_large_is_refused():
    with pytest.raises(OptionError, match="measure nothing"):
        fit_gaussian(torch.zeros(2, 1), [Matrix(torch.zeros(1, 4), SHAPE)] * 2, 0.1)
    with pytest.raises(OptionError, match="at most 4096"):
        fit_gaussian(torch.zeros(2, 4900), [Mask((70, 70), torch.ones(70, 70))] * 2, 0.1)
