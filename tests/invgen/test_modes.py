"""The mode of the caller does not reach a run: training, no_grad, inference_mode, and half precision."""

import pytest
import torch
from torch import Tensor, nn

import invgen
from invgen import Gaussian, Operator, Posterior, operators, priors, samplers
from invgen.numerics.gradients import power_of_two, running
from invgen.priors import Schedule, from_generator, from_network, from_vae

SHAPE = (1, 8, 8)


class Dropout(nn.Module):
    """Predicts epsilon of N(0, 1/4), with batch normalisation and dropout in between."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.scale = nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.scale * self.drop(self.norm(x))


def network(net: nn.Module) -> priors.NetworkDenoiser:
    return from_network(net, SHAPE, prediction="epsilon", schedule=Schedule.linear(), sigma_max=3.0)


def decoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 64), nn.Unflatten(1, SHAPE))


A = operators.Mask(SHAPE, torch.arange(64).reshape(SHAPE) % 3 == 0)
Y = torch.linspace(-0.5, 0.5, A.out_shape.numel())


@pytest.mark.slow
# in five steps
@pytest.mark.filterwarnings("ignore:the .* cannot make what was measured")
def test_a_run_is_in_eval_mode_and_training_goes_on():
    prior = network(Dropout())
    runs = {
        "solve": lambda p: invgen.solve(Y, A, p, 0.1, "DampedDPS(steps=3)", num_samples=2).samples,
        "sample": lambda p: invgen.sample(p, 2, sampler="Ancestral(steps=3)"),
        "simulate": lambda p: invgen.simulate(p, A, 0.1, 2, prior_sampler=samplers.Ancestral(steps=3))[1],
        "log_prob": lambda p: invgen.log_prob(p, torch.zeros(2, *SHAPE), steps=2, trace="rademacher"),
        "measure_mmse": lambda p: torch.tensor(p.measure_mmse(torch.zeros(2, *SHAPE)).mmse),
    }
    for name, run in runs.items():
        expected = run(prior)
        prior.net.train()
        torch.testing.assert_close(run(prior), expected, rtol=0, atol=0, msg=name)
        assert prior.net.training and prior.net.drop.training and prior.net.norm.training
        assert int(prior.net.norm.num_batches_tracked) == 0  # its statistics were not touched
        prior.net.eval()
    g = from_generator(decoder(), (4,), SHAPE)
    first = invgen.solve(Y, A, g, 0.1, "CSGM(steps=5)", num_samples=2).samples
    g.g.train()
    assert torch.equal(invgen.solve(Y, A, g, 0.1, "CSGM(steps=5)", num_samples=2).samples, first)
    assert torch.equal(invgen.sample(g, 3), g.sample(3)) and g.g.training


def test_operators_and_losses_with_networks_run_in_eval_mode_too():
    class Features(Operator):
        def __init__(self) -> None:
            super().__init__(SHAPE)
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(x).flatten(1)

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, clean: Tensor, y: Tensor) -> Tensor:
            return self.drop(clean - y).square().sum(1)

    B, loss, prior = Features(), Loss(), network(nn.Identity())
    prior.net.forward = lambda x, t: 0 * x
    for noise in (0.5, invgen.Energy(loss)):
        runs = [invgen.solve(torch.zeros(64), B, prior, noise, "DampedDPS(steps=3)") for _ in range(2)]
        assert torch.equal(runs[0].samples, runs[1].samples) and B.drop.training and loss.drop.training
        if noise == 0.5:
            assert torch.equal(runs[0].residual, runs[1].residual)


def test_modes_are_restored_after_an_error():
    prior = network(Dropout())
    prior.net.drop.train()
    with pytest.raises(RuntimeError, match="stop"), running(prior):
        assert not prior.net.drop.training
        raise RuntimeError("stop")
    assert prior.net.drop.training and not prior.net.norm.training


# an untrained network, in three steps
@pytest.mark.filterwarnings("ignore:.* samples of .* are saturated")
@pytest.mark.filterwarnings("ignore:.* not explain the measurement")
def test_a_network_made_in_inference_mode_is_differentiated():
    torch.manual_seed(0)
    state = nn.Conv2d(1, 1, 3, padding=1).state_dict()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.conv(x).tanh()

    plain = Net()
    plain.conv.load_state_dict(state)
    expected = invgen.solve(Y, A, network(plain), 0.1, "AdaptivePiGDM(steps=3)").samples
    with torch.inference_mode():
        made = Net()
        made.conv.load_state_dict(state)
        prior, y = network(made), Y.clone()
        result = invgen.solve(y, A, prior, Gaussian(torch.full(A.out_shape, 0.1)), "DampedDPS(steps=3)")
        assert torch.equal(invgen.solve(y, A, prior, 0.1, "AdaptivePiGDM(steps=3)").samples, expected)
        assert result.residual.isfinite().all()
        x = torch.zeros(2, *SHAPE)
        pulled = A.adjoint(torch.ones(2, *A.out_shape))
        assert pulled.shape == x.shape
        assert (
            Posterior(prior, operators.from_function(lambda v: v**2, SHAPE), Gaussian(0.1), x[0]).likelihood_score(x).shape
            == x.shape
        )
    assert made.conv.weight.is_inference()  # put back
    assert torch.equal(invgen.solve(y, A, prior, 0.1, "AdaptivePiGDM(steps=3)").samples, expected)


class Half(nn.Module):
    """Epsilon of a signal without spread, in half precision: through 8 channels of weights 8 and 1 / 64."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv, self.back = nn.Conv2d(1, 8, 1, bias=False), nn.Conv2d(8, 1, 1, bias=False)
        nn.init.constant_(self.conv.weight, 8.0)
        nn.init.constant_(self.back.weight, 1 / 64)
        self.to(dtype)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.back(self.conv(x))


@pytest.mark.parametrize("sampler", ["AdaptivePiGDM(steps=6)", "DampedDPS(steps=6)", "MMPS(steps=6)", "DPS(steps=6)"])
# noise of 1e-4, in six steps
@pytest.mark.filterwarnings("ignore:.* not explain the measurement")
def test_half_precision_does_not_overflow_backwards(sampler):
    options = {"prediction": "epsilon", "schedule": Schedule.linear(), "data_std": 0.5}
    runs = [from_network(Half(dtype), SHAPE, **options) for dtype in (torch.float32, torch.float16)]
    expected, result = (invgen.solve(Y, A, prior, 1e-4, sampler).samples for prior in runs)
    # D rounds by sigma / 2048, 0.08 at the first level; guidance and steps take that down with sigma
    assert (result - expected).abs().max() < 0.1


def test_pullbacks_of_huge_and_tiny_cotangents():
    prior = from_network(Half(torch.float16), SHAPE, prediction="epsilon", schedule=Schedule.linear())
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    exact = from_network(Half(torch.float32), SHAPE, prediction="epsilon", schedule=Schedule.linear())
    sizes = torch.tensor([1e12, 1.0, 1e-12]).reshape(3, 1, 1, 1)
    v = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1)) * sizes
    for s in (0.1, 3.0, 150.0):
        pulled, wanted = prior.vjp(x, s)[1](v), exact.vjp(x, s)[1](v)
        # half precision keeps 11 bits, and 1 - s * s / (1 + s^2) cancels at large sigma to what D leaves of its input
        torch.testing.assert_close(pulled / sizes, wanted / sizes, rtol=0.01, atol=0.005)
        x_leaf = x.clone().requires_grad_()
        (direct,) = torch.autograd.grad(prior(x_leaf, s), x_leaf, v)
        torch.testing.assert_close(direct / sizes, wanted / sizes, rtol=0.01, atol=0.005)


def test_the_size_of_a_row_is_a_power_of_two():
    v = torch.tensor([[3.0, -5.0], [0.0, 0.0], [1e-20, 0.0], [float("inf"), 1.0]])
    assert power_of_two(v).flatten().tolist() == [8.0, 1.0, 2.0**-66, 1.0]


@pytest.mark.parametrize(
    ("last", "expected"),
    [(nn.Sigmoid(), (0.0, 1.0)), (nn.Tanh(), (-1.0, 1.0)), (None, None)],
    ids=["sigmoid", "tanh", "plain"],
)
def test_the_range_of_a_decoder_is_measured(last, expected):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 64), *([nn.Hardtanh(-9, 9), last] if last else []), nn.Unflatten(1, SHAPE))
    with torch.no_grad():
        net[0].weight.mul_(6)
    prior = from_generator(net, (4,))
    x = prior.sample(64)
    assert prior.value_range == (expected or (x.min().item(), x.max().item()))
    assert prior.data_mean == pytest.approx(x.mean().item(), abs=1e-5) and prior.data_std == pytest.approx(
        x.std().item(), 1e-4
    )
    assert "measured on its samples: value_range, data_mean, data_std" in repr(prior)
    told = from_vae(net, latent_shape=(4,), value_range=(-3, 3), data_std=2.0)
    assert told.value_range == (-3, 3) and told.data_std == 2.0 and told.measured == ("data_mean",)
