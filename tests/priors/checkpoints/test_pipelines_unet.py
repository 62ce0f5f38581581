"""Latent pipelines with a U-Net under a text: Stable Diffusion 1, 2, XL, Playground, latent consistency."""

import pytest
import torch

from invgen import Posterior, samplers
from invgen.cost import Cost
from invgen.errors import ShapeError
from invgen.operators import Mask
from invgen.priors.checkpoints.pipelines import from_pipeline
from invgen.priors.checkpoints.text import TextEmbedding
from tests.priors.checkpoints import tiny_pipelines
from tests.priors.checkpoints.pipeline_steps import (
    CLOSE,
    MARKS,
    codes,
    deviation,
    euler,
    flow,
    given_text,
    one_step,
    trajectory,
)

pytestmark = MARKS


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


def latent_consistency():
    from diffusers import LCMScheduler

    scheduler = LCMScheduler(**tiny_pipelines.SCALED)
    return tiny_pipelines.stable_diffusion(
        scheduler, text=True, kind="LatentConsistencyModelPipeline", time_cond_proj_dim=6
    )


def consistency(level):
    pipeline = latent_consistency()
    prior, z = from_pipeline(pipeline, guidance=7.0), codes(2, 4, 8, 8)
    pipeline.set_progress_bar_config(disable=True)
    call = {"num_images_per_prompt": 2, "guidance_scale": 7.0, "latents": z, "output_type": "latent"}
    theirs = pipeline("a cat", timesteps=[level], num_inference_steps=1, **call).images
    alpha_bar = (1 - pipeline.scheduler.betas.double()).cumprod(0)[level].item()
    x, sigma = z / alpha_bar**0.5, ((1 - alpha_bar) / alpha_bar) ** 0.5
    return deviation(prior.condition("a cat").latent(x, sigma), theirs)


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
    **{f"Latent consistency, t = {t}": lambda t=t: consistency(t) for t in (1, 499, 999)},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_pipelines_with_text(name):
    pytest.importorskip("transformers")
    with torch.no_grad():
        assert VARIANTS[name]() < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["LATINO", "AdaptiveLATINO"])
def test_latino_runs_on_the_codes_of_a_latent_consistency_model(sampler):
    pytest.importorskip("transformers")
    prior = from_pipeline(latent_consistency(), guidance=7.0).condition("a cat")
    assert prior.latent.consistency
    A, cost = Mask(prior.shape, torch.arange(prior.shape.numel()).reshape(prior.shape) % 2 == 0), Cost()
    post = Posterior(prior, A, 0.1, torch.zeros(A.out_shape))
    sampler = samplers.get(sampler)(steps=2)
    x = sampler(post, 2, cost=cost)
    # two evaluations of the network of the codes, and a decoding each and one at the end
    assert x.shape == (2, *prior.shape) and torch.isfinite(x).all() and cost.nfe == 5
    assert not sampler.backprop


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


def test_sdxl_wants_both_embeddings():
    pytest.importorskip("transformers")
    prior = from_pipeline(tiny_pipelines.xl(euler()))
    with pytest.raises(ShapeError, match="pooled embedding of width 6"):
        prior.condition(codes(5, 12))
    assert prior.condition(TextEmbedding(codes(5, 12), codes(6))).latent(codes(1, 4, 8, 8), 1.0).isfinite().all()
