"""Samplers on Gaussian problems: exact methods converge to the posterior, biased ones follow the recursion of their paper.

Laws are read off without Monte-Carlo error (`gaussian_problems.law`), so that a method's bias is a number.
"""

import math

import pytest
import torch

from invgen import Gaussian, Posterior, samplers
from invgen.noise import Noiseless
from invgen.numerics.random import Streams
from invgen.operators import Mask, Matrix
from invgen.priors import GaussianMixture, GaussianPrior
from tests.invgen.samplers.gaussian_problems import (
    EYE,
    F64,
    ROWS,
    SHAPE,
    SIGMA,
    Law,
    N,
    UnitNoise,
    assert_first_order,
    assert_same_law,
    assert_second_order,
    conditional_mean,
    correlated,
    ddim,
    denoiser,
    distance,
    exact,
    law,
    many,
    moments,
    normal,
    problem,
    propagate,
    white,
)

# -- exact methods --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "prior"),
    [
        (lambda n: samplers.MMPS(steps=n, iterations=ROWS, order=1), correlated()),
        (lambda n: samplers.MMPS(steps=n, iterations=ROWS, order=1, eta=0.0), correlated()),
        (lambda n: samplers.AdaptivePiGDM(steps=n, order=1), white()),
        (lambda n: samplers.PiGDM(steps=n, data_std=None), white()),
    ],
    ids=["MMPS", "MMPS, ODE", "AdaptivePiGDM", "PiGDM"],
)
def test_guided_samplers_that_are_exact_converge_to_the_posterior(make, prior):
    post = problem(prior)
    assert_first_order(*(law(make(n), post) for n in (24, 48)), exact(post))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "prior", "most"),
    [
        (lambda n: samplers.MMPS(steps=n, iterations=ROWS), correlated(), 0.005),
        (lambda n: samplers.MMPS(steps=n, iterations=ROWS, eta=0.0), correlated(), 0.005),
        (lambda n: samplers.AdaptivePiGDM(steps=n), white(), 0.005),
        (lambda n: samplers.PiGDM(steps=n, data_std=None, order=2, schedule="log"), white(), 0.005),
    ],
    ids=["MMPS", "MMPS, ODE", "AdaptivePiGDM", "PiGDM"],
)
def test_the_step_of_second_order_has_the_right_variance_at_24_evaluations(make, prior, most):
    post = problem(prior)
    assert_second_order(*(law(make(n), post) for n in (24, 48)), exact(post), most)


@pytest.mark.slow
def test_covariance_of_correlated_values_at_10_and_25_evaluations():
    """Relative error of the whole covariance in the Frobenius norm; two sets of 3000 exact samples are at about .08.

    With steps of first order on "edm" levels it is .66 and .39.
    """
    i = torch.arange(36, dtype=F64)
    prior = GaussianPrior((1, 36), covariance=torch.exp(-(i[:, None] - i).abs() / 6))
    A = Mask(prior.shape, (i % 3 == 0).double()[None])
    y = A(prior.sample(1, seed=3))[0]
    post = Posterior(prior, A, Gaussian(0.3), y + 0.3 * normal(*y.shape, seed=1))
    wanted = prior.posterior(A, post.noise, y).covariance.reshape(36, 36)
    for sampler, most in ((samplers.MMPS(steps=10), 0.12), (samplers.MMPS(steps=25), 0.1), (samplers.TMPD(steps=25), 0.12)):
        got = moments(sampler(post, 3000, seed=5))[1]
        assert (got - wanted).norm() / wanted.norm() < most, sampler
        assert got.trace() / wanted.trace() == pytest.approx(1, abs=0.05), sampler


def test_mmps_guides_to_the_exact_conditional_mean():
    post, s = problem(correlated()), 0.6
    x = 2 * normal(5, *SHAPE, seed=9)
    wanted = conditional_mean(post, x, s)
    torch.testing.assert_close(samplers.MMPS().guide(many(post, 5), x, s), wanted, rtol=1e-8, atol=1e-8)


def test_the_white_covariance_preconditions_mmps():
    """Blurs and tomography have a spectrum of decades, which plain GMRES works through value by value."""
    n, s = 24, 0.6
    i = torch.arange(n, dtype=F64)
    prior = GaussianPrior((n,), covariance=torch.exp(-(i[:, None] - i).abs() / 6))
    A = Matrix(torch.exp(-0.5 * ((i[:, None] - i) / 1.5) ** 2))
    post = Posterior(prior, A, Gaussian(0.01), A(prior.sample(1, seed=1))[0])
    x = prior.sample(4, seed=2) + s * normal(4, n)
    whole = samplers.MMPS(iterations=n).guide(many(post, 4), x, s)
    torch.testing.assert_close(samplers.MMPS(iterations=n, precondition=False).guide(many(post, 4), x, s), whole)

    def error(iterations, precondition):
        return (samplers.MMPS(iterations=iterations, precondition=precondition).guide(many(post, 4), x, s) - whole).norm()

    assert error(3, True) < 0.3 * error(5, False)
    # one iteration is exact for white signals
    flat = Posterior(GaussianPrior((n,), var=1.0), A, Gaussian(0.01), post.y)
    torch.testing.assert_close(
        samplers.MMPS(iterations=1).guide(many(flat, 4), x, s), samplers.MMPS(iterations=n).guide(many(flat, 4), x, s)
    )


def test_guidance_by_one_measurement_is_the_same_for_four_methods():
    # A C A^T is one number: its diagonal, its row sum, its value along the residual and itself agree, on any prior
    mixture = GaussianMixture(2 * normal(4, *SHAPE, seed=6), var=0.5)
    for prior in (mixture, correlated()):
        post = many(problem(prior, A=Matrix(normal(1, N, seed=7), SHAPE)), 8)
        x, s = 2 * normal(8, *SHAPE, seed=8), 0.9
        wanted = samplers.MMPS(iterations=1).guide(post, x, s)
        for sampler in (samplers.TMPD(), samplers.DampedDPS(fraction=1.0), samplers.AdaptivePiGDM()):
            torch.testing.assert_close(sampler.guide(post, x, s), wanted, rtol=1e-7, atol=1e-7)


def test_tmpd_is_exact_where_the_measured_covariance_is_diagonal():
    prior = GaussianPrior(SHAPE, normal(*SHAPE), normal(*SHAPE, seed=1) ** 2 + 0.1)
    post = problem(prior, A=Matrix(2 * EYE[:4], SHAPE))
    assert_same_law(law(samplers.TMPD(steps=20), post), law(samplers.MMPS(steps=20, iterations=4), post))


def test_dps_is_pigdm_where_the_operator_has_orthonormal_rows_and_the_prior_is_white():
    A = Matrix(torch.linalg.qr(normal(N, ROWS, seed=3)).Q.T.contiguous(), SHAPE)
    post = problem(white(), A=A)
    assert_same_law(law(samplers.DampedDPS(steps=20, fraction=1.0), post), law(samplers.AdaptivePiGDM(steps=20), post))


def test_pnpdm_at_fixed_rho_has_the_law_with_inflated_noise():
    post, rho = problem(correlated()), 0.5
    wanted = exact(post, rho=rho)
    errors = []
    for inner in (50, 100):
        # one sweep is x -> B x + b + noise; its map from the start, then the fixed point of the moments
        units = rho / post.prior.data_std
        sweep = samplers.PnPDM(steps=1, rho_max=units, rho_min=units, rho_decay=1.0, denoise_steps=inner)
        count = UnitNoise()
        list(sweep.run(many(post, 1), torch.zeros(1, *SHAPE, dtype=F64), count))
        rows = 1 + count.used + N
        x = torch.zeros(rows, N, dtype=F64)
        x[-N:] = EYE
        (out,) = sweep.run(many(post, rows), x.reshape(rows, *SHAPE), UnitNoise(rows))
        out = out.flatten(1)
        b, noise, B = out[0], out[1:-N] - out[0], (out[-N:] - out[0]).T
        assert torch.linalg.eigvals(B).abs().max() < 1
        m = torch.linalg.solve(EYE - B, b)
        V = torch.linalg.solve(torch.eye(N * N, dtype=F64) - torch.kron(B, B), (noise.T @ noise).flatten()).reshape(N, N)
        errors.append(distance((m, V), wanted))
    # exact but for the discretised reverse diffusion inside, of first order
    assert errors[1] < 0.03 and 0.4 < errors[1] / errors[0] < 0.6


@pytest.mark.parametrize("name", ["DDRM", "DDNM", "PiGDM", "AdaptivePiGDM", "DDS", "DiffPIR", "AdaptiveDAPS"])
def test_noiseless_masks_keep_the_observed_values(name):
    mask = torch.tensor([[1.0, 0, 1], [0, 1, 0]], dtype=F64)
    prior = GaussianMixture(normal(3, *SHAPE), var=0.3)
    A = Mask(SHAPE, mask)
    truth = prior.sample(1, seed=1)[0]
    x = samplers.get(name)(steps=20)(Posterior(prior, A, Noiseless(), A(truth)), 5)
    # DDS regularises by 1 / gamma = 1e-3 of |A|^2, the others project
    tol = 1e-2 if name == "DDS" else 1e-9
    torch.testing.assert_close(A(x), A(truth).expand_as(A(x)), rtol=0, atol=tol)


def test_ddnm_ends_on_the_measurement_for_any_operator():
    post = problem(correlated(), 0.0)
    x = samplers.DDNM(steps=15)(post, 4)
    torch.testing.assert_close(post.A(x), post.y.expand(4, ROWS), rtol=0, atol=1e-9)


def test_ddrm_leaves_what_is_not_measured_to_the_prior():
    # white prior, mask: the unobserved coordinates are independent of the others, and eta = 0 is DDIM on the prior there
    # (eta = 1 is not its ancestral step: DDRM then replaces all of the noise, which loses variance)
    post = problem(white(), A=Matrix(EYE[:ROWS], SHAPE))
    laws = (law(samplers.DDRM(steps=n, schedule="edm", eta=0.0, eta_c=0.0), post) for n in (50, 100))
    coarse, fine = ((m[ROWS:], P[ROWS:, ROWS:]) for m, P in laws)
    assert_first_order(coarse, fine, (torch.zeros(3, dtype=F64), 0.49 * torch.eye(3, dtype=F64)))


# -- the prior ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "order"),
    [(samplers.Ancestral, 1), (samplers.DDIM, 1), (samplers.Heun, 2)],
    ids=["Ancestral", "DDIM", "Heun"],
)
def test_unconditional_samplers_converge_to_the_prior_at_their_order(make, order):
    prior = correlated()
    post = problem(prior)  # `run` does not look at the measurement
    wanted = prior.mean.flatten(), prior.covariance
    coarse, fine = (distance(law(make(steps=n), post), wanted) for n in (50, 100))
    assert fine < 0.1
    # 2^-order as the steps double
    assert abs(math.log2(coarse / fine) - order) < 0.25


@pytest.mark.slow
@pytest.mark.parametrize("make", [samplers.Ancestral, samplers.DDIM, samplers.Heun])
def test_unconditional_samplers_reproduce_a_mixture(make):
    prior = GaussianMixture(torch.tensor([[-3.0, 0.0], [3.0, 1.0]], dtype=F64), [0.3, 0.7], var=0.5)
    count = 4000
    x = make(steps=100)(prior, count, seed=1)
    share = (x[:, 0] > 0).double().mean().item()
    # five standard deviations of a proportion; of a mean; of a covariance (fourth moments within three squares)
    assert abs(share - 0.7) < 5 * math.sqrt(0.21 / count)
    std = prior.var.sqrt()
    assert ((x.mean(0) - prior.mean).abs() < 5 * std / count**0.5).all()
    # and 2 % of discretisation
    assert ((x.T.cov() - prior.covariance).abs() < (5 * (3 / count) ** 0.5 + 0.02) * torch.outer(std, std)).all()


# -- biased methods: the recursion of the paper in dense matrices, and how far its law is from the posterior --------


def recursion(name: str, sampler, post: Posterior) -> Law:
    prior, M, y = post.prior, post.A.matrix, post.y
    A2, back = M.T @ M / SIGMA**2, M.T @ y / SIGMA**2

    def pigdm(s, s_next):
        E, c = denoiser(prior, s)
        r2 = s**2 / (s**2 + 1)  # on the class's own unit
        G = s**2 * E.T @ M.T @ torch.linalg.inv(r2 * M @ M.T + SIGMA**2 * torch.eye(ROWS, dtype=F64))
        return ddim(E - G @ M @ E, c + G @ (y - M @ c), s, s_next, sampler.eta)

    def tmpd(s, s_next):
        E, c = denoiser(prior, s)
        rows = (s**2 * M @ E @ M.T).sum(1).clamp(min=0)
        G = s**2 * E.T @ M.T @ torch.diag(1 / (rows + SIGMA**2))
        return ddim(E - G @ M @ E, c + G @ (y - M @ c), s, s_next, sampler.eta)

    def diffpir(s, s_next):
        E, c = denoiser(prior, s)
        W = torch.linalg.inv(A2 + sampler.lam / s**2 * EYE)
        E, c = W @ E * sampler.lam / s**2, W @ (back + sampler.lam / s**2 * c)
        k = s_next * math.sqrt(1 - sampler.zeta) / s
        return E + k * (EYE - E), (1 - k) * c, sampler.zeta * s_next**2 * EYE

    def dds(s, s_next):
        plain = denoiser(prior, s)
        gamma = sampler.gamma / torch.linalg.matrix_norm(M, 2) ** 2
        W = torch.linalg.inv(EYE + gamma * M.T @ M)
        return ddim(W @ plain[0], W @ (plain[1] + gamma * M.T @ y), s, s_next, sampler.eta, plain)

    def daps(s, s_next):
        F, f = EYE, torch.zeros(N, dtype=F64)
        ladder = [s] + [b for _, b in inner_levels(sampler.ode_steps, min(prior.sigma_min, s / 2), s)]
        for a, b in zip(ladder, ladder[1:], strict=False):
            E, c = denoiser(prior, a)
            k = b / a
            F, f = (E + k * (EYE - E)) @ F, (E + k * (EYE - E)) @ f + (1 - k) * c
        r2 = (s**2 * torch.linalg.eigvalsh(prior.covariance) / (torch.linalg.eigvalsh(prior.covariance) + s**2)).mean()
        V = torch.linalg.inv(EYE / r2 + A2)
        return V @ F / r2, V @ (f / r2 + back), V + s_next**2 * EYE

    return propagate(
        sampler, post, {"PiGDM": pigdm, "TMPD": tmpd, "DiffPIR": diffpir, "DDS": dds, "AdaptiveDAPS": daps}[name]
    )


def inner_levels(steps: int, low: float, high: float) -> list[tuple[float, float]]:
    """Karras et al. (2022), equation 5."""
    grid = [(high ** (1 / 7) + i / max(steps - 1, 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for i in range(steps)]
    return list(zip(grid, [*grid[1:], 0.0], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("PiGDM", samplers.PiGDM(steps=25, eta=0.5)),
        ("TMPD", samplers.TMPD(steps=25, order=1)),
        ("DiffPIR", samplers.DiffPIR(steps=25)),
        ("DDS", samplers.DDS(steps=25)),
        ("AdaptiveDAPS", samplers.AdaptiveDAPS(steps=10, ode_steps=4)),
    ],
)
def test_samplers_follow_the_recursion_of_their_paper(name, sampler):
    post = problem(correlated())
    # 1e-6: DDS solves by five iterations of CG at a condition number of 1000, the others are direct
    assert_same_law(law(sampler, post), recursion(name, sampler, post), tol=1e-6)


@pytest.mark.parametrize(("eta_b", "eta_c"), [(1.0, None), (0.6, None), (1.0, 0.85), (1.0, 1.0)])
def test_ddrm_follows_equations_7_and_8_coordinate_by_coordinate(eta_b, eta_c):
    d, eta = 0.7, 0.85
    post = problem(white(d))
    if eta_c is None:
        sampler = samplers.AdaptiveDDRM(steps=20, eta=eta, eta_b=eta_b)
    else:
        sampler = samplers.DDRM(steps=20, eta=eta, eta_b=eta_b, eta_c=eta_c)
    U, s, Vt = torch.linalg.svd(post.A.matrix, full_matrices=True)
    y = (U.T @ post.y) / s
    means, variances = [], []
    levels = sampler.levels(post.prior)
    for i in range(N):
        level = SIGMA / s[i].item() if i < ROWS else math.inf
        m, v = (y[i].item(), levels[0][0] ** 2 - level**2) if i < ROWS else (0.0, levels[0][0] ** 2 + d**2)
        for a, b in levels:
            e = d**2 / (d**2 + a**2)  # the denoiser of this coordinate
            c = math.sqrt(1 - eta**2) * b
            if i >= ROWS:
                lost = a**2 * d**2 / (a**2 + d**2)  # the variance of x_0 given x_a, which renewed noise loses
                free = math.sqrt(max(1 - (b / a) ** 2, 1 - lost / a**2)) if eta_c is None else eta_c
                factor, offset, fresh = e + math.sqrt(1 - free**2) * b / a * (1 - e), 0.0, free**2 * b**2
            elif b >= level:
                factor, offset, fresh = (1 - eta_b) * e, eta_b * y[i].item(), b**2 - eta_b**2 * level**2
            else:
                factor, offset, fresh = e * (1 - c / level), c / level * y[i].item(), eta**2 * b**2
            m, v = factor * m + offset, factor**2 * v + fresh
        means.append(m), variances.append(v)
    m, v = torch.tensor(means, dtype=F64), torch.tensor(variances, dtype=F64)
    assert_same_law(law(sampler, post), (Vt.T @ m, Vt.T * v @ Vt))


@pytest.mark.slow
def test_biases_stand_in_numbers():
    """Wasserstein-2 distance to the posterior, over the root of its total variance, at about 100 evaluations.

    MMPS's is nil, as its step is of second order. The others' are their approximations:
    an isotropic variance (PiGDM), row sums (TMPD), a weight of the prior that is not the posterior's (DiffPIR), a weight of
    the data that does not know the noise (DDS), data fitted exactly while they are cleaner than the level (DDRM), the end
    of the ODE in place of the mean (DAPS).
    """
    post = problem(correlated())
    make = {
        "MMPS": samplers.MMPS(steps=100, iterations=ROWS),
        "PiGDM": samplers.PiGDM(steps=100),
        "TMPD": samplers.TMPD(steps=100),
        "DiffPIR": samplers.DiffPIR(steps=100),
        "DDS": samplers.DDS(steps=100),
        "AdaptiveDDRM": samplers.AdaptiveDDRM(steps=100),
        "AdaptiveDAPS": samplers.AdaptiveDAPS(steps=30, ode_steps=4),
    }
    bias = {name: distance(law(sampler, post), post) for name, sampler in make.items()}
    wanted = {
        "MMPS": 0.000,
        "PiGDM": 0.074,
        "TMPD": 0.150,
        "DiffPIR": 0.083,
        "DDS": 0.442,
        "AdaptiveDDRM": 0.262,
        "AdaptiveDAPS": 0.108,
    }
    assert bias == pytest.approx(wanted, abs=0.002), bias


def test_reddiff_follows_its_recursion():
    # Algorithm 1 on the same noise: gradients from dense matrices, Adam as Kingma & Ba's Algorithm 1 has it
    post, sampler, rows = problem(correlated()), samplers.REDdiff(steps=30, lam=0.5), 4
    M, d, (a, b) = post.A.matrix, post.prior.data_std, (0.9, 0.99)
    zeros, numbers = torch.zeros(rows, *SHAPE, dtype=F64), list(range(rows))
    *_, got = sampler.run(many(post, rows), zeros, Streams(0, numbers))
    draw = Streams(0, numbers)
    mu = (post.y @ M / torch.linalg.matrix_norm(M, 2) ** 2).expand(rows, N)
    m = v = torch.zeros(rows, N, dtype=F64)
    for t, (s, _) in enumerate(sampler.levels(post.prior), 1):
        z = draw(zeros).flatten(1)
        E, c = denoiser(post.prior, s)
        predicted = (mu + s * z - (mu + s * z) @ E.T - c) / s
        grad = (mu @ M.T - post.y) @ M / SIGMA**2 + 0.5 * s * (predicted - z) / d**2
        m, v = a * m + (1 - a) * grad, b * v + (1 - b) * grad**2
        mu = mu - 0.1 * d * (m / (1 - a**t)) / ((v / (1 - b**t)).sqrt() + 1e-8 / d)
    torch.testing.assert_close(got.flatten(1), mu, rtol=1e-8, atol=1e-8)


def test_reddiff_is_a_point_estimate_near_the_posterior():
    post = problem(white())
    m, S = exact(post)
    x = samplers.REDdiff(steps=200)(post, 50).flatten(1)
    # between the posterior mean and the data: no further from it than two posterior standard deviations together
    assert (x.mean(0) - m).norm() < 2 * S.trace().sqrt()
    # and its spread is Adam's, far below the posterior's
    assert x.var(0).sum() < 0.3 * S.trace()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MMPS", "DiffPIR", "AdaptiveDAPS", "AdaptiveDDRM"])
def test_samples_have_the_law_that_the_probe_reads_off(name):
    post, count = problem(correlated()), 4000
    sampler = samplers.get(name)(steps=10)
    m, S = law(sampler, post)
    x = sampler(post, count, seed=3).flatten(1)
    std = S.diagonal().sqrt()
    # five standard errors of means and of covariances of Gaussians
    assert ((x.mean(0) - m).abs() < 5 * std / count**0.5).all()
    spread = (torch.outer(std, std) ** 2 + S**2).sqrt() / count**0.5
    assert ((x.T.cov() - S).abs() < 5 * spread).all()
