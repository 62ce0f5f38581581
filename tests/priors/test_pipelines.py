"""Latent pipelines of diffusers as priors, against what the pipelines themselves compute.

One Euler step of a pipeline from a noise level down to 0 is the clean estimate of its network: run by the pipeline's own
__call__ it contains the text encoders, the guidance, the packing of tokens, the sizes and the scheduler, all at once.
Deviations are relative to the largest value: diffusers' tables of noise levels and its Euler step are float32.
"""

import copy as copy_module
import json
import pickle
import shutil

import pytest
import test_latent
import tiny_pipelines
import torch

import invgen
from invgen.conditional import ClassifierFree
from invgen.diffusion import step
from invgen.errors import MissingExtraError, OptionError, ShapeError, UnsupportedError, WeightsError
from invgen.operators import Mask
from invgen.priors.latent import Autoencoder
from invgen.priors.pipelines import from_pipeline
from invgen.priors.text import TextEmbedding

pytestmark = [
    pytest.mark.slow,  # the import of diffusers alone takes seconds
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),  # of diffusers about itself
    pytest.mark.filterwarnings("ignore:.*do not explain the measurement"),  # random networks, few steps
]

CLOSE = 1e-5


def codes(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def deviation(ours, theirs):
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def euler(**config):
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler(**{**tiny_pipelines.SCALED, "steps_offset": 1, **config})


def flow(shift=3.0, **config):
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=shift, **config)


def given_text(prior, scale, prompt="a cat", negative=None):
    return prior.guided(prompt, scale=scale, negative=negative) if scale > 1 else prior.condition(prompt)


def one_step(pipeline, prior, z, level, **call):
    """What a pipeline makes of z in one step from a level of its scheduler, and z and the level in our coordinate."""
    flows = "FlowMatch" in type(pipeline.scheduler).__name__
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        **{"sigmas" if flows else "timesteps": [level]},
        num_inference_steps=1,
        latents=z,
        output_type="latent",
        **{"prompt": "a cat", "num_images_per_prompt": len(z), **call},
    ).images
    sigma = pipeline.scheduler.sigmas[0].item()
    if flows:  # z is x_t = (1 - t) x_sigma
        return theirs, z / (1 - sigma), sigma / (1 - sigma)
    return theirs, z * pipeline.scheduler.init_noise_sigma, sigma


def stable_diffusion(level=400, scale=1.0, prediction="epsilon", **config):
    pipeline = tiny_pipelines.stable_diffusion(euler(prediction_type=prediction), text=True, **config)
    prior, z = from_pipeline(pipeline), codes(2, 4, 8, 8)
    theirs, x, sigma = one_step(pipeline, prior, z, level, guidance_scale=scale)
    return deviation(given_text(prior, scale).latent(x, sigma), theirs)


def xl(level=400, scale=1.0, negative=None, shape=(3, 16, 24), **options):
    pipeline = tiny_pipelines.xl(euler(), **options)
    prior, z = from_pipeline(pipeline, shape=shape), codes(2, 4, shape[1] // 2, shape[2] // 2)
    sizes = {"height": shape[1], "width": shape[2], "negative_prompt": negative}
    theirs, x, sigma = one_step(pipeline, prior, z, level, guidance_scale=scale, **sizes)
    return deviation(given_text(prior, scale, negative=negative).latent(x, sigma), theirs)


def playground():
    """SDXL's network with EDM's preconditioning, three steps: its scheduler takes no single ones."""
    from diffusers import EDMEulerScheduler

    pipeline = tiny_pipelines.xl(EDMEulerScheduler(), force_zeros_for_empty_prompt=False)
    prior, z = from_pipeline(pipeline), codes(2, 4, 8, 8)
    pipeline.set_progress_bar_config(disable=True)
    call = {"num_images_per_prompt": 2, "guidance_scale": 3.0, "latents": z, "output_type": "latent"}
    theirs = pipeline("a cat", num_inference_steps=3, **call).images
    x = z * pipeline.scheduler.init_noise_sigma
    return deviation(trajectory(given_text(prior, 3.0).latent, x, pipeline.scheduler.sigmas), theirs)


def sd3(scale=1.0, negative=None, shift=3.0):
    pipeline = tiny_pipelines.sd3(flow(shift))
    prior, z = from_pipeline(pipeline), codes(2, 4, 8, 8)
    theirs, x, sigma = one_step(pipeline, prior, z, 0.4, guidance_scale=scale, negative_prompt=negative)
    return deviation(given_text(prior, scale, negative=negative).latent(x, sigma), theirs)


def flux(distilled=True, scale=1.0, negative=None):
    pipeline = tiny_pipelines.flux(flow(use_dynamic_shifting=True), distilled)
    prior = from_pipeline(pipeline, shape=(3, 16, 24), guidance=4.0 if distilled else None)
    z = codes(2, 4, 8, 12)
    packed = pipeline._pack_latents(z, 2, 4, 8, 12)
    call = {"guidance_scale": 4.0, "height": 16, "width": 24, "negative_prompt": negative, "true_cfg_scale": scale}
    theirs, _, sigma = one_step(pipeline, prior, packed, 0.4, **call)
    theirs = pipeline._unpack_latents(theirs, 16, 24, 2)
    return deviation(given_text(prior, scale, negative=negative).latent(z * (1 + sigma), sigma), theirs)


def pixart(sized=True, scale=1.0):
    pipeline = tiny_pipelines.pixart(euler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02), sized)
    prior, z = from_pipeline(pipeline, shape=(3, 16, 24)), codes(1, 4, 8, 12)
    call = {"height": 16, "width": 24, "use_resolution_binning": False, "clean_caption": False}
    theirs, x, sigma = one_step(pipeline, prior, z, 400, guidance_scale=scale, **call)
    return deviation(given_text(prior, scale).latent(x, sigma), theirs)


def sana(scale=1.0):
    pipeline = tiny_pipelines.sana(flow())
    prior, z = from_pipeline(pipeline, shape=(3, 32, 64)), codes(1, 4, 16, 32)
    embeds, others = codes(1, 5, 12, seed=1), codes(1, 5, 12, seed=2)
    mask, other = torch.tensor([[1, 1, 1, 0, 0]]), torch.tensor([[1, 1, 0, 0, 0]])
    call = {
        "prompt": None,
        "negative_prompt": None,
        "prompt_embeds": embeds,
        "prompt_attention_mask": mask,
        "negative_prompt_embeds": others,
        "negative_prompt_attention_mask": other,
        "height": 32,
        "width": 64,
        "use_resolution_binning": False,
    }
    theirs, x, sigma = one_step(pipeline, prior, z, 0.4, guidance_scale=scale, **call)
    text, negative = TextEmbedding(embeds, mask=mask), TextEmbedding(others, mask=other)
    return deviation(given_text(prior, scale, text, negative).latent(x, sigma), theirs)


def consistency(level):
    from diffusers import LCMScheduler

    pipeline = tiny_pipelines.stable_diffusion(
        LCMScheduler(**tiny_pipelines.SCALED),
        text=True,
        kind="LatentConsistencyModelPipeline",
        time_cond_proj_dim=6,
    )
    prior, z = from_pipeline(pipeline, guidance=7.0), codes(2, 4, 8, 8)
    pipeline.set_progress_bar_config(disable=True)
    call = {"num_images_per_prompt": 2, "guidance_scale": 7.0, "latents": z, "output_type": "latent"}
    theirs = pipeline("a cat", timesteps=[level], num_inference_steps=1, **call).images
    alpha_bar = (1 - pipeline.scheduler.betas.double()).cumprod(0)[level].item()
    x, sigma = z / alpha_bar**0.5, ((1 - alpha_bar) / alpha_bar) ** 0.5
    return deviation(prior.condition("a cat").latent(x, sigma), theirs)


def trajectory(D, x, levels):
    """The probability-flow ODE by Euler's method over levels that end at 0."""
    levels = [float(s) for s in levels]
    for s, s_next in zip(levels, levels[1:], strict=False):
        x = step(x, D(x, s), s, s_next, 0.0, None)
    return x


def ddim_levels(scheduler, steps):
    """The levels through which diffusers' DDIM goes, with a stride that divides its times, and 0."""
    scheduler.set_timesteps(steps)
    alpha_bar = (1 - scheduler.betas.double()).cumprod(0)[scheduler.timesteps]
    return [*((1 - alpha_bar) / alpha_bar).sqrt().tolist(), 0.0]


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


WITHOUT_TEXT = {
    "LDM, VQModel (DM4CT), epsilon: 5 DDIM steps, decoded": ldm,
    "LDM, VQModel (DM4CT), sample: 5 DDIM steps, decoded": lambda: ldm("sample"),
    "LDM, VQModel (DM4CT), v: 5 DDIM steps, decoded": lambda: ldm("v_prediction"),
    "DiT, class: 5 DDIM steps, decoded": dit,
    "DiT, class, guidance 4: 5 DDIM steps, decoded": lambda: dit(4.0),
}
VARIANTS = {
    **{
        f"Stable Diffusion, {p}, t = {t}, guidance {w:g}": lambda p=p, t=t, w=w: stable_diffusion(t, w, p)
        for p in ("epsilon", "v_prediction")
        for t in (1, 400, 999)
        for w in (1.0, 7.5)
    },
    "Stable Diffusion XL": xl,
    "Stable Diffusion XL, guidance 5 from zeros": lambda: xl(scale=5.0),
    "Stable Diffusion XL, guidance 5 from the empty prompt": lambda: xl(scale=5.0, force_zeros_for_empty_prompt=False),
    "Stable Diffusion XL, guidance 5 from a negative prompt": lambda: xl(scale=5.0, negative="ugly"),
    "Stable Diffusion XL, EDM preconditioning (Playground), guidance 3: 3 Euler steps": playground,
    "Stable Diffusion 3": sd3,
    "Stable Diffusion 3, guidance 5": lambda: sd3(5.0),
    "Stable Diffusion 3, guidance 5 from a negative prompt, shift 1": lambda: sd3(5.0, "ugly", 1.0),
    "Flux (dev), guidance 4 as input": flux,
    "Flux (schnell)": lambda: flux(False),
    "Flux (dev), true guidance 3 from a negative prompt": lambda: flux(True, 3.0, "ugly"),
    "PixArt-alpha, sizes as input": pixart,
    "PixArt-alpha, guidance 4.5": lambda: pixart(scale=4.5),
    "PixArt-sigma": lambda: pixart(False),
    "PixArt-sigma, guidance 4.5": lambda: pixart(False, 4.5),
    "Sana, AutoencoderDC": sana,
    "Sana, guidance 4.5": lambda: sana(4.5),
    **{f"Latent consistency, t = {t}": lambda t=t: consistency(t) for t in (1, 499, 999)},
}


@pytest.mark.parametrize("name", WITHOUT_TEXT)
def test_pipelines_without_text(name):
    assert WITHOUT_TEXT[name]() < CLOSE


@pytest.mark.parametrize("name", VARIANTS)
def test_pipelines_with_text(name):
    pytest.importorskip("transformers")
    with torch.no_grad():
        assert VARIANTS[name]() < CLOSE


@pytest.mark.parametrize("flows", [False, True], ids=["Stable Diffusion", "Stable Diffusion 3"])
def test_a_whole_trajectory_with_guidance_decoded(flows):
    """Six Euler steps of the pipeline's own call, under guidance, from noise to the image."""
    pytest.importorskip("transformers")
    pipeline = tiny_pipelines.sd3(flow()) if flows else tiny_pipelines.stable_diffusion(euler(), text=True)
    pipeline.set_progress_bar_config(disable=True)
    # at t = 1 a flow's noise level is infinite: both start a little below
    options = {"sigmas": [0.99, 0.8, 0.6, 0.4, 0.2, 0.1]} if flows else {"num_inference_steps": 6}
    z = codes(1, 4, 8, 8)
    theirs = pipeline("a cat", guidance_scale=5.0, latents=z, output_type="pt", **options).images
    levels = pipeline.scheduler.sigmas
    x = z / (1 - levels[0]) if flows else z * pipeline.scheduler.init_noise_sigma
    prior = from_pipeline(pipeline).guided("a cat", scale=5.0)
    with torch.no_grad():
        z = trajectory(prior.latent, x, levels / (1 - levels) if flows else levels)
        ours = (prior(z) / 2 + 0.5).clamp(0, 1)
    assert deviation(ours, theirs) < 2e-5  # float32 rounding, six times, the first at sigma = 14.6 and 296


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole Stable Diffusion with text encoder, saved."""
    pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("sd")
    tiny_pipelines.stable_diffusion(euler(), text=True).save_pretrained(path)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "sd")


@pytest.fixture(scope="module")
def wordless(tmp_path_factory):
    """A Stable Diffusion without index and text encoders, which needs no transformers."""
    path = tmp_path_factory.mktemp("wordless")
    parts = {"unet": tiny_pipelines.text_unet(), "vae": tiny_pipelines.kl(), "scheduler": euler()}
    for name, part in parts.items():
        part.save_pretrained(path / name)
    return path


def test_a_folder_equals_the_pipeline(folder):
    built = from_pipeline(tiny_pipelines.stable_diffusion(euler(), text=True)).guided("a cat", scale=7.5)
    read = from_pipeline(folder)
    assert read.latent.prompts.known == {} and isinstance(read.latent.prompts.source, str)  # nothing encoded yet
    read = read.guided("a cat", scale=7.5)
    z = codes(2, 4, 8, 8)
    torch.testing.assert_close(read.latent(z, 2.0), built.latent(z, 2.0))
    torch.testing.assert_close(read(z), built(z))


@pytest.mark.parametrize("build", ["xl", "sd3", "flux", "pixart"])
def test_text_encoders_of_a_folder_equal_the_pipelines(build, tmp_path):
    pytest.importorskip("transformers")
    pipeline = getattr(tiny_pipelines, build)(flow() if build in ("sd3", "flux") else euler())
    pipeline.save_pretrained(tmp_path)
    z = codes(2, 4, 8, 8)
    built, read = (from_pipeline(source, shape=(3, 16, 16)).condition("a cat") for source in (pipeline, tmp_path))
    torch.testing.assert_close(read.latent(z, 2.0), built.latent(z, 2.0))


def test_transformers_under_their_old_name(tmp_path):
    """DiT and PixArt-alpha were published as Transformer2DModel, the latter's small one without sizes as input."""
    from diffusers import DDIMScheduler

    tiny_pipelines.dit(DDIMScheduler()).save_pretrained(tmp_path)
    z = codes(2, 4, 8, 8)
    now = from_pipeline(tmp_path).guided(3, 2.0).latent(z, 1.0)
    for path in (tmp_path / "model_index.json", tmp_path / "transformer" / "config.json"):
        path.write_text(path.read_text().replace("DiTTransformer2DModel", "Transformer2DModel"))
    torch.testing.assert_close(from_pipeline(tmp_path).guided(3, 2.0).latent(z, 1.0), now)


def test_prompts_are_encoded_by_the_pipelines_own_class():
    pytest.importorskip("transformers")
    from diffusers import PixArtAlphaPipeline

    pipeline = PixArtAlphaPipeline(**tiny_pipelines.pixart(euler(), False).components)
    assert from_pipeline(pipeline).latent.prompts.kind == "PixArtAlphaPipeline"


def test_parts_that_do_not_matter_are_not_read(copy):
    """A safety checker and the like that the index names, but that need not be there."""
    index = json.loads((copy / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    index["requires_safety_checker"] = True
    (copy / "model_index.json").write_text(json.dumps(index))
    assert from_pipeline(copy).condition("a cat").latent(codes(1, 4, 8, 8), 1.0).isfinite().all()


def test_a_copy_gives_the_same(folder):
    prior = from_pipeline(folder).guided("a cat")
    other, z = pickle.loads(pickle.dumps(copy_module.deepcopy(prior))), codes(1, 4, 8, 8)
    torch.testing.assert_close(other.latent(z, 1.0), prior.latent(z, 1.0))


def test_the_prompt_matters(folder):
    prior, z = from_pipeline(folder), codes(2, 4, 8, 8)
    D = [p.latent(z, 2.0) for p in (prior, prior.condition("a cat"), prior.condition("ugly"), prior.guided("a cat", 7.5))]
    for k in range(4):
        for j in range(k):
            assert deviation(D[k], D[j]) > 1e-3
    torch.testing.assert_close(D[0], prior.condition("").latent(z, 2.0))
    torch.testing.assert_close(D[3], ClassifierFree.of(prior.latent, "a cat", scale=7.5)(z, 2.0))


def test_embeddings_take_the_place_of_text_encoders(wordless):
    prior = from_pipeline(wordless)
    z, embeds = codes(2, 4, 8, 8), codes(5, 12, seed=1)
    net, scheduler = tiny_pipelines.text_unet(), euler()
    scheduler.set_timesteps(timesteps=[400])
    sigma = scheduler.sigmas[0].item()
    out = net(scheduler.scale_model_input(z, 400), 400, encoder_hidden_states=embeds.expand(2, -1, -1)).sample
    theirs = scheduler.step(out, scheduler.timesteps[0], z).pred_original_sample
    scheduler.set_timesteps(timesteps=[400])
    for text in (embeds, embeds[None], TextEmbedding(embeds)):
        assert deviation(prior.condition(text).latent(z, sigma), theirs) < CLOSE
    null = torch.zeros(5, 12)
    guided = from_pipeline(wordless, empty=null).guided(embeds, 3.0)
    U, C = (prior.condition(t).latent(z, sigma) for t in (null, embeds))
    torch.testing.assert_close(guided.latent(z, sigma), U + 3 * (C - U))


@pytest.mark.parametrize("family", ["xl", "sd3", "flux"])
def test_folders_without_text_encoders(family, tmp_path):
    """The larger families under embeddings, against their network called by hand and the scheduler's step down to 0."""
    network = {
        "xl": tiny_pipelines.xl_unet,
        "sd3": tiny_pipelines.sd3_transformer,
        "flux": tiny_pipelines.flux_transformer,
    }[family]()
    scheduler = euler() if family == "xl" else flow()
    parts = {"unet" if family == "xl" else "transformer": network, "vae": tiny_pipelines.kl(), "scheduler": scheduler}
    for name, part in parts.items():
        part.save_pretrained(tmp_path / name)
    prior = from_pipeline(tmp_path, shape=(3, 16, 24))
    embeds, pooled = codes(1, 5, 12, seed=1), codes(1, prior.latent.pooled, seed=2)
    z, texts, vectors = codes(2, 4, 8, 12), embeds.expand(2, -1, -1), pooled.expand(2, -1)
    scheduler.set_timesteps(**{"timesteps": [400]} if family == "xl" else {"sigmas": [0.4]})
    t, sigma = scheduler.timesteps[0], scheduler.sigmas[0].item()
    if family == "xl":
        sizes = torch.tensor([[16.0, 24.0, 0.0, 0.0, 16.0, 24.0]]).expand(2, -1)
        added = {"text_embeds": vectors, "time_ids": sizes}
        out = network(scheduler.scale_model_input(z, t), t, encoder_hidden_states=texts, added_cond_kwargs=added).sample
        x = z
    else:
        call = {"timestep": t.expand(2), "encoder_hidden_states": texts, "pooled_projections": vectors}
        if family == "flux":
            patches = z.unfold(2, 2, 2).unfold(3, 2, 2)  # (2, 4, rows, columns, 2, 2)
            tokens = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
            places = torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(6.0))
            call |= {"timestep": t.expand(2) / 1000, "guidance": torch.full((2,), 3.5), "img_ids": places}
            out = network(tokens, txt_ids=torch.zeros(5, 3), **call).sample
            out = torch.nn.functional.fold(out.unflatten(2, (4, 4)).permute(0, 2, 3, 1).flatten(1, 2), (8, 12), 2, stride=2)
        else:
            out = network(z, **call).sample
        x, sigma = z / (1 - sigma), sigma / (1 - sigma)
    theirs = scheduler.step(out, t, z).prev_sample
    assert deviation(prior.condition(TextEmbedding(embeds, pooled)).latent(x, sigma), theirs) < CLOSE


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
    A = Mask.random(prior.shape, 0.5)
    result = invgen.solve(
        torch.zeros(A.out_shape), A, prior, 0.1, invgen.samplers.DAPS(steps=2, langevin_steps=3), num_samples=2
    )
    assert result.samples.shape == (2, 1, 16, 16)


def test_samplers_run_under_a_prompt(folder):
    prior = from_pipeline(folder).guided("a cat", scale=3.0)
    A = Mask.random(prior.shape, 0.5)
    for sampler in (invgen.samplers.DPS(steps=3), invgen.samplers.ReSample(steps=3, corrections=1, inner_steps=2)):
        result = invgen.solve(torch.zeros(A.out_shape), A, prior, 0.1, sampler, num_samples=2)
        assert torch.isfinite(result.samples).all()
        assert result.samples.shape == (2, *prior.shape)


def test_from_diffusers_gives_it_too(wordless, tmp_path):
    from diffusers import DDPMScheduler

    from invgen.priors import LatentDiffusion, from_diffusers

    tiny_pipelines.ldm(DDPMScheduler()).save_pretrained(tmp_path)
    prior = from_diffusers(tmp_path, (3, 32, 16), data_std=0.3)
    assert isinstance(prior, LatentDiffusion) and prior.shape == (3, 32, 16) and prior.data_std == 0.3


def test_half_precision_keeps_the_autoencoder_that_asks_for_it(wordless):
    prior = from_pipeline(wordless, dtype=torch.bfloat16)
    assert prior.autoencoder.dtype == torch.float32 and prior.latent.net.dtype == torch.bfloat16
    z = codes(2, 4, 8, 8)
    D = prior.condition(codes(5, 12)).latent(z, 0.5)
    assert D.dtype == torch.float32
    assert deviation(D, from_pipeline(wordless).condition(codes(5, 12)).latent(z, 0.5)) < 0.05


def test_odd_codes_are_padded():
    from diffusers import DDIMScheduler

    prior = from_pipeline(tiny_pipelines.ldm(DDIMScheduler()), shape=(3, 18, 22))
    assert prior.latent(codes(1, 3, 9, 11), 1.0).shape == (1, 3, 9, 11)


def test_damaged_and_incomplete_folders(copy):
    index = json.loads((copy / "model_index.json").read_text())
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    with pytest.raises(WeightsError, match="no diffusers model could be read"):
        from_pipeline(copy)
    weights.unlink()
    with pytest.raises(WeightsError, match=r"\.safetensors"):
        from_pipeline(copy)
    weights.write_bytes(whole)
    config = copy / "vae" / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"AutoencoderKL"', '"AutoencoderOfNoName"'))
    with pytest.raises(UnsupportedError, match="AutoencoderOfNoName"):
        from_pipeline(copy)
    config.unlink()
    with pytest.raises(WeightsError, match=r"lacks vae/config\.json"):
        from_pipeline(copy)
    config.write_text(text)
    (copy / "model_index.json").write_text(json.dumps({k: v for k, v in index.items() if k != "vae"}))
    with pytest.raises(WeightsError, match="has no vae or vqvae"):
        from_pipeline(copy)
    with pytest.raises(WeightsError, match="nowhere"):
        from_pipeline(copy / "nowhere")
    (copy / "model_index.json").write_text(json.dumps(index))
    assert from_pipeline(copy).shape == (3, 16, 16)


def test_text_encoders_are_read_from_safetensors_only(copy):
    weights = next((copy / "text_encoder").glob("*.safetensors"))
    from safetensors.torch import load_file

    torch.save(load_file(weights), copy / "text_encoder" / "pytorch_model.bin")
    weights.unlink()
    prior = from_pipeline(copy)  # nothing of the text is read yet
    with pytest.raises(WeightsError, match="text encoders .* could not be read"):
        prior.condition("a cat")


def test_without_transformers(folder, monkeypatch):
    import sys

    prior = from_pipeline(folder)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"invgen\[text\]"):
        prior.condition("a cat")
    assert torch.isfinite(prior.condition(codes(8, 12)).latent(codes(1, 4, 8, 8), 1.0)).all()


def test_errors(wordless):
    prior, z = from_pipeline(wordless), codes(1, 4, 8, 8)
    with pytest.raises(ShapeError, match="multiples of 2"):
        from_pipeline(wordless, shape=(3, 17, 16))
    with pytest.raises(ShapeError, match=r"\(3, H, W\)"):
        from_pipeline(wordless, shape=(1, 16, 16))
    with pytest.raises(UnsupportedError, match="no text encoders"):
        prior.condition("a cat")
    with pytest.raises(OptionError, match="empty="):
        prior.latent(z, 1.0)
    with pytest.raises(ShapeError, match="width 12"):
        prior.condition(codes(5, 11))
    with pytest.raises(ShapeError, match="2 axes"):
        prior.condition(codes(2, 5, 12))
    with pytest.raises(OptionError, match="a prompt, a TextEmbedding"):
        prior.condition(3)
    with pytest.raises(OptionError, match="no guidance scale"):
        from_pipeline(wordless, guidance=3.0)
    with pytest.raises(UnsupportedError, match="given one already"):
        prior.condition(codes(5, 12)).condition(codes(5, 12))


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


def test_sdxl_wants_both_embeddings():
    pytest.importorskip("transformers")
    prior = from_pipeline(tiny_pipelines.xl(euler()))
    with pytest.raises(ShapeError, match="pooled embedding of width 6"):
        prior.condition(codes(5, 12))
    assert prior.condition(TextEmbedding(codes(5, 12), codes(6))).latent(codes(1, 4, 8, 8), 1.0).isfinite().all()


def measured():
    """The rows of docs/priors.md: each variant, and the largest deviation over its levels and guidance scales."""
    rows = {}
    for name, build in test_latent.AUTOENCODERS.items():
        coder = Autoencoder(build().double())
        z = codes(2, coder.channels, 6, 8).double()
        rows[f"autoencoder: {name}"] = deviation(coder.decode(z), test_latent.reference(coder.network, z))
    for name, measure in (WITHOUT_TEXT | VARIANTS).items():
        name = name.split(", t =")[0]
        rows[name] = max(measure(), rows.get(name, 0.0))
    return rows


if __name__ == "__main__":  # python -W ignore tests/priors/test_pipelines.py
    with torch.no_grad():
        for name, value in measured().items():
            print(f"| {name} | diffusers | {value:.1e} |")
