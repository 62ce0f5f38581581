"""Tiny random networks of diffusers, and what the library's own schedulers make of them: x_0 from x_t, level by level.

`VARIANTS` names each kind of network and scheduler; `deviation(variant)` is the largest difference between the library's
x_0 and our D, in units of max(1, |x_0|). Networks run in double precision, and so do the library's tables where they are
single (`in_double`): in single precision its own first level is off by 3e-4.
`python tests/priors/tiny_diffusers.py` prints the table of docs/priors.md.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

RESNET = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 8}
PLAIN = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
ATTENTION = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
ADM = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "resnet_time_scale_shift": "scale_shift",
    "downsample_type": "resnet",
    "upsample_type": "resnet",
}
NCSNPP = {
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
    "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
    "time_embedding_type": "fourier",
    "norm_num_groups": 2,
    "block_out_channels": (64, 64),  # its skips normalise over groups of 32 whatever is asked for
}
DM4CT = {  # the published pixel priors for CT, with narrow blocks
    "block_out_channels": (4, 4, 8, 8, 8, 8),
    "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
    "layers_per_block": 2,
    "sample_size": 64,
}
DANCE = {
    "down_block_types": ("DownBlock1DNoSkip", "DownBlock1D", "AttnDownBlock1D"),
    "up_block_types": ("AttnUpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"),
    "block_out_channels": (32, 32, 64),
    "extra_in_channels": 16,
    "time_embedding_dim": 16,
    "sample_size": 64,
}
HOPPER = {
    "down_block_types": ("DownResnetBlock1D",) * 2,
    "up_block_types": ("UpResnetBlock1D",),
    "mid_block_type": "MidResTemporalBlock1D",
    "out_block_type": "OutConv1DBlock",
    "block_out_channels": (32, 64),
    "time_embedding_type": "positional",
    "use_timestep_embedding": True,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "act_fn": "mish",
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 3,
}


def unet(blocks: dict[str, Any] = PLAIN, channels: int = 1, **config: Any) -> torch.nn.Module:
    """A UNet2DModel over (channels, 16, 16)."""
    from diffusers import UNet2DModel

    size = {"sample_size": 16, "in_channels": channels, "out_channels": channels}
    return _random(UNet2DModel(**(size | RESNET | blocks | config)))


def unet1d(blocks: dict[str, Any] = DANCE, **config: Any) -> torch.nn.Module:
    """A UNet1DModel over (2, 64)."""
    from diffusers import UNet1DModel

    return _random(UNet1DModel(**(blocks | config)))


def dit(channels: int = 3, legacy: bool = False, **config: Any) -> torch.nn.Module:
    """A class-conditional transformer over (channels, 8, 8) with 10 classes and, as published, a learned variance."""
    from diffusers import DiTTransformer2DModel, Transformer2DModel

    size = {"sample_size": 8, "patch_size": 2, "in_channels": channels, "out_channels": 2 * channels}
    size |= {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "num_embeds_ada_norm": 10}
    kind = functools.partial(Transformer2DModel, norm_type="ada_norm_zero", norm_elementwise_affine=False)
    return _random((kind if legacy else DiTTransformer2DModel)(**(size | config)))


def _random(net: torch.nn.Module) -> torch.nn.Module:
    """The weights anew, so that no layer is zero, and the same in every process."""
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
    return net.eval().requires_grad_(False)


@dataclass(frozen=True)
class Variant:
    """net() and scheduler(**config) by its name in diffusers; `original` yields (sigma, x_sigma, x_0) by their code."""

    scheduler: str
    original: Callable[..., Iterator[tuple[float, torch.Tensor, torch.Tensor]]]
    config: dict[str, Any] = field(default_factory=dict)
    net: Callable[[], torch.nn.Module] = unet
    condition: Any = None
    dtype: torch.dtype = torch.float64


def in_double(scheduler: Any) -> Any:
    """The scheduler with its tables in double precision, from its own betas."""
    if hasattr(scheduler, "betas"):
        scheduler.betas = scheduler.betas.double()
        scheduler.alphas = 1 - scheduler.betas
        last = scheduler.alphas_cumprod[-1].double() if hasattr(scheduler, "alphas_cumprod") else None
        scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
        if last is not None and scheduler.alphas_cumprod[-1] == 0:
            scheduler.alphas_cumprod[-1] = last
    if isinstance(getattr(scheduler, "sigmas", None), torch.Tensor):
        scheduler.sigmas = scheduler.sigmas.double()
    return scheduler


def _state(x: torch.Tensor, sigma: float, k: int) -> torch.Tensor:
    """A state at noise level sigma that single precision holds exactly: some schedulers round it."""
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    return (x + sigma * z).float().double()


def by_step(scheduler: Any, run: Callable, x: torch.Tensor) -> Iterator:
    """DDPM, DDIM: `pred_original_sample` of step()."""
    in_double(scheduler)
    for k, t in enumerate((0, 1, 10, 400, 900, 998)):
        abar = scheduler.alphas_cumprod[t].item()
        if abar == 0:
            continue
        sigma = ((1 - abar) / abar) ** 0.5
        state = _state(x, sigma, k)
        noisy = state * abar**0.5
        scheduler.set_timesteps(scheduler.config.num_train_timesteps)
        out = run(noisy, torch.tensor(float(t)).double())
        yield sigma, state, scheduler.step(out, t, noisy).pred_original_sample[:, : x.shape[1]]


def by_pndm(scheduler: Any, run: Callable, x: torch.Tensor) -> Iterator:
    """PNDM: its step to alpha = 1 (which `set_alpha_to_one` makes the last one)."""
    in_double(scheduler).final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    for k, t in enumerate((0, 10, 400, 900)):
        abar = scheduler.alphas_cumprod[t].item()
        sigma = ((1 - abar) / abar) ** 0.5
        state = _state(x, sigma, k)
        noisy = state * abar**0.5
        yield sigma, state, scheduler._get_prev_sample(noisy, t, -1, run(noisy, torch.tensor(float(t)).double()))


def by_sigma_step(scheduler: Any, run: Callable, x: torch.Tensor) -> Iterator:
    """Euler, ancestral Euler, Heun, LMS: `pred_original_sample` of step(), states in x_0 + sigma eps."""
    for i in (0, 2, 6, 8):
        in_double(scheduler).set_timesteps(10)
        in_double(scheduler)._step_index = i
        t, sigma = scheduler.timesteps[i], scheduler.sigmas[i].item()
        state = _state(x, sigma, i)
        scaled, time = scheduler.scale_model_input(state, t), t.double()
        if (
            scheduler.config.get("use_karras_sigmas") and scheduler.config.get("timestep_type") != "continuous"
        ):  # its own interpolation, without its rounding
            table = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt().log().numpy()
            time = torch.from_numpy(np.asarray(scheduler._sigma_to_t(np.asarray(sigma), table)))
        yield sigma, state, scheduler.step(run(scaled, time), t, state).pred_original_sample


def by_conversion(scheduler: Any, run: Callable, x: torch.Tensor) -> Iterator:
    """DPM-Solver, UniPC, DEIS: convert_model_output(), the data prediction; DEIS goes on to epsilon, here back to x_0."""
    flow = scheduler.config.get("use_flow_sigmas")
    in_double(scheduler).set_timesteps(9)
    scheduler.sigmas = scheduler.sigmas.double()
    for i in (1, 3, 8):  # the first level of a flow is pure noise
        scheduler._step_index = i
        sigma, t = scheduler.sigmas[i], scheduler.timesteps[i].double()
        alpha, sigma_t = scheduler._sigma_to_alpha_sigma_t(sigma)
        if flow:  # the library cuts off the fraction of the time, here it keeps it
            t = sigma * scheduler.config.num_train_timesteps
        level = (sigma_t / alpha).item()
        state = _state(x, level, i)
        noisy = state * alpha
        x0 = scheduler.convert_model_output(run(noisy, t), sample=noisy)
        if type(scheduler).__name__.startswith("DEIS"):
            x0 = (noisy - sigma_t * x0) / alpha
        yield level, state, x0


def by_preconditioning(scheduler: Any, run: Callable, x: torch.Tensor) -> Iterator:
    """EDM: precondition_inputs, precondition_noise and precondition_outputs."""
    for k, sigma in enumerate((0.002, 0.1, 1.0, 80.0)):
        state, level = _state(x, sigma, k), torch.tensor(sigma, dtype=torch.float64)
        out = run(scheduler.precondition_inputs(state, level), scheduler.precondition_noise(level))
        yield sigma, state, scheduler.precondition_outputs(state, out, level)


def by_flow_step(scheduler: Any, run: Callable, x: torch.Tensor) -> Iterator:
    """Flow matching: the step from t to 0 (Euler), or x - t (the slope of the step) (Heun)."""
    for k, level in enumerate((0.02, 0.5, 0.99)):
        if "Heun" in type(scheduler).__name__:
            scheduler.set_timesteps(5)
            scheduler._step_index = 2 * k
        else:
            scheduler.set_timesteps(sigmas=[level], **({"mu": 0.7} if scheduler.config.use_dynamic_shifting else {}))
        i = scheduler.step_index or 0
        t, s, s_next = scheduler.timesteps[i], scheduler.sigmas[i].item(), scheduler.sigmas[i + 1].item()
        if scheduler.config.get("invert_sigmas"):  # its sigmas count from noise, 0, to data, 1
            s, s_next = 1 - s, 1 - s_next
        if s == 1:
            continue
        level = s / (1 - s)
        noisy = (_state(x, level, k) * (1 - s)).float().double()
        stepped = scheduler.step(run(noisy, torch.tensor(s if not scheduler.config.get("invert_sigmas") else 1 - s).double()
                                 * scheduler.config.num_train_timesteps), t, noisy).prev_sample  # fmt: skip
        yield level, noisy / (1 - s), noisy - s * (noisy - stepped) / (s - s_next)


def by_ve_step(scheduler: Any, run: Callable, x: torch.Tensor) -> Iterator:
    """The variance-exploding SDE: the mean of the step from sigma to 0."""
    for k, sigma in enumerate((0.01, 1.0, 300.0)):
        scheduler.set_timesteps(10)
        scheduler.discrete_sigmas = torch.full((10,), sigma, dtype=torch.float64)
        state = _state(x, sigma, k)
        out = run(state, torch.tensor(sigma, dtype=torch.float64))
        yield sigma, state, scheduler.step_pred(out, torch.tensor(0), state).prev_sample_mean


def by_consistency_step(scheduler: Any, run: Callable, x: torch.Tensor) -> Iterator:
    """Consistency models: a single step, which adds no noise."""
    for k, step in enumerate((0, 20, 39)):
        scheduler.set_timesteps(timesteps=[step])
        sigma = scheduler._convert_to_karras(np.asarray(step / 39)).item()
        scheduler.sigmas, t = torch.tensor([sigma, 0.002], dtype=torch.float64), scheduler.timesteps[0]
        state = _state(x, sigma, k)
        yield sigma, state, scheduler.step(run(scheduler.scale_model_input(state, t), t.double()), t, state).prev_sample


def by_angle_step(scheduler: Any, run: Callable, x: torch.Tensor) -> Iterator:
    """IPNDM (Dance Diffusion): its own epsilon, and its step to the level 0."""
    scheduler.set_timesteps(10)
    scheduler.betas = torch.cat([(torch.linspace(1, 0, 11) * torch.pi / 2).sin() ** 2, torch.zeros(1)]).double()
    scheduler.alphas = (1 - scheduler.betas**2).sqrt()
    for i in (1, 5, 9):
        alpha, sigma_t = scheduler.alphas[i], scheduler.betas[i]
        level = (sigma_t / alpha).item()
        state = _state(x, level, i)
        noisy = state * alpha
        eps = noisy * sigma_t + run(noisy, torch.atan2(sigma_t, alpha) / torch.pi * 2) * alpha
        yield level, state, scheduler._get_prev_sample(noisy, i, 11, eps)


def deviation(variant: Variant) -> float:
    """The largest |D - x_0| / max(1, |x_0|) over levels."""
    import diffusers

    from invgen.priors.checkpoints.diffusers import DiffusersDenoiser

    net = variant.net().to(variant.dtype)
    scheduler = getattr(diffusers, variant.scheduler)(**variant.config)
    labels = {} if variant.condition is None else {"class_labels": torch.tensor([variant.condition] * 2)}

    def run(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        t = t.round().long() if net.config.get("time_embedding_type") == "learned" else t.to(variant.dtype)
        return net(x.to(variant.dtype), timestep=t.expand(len(x)), **labels).sample.double()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        D = DiffusersDenoiser(net, scheduler)
    D = D if variant.condition is None else D.condition(variant.condition)
    x = 0.5 * torch.randn(2, *D.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    worst = 0.0
    for sigma, state, x0 in variant.original(scheduler, run, x):
        scale = x0.abs().max().clamp(min=1)
        worst = max(worst, ((D(state, sigma) - x0[:, : x.shape[1]]).abs().max() / scale).item())
    return worst


def _variants() -> dict[str, Variant]:
    no_clip = {"clip_sample": False}
    found: dict[str, Variant] = {}
    betas = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")
    for prediction in ("epsilon", "sample", "v_prediction"):
        for schedule in betas:
            config = no_clip | {"prediction_type": prediction, "beta_schedule": schedule}
            found[f"DDPM, {schedule}, {prediction}"] = Variant("DDPMScheduler", by_step, config)
        config = no_clip | {"prediction_type": prediction, "rescale_betas_zero_snr": True}
        found[f"DDPM, zero terminal SNR, {prediction}"] = Variant("DDPMScheduler", by_step, config)
        found[f"DDIM, {prediction}"] = Variant("DDIMScheduler", by_step, no_clip | {"prediction_type": prediction})
    trained = {"trained_betas": torch.linspace(1e-4, 0.03, 1000).tolist()}
    found["DDPM, trained_betas"] = Variant("DDPMScheduler", by_step, no_clip | trained)
    for prediction in ("epsilon", "v_prediction"):
        found[f"PNDM, {prediction}"] = Variant("PNDMScheduler", by_pndm, {"prediction_type": prediction})
    for name in ("Euler", "EulerAncestral", "Heun", "LMS"):
        kinds = ("epsilon", "v_prediction") if name.startswith("Euler") else ("epsilon", "v_prediction", "sample")
        for prediction in kinds:
            for karras in (False, True) if name != "EulerAncestral" else (False,):
                config = {"prediction_type": prediction} | ({"use_karras_sigmas": True} if karras else {})
                title = f"{name}, {prediction}{', Karras' if karras else ''}"
                found[title] = Variant(f"{name}DiscreteScheduler", by_sigma_step, config)
    continuous = {"prediction_type": "v_prediction", "timestep_type": "continuous", "sigma_min": 0.01, "sigma_max": 100.0}
    found["Euler, v_prediction, continuous times"] = Variant(
        "EulerDiscreteScheduler", by_sigma_step, continuous | {"use_karras_sigmas": True}
    )
    for name in ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep"):
        for prediction in ("epsilon", "sample", "v_prediction", "flow_prediction"):
            config = {"prediction_type": prediction}
            if prediction == "flow_prediction":
                config |= {"use_flow_sigmas": True}
            if name == "DPMSolverSinglestep":
                config |= {"final_sigmas_type": "zero", "lower_order_final": True}
            found[f"{name}, {prediction}"] = Variant(f"{name}Scheduler", by_conversion, config)
    for name in ("EDMEuler", "EDMDPMSolverMultistep"):
        for prediction in ("epsilon", "v_prediction"):
            found[f"{name}, {prediction}"] = Variant(
                f"{name}Scheduler", by_preconditioning, {"prediction_type": prediction, "sigma_data": 0.7}
            )
    for title, config in {
        "shift 1": {},
        "shift 3": {"shift": 3.0},
        "dynamic shift": {"use_dynamic_shifting": True},
        "inverted": {"invert_sigmas": True},
    }.items():
        found[f"FlowMatchEuler, {title}"] = Variant("FlowMatchEulerDiscreteScheduler", by_flow_step, config)
    found["FlowMatchHeun, shift 3"] = Variant("FlowMatchHeunDiscreteScheduler", by_flow_step, {"shift": 3.0})
    ncsnpp = functools.partial(unet, NCSNPP, 3)
    found["ScoreSdeVe, NCSN++ UNet2DModel"] = Variant("ScoreSdeVeScheduler", by_ve_step, net=ncsnpp)
    adm = functools.partial(unet, ADM, 3, num_class_embeds=10)
    consistency = {"clip_denoised": False}
    found["CMStochasticIterative, class-conditional"] = Variant(
        "CMStochasticIterativeScheduler", by_consistency_step, consistency, adm, 4
    )
    found["IPNDM, UNet1DModel (Dance Diffusion)"] = Variant("IPNDMScheduler", by_angle_step, net=unet1d)
    for title, net, condition in (
        ("attention", functools.partial(unet, ATTENTION, 3), None),
        ("ADM blocks, learned variance", functools.partial(unet, ADM, 3, out_channels=6), None),
        ("classes", functools.partial(unet, num_class_embeds=10), 7),
        ("class as a time", functools.partial(unet, class_embed_type="timestep"), 7),
        ("learned times", functools.partial(unet, time_embedding_type="learned", num_train_timesteps=1000), None),
        ("centred input", functools.partial(unet, center_input_sample=True), None),
        ("DM4CT's pixel prior, narrow", functools.partial(unet, DM4CT), None),
    ):
        config = no_clip | ({"variance_type": "learned_range"} if "learned variance" in title else {})
        dtype = torch.float32 if "as a time" in title else torch.float64  # the library's own limit
        found[f"UNet2DModel, {title}"] = Variant("DDPMScheduler", by_step, config, net, condition, dtype)
    found["UNet1DModel, DDPM (Hopper)"] = Variant("DDPMScheduler", by_step, no_clip, functools.partial(unet1d, HOPPER))
    learned = no_clip | {"variance_type": "learned_range"}
    found["DiTTransformer2DModel, class 3"] = Variant("DDPMScheduler", by_step, learned, dit, 3)
    found["Transformer2DModel, ada_norm_zero, class 3"] = Variant(
        "DDPMScheduler", by_step, learned, functools.partial(dit, legacy=True), 3
    )
    return found


VARIANTS = _variants()

ORIGINALS = {  # as docs/priors.md calls them
    by_step: "`step().pred_original_sample`",
    by_pndm: "`_get_prev_sample` to alpha = 1",
    by_sigma_step: "`step().pred_original_sample`",
    by_conversion: "`convert_model_output`",
    by_preconditioning: "`precondition_outputs`",
    by_flow_step: "`step()`, its slope",
    by_ve_step: "`step_pred` to sigma = 0",
    by_consistency_step: "`step()`, a single one",
    by_angle_step: "`_get_prev_sample` to sigma = 0",
}

if __name__ == "__main__":
    for title, variant in VARIANTS.items():
        print(f"| {title} | diffusers: {ORIGINALS[variant.original]} | {deviation(variant):.0e} |", flush=True)
