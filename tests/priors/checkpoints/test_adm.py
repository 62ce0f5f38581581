"""guided-diffusion checkpoints against the outputs of the original code, computed at openai/guided-diffusion 22e0df8183.

The fixtures (see original.py) hold the original UNetModel's output on random weights and inputs; "improved" is
openai/improved-diffusion 1bc7bbbdc4, which has the same layout.
"""

import gzip
import json

import pytest
import torch

import invgen
from invgen import priors
from invgen.priors.checkpoints import adm
from tests.priors.checkpoints import original

pytestmark = pytest.mark.slow  # the import of diffusers alone takes seconds

VARIANTS = ["legacy", "new_order", "classes", "classes_new_order", "heads", "plain", "half_first", "one_level", "improved"]


def saved(tmp_path, variant, **extra):
    state, tensors, about = original.load(f"adm_{variant}")
    path = tmp_path / "net.pt"
    torch.save({"ema": state, **extra} if extra else state, path)
    return path, tensors, about["options"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_original(variant, tmp_path):
    path, tensors, options = saved(tmp_path, variant)
    prior = priors.from_guided_diffusion(path, (3, 8, 8), **options)
    out = adm.call_with_label(prior.net, tensors["x"], tensors["t"], tensors.get("label"))
    assert (out - tensors["out"]).abs().max() < 1e-5
    # and as a denoiser: D = x - sigma eps at x_sigma = x_t / alpha_t, for the two times of the fixture, one is fractional
    sigma = ((1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0) ** -1 - 1).sqrt()[[3]]
    x = tensors["x"][:1].double() * (1 + sigma**2).sqrt()
    label = None if "label" not in tensors else tensors["label"][0]
    D = prior(x, sigma) if label is None else prior.condition(label)(x, sigma)
    torch.testing.assert_close(D, x - sigma * tensors["out"][:1, :3].double(), atol=1e-6, rtol=0)


def test_an_entry_of_a_larger_checkpoint_and_safetensors(tmp_path):
    from safetensors.torch import save_file

    path, tensors, options = saved(tmp_path, "legacy", step=7, optimizer={"lr": 0.1})
    D = priors.from_guided_diffusion(path, (3, 8, 8), **options)(tensors["x"], 0.5)
    save_file({f"module.{k}": v for k, v in original.load("adm_legacy")[0].items()}, tmp_path / "net.safetensors")
    again = priors.from_guided_diffusion(tmp_path / "net.safetensors", (3, 8, 8), **options)
    assert torch.equal(D, again(tensors["x"], 0.5))
    with pytest.raises(invgen.WeightsError, match="has no entry 'ema2'; it has 'ema', 'step', 'optimizer'"):
        priors.from_guided_diffusion(path, (3, 8, 8), key="ema2", **options)


def test_published_models_are_recognised():
    with gzip.open(original.DATA / "adm_layouts.json.gz") as file:
        layouts = json.load(file)
    assert layouts.keys() == adm.PUBLISHED.keys()
    for name, shapes in layouts.items():
        tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        layout = adm.Layout.of(tensors)
        assert [key for key, known in adm.PUBLISHED.items() if known.fits(layout)] == [name]


@pytest.mark.parametrize("name", ["ffhq256", "imagenet512_class", "imagenet128_class"])
def test_published_models_have_a_place_for_every_tensor(name, monkeypatch):
    with gzip.open(original.DATA / "adm_layouts.json.gz") as file:
        shapes = json.load(file)[name]
    with torch.device("meta"):
        tensors = {key: torch.empty(shape) for key, shape in shapes.items()}
    monkeypatch.setattr(adm.pickles, "fill", lambda net, renamed, source: (net.state_dict(), renamed))
    known = adm.PUBLISHED[name]
    expected, found = adm.unet(tensors, name, known.num_head_channels, known.num_heads, known.new_attention_order)
    assert {k: v.shape for k, v in expected.items()} == {k: v.shape for k, v in found.items()}


def test_what_the_shapes_do_not_tell_must_be_said(tmp_path):
    path, _, _ = saved(tmp_path, "legacy")
    with pytest.raises(invgen.OptionError, match=r"none of the published ones .* pass shape=\(C, H, W\), num_head"):
        priors.from_guided_diffusion(path)
    with pytest.raises(invgen.OptionError, match="which num_heads=None, num_head_channels=48 do not divide"):
        priors.from_guided_diffusion(path, (3, 8, 8), num_head_channels=48, new_attention_order=False)
    with pytest.raises(invgen.OptionError, match="unknown model 'ffhq'; known are ffhq256"):
        priors.from_guided_diffusion(path, model="ffhq")
    with pytest.raises(invgen.WeightsError, match="is not 'ffhq256': it has Layout"):
        priors.from_guided_diffusion(path, model="ffhq256")


def test_classes(tmp_path):
    path, tensors, options = saved(tmp_path, "classes")
    prior = priors.from_guided_diffusion(path, (3, 8, 8), **options)
    with pytest.raises(invgen.UnsupportedError, match=r"class-conditional: use prior.condition\(label\)"):
        prior(tensors["x"], 1.0)
    with pytest.raises(invgen.OptionError, match="knows the classes 0 to 4, got 5"):
        prior.condition(5)(tensors["x"], 1.0)
    both = prior(tensors["x"], 1.0, torch.tensor([3, 1]))
    torch.testing.assert_close(both[:1], prior.condition(3)(tensors["x"][:1], 1.0), atol=1e-5, rtol=1e-5)
    path, tensors, options = saved(tmp_path, "plain")
    with pytest.raises(invgen.UnsupportedError, match="knows no classes"):
        priors.from_guided_diffusion(path, (3, 8, 8), **options).condition(1)(tensors["x"], 1.0)


def test_other_networks_are_refused(tmp_path):
    state, _, about = original.load("adm_legacy")
    path = tmp_path / "net.pt"

    def load():
        return priors.from_guided_diffusion(path, (3, 8, 8), **about["options"])

    torch.save({"conv.weight": torch.zeros(1)}, path)
    with pytest.raises(invgen.WeightsError, match="does not hold a U-Net of guided-diffusion"):
        load()
    torch.save({k: v for k, v in state.items() if k != "middle_block.1.qkv.bias"}, path)
    with pytest.raises(invgen.WeightsError, match="3 tensors are missing, extra or of another shape"):
        load()
    torch.save(state | {"extra.weight": torch.zeros(2)}, path)
    with pytest.raises(invgen.WeightsError, match=r"'extra.weight' first \(expected None, found \(2,\)\)"):
        load()
    torch.save(state | {"out.0.bias": torch.full((32,), torch.nan)}, path)
    with pytest.raises(invgen.WeightsError, match="not finite"):
        load()
    torch.save(state | {"out.2.weight": torch.zeros(4, 32, 3, 3), "out.2.bias": torch.zeros(4)}, path)
    with pytest.raises(invgen.UnsupportedError, match="turns 3 channels into 4"):
        load()
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(invgen.WeightsError, match="not a whole checkpoint"):
        load()
