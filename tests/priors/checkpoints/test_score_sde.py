"""NCSN++, DDPM++ and DDPM against the score function of the original code, yang-song/score_sde_pytorch cb1f359f4a."""

import pytest
import torch

import invgen
from invgen import priors
from invgen.priors.checkpoints.score_sde import SubVP
from tests.priors.checkpoints import original

VARIANTS = ["sde_ve_ncsnpp", "sde_ve_skip", "sde_ve_discrete", "sde_vp_ddpmpp", "sde_vp_discrete", "sde_subvp_ncsnpp"]
VARIANTS += ["sde_vp_ddpm", "sde_vp_ddpm_continuous", "sde_ve_ddpm"]


def saved(tmp_path, variant):
    """A checkpoint as training writes it: wrong weights as model, the right ones as averages, a list without names."""
    state, tensors, about = original.load(variant)
    shadow = [v for k, v in state.items() if k not in ("sigmas", "all_modules.0.W")]
    model = {f"module.{k}": v if k in ("sigmas", "all_modules.0.W") else torch.zeros_like(v) for k, v in state.items()}
    content = {"optimizer": {"state": {}}, "model": model, "ema": {"decay": 0.999, "shadow_params": shadow}, "step": 3}
    torch.save(content, tmp_path / "net.pth")
    return tmp_path / "net.pth", tensors, about


def deviation(prior, tensors):
    """Of sigma_t times the score at x_t."""
    mean, std = (tensors[k].double().reshape(-1, 1, 1, 1) for k in ("mean", "std"))
    x = tensors["x"].double()
    D = prior(x / mean, (std / mean).flatten())
    return ((mean * D - x) / std - std * tensors["score_out"]).abs().max().item()


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_original(variant, tmp_path):
    path, tensors, about = saved(tmp_path, variant)
    prior = priors.from_score_sde(path, (3, 8, 8), sde=about["sde"], continuous=about["continuous"])
    if tensors["x"].dtype == torch.float64:  # Fourier features have phases of up to 1000, too large for float32
        prior = prior.double()
    assert deviation(prior, tensors) < 1e-5
    assert prior.value_range == ((-1.0, 1.0) if about["centered"] else (0.0, 1.0))
    own = priors.from_score_sde(path, (3, 8, 8), sde=about["sde"], continuous=about["continuous"], ema=False)
    assert deviation(own, tensors) > 0.1


def test_sub_vp():
    schedule = SubVP()
    t = torch.tensor([1e-5, 0.01, 0.3, 1.0], dtype=torch.float64)
    alpha = (-0.25 * t**2 * 19.9 - 0.05 * t).exp()
    sigma = (1 - alpha**2) / alpha
    torch.testing.assert_close(schedule.time(sigma), 999 * t, rtol=1e-6, atol=0)
    torch.testing.assert_close(schedule.alpha(sigma), alpha)
    assert (schedule.sigma_min, schedule.sigma_max) == pytest.approx((sigma[0].item(), sigma[-1].item()))


@pytest.mark.slow
def test_bad_files(tmp_path):
    path, _, about = saved(tmp_path, "sde_ve_ncsnpp")
    with pytest.raises(invgen.OptionError, match="sde must be 've', 'vp' or 'subvp', got 'vpsde'"):
        priors.from_score_sde(path, (3, 8, 8), sde="vpsde")
    with pytest.raises(invgen.ShapeError, match=r"takes 3 channels, got the shape \(1, 8, 8\)"):
        priors.from_score_sde(path, (1, 8, 8), sde="ve")
    with pytest.raises(invgen.ShapeError, match="square images"):
        priors.from_score_sde(path, (3, 8, 16), sde="ve")
    state = original.load("sde_vp_ddpm")[0]
    for missing in ("all_modules.0.", "all_modules.5.", "all_modules.4.Conv_1.", "all_modules.8.", "all_modules.1.bias"):
        torch.save({k: v for k, v in state.items() if not k.startswith(missing)}, path)
        with pytest.raises(invgen.WeightsError) as error:
            priors.from_score_sde(path, (3, 8, 8), sde="vp")
        assert "\n" not in str(error.value)
    torch.save({"begin_conv.weight": torch.zeros(8, 3, 3, 3)}, path)
    with pytest.raises(invgen.UnsupportedError, match="NCSN or NCSNv2"):
        priors.from_score_sde(path, (3, 8, 8), sde="ve")
    state = original.load("sde_ve_ncsnpp")[0]
    blocks = {k: v for k, v in state.items() if not k.startswith("all_modules.8.")}
    contents = [
        {"a": torch.zeros(2)},
        {k: v for k, v in state.items() if k != "sigmas"},
        blocks,
        {k: v for k, v in state.items() if k != "all_modules.4.Dense_0.bias"},
        {k: v for k, v in state.items() if not k.startswith("all_modules.2")},
        state | {"all_modules.99.weight": torch.zeros(2)},
        {"model": state, "ema": {"shadow_params": [torch.zeros(3)]}},
    ]
    for content in contents:
        torch.save(content, path)
        with pytest.raises((invgen.WeightsError, invgen.UnsupportedError)) as error:
            priors.from_score_sde(path, (3, 8, 8), sde="ve")
        assert "\n" not in str(error.value)
