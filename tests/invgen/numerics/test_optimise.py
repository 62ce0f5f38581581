"""Optimisers of one number a row."""

import pytest
import torch
from torch import Tensor

from invgen import Gaussian, Posterior
from invgen.noise import Energy, Poisson
from invgen.numerics.optimise import Adam, lbfgs, minimise, noise_floor
from invgen.operators import Matrix
from invgen.priors import GaussianPrior

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def rosenbrock(x: Tensor) -> tuple[Tensor, Tensor]:
    return 100 * (x[:, 1] - x[:, 0] ** 2) ** 2 + (1 - x[:, 0]) ** 2, x


def test_adam_is_algorithm_1_of_its_paper():
    # written out for one number in floats; torch.optim, which gives the same, takes seconds to import
    x, gradients = normal(4, 3), normal(20, 4, 3, seed=1)
    ours, adam = x, Adam(0.1, betas=(0.9, 0.99))
    for grad in gradients:
        ours = adam.step(ours, grad)
    theta, m, v = x[1, 2].item(), 0.0, 0.0
    for t, g in enumerate(gradients[:, 1, 2].tolist(), 1):
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        theta -= 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)) ** 0.5 + 1e-8)
    assert abs(ours[1, 2].item() - theta) < 1e-12
    # the first step is lr against the sign, whatever the size of the gradient
    torch.testing.assert_close(Adam(0.1).step(x, 1e3 * gradients[0]), x - 0.1 * gradients[0].sign())


def quadratic(rows: int, n: int) -> tuple[Tensor, Tensor]:
    root = normal(rows, n, n, seed=2)
    return root @ root.mT + 0.1 * torch.eye(n, dtype=F64), normal(rows, n, seed=3)


def test_lbfgs_solves_quadratics_to_rounding():
    H, b = quadratic(5, 8)
    *_, (x, value, signal) = lbfgs(
        lambda x: (0.5 * torch.einsum("bi,bij,bj->b", x, H, x) - (b * x).sum(1), 2 * x), 0 * b, 80
    )
    wanted = torch.linalg.solve(H, b)
    torch.testing.assert_close(x, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(signal, 2 * x)
    torch.testing.assert_close(value, -0.5 * (b * wanted).sum(1))


def test_lbfgs_follows_a_curved_valley_and_never_climbs():
    starts = torch.tensor([[-1.2, 1.0], [2.0, -1.0], [0.0, 0.0], [30.0, -20.0]], dtype=F64)
    values = torch.stack([v for _, v, _ in lbfgs(rosenbrock, starts, 120)])
    assert (values[-1] < 1e-10).all() and (values.diff(dim=0) <= 1e-12 * values[:-1]).all()


@pytest.mark.parametrize("lr", [None, 0.05])
def test_a_row_does_not_see_the_others_and_pays_the_same(lr):
    starts, calls = 3 * normal(5, 2, seed=4), []

    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(x))
        return rosenbrock(x)

    together = [z for z, _, _ in minimise(f, starts, 30, lr)]
    assert calls == [5] * 31
    alone = [z for z, _, _ in minimise(rosenbrock, starts[2:3], 30, lr)]
    torch.testing.assert_close(together[-1][2:3], alone[-1], rtol=1e-10, atol=1e-10)
    assert minimise(rosenbrock, starts[:0], 3, lr).__next__()[0].shape == (0, 2)


@pytest.mark.parametrize("lr", [None, 0.05])
def test_rows_stay_at_their_floor(lr):
    starts = normal(4, 2, seed=5)
    floor = torch.tensor([1e9, 0.5, 0.1, -1.0], dtype=F64)
    states = list(minimise(lambda x: (x[:, 0] ** 2 + 10 * x[:, 1] ** 2, x), starts, 100, lr, floor))
    assert torch.equal(states[-1][0][0], starts[0])
    values = torch.stack([v for _, v, _ in states])
    for row in (1, 2):
        first = int((values[:, row] <= floor[row]).nonzero()[0])
        assert torch.equal(states[-1][0][row], states[first][0][row])
    assert values[-1, 3] < 0.01


def test_the_units_of_the_objective_do_not_matter_to_lbfgs():
    a = list(lbfgs(rosenbrock, normal(3, 2, seed=6), 20))[-1][0]
    b = list(lbfgs(lambda x: (1e6 * rosenbrock(x)[0] + 5, x), normal(3, 2, seed=6), 20))[-1][0]
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_a_start_without_a_value_is_seen_and_a_bad_trial_is_not():
    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(x[:, 0] > 2, torch.nan, -x[:, 0].clamp(max=3)), x  # rises to a cliff

    *_, (z, value, signal) = lbfgs(f, torch.tensor([[0.0, 0.0], [5.0, 0.0]], dtype=F64), 40)
    assert 1.9 < z[0, 0] <= 2 and value[0] == -z[0, 0]
    assert z[1].isnan().all() and signal[1].isnan().all()


def test_noise_floor_is_the_average_misfit_of_the_truth():
    clean = 50 + 10 * normal(400, 8, seed=7).abs()
    for noise in (Gaussian(0.3), Gaussian(torch.linspace(0.1, 2.0, 8, dtype=F64)), Poisson(0.5)):
        y = noise.sample(clean, torch.Generator().manual_seed(8))
        post = Posterior(GaussianPrior(8, 0.0, torch.ones((), dtype=F64)), Matrix(torch.eye(8, dtype=F64)), noise, y)
        gap = noise_floor(post) + noise.log_prob(y, clean)  # minus log p(y | truth), row by row
        # chi^2 / 2 has standard deviation 2 for 8 values: 0.1 over 400 rows
        assert abs(gap.mean()) < 0.35 and 1.5 < gap.std() < 2.5, noise
    loss = Posterior(post.prior, post.A, Energy(lambda a, b: (a - b).square()), post.y)
    assert (noise_floor(loss) == -torch.inf).all()
