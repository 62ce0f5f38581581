"""k-diffusion checkpoints against the Denoiser of the original code, crowsonkb/k-diffusion 4601bf0853."""

import json

import original
import pytest
import torch
from safetensors.torch import save_file

import invgen
from invgen import priors

VARIANTS = ["k_image_v1", "k_image_v1_variance", "k_image_v1_patches"]


def deviation(prior, tensors):
    """Of the denoiser, per unit of input."""
    size = 1 + tensors["sigma"].reshape(-1, 1, 1, 1)
    return (prior(tensors["xs"], tensors["sigma"]) - tensors["D"]).abs().div(size).max().item()


@pytest.mark.parametrize("variant", VARIANTS)
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
    with pytest.raises(invgen.UnsupportedError, match="is a 'image_transformer_v2'"):
        load({"model": {**config["model"], "type": "image_transformer_v2"}})
    for missing in ("u_net.d_blocks.1", "inner_model.u_net.u_blocks", "inner_model.mapping.0", "inner_model.proj_in.bias"):
        with pytest.raises(invgen.WeightsError) as error:
            load(content={k: v for k, v in state.items() if missing not in k})
        assert "\n" not in str(error.value)
    with pytest.raises(invgen.UnsupportedError, match="knows no classes"):
        load().condition(1)(torch.zeros(1, 3, 16, 16), 1.0)
