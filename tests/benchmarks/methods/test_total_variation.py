"""Total variation against independent solutions, its stopping rule, and its independence of the batch."""

import numpy as np
import pytest
import torch

import invgen
from invgen import metrics
from invgen.benchmarks.methods.total_variation import TV, gradient, gradient_adjoint
from invgen.errors import OptionError
from invgen.operators import Blur, Downsample, Identity, Mask, ParallelBeamCT, from_function, gaussian_kernel
from invgen.priors import GaussianPrior
from tests.benchmarks.methods.test_classical import posterior, residual


def variation(x):
    """The total variation of one signal, (C, *spatial)."""
    return gradient(x[None], max(x.ndim - 1, 1)).square().sum((1, 2)).sqrt().sum()


@pytest.mark.parametrize("shape", [(7,), (2, 7), (3, 5, 6), (2, 4, 5, 6)])
def test_the_gradient_and_its_transpose(shape):
    dim = max(len(shape) - 1, 1)
    x = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = torch.randn(gradient(x, dim).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    back = gradient_adjoint(p, dim).reshape(x.shape)
    torch.testing.assert_close((gradient(x, dim) * p).sum(), (x * back).sum(), atol=1e-12, rtol=1e-12)


@pytest.mark.slow
def test_denoising_with_a_weight_is_that_of_scikit_image():
    from skimage.restoration import denoise_tv_chambolle

    post, _ = posterior(Identity((1, 24, 24)), noise=0.1)
    # |y - u|^2 / (2 0.1^2) + w TV(u) is |y - u|^2 / 2 + 0.01 w TV(u)
    ours, count = TV(weight=8.0, tol=1e-5).iterate(post.rows(torch.arange(1)))
    theirs = denoise_tv_chambolle(post.y[0].double().numpy(), weight=0.08, eps=1e-14, max_num_iter=50_000)
    # theirs converges as 1 / iterations and stops a little short: values span 1.6
    assert count < 5000 and (ours[0, 0] - torch.from_numpy(theirs)).abs().max() < 5e-4


def by_quasi_newton(A, y, noise, weight):
    """argmin |y - A x|^2 / (2 noise^2) + weight TV(x) by scipy's L-BFGS on sqrt(|gradient|^2 + eps^2), eps decreasing."""
    from scipy.optimize import minimize

    def loss(v, eps):
        x = torch.tensor(v.reshape(A.in_shape), requires_grad=True)
        edges = (gradient(x[None], len(A.in_shape) - 1).square().sum((1, 2)) + eps**2).sqrt().sum()
        value = ((y - A(x[None])[0]) ** 2).sum() / (2 * noise**2) + weight * edges
        (slope,) = torch.autograd.grad(value, x)
        return value.item(), slope.numpy().ravel()

    v = np.zeros(int(np.prod(A.in_shape)))
    for eps in (1e-1, 1e-2, 1e-3, 1e-4):
        v = minimize(loss, v, args=(eps,), jac=True, method="L-BFGS-B", options={"maxiter": 2000, "maxfun": 2000}).x
    return torch.from_numpy(v.reshape(A.in_shape)), loss(v, 0.0)[0]


@pytest.mark.slow
def test_both_forms_are_minima():
    M = torch.randn(40, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 8
    A = from_function(lambda x: x.flatten(1) @ M.T.to(x), (1, 8, 8), linear=True)
    truth = torch.zeros(1, 8, 8, dtype=torch.float64)
    truth[:, 2:6, 3:7] = 1
    noise, weight = 0.05, 10.0
    y = A(truth) + noise * torch.randn(1, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(4))[0]
    expected, least = by_quasi_newton(A, y, noise, weight)
    prior = GaussianPrior((1, 8, 8), var=0.25).double()

    x = TV(weight=weight, tol=1e-6)(invgen.Posterior(prior, A, noise, y))[0].double()
    value = ((y - A(x)) ** 2).sum() / (2 * noise**2) + weight * variation(x)
    # 64 pixels of the smallest eps, 1e-4, cost their solution up to 0.064; ours stops at a millionth of the residuals
    assert least - 0.07 < value < least + 1e-3
    assert (x - expected).abs().max() < 0.01

    # with the residual of that solution as the noise, the least variation that explains the measurement is its own
    level = ((y - A(x)).norm() / 40**0.5).item()
    bounded = TV(tol=1e-6)(invgen.Posterior(prior, A, level, y))[0].double()
    torch.testing.assert_close(bounded, x, atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "A",
    [
        Identity((2, 24, 24)),
        Blur((1, 24, 24), gaussian_kernel(1.5)),
        Mask.random((3, 24, 24), 0.4),
        Downsample((1, 24, 24), 2),
        ParallelBeamCT((1, 24, 24), num_angles=12),
        Identity((64,)),
    ],
    ids=lambda A: type(A).__name__,
)
def test_it_explains_the_measurement_as_far_as_the_noise_allows(A):
    noise = 0.05 * (10 if isinstance(A, ParallelBeamCT) else 1)
    post, truth = posterior(A, noise=noise)
    x, count = TV().iterate(post.rows(torch.arange(1)))
    assert count < 2000  # far from the limit of the iterations
    # the constraint is active: the residual is that of noise, to the tolerance of a thousandth
    assert abs(residual(post, x).item() - 1) < 5e-3
    assert variation(x[0]) < 1.002 * variation(truth)  # the truth may explain the measurement too
    # in other units the same picture
    scaled = invgen.Posterior(post.prior.rescaled(10.0, 0.0), A, invgen.Gaussian(10 * noise), 10 * post.y)
    torch.testing.assert_close(TV(steps=50)(scaled) / 10, TV(steps=50)(post), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_each_measurement_stops_on_its_own():
    A = Mask.box((1, 32, 32), 16)
    post, _ = posterior(A, noise=0.05, batch=(2,))
    flat = 0.05 * torch.randn(A.out_shape, generator=torch.Generator().manual_seed(1))
    rows = invgen.Posterior(post.prior, A, post.noise, torch.stack([post.y[0], flat])).rows(torch.arange(2))
    together, counts = TV().iterate(rows)
    assert counts[0] != counts[1] and (counts < 2000).all()
    for k in range(2):
        alone, count = TV().iterate(rows.rows(torch.tensor([k])))
        # sums of other batches round differently, which moves the last of some hundred iterations by a few at most
        assert abs(count[0] - counts[k]) <= 0.02 * counts[k]
        torch.testing.assert_close(alone[0], together[k], atol=1e-4, rtol=0)
    # 300 iterations with fixed steps had left the hole a gradient; stopped, it is as far as many more bring it
    longer, limit = TV(tol=0.0, steps=3000).iterate(rows)
    assert (limit == 3000).all()
    assert metrics.psnr(together[0], longer[0], data_range=2.0) > 50


def test_noise_of_several_levels():
    A = Identity((1, 16, 16))
    sigma = torch.full((1, 16, 16), 0.05)
    sigma[..., 8:] = 0.2
    post, truth = posterior(A, noise=0.05)
    y = truth + sigma * torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    post = invgen.Posterior(post.prior, A, invgen.Gaussian(sigma), y)
    x, count = TV().iterate(post.rows(torch.arange(1)))
    assert count < 2000 and abs(residual(post, x).item() - 1) < 5e-3


def test_options_have_ranges():
    with pytest.raises(OptionError, match="weight of TV must be a positive number or None, got -1"):
        TV(weight=-1)
    with pytest.raises(OptionError, match="tol of TV must be a number from 0 to 1, got -1"):
        TV(tol=-1.0)
