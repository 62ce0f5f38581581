"""The posterior against dense algebra: exact Gaussian draws, exact scores; and every sentence of its errors."""

import dataclasses
import math

import pytest
import torch

import invgen
from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.noise import Gaussian, Noiseless, Poisson
from invgen.numerics.random import Streams
from invgen.operators import MRI, HighDynamicRange, Identity, Mask
from invgen.posterior import Posterior
from invgen.priors import GaussianPrior


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


class Flat(invgen.Prior):
    """Any prior: draws and scores of the likelihood do not ask it anything but its shape."""


class Dense(invgen.LinearOperator):
    """A given matrix; only forward, so that adjoint and solve are the derived ones."""

    def __init__(self, matrix, in_shape=None):
        super().__init__(in_shape or (matrix.shape[1],), dtype=matrix.dtype)
        self.register_buffer("matrix", matrix)
        self.out_shape = (matrix.shape[0],)

    def forward(self, x):
        return x.flatten(1) @ self.matrix.to(x.dtype).T


def mask():
    keep = torch.tensor([[1, 0, 1], [1, 1, 0]]).bool()
    return Mask((1, 2, 3), keep)


OPERATORS = {
    "wide": lambda: Dense(random(3, 5)),
    "tall": lambda: Dense(random(7, 4)),
    "image": lambda: Dense(random(3, 6), (1, 2, 3)),
    "svd": mask,
    "mri": lambda: MRI((2, 3, 4), torch.tensor([0, 1, 1, 0])),
    "mri, real image": lambda: MRI((1, 3, 4), torch.tensor([0, 1, 1, 0])),
    "mri, complex": lambda: MRI((3, 4), torch.tensor([0, 1, 1, 0]), complex=True),
}


def real(x):
    """(B, n) real coordinates of a batch, real and imaginary parts side by side for complex tensors."""
    return (torch.view_as_real(x) if x.is_complex() else x).flatten(1)


def from_real(v, shape, complex_):
    return torch.view_as_complex(v.reshape(-1, *shape, 2)) if complex_ else v.reshape(-1, *shape)


def matrix_of(A):
    complex_ = A.in_dtype.is_complex
    n = math.prod(A.in_shape) * (2 if complex_ else 1)
    return real(A(from_real(torch.eye(n, dtype=torch.float64), A.in_shape, complex_))).T


def problem(A, sigma):
    dtype = torch.complex128 if A.in_dtype.is_complex else torch.float64
    x, y = random(1, *A.in_shape, dtype=dtype, seed=3), random(1, *A.out_shape, dtype=dtype, seed=4)
    return Posterior(Flat(A.in_shape), A, Noiseless() if sigma is None else Gaussian(sigma), y), x


def moments_of_draw(post, x, var_x):
    """Mean and covariance of the draw, exactly: it is affine in its two standard normals, so that unit vectors tell all."""
    A, complex_ = post.A, x.is_complex()
    n, m = real(x).shape[1], real(post.y).shape[1]
    rows = Posterior(post.prior, A, post.noise, post.y.expand(n + m + 1, *A.out_shape))
    unit = torch.eye(n + m, dtype=torch.float64)
    unit = torch.cat([unit, torch.zeros(1, n + m, dtype=torch.float64)])
    parts = iter([from_real(unit[:, :n], A.in_shape, complex_), from_real(unit[:, n:], A.out_shape, complex_)])
    u = real(rows.draw(x.expand(n + m + 1, *A.in_shape), var_x, lambda like: next(parts)))
    mean, J = u[-1], (u[:-1] - u[-1])
    return mean, J.T @ J


@pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize(("var_x", "sigma"), [(1.0, 0.5), (0.04, 0.1), (9.0, 2.0)])
def test_draw_has_the_mean_and_covariance_of_dense_algebra(make, var_x, sigma):
    A = make()
    post, x = problem(A, sigma)
    mean, covariance = moments_of_draw(post, x, var_x)
    M = matrix_of(A)
    precision = M.T @ M / sigma**2 + torch.eye(M.shape[1], dtype=torch.float64) / var_x
    want = torch.linalg.inv(precision)
    torch.testing.assert_close(covariance, want, rtol=1e-7, atol=1e-9)
    b = M.T @ real(post.y)[0] / sigma**2 + real(x)[0] / var_x
    torch.testing.assert_close(mean, want @ b, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("make", [OPERATORS["wide"], OPERATORS["svd"]], ids=["wide", "svd"])
def test_draw_with_a_level_for_each_detector(make):
    A = make()
    sigma = 0.2 + torch.arange(math.prod(A.out_shape), dtype=torch.float64).reshape(A.out_shape) / 3
    post, x = problem(A, sigma)
    mean, covariance = moments_of_draw(post, x, 0.7)
    M, W = matrix_of(A), torch.diag(sigma.flatten() ** -2)
    want = torch.linalg.inv(M.T @ W @ M + torch.eye(M.shape[1], dtype=torch.float64) / 0.7)
    torch.testing.assert_close(covariance, want, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(mean, want @ (M.T @ W @ real(post.y)[0] + real(x)[0] / 0.7), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("through_rows", [False, True])
def test_as_many_detectors_as_measurements(through_rows):
    """A level for each of 3 detectors must not be taken for one for each of 3 measurements."""
    A, sigma = Dense(random(3, 5)), torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    y, x = random(3, 3, seed=1), random(3, 5, seed=2)
    post = Posterior(Flat((5,)), A, Gaussian(sigma), y)
    post = post.rows(torch.arange(3)) if through_rows else post
    zeros = lambda like: torch.zeros_like(like)  # noqa: E731
    one = Posterior(Flat((5,)), A, Gaussian(sigma), y[1:2]).draw(x[1:2], 0.7, zeros)
    torch.testing.assert_close(post.draw(x, 0.7, zeros)[1:2], one, rtol=1e-7, atol=1e-8)
    if through_rows:  # what samplers see and hand to the operator
        torch.testing.assert_close(A.prox(x, y, 0.7, post.noise.var)[1:2], one, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("make", [OPERATORS["wide"], OPERATORS["svd"], OPERATORS["mri, complex"]])
def test_noiseless_draw_satisfies_the_data_and_varies_beside_it(make):
    A = make()
    post, x = problem(A, None)
    mean, covariance = moments_of_draw(post, x, 4.0)
    M = matrix_of(A)
    P = torch.eye(M.shape[1], dtype=torch.float64) - torch.linalg.pinv(M) @ M
    torch.testing.assert_close(covariance, 4 * P, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(M @ mean, real(post.y)[0], rtol=1e-7, atol=1e-8)


def test_draw_with_a_variance_per_sample():
    A = OPERATORS["wide"]()
    y, x = random(2, 3, seed=1), random(2, 5, seed=2)
    post = Posterior(Flat((5,)), A, 0.3, y)
    zeros = lambda like: torch.zeros_like(like)  # noqa: E731
    together = post.draw(x, torch.tensor([0.5, 2.0], dtype=torch.float64).reshape(2, 1), zeros)
    for i, var_x in enumerate((0.5, 2.0)):
        alone = Posterior(Flat((5,)), A, 0.3, y[i : i + 1]).draw(x[i : i + 1], var_x, zeros)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-8, atol=1e-9)


def test_draws_from_streams():
    """By sampling: 20000 draws have mean and variances within four standard errors."""
    A, n = mask(), 20000
    y = random(1, *A.out_shape, seed=1)
    post = Posterior(Flat((1, 2, 3)), A, 0.5, y.expand(n, -1))
    u = post.draw(torch.zeros(n, 1, 2, 3, dtype=torch.float64), 1.0, Streams(0, range(n)))
    seen = A.mask.bool().flatten()
    var = torch.where(seen, 0.2, 1.0).double()  # 1 / (1 + 1 / 0.25) where measured
    mean = (0.8 * A.adjoint(y)).flatten()
    assert ((u.flatten(1).mean(0) - mean).abs() < 4 * (var / n).sqrt()).all()
    assert ((u.flatten(1).var(0) / var - 1).abs() < 4 * math.sqrt(2 / n)).all()


def test_draw_needs_a_linear_gaussian_problem():
    x = torch.zeros(1, 4)
    clip = Posterior(Flat((4,)), HighDynamicRange((4,)), 0.1, torch.zeros(1, 4))
    with pytest.raises(UnsupportedError, match="linear operator and Gaussian noise, got HighDynamicRange and Gaussian"):
        clip.draw(x, 1.0)
    counts = Posterior(Flat((4,)), Dense(torch.eye(4)), Poisson(), torch.ones(1, 4))
    with pytest.raises(UnsupportedError, match="got Dense and Poisson"):
        counts.draw(x, 1.0)


# -- the likelihood

SCORED = {
    **{name: (make, 0.3) for name, make in OPERATORS.items()},
    "level for each detector": (OPERATORS["wide"], torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)),
    "nonlinear": (lambda: HighDynamicRange((1, 2, 3)), 0.2),
    "photons": (lambda: Dense(random(4, 3).abs()), Poisson(0.1)),
}


@pytest.mark.parametrize(("make", "noise"), SCORED.values(), ids=SCORED)
def test_likelihood_score_is_the_gradient_of_log_likelihood(make, noise):
    A = make()
    dtype = torch.complex128 if A.in_dtype.is_complex else torch.float64
    x = random(2, *A.in_shape, dtype=dtype)
    x = x.abs() if isinstance(noise, Poisson) else x
    y = A(x) + 0.1
    post = Posterior(Flat(A.in_shape), A, Gaussian(noise) if isinstance(noise, torch.Tensor) else noise, y)
    before = y.clone()
    score = post.likelihood_score(x)
    x.requires_grad_()
    (want,) = torch.autograd.grad(post.log_likelihood(x).sum(), x)
    torch.testing.assert_close(score, want, rtol=1e-9, atol=1e-9)
    assert not score.requires_grad
    assert torch.equal(post.y, before)


def test_log_likelihood_is_a_density():
    """Over y it integrates to one: on a grid, for one measured value."""
    A = Dense(torch.tensor([[2.0]], dtype=torch.float64))
    grid = torch.linspace(-10, 10, 4001, dtype=torch.float64)[:, None]
    post = Posterior(Flat((1,)), A, 0.5, grid)
    p = post.log_likelihood(torch.full_like(grid, 0.3)).exp()
    assert abs(p.sum().item() * (20 / 4000) - 1) < 1e-9
    assert abs((p * grid.flatten()).sum().item() * (20 / 4000) - 0.6) < 1e-9


def test_noiseless_has_no_score():
    post, x = problem(OPERATORS["wide"](), None)
    with pytest.raises(UnsupportedError, match="no density"):
        post.likelihood_score(x)


@pytest.mark.parametrize("noise", [Gaussian(0.1), Gaussian(torch.tensor([0.1, 0.2, 0.4])), Poisson(0.5)], ids=repr)
def test_residual_over_noise_is_one_for_the_truth(noise):
    A = Dense(torch.eye(3).repeat_interleave(1, 0))
    x = torch.full((20000, 3), 40.0)
    y = noise.sample(A(x), torch.Generator().manual_seed(0))
    r = Posterior(Flat((3,)), A, noise, y).residual_over_noise(x)
    assert r.shape == (20000,)
    # r^2 has mean 1 and standard deviation sqrt(2/3), a little more for photons: four standard errors
    assert abs(r.square().mean().item() - 1) < 4 * math.sqrt(0.7 / 20000)


def test_residual_over_noise_of_complex_and_noiseless_data():
    A = OPERATORS["mri, complex"]()
    x = random(500, 3, 4, dtype=torch.complex128)
    y = Gaussian(0.1).sample(A(x), torch.Generator().manual_seed(0))
    r = Posterior(Flat((3, 4)), A, 0.1, y).residual_over_noise(x)
    assert abs(r.square().mean().item() - 1) < 4 * math.sqrt(2 / 12 / 500)
    # without noise it is the residual itself
    exact = Posterior(Flat((3, 4)), A, Noiseless(), A(x)).residual_over_noise(x)
    assert (exact == 0).all()


# -- batches


def test_batch_and_rows():
    A = Dense(random(3, 5))
    y, sigma = random(2, 4, 3), torch.arange(1.0, 9.0).reshape(2, 4, 1)
    post = Posterior(Flat((5,)), A, Gaussian(sigma), y)
    assert post.batch == (2, 4)
    rows = post.rows(torch.tensor([7, 7, 2]))
    assert torch.equal(rows.y, y.reshape(8, 3)[[7, 7, 2]])
    assert rows.noise.sigma.flatten().tolist() == [8.0, 8.0, 3.0]
    assert Posterior(Flat((5,)), A, 0.1, random(3)).batch == ()


def test_it_is_frozen():
    post, _ = problem(OPERATORS["wide"](), 0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        post.y = post.y + 1


# -- bad input


def test_errors():
    prior, A, y = Flat((5,)), Dense(random(3, 5)), random(2, 3)
    with pytest.raises(OptionError, match="prior must be an invgen Prior, got Linear"):
        Posterior(torch.nn.Linear(5, 5), A, 0.1, y)
    with pytest.raises(OptionError, match=r"A must be an invgen Operator, got Linear; wrap a function"):
        Posterior(prior, torch.nn.Linear(5, 3), 0.1, y)
    assert torch.equal(Posterior(prior, A, 0.1, y.numpy()).y, y)
    with pytest.raises(ShapeError, match=r"operator takes signals of shape \(5,\) but the prior is over \(6,\)"):
        Posterior(Flat((6,)), A, 0.1, y)
    with pytest.raises(ShapeError, match=r"measurement has shape \(2, 4\), expected \(\*batch, 3\) as Dense gives"):
        Posterior(prior, A, 0.1, random(2, 4))
    with pytest.raises(ShapeError, match=r"measurement has shape \(\)"):
        Posterior(prior, A, 0.1, torch.tensor(1.0))
    with pytest.raises(ShapeError, match=r"dtype torch.int64, expected floating point; convert it with y.float\(\)"):
        Posterior(prior, A, 0.1, torch.ones(2, 3).long())
    with pytest.raises(ShapeError, match="measurement is on meta but the prior on cpu"):
        Posterior(prior, A, 0.1, y.to("meta"))
    for value, bad in [(float("nan"), 2), (float("inf"), 2)]:
        broken = y.clone()
        broken[0, 0], broken[1, 2] = value, -value
        with pytest.raises(OptionError, match=f"measurement has {bad} values that are not finite, of 6; mask them out"):
            Posterior(prior, A, 0.1, broken)
    for noise in (0, -1.0, float("nan")):
        with pytest.raises(OptionError, match="noise must be an invgen Noise or a positive number"):
            Posterior(prior, A, noise, y)
    for noise in ("0.1", None, True):
        with pytest.raises(OptionError, match="noise must be an invgen Noise or a positive number"):
            Posterior(prior, A, noise, y)


def test_a_complex_measurement_of_real_signals_is_refused():
    prior = GaussianPrior(shape=(3,))
    with pytest.raises(
        ShapeError, match="the measurement is complex but Identity of the prior's signals is real; pass y.real"
    ):
        Posterior(prior, Identity((3,)), 0.1, torch.zeros(3, dtype=torch.complex64))
