"""Latent pipelines without a text: LDM with a VQModel, as DM4CT's, and DiT by class."""

import shutil

import pytest
import torch

import invgen
from invgen.errors import OptionError, UnsupportedError, WeightsError
from invgen.operators import Mask
from invgen.priors.checkpoints.pipelines import from_pipeline
from tests.priors.checkpoints import tiny_pipelines
from tests.priors.checkpoints.pipeline_steps import CLOSE, MARKS, codes, ddim_levels, deviation, given_text, trajectory

pytestmark = MARKS


def ldm(prediction="epsilon"):
    """Five steps of DDIM, set_alpha_to_one, and the decoder: images in [0, 1] of the pipeline's own call."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=False, prediction_type=prediction)
    pipeline = tiny_pipelines.ldm(scheduler)
    pipeline.set_progress_bar_config(disable=True)
    prior = from_pipeline(pipeline)
    images = pipeline(2, torch.Generator().manual_seed(0), num_inference_steps=5, output_type="np").images
    levels = ddim_levels(scheduler, 5)
    x = codes(2, 3, 8, 8) * (1 + levels[0] ** 2) ** 0.5
    with torch.no_grad():
        z = trajectory(prior.latent, x, levels)
        ours = (prior(z) / 2 + 0.5).clamp(0, 1)
    return deviation(ours, torch.from_numpy(images).permute(0, 3, 1, 2))


def dit(scale=1.0):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=False)
    pipeline = tiny_pipelines.dit(scheduler)
    pipeline.set_progress_bar_config(disable=True)
    prior = from_pipeline(pipeline)
    call = {"guidance_scale": scale, "num_inference_steps": 5, "output_type": "pt"}
    images = pipeline([207, 207], generator=torch.Generator().manual_seed(0), **call).images
    levels = ddim_levels(scheduler, 5)
    x = codes(2, 4, 8, 8) * (1 + levels[0] ** 2) ** 0.5
    with torch.no_grad():
        z = trajectory(given_text(prior, scale, 207).latent, x, levels)
        ours = (prior(z) / 2 + 0.5).clamp(0, 1)
    return deviation(ours, images)


VARIANTS = {
    "LDM, VQModel (DM4CT), epsilon: 5 DDIM steps, decoded": ldm,
    "LDM, VQModel (DM4CT), sample: 5 DDIM steps, decoded": lambda: ldm("sample"),
    "LDM, VQModel (DM4CT), v: 5 DDIM steps, decoded": lambda: ldm("v_prediction"),
    "DiT, class: 5 DDIM steps, decoded": dit,
    "DiT, class, guidance 4: 5 DDIM steps, decoded": lambda: dit(4.0),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_pipelines_without_text(name):
    assert VARIANTS[name]() < CLOSE


def test_transformers_under_their_old_name(tmp_path):
    """DiT and PixArt-alpha were published as Transformer2DModel, the latter's small one without sizes as input."""
    from diffusers import DDIMScheduler

    tiny_pipelines.dit(DDIMScheduler()).save_pretrained(tmp_path)
    z = codes(2, 4, 8, 8)
    now = from_pipeline(tmp_path).guided(3, 2.0).latent(z, 1.0)
    for path in (tmp_path / "model_index.json", tmp_path / "transformer" / "config.json"):
        path.write_text(path.read_text().replace("DiTTransformer2DModel", "Transformer2DModel"))
    torch.testing.assert_close(from_pipeline(tmp_path).guided(3, 2.0).latent(z, 1.0), now)


# a network that was never trained
@pytest.mark.filterwarnings("ignore:of pure noise at sigma")
@pytest.mark.filterwarnings("ignore:the .* cannot make what was measured")
@pytest.mark.filterwarnings("ignore:.* samples of .* are saturated")
def test_dm4ct_as_published(tmp_path):
    """VQModel with scale 1 and one channel, UNet2DModel, DDPMScheduler by default: as their training script saves them."""
    from diffusers import DDPMScheduler

    vae = tiny_pipelines.vq(1, in_channels=1, out_channels=1, scaling_factor=1)
    tiny_pipelines.ldm(DDPMScheduler(num_train_timesteps=1000), vae).save_pretrained(tmp_path)
    prior = from_pipeline(tmp_path)
    assert prior.shape == (1, 16, 16) and prior.latent_shape == (1, 8, 8)
    z = codes(2, 1, 8, 8)
    net, scheduler = tiny_pipelines.unet(1), DDPMScheduler(num_train_timesteps=1000, clip_sample=False)
    for t in (1, 400, 900):
        theirs = scheduler.step(net(z, t).sample, t, z).pred_original_sample
        alpha_bar = (1 - scheduler.betas.double()).cumprod(0)[t].item()
        ours = prior.latent(z / alpha_bar**0.5, ((1 - alpha_bar) / alpha_bar) ** 0.5)
        assert deviation(ours, theirs) < CLOSE
    torch.testing.assert_close(prior(z), vae.decode(z).sample)
    torch.testing.assert_close(prior.encode(prior(z)), vae.encode(prior(z)).latents)
    shutil.rmtree(tmp_path / "scheduler")
    (tmp_path / "model_index.json").unlink()  # as in their downloads, which hold the two networks alone
    with pytest.raises(WeightsError, match="no scheduler"):
        from_pipeline(tmp_path)
    again = from_pipeline(tmp_path, scheduler=DDPMScheduler(num_train_timesteps=1000))
    torch.testing.assert_close(again.latent(z, 2.0), prior.latent(z, 2.0))
    prior.latent.value_range = (-1e4, 1e4)  # of a network that was never trained
    A = Mask.random(prior.shape, 0.5)
    result = invgen.solve(
        torch.zeros(A.out_shape), A, prior, 0.1, invgen.samplers.DAPS(steps=2, langevin_steps=3), num_samples=2
    )
    assert result.samples.shape == (2, 1, 16, 16)


def test_odd_codes_are_padded():
    from diffusers import DDIMScheduler

    prior = from_pipeline(tiny_pipelines.ldm(DDIMScheduler()), shape=(3, 18, 22))
    assert prior.latent(codes(1, 3, 9, 11), 1.0).shape == (1, 3, 9, 11)


def test_networks_of_other_pipelines_are_refused():
    from types import SimpleNamespace

    from diffusers import DDIMScheduler

    def pipeline(**parts):
        return SimpleNamespace(components={"vae": tiny_pipelines.kl(), "scheduler": DDIMScheduler(), **parts})

    with pytest.raises(UnsupportedError, match="inpainting"):
        from_pipeline(pipeline(unet=tiny_pipelines.text_unet(in_channels=9)))
    with pytest.raises(UnsupportedError, match="no network that invgen knows"):
        from_pipeline(pipeline(transformer=tiny_pipelines.dc()), shape=(3, 16, 16))
    with pytest.raises(WeightsError, match="no unet or transformer"):
        from_pipeline(pipeline())
    with pytest.raises(OptionError, match="takes no text"):
        from_pipeline(pipeline(unet=tiny_pipelines.unet(4)), empty=codes(5, 12))
    with pytest.raises(UnsupportedError, match="no classes"):
        from_pipeline(pipeline(unet=tiny_pipelines.unet(4))).condition(3)
