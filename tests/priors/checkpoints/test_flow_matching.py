"""Flow-matching checkpoints against the network of the original code, atong01/conditional-flow-matching cacd4dc8a5."""

import math

import pytest
import torch

import invgen
from invgen import priors
from invgen.priors.checkpoints import adm, flow_matching
from tests.priors.checkpoints import original


def saved(tmp_path, variant):
    state, tensors, about = original.load(variant)
    content = {"net_model": {k: 0 * v for k, v in state.items()}, "ema_model": state, "sched": {}, "step": 3}
    torch.save(content, tmp_path / "net.pt")
    return tmp_path / "net.pt", tensors, about["options"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["cfm_cifar", "cfm_classes"])
def test_equals_the_original(variant, tmp_path):
    path, tensors, options = saved(tmp_path, variant)
    x, t = tensors["x"], tensors["t"].reshape(-1, 1, 1, 1)
    sigma, label = ((1 - t) / t).flatten(), tensors.get("label")
    prior = priors.from_flow_matching(path, (3, 8, 8), **options)
    # E[x_0 | x_t] = x_t + (1 - t) v; x_t = t x_sigma
    torch.testing.assert_close(prior(x / t, sigma, label), x + (1 - t) * tensors["out"], rtol=0, atol=1e-5)
    # the same network with its time the other way round, and counted in thousandths
    other = priors.from_flow_matching(path, (3, 8, 8), noise_at=1, time_scale=1000.0, **options)
    o = adm.call_with_label(other.net, x, 1000 * t.flatten(), label)
    s = (t / (1 - t)).flatten()
    torch.testing.assert_close(other(x / (1 - t), s, label), x - t * o, rtol=0, atol=1e-5)
    # the trigonometric path: E[x_0 | x_t] = sin x_t + cos 2 / pi v
    angle = math.pi / 2 * t
    curved = priors.from_flow_matching(path, (3, 8, 8), interpolation="trigonometric", **options)
    D = curved(x / angle.sin(), (1 / angle.tan()).flatten(), label)
    torch.testing.assert_close(D, angle.sin() * x + angle.cos() * 2 / math.pi * tensors["out"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", ["straight", "trigonometric"])
def test_exact_velocity_of_a_gaussian_gives_its_exact_denoiser(path, monkeypatch):
    """Data N(0, 0.3^2): the marginal velocity E[dx_t / dt | x_t] in closed form, through the loader's own conversion."""

    def velocity(net, x, t, condition=None):
        t = t.reshape(-1, 1, 1, 1).double()
        if path == "straight":
            a, b, da, db = t, 1 - t, 1.0, -1.0
        else:
            a, b = (math.pi / 2 * t).sin(), (math.pi / 2 * t).cos()
            da, db = math.pi / 2 * b, -math.pi / 2 * a
        return x * (da * a * 0.09 + db * b) / (a**2 * 0.09 + b**2)

    net = torch.nn.Identity()
    monkeypatch.setattr(flow_matching.entries, "state_dict", lambda *_: priors.Weights())
    monkeypatch.setattr(flow_matching.adm, "recognised", lambda *_, **__: (net, (1, 4, 4), None))
    monkeypatch.setattr(flow_matching.adm, "stride", lambda net: 1)
    monkeypatch.setattr(flow_matching.adm, "call_with_label", velocity)
    prior = priors.from_flow_matching("net.pt", interpolation=path)
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    for sigma in (0.01, 0.5, 3.0, 100.0):
        torch.testing.assert_close(prior(x, sigma), x * 0.09 / (0.09 + sigma**2), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_published_model_is_recognised_and_options_are_checked(tmp_path):
    layout = adm.Layout(3, 3, 128, (128, 256, 256, 256), 2, (1,), 0, False, False)
    assert flow_matching.PUBLISHED["cifar10"].fits(layout)
    path, _, options = saved(tmp_path, "cfm_cifar")
    with pytest.raises(invgen.OptionError, match=r"none of the published ones \(cifar10\)"):
        priors.from_flow_matching(path)
    for bad in ({"interpolation": "linear"}, {"noise_at": 0.5}, {"interpolation": "trigonometric", "noise_at": 1}):
        with pytest.raises(invgen.OptionError):
            priors.from_flow_matching(path, (3, 8, 8), **options, **bad)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(invgen.WeightsError, match="does not hold a U-Net of guided-diffusion"):
        priors.from_flow_matching(path)
