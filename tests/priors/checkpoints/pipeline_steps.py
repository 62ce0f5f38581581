"""What the tests of latent pipelines share: one Euler step of a pipeline, and of its prior.

One Euler step of a pipeline from a noise level down to 0 is the clean estimate of its network: run by the pipeline's own
__call__ it contains the text encoders, the guidance, the packing of tokens, the sizes and the scheduler, all at once.
Deviations are relative to the largest value: diffusers' tables of noise levels and its Euler step are float32.

`python -W ignore tests/priors/pipeline_steps.py` prints the rows of docs/priors.md.
"""

import pytest
import torch

from invgen.diffusion import step
from tests.priors.checkpoints import tiny_pipelines

MARKS = [
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


def measured():
    """The rows of docs/priors.md: each variant, and the largest deviation over its levels and guidance scales."""
    import test_latent
    import test_pipelines_labels
    import test_pipelines_transformer
    import test_pipelines_unet

    from invgen.priors.wrappers.latent import Autoencoder

    rows = {}
    for name, build in test_latent.AUTOENCODERS.items():
        coder = Autoencoder(build().double())
        z = codes(2, coder.channels, 6, 8).double()
        rows[f"autoencoder: {name}"] = deviation(coder.decode(z), test_latent.reference(coder.network, z))
    variants = test_pipelines_labels.VARIANTS | test_pipelines_unet.VARIANTS | test_pipelines_transformer.VARIANTS
    for name, measure in variants.items():
        name = name.split(", t =")[0]
        rows[name] = max(measure(), rows.get(name, 0.0))
    return rows


if __name__ == "__main__":
    with torch.no_grad():
        for name, value in measured().items():
            print(f"| {name} | diffusers | {value:.1e} |")
