"""Noise laws against torch.distributions and against their own moments."""

import math

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import Poisson as TorchPoisson

import invgen
from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.noise import Energy, Gaussian, Noiseless, Poisson, as_noise


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


LEVELS = {
    "number": 0.3,
    "scalar tensor": torch.tensor(0.3, dtype=torch.float64),
    "per detector": torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64),
    "per sample": torch.tensor([0.1, 0.4], dtype=torch.float64).reshape(2, 1, 1),
    "per value": torch.rand(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1,
}


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_gaussian_log_prob_is_torchs(level):
    y, clean = random(2, 4, 3), random(2, 4, 3, seed=1)
    want = Normal(clean, level).log_prob(y).sum((1, 2))
    torch.testing.assert_close(Gaussian(level).log_prob(y, clean), want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("level", [LEVELS["number"], LEVELS["per detector"], LEVELS["per value"]])
def test_complex_gaussian_is_two_real_ones(level):
    y, clean = (random(2, 4, 3, dtype=torch.complex128, seed=s) for s in (0, 1))
    column = level.unsqueeze(-1) if isinstance(level, torch.Tensor) else level
    want = Normal(torch.view_as_real(clean), column).log_prob(torch.view_as_real(y)).sum((1, 2, 3))
    torch.testing.assert_close(Gaussian(level).log_prob(y, clean), want, rtol=1e-12, atol=0)


def test_gaussian_gradient_has_no_hidden_factor():
    """The gradient of log p is (y - clean) / sigma^2: no 2, no mean over values."""
    y, clean = random(2, 5), random(2, 5, seed=1).requires_grad_()
    (grad,) = torch.autograd.grad(Gaussian(0.2).log_prob(y, clean).sum(), clean)
    torch.testing.assert_close(grad, (y - clean.detach()) / 0.04)


# 40000 values: a standard deviation is estimated to 1/sqrt(2 * 40000) = 0.35 %, a mean to 0.5 % of it; 4 of each allowed
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_gaussian_sample_has_its_level(dtype):
    clean = torch.full((2, 20000), 3.0, dtype=dtype)
    r = Gaussian(0.5).sample(clean, torch.Generator().manual_seed(0)) - clean
    parts = torch.view_as_real(r).unbind(-1) if dtype.is_complex else [r]
    for part in parts:
        assert abs(part.std().item() / 0.5 - 1) < 0.014
        assert abs(part.mean().item()) < 0.01
    level = torch.tensor([[0.1], [10.0]])
    r = Gaussian(level).sample(torch.zeros(2, 20000), torch.Generator().manual_seed(0))
    torch.testing.assert_close(r.std(1), level.flatten(), rtol=0.02, atol=0)


@pytest.mark.parametrize("noise", [Gaussian(0.1), Poisson(0.1), Noiseless()], ids=repr)
def test_samples_follow_their_generator_alone(noise):
    clean = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    before, state = clean.clone(), torch.get_rng_state()
    first = noise.sample(clean, torch.Generator().manual_seed(1))
    assert torch.equal(first, noise.sample(clean, torch.Generator().manual_seed(1)))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(clean, before)
    assert first is not clean
    assert first.dtype == clean.dtype


@pytest.mark.parametrize("gain", [0.05, 1.0, 30.0])
def test_poisson(gain):
    clean = torch.full((4, 20000), 40.0, dtype=torch.float64)
    y = Poisson(gain).sample(clean, torch.Generator().manual_seed(0))
    torch.testing.assert_close((y / gain).round() * gain, y)  # whole photons
    std = math.sqrt(40 * gain)
    assert abs(y.mean().item() - 40) < 4 * std / math.sqrt(80000)
    # the variance of the estimated variance includes the fourth moment, 3 + gain/40 in units of std^4
    assert abs(y.var().item() / std**2 - 1) < 4 * math.sqrt((2 + gain / 40) / 80000)
    torch.testing.assert_close(Poisson(gain).std(clean), torch.full_like(clean, std))
    # the mass of a count spread over `gain` units of y
    want = TorchPoisson(clean / gain).log_prob((y / gain).round()).sum(1) - 20000 * math.log(gain)
    torch.testing.assert_close(Poisson(gain).log_prob(y, clean), want, rtol=1e-9, atol=0)


def test_poisson_at_zero_light():
    clean = torch.tensor([[0.0, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    noise = Poisson(0.5)
    with pytest.warns(UserWarning, match="below zero"):
        assert (noise.sample(clean.detach())[0, :2] == 0).all()
    assert (noise.std(clean) >= 0.5).all()
    log = noise.log_prob(torch.tensor([[0.0, 0.0, 2.0]], dtype=torch.float64), clean)
    (grad,) = torch.autograd.grad(log.sum(), clean)
    assert torch.isfinite(log).all()
    assert torch.isfinite(grad).all()


def test_rows_follow_the_batch():
    level = torch.arange(1.0, 7.0).reshape(2, 3, 1, 1)
    rows = Gaussian(level).rows(torch.tensor([5, 0]), (2, 3), (4, 4))
    assert rows.sigma.flatten().tolist() == [6.0, 1.0]
    # one for all measurements gets an explicit batch axis, once
    shared = Gaussian(torch.ones(4)).rows(torch.tensor([5, 0]), (2, 3), (4, 4))
    assert shared.sigma.shape == (1, 1, 4)
    assert shared.rows(torch.tensor([1, 1, 0]), (2,), (4, 4)).sigma.shape == (3, 1, 4)
    single = Gaussian(torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1)).rows(torch.arange(6), (2, 3), (4, 4))
    assert single.sigma.flatten().tolist() == [1.0] * 3 + [2.0] * 3
    assert Poisson(1.0).rows(torch.tensor([1]), (2,), (4,)).gain == 1.0


def test_noiseless():
    noise, y = Noiseless(), random(2, 3)
    assert torch.equal(noise.sample(y), y)
    assert noise.var == 0
    assert isinstance(noise, Gaussian)  # for samplers that project, it is the limit of Gaussian noise
    with pytest.raises(UnsupportedError, match="no density"):
        noise.log_prob(y, y)


def test_to_moves_the_levels():
    assert Gaussian(torch.ones(3)).to(torch.float64).sigma.dtype == torch.float64
    assert Gaussian(0.1).to(torch.float64).sigma == 0.1


def test_what_users_write():
    assert repr(as_noise(0.05)) == "Gaussian(sigma=0.05)"
    assert repr(as_noise(2)) == "Gaussian(sigma=2)"
    assert repr(Gaussian(torch.ones(3, 1))) == "Gaussian(sigma=tensor of shape (3, 1))"
    assert repr(Poisson(0.1)) == "Poisson(gain=0.1)"
    assert repr(invgen.Noiseless()) == "Noiseless()"
    noise = invgen.Poisson(2.0)
    assert as_noise(noise) is noise


@pytest.mark.parametrize("sigma", [0, -0.1, float("nan"), float("inf"), "0.1", None, torch.tensor([0.1, 0.0])])
def test_gaussian_errors(sigma):
    with pytest.raises(OptionError, match="must be a positive number.*Noiseless"):
        Gaussian(sigma)


@pytest.mark.parametrize("gain", [0, -1.0, float("nan"), float("inf"), "1"])
def test_poisson_errors(gain):
    with pytest.raises(OptionError, match="gain of Poisson must be a positive number"):
        Poisson(gain)


@pytest.mark.parametrize("noise", [True, "0.1", None, [0.1]])
def test_as_noise_errors(noise):
    with pytest.raises(
        OptionError,
        match="noise must be an invgen Noise or a positive number, got .*; for exact measurements use Noiseless",
    ):
        as_noise(noise)


def test_poisson_shape_error():
    with pytest.raises(ShapeError, match="clean measurement"):
        Poisson().log_prob(torch.ones(2, 3), torch.ones(2, 4))


# -- any loss ----------------------------------------------------------------------------------------------------------


def half_square(clean, y):
    return 0.5 * (clean - y) ** 2 / 0.3**2


def test_the_loss_of_gaussian_noise_is_gaussian_noise():
    y, clean = random(2, 4, 3), random(2, 4, 3, seed=1)
    noise = Energy(half_square, std=0.3)
    normaliser = 12 * (math.log(0.3) + 0.5 * math.log(2 * math.pi))
    torch.testing.assert_close(noise.log_prob(y, clean) - normaliser, Gaussian(0.3).log_prob(y, clean))
    summed = Energy(lambda clean, y: half_square(clean, y).flatten(1).sum(1))
    torch.testing.assert_close(summed.log_prob(y, clean), noise.log_prob(y, clean))
    assert noise.std(clean) == 0.3 and "half_square" in repr(noise) and as_noise(noise) is noise


def test_a_loss_has_no_measurements_and_is_checked():
    with pytest.raises(UnsupportedError, match="not a law of y"):
        Energy(half_square).sample(random(2, 3))
    with pytest.raises(OptionError, match="must be a function"):
        Energy(0.5)
    with pytest.raises(OptionError, match="positive number"):
        Energy(half_square, std=0.0)
    for wrong in (lambda clean, y: 1.0, lambda clean, y: clean.sum(), lambda clean, y: clean[:1].sum(1)):
        with pytest.raises(ShapeError, match="one number for each of the 2 rows"):
            Energy(wrong).log_prob(random(2, 3), random(2, 3))


def test_a_loss_that_is_a_module_moves_with_its_tables():
    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("w", torch.ones(3))

        def forward(self, clean, y):
            return (self.w * (clean - y)).square()

    noise = Energy(Encoder()).to(torch.float64)
    assert noise.log_prob(random(2, 3), random(2, 3, seed=1)).dtype == torch.float64
    plain = Energy(half_square)
    assert plain.to(torch.float64) is plain


def test_samplers_of_gaussian_noise_refuse_a_loss():
    from invgen import Posterior, samplers
    from invgen.operators import Matrix
    from invgen.priors import GaussianPrior

    post = Posterior(GaussianPrior(3), Matrix(torch.eye(2, 3), (3,)), Energy(half_square), torch.zeros(2))
    with pytest.raises(UnsupportedError, match="PiGDM needs Gaussian noise, got Energy; samplers that fit: .*DPS"):
        samplers.PiGDM()(post)


def test_poisson_tells_of_signals_below_zero():
    clean = torch.linspace(-1, 1, 100)[None]
    with pytest.warns(UserWarning, match=r"50% of the clean values are below zero, down to -1, .* --rescale"):
        y = Poisson(0.01).sample(clean, torch.Generator().manual_seed(0))
    assert (y[:, :49] == 0).all() and y[:, -1] > 0.5
