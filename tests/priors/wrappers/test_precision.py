"""Half precision: the state in float32, the error of D by prediction and noise level; compiled networks."""

import pytest
import torch
from torch import nn

from invgen import priors, samplers
from invgen.conditional import DenoiserOf
from invgen.errors import OptionError, UnsupportedError
from invgen.numerics.precision import Cast, cast
from invgen.priors import GaussianPrior, NetworkDenoiser, Schedule
from invgen.priors.checkpoints.networks.unet import UNet
from invgen.sampler import Cost

SHAPE = (1, 16, 16)
LEVELS = (0.02, 0.1, 0.5, 2.0, 10.0, 50.0, 150.0)
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


class Gaussian(nn.Module):
    """The exact network of N(0, 1/4) in a parametrisation, which rounds as a network does: inputs, weights and output."""

    def __init__(self, prediction, schedule):
        super().__init__()
        self.prediction, self.schedule = prediction, schedule
        self.one = nn.Parameter(torch.ones(()))  # carries the precision

    def forward(self, x, t):
        table = self.schedule.log_sigmas.exp()
        s = table[t.round().long().clamp(0, 999)].float().reshape(-1, 1, 1, 1)
        alpha = (1 + s**2).rsqrt()
        clean = 0.25 / (0.25 + s**2) * x.float() / alpha
        noise = (x.float() / alpha - clean) / s
        out = {"epsilon": noise, "sample": clean, "v": alpha * noise - s * alpha * clean, "score": -noise / (s * alpha)}
        return self.one * out[self.prediction].to(self.one.dtype)


def gaussian(prediction):
    schedule = Schedule.linear()
    return NetworkDenoiser(Gaussian(prediction, schedule), SHAPE, prediction, schedule, data_std=0.5)


def shipped_kind():
    torch.manual_seed(0)
    prior = priors.load("ct", SHAPE)
    return prior.requires_grad_(False)


def errors(prior, other):
    """Root mean square of the difference of D over data_std, at each level."""
    g = torch.Generator().manual_seed(0)
    out = []
    for s in LEVELS:
        if prior.sigma_min <= s <= prior.sigma_max:
            x = 0.5 * torch.randn(4, *SHAPE, generator=g) + s * torch.randn(4, *SHAPE, generator=g)
            out.append((other(x, s) - prior(x, s)).square().mean().sqrt().item() / prior.data_std)
    return out


@HALVES
@pytest.mark.parametrize("prediction", ["sample", "v"])
def test_other_predictions_bear_it_at_every_level(prediction, dtype):
    prior = gaussian(prediction)
    half = cast(prior, dtype)
    assert not isinstance(half, Cast) and half.dtype == torch.float32
    assert max(errors(prior, half)) < torch.finfo(dtype).eps


@pytest.mark.slow
@HALVES
def test_so_does_the_shipped_kind_of_network(dtype):
    prior = shipped_kind()
    half = cast(prior, dtype)
    assert half.net.head.weight.dtype == dtype and prior.net.head.weight.dtype == torch.float32
    assert max(errors(prior, half)) < 2 * torch.finfo(dtype).eps
    half.value_range = (-1e4, 1e4)  # of a network that was never trained
    x = samplers.Heun(steps=3)(half, 2)
    assert x.dtype == torch.float32
    assert half(x, 1.0).dtype == torch.float32


@HALVES
@pytest.mark.parametrize("prediction", ["epsilon", "score"])
def test_epsilon_does_not_unless_high_levels_keep_their_precision(prediction, dtype):
    prior = gaussian(prediction)
    everywhere = errors(prior, cast(prior, dtype, above=1e9))
    assert everywhere[-1] > 10 * torch.finfo(dtype).eps  # at sigma = 150: 0.25 data_std in bfloat16
    assert max(errors(prior, cast(prior, dtype))) < 0.05
    half = cast(prior, dtype)
    x, levels = torch.randn(3, *SHAPE), torch.tensor([0.1, 100.0, 0.1])
    torch.testing.assert_close(half(x, levels)[1:2], prior(x[1:2], 100.0))
    torch.testing.assert_close(half(x, levels)[::2], half(x[::2], 0.1))
    torch.testing.assert_close(half(x[:2], levels[1:2].expand(2)), prior(x[:2], 100.0))


def test_vjp_and_conditions_go_through():
    half = cast(shipped_kind(), torch.bfloat16, above=0.5)
    assert isinstance(half, Cast) and isinstance(half, DenoiserOf)
    for s in (0.1, 1.0):
        x0, pullback = half.vjp(torch.randn(2, *SHAPE), s)
        assert pullback(x0).dtype == torch.float32 and pullback(x0).isfinite().all()


def test_to_in_place_is_the_same():
    prior = shipped_kind()
    half, x = cast(prior), torch.randn(2, *SHAPE)
    torch.testing.assert_close(prior.to(torch.bfloat16)(x, 0.3), half(x, 0.3), rtol=0, atol=0)


def test_what_cannot_be_cast_is_said():
    with pytest.raises(UnsupportedError, match="no network whose weights"):
        cast(GaussianPrior((3,)))
    with pytest.raises(OptionError, match="bfloat16 or torch.float16"):
        cast(shipped_kind(), torch.float64)
    with pytest.raises(OptionError, match="at least 0"):
        cast(shipped_kind(), above=-1.0)


@pytest.mark.slow  # torch.compile traces the network, and asks every tensor for its gradient
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_compiled_network_is_compiled_once_and_changes_nothing():
    """`prior.net.compile()`: the network sees levels as tensors. `prior.compile()` would make a program of each level."""
    torch._dynamo.reset()
    graphs = []
    prior = shipped_kind()
    want, plain = Cost(), samplers.Heun(steps=12)(prior, 2)
    samplers.Heun(steps=12)(prior, 2, cost=want)
    prior.net.compile(backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    cost = Cost()
    torch.testing.assert_close(samplers.Heun(steps=12)(prior, 2, cost=cost), plain)
    assert len(graphs) == 1 and cost.nfe == want.nfe
    x = torch.randn(2, *SHAPE)
    clean, pullback = prior.vjp(x, 0.3)
    other, reference = shipped_kind().vjp(x, 0.3)
    torch.testing.assert_close(clean, other)
    torch.testing.assert_close(pullback(x), reference(x))


@pytest.mark.slow
def test_eager_backend_of_torch_compile():
    torch._dynamo.reset()
    net = UNet(1, widths=(8, 8), blocks=1)
    prior = priors.from_network(net, SHAPE, prediction="epsilon", schedule=Schedule.linear())
    x = torch.randn(2, *SHAPE)
    want = prior(x, 0.3)
    prior.net.compile(backend="eager")
    torch.testing.assert_close(prior(x, 0.3), want)
