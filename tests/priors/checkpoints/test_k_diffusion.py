"""k-diffusion's U-Net and transformers against the Denoiser of the original code, crowsonkb/k-diffusion 4601bf0853."""

import json

import pytest
import torch
from safetensors.torch import save_file

import invgen
from invgen import priors
from tests.priors.checkpoints import original

VARIANTS = ["k_image_v1", "k_image_v1_variance", "k_image_v1_patches"]
TRANSFORMERS = ["k_transformer_v2", "k_transformer_v2_windows", "k_transformer_v1", "k_transformer_v1_patches"]


def deviation(prior, tensors):
    """Of the denoiser, per unit of input."""
    size = 1 + tensors["sigma"].reshape(-1, 1, 1, 1)
    return (prior(tensors["xs"], tensors["sigma"]) - tensors["D"]).abs().div(size).max().item()


@pytest.mark.slow
@pytest.mark.parametrize("variant", [*VARIANTS, *TRANSFORMERS])
def test_equals_the_original(variant, tmp_path):
    state, tensors, about = original.load(variant)
    # a checkpoint of training, the slim form, and a state dict with the configuration in a file or as it is
    ckpt = {"config": about["config"], "model": {k: 0 * v for k, v in state.items()}, "model_ema": state, "step": 3}
    torch.save(ckpt, tmp_path / "net.pth")
    prior = priors.from_k_diffusion(tmp_path / "net.pth")
    assert prior.shape == tensors["xs"].shape[1:] and (prior.sigma_min, prior.sigma_max) == (0.01, 80.0)
    assert deviation(prior, tensors) < 1e-5
    save_file(state, tmp_path / "net.safetensors", {"config": json.dumps(about["config"])})
    assert deviation(priors.from_k_diffusion(tmp_path / "net.safetensors"), tensors) < 1e-5
    save_file(state, tmp_path / "bare.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(about["config"]))
    for config in (tmp_path / "config.json", about["config"]):
        assert deviation(priors.from_k_diffusion(tmp_path / "bare.safetensors", config=config), tensors) < 1e-5


@pytest.mark.parametrize("variant", ["k_transformer_v2", "k_transformer_v1"])
def test_classes(variant, tmp_path):
    state, tensors, about = original.load(variant)
    torch.save({"config": about["config"], "model_ema": state}, tmp_path / "net.pth")
    prior = priors.from_k_diffusion(tmp_path / "net.pth")
    x, sigma = tensors["xs"], tensors["sigma"]
    found = prior(x, sigma, torch.tensor([0, 2, 1]))
    assert ((found - tensors["D_class"]).abs() / (1 + sigma.reshape(-1, 1, 1, 1))).max() < 1e-5
    assert (found - tensors["D"]).abs().max() > 1e-3  # the class matters
    torch.testing.assert_close(prior.condition(2)(x[1:2], 1.5), found[1:2], rtol=0, atol=1e-5)
    for wrong in (9, -1, 0.5):
        with pytest.raises(invgen.OptionError, match="knows the classes 0 to 2"):
            prior.condition(wrong)(x, 1.0)


def test_sizes_that_the_windows_do_not_divide_are_padded(tmp_path):
    state, tensors, about = original.load("k_transformer_v2_windows")
    torch.save({"config": about["config"], "model_ema": state}, tmp_path / "net.pth")
    prior = priors.from_k_diffusion(tmp_path / "net.pth", (1, 20, 12))
    assert prior.stride == 8 and prior(tensors["xs"][:, :, :20, :12], 1.0).shape == (3, 1, 20, 12)


@pytest.mark.slow
def test_bad_files(tmp_path):
    state, _, about = original.load("k_image_v1")
    path, config = tmp_path / "net.pth", about["config"]

    def load(config=config, content=state):
        torch.save(content, path)
        return priors.from_k_diffusion(path, config=config)

    with pytest.raises(invgen.OptionError, match="holds no configuration"):
        load(None)
    with pytest.raises(invgen.WeightsError, match="there is no configuration file"):
        load(tmp_path / "none.json")
    for bad in ({}, {"model": 3}, {"model": {"type": "image_v1"}}, {"model": {**config["model"], "patch_size": "a"}}):
        with pytest.raises(invgen.WeightsError) as error:
            load(bad)
        assert "\n" not in str(error.value)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(invgen.WeightsError, match="is not k-diffusion's"):
        load(tmp_path / "config.json")
    with pytest.raises(invgen.UnsupportedError, match="is a 'image_v2'"):
        load({"model": {**config["model"], "type": "image_v2"}})
    with pytest.raises(invgen.WeightsError, match="do not describe a network of k-diffusion"):
        load({"model": {**config["model"], "type": "image_transformer_v2"}})
    state2, _, about2 = original.load("k_transformer_v2")
    for attention in (None, [{"type": "neighborhood", "kernel_size": 7}, {"type": "global"}]):
        with pytest.raises(invgen.UnsupportedError, match="needs natten, is not read"):
            load({"model": {**about2["config"]["model"], "self_attns": attention}}, state2)
    with pytest.raises(invgen.UnsupportedError, match="other conditions than classes"):
        load({"model": {**about2["config"]["model"], "mapping_cond_dim": 3}}, state2)
    for missing in ("merges.0", "down_levels.0.0.ff", "mid_level.1", "mapping.blocks.1", "out_norm", "splits.0.fac"):
        with pytest.raises(invgen.WeightsError) as error:
            load(about2["config"], {k: v for k, v in state2.items() if not k.startswith(missing)})
        assert "\n" not in str(error.value)
    for missing in ("u_net.d_blocks.1", "inner_model.u_net.u_blocks", "inner_model.mapping.0", "inner_model.proj_in.bias"):
        with pytest.raises(invgen.WeightsError) as error:
            load(content={k: v for k, v in state.items() if missing not in k})
        assert "\n" not in str(error.value)
    with pytest.raises(invgen.UnsupportedError, match="knows no classes"):
        load().condition(1)(torch.zeros(1, 3, 16, 16), 1.0)
