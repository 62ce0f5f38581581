"""Latent pipelines with a transformer under a text: Stable Diffusion 3, Flux, PixArt, Sana."""

import pytest
import torch

from invgen.priors.checkpoints.pipelines import from_pipeline
from invgen.priors.checkpoints.text import TextEmbedding
from tests.priors.checkpoints import tiny_pipelines
from tests.priors.checkpoints.pipeline_steps import CLOSE, MARKS, codes, deviation, euler, flow, given_text, one_step

pytestmark = MARKS


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


VARIANTS = {
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
}


@pytest.mark.parametrize("name", VARIANTS)
def test_pipelines_with_text(name):
    pytest.importorskip("transformers")
    with torch.no_grad():
        assert VARIANTS[name]() < CLOSE


def test_prompts_are_encoded_by_the_pipelines_own_class():
    pytest.importorskip("transformers")
    from diffusers import PixArtAlphaPipeline

    pipeline = PixArtAlphaPipeline(**tiny_pipelines.pixart(euler(), False).components)
    assert from_pipeline(pipeline).latent.prompts.kind == "PixArtAlphaPipeline"
