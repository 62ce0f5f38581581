"""The networks of pipelines of diffusers, over codes and under a text: U-Nets and transformers, and how each is called."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from invgen.errors import OptionError, UnsupportedError
from invgen.priors.checkpoints.text import TextEmbedding
from invgen.priors.wrappers.from_network import Call


@dataclass(frozen=True)
class Architecture:
    """Calls a network over codes under a text.

    Attributes:
        call: call(net, x, t, TextEmbedding), for a `NetworkDenoiser`.
        channels: of the codes.
        stride: to a multiple of which codes are padded.
        width, pooled: of the embeddings of each token and of the whole text; 0 if the network takes none of that.
        prompts: the class of pipeline that encodes prompts for this network.
    """

    call: Call
    channels: int
    stride: int
    width: int
    pooled: int
    prompts: str


def architecture(network: Any, image: tuple[int, int], guidance: float | None) -> Architecture:
    """Returns the call of a network over the codes of images of a size."""
    name, config = type(network).__name__, network.config
    if guidance is not None and not (config.get("guidance_embeds") or config.get("time_cond_proj_dim")):
        raise OptionError(f"this {name} takes no guidance scale as an input; use prior.guided(prompt, scale=...)")
    if name == "UNet2DConditionModel":
        return _unet(network, image, 8.5 if guidance is None else guidance)
    if name == "FluxTransformer2DModel":
        scale = (3.5 if guidance is None else float(guidance)) if config.guidance_embeds else None
        call, width, pooled = partial(_call_flux, guidance=scale), config.joint_attention_dim, config.pooled_projection_dim
        return Architecture(call, config.in_channels // 4, 2, width, pooled, "FluxPipeline")
    channels, patch = config.get("in_channels"), config.get("patch_size")
    if name == "SD3Transformer2DModel":
        width, pooled = config.joint_attention_dim, config.pooled_projection_dim
        return Architecture(_call_sd3, channels, patch, width, pooled, "StableDiffusion3Pipeline")
    if name == "PixArtTransformer2DModel":
        alpha = network.use_additional_conditions  # is given the size of the image
        prompts = "PixArtAlphaPipeline" if alpha else "PixArtSigmaPipeline"
        call = partial(_call_pixart, image=image if alpha else None)
        return Architecture(call, channels, patch, config.caption_channels, 0, prompts)
    if name == "SanaTransformer2DModel" and not config.guidance_embeds:
        return Architecture(_call_sana, channels, patch, config.caption_channels, 0, "SanaPipeline")
    raise UnsupportedError(
        f"{name} is no network that invgen knows; expected UNet2DModel, UNet2DConditionModel, SD3Transformer2DModel, "
        "FluxTransformer2DModel, PixArtTransformer2DModel, SanaTransformer2DModel or DiTTransformer2DModel, or use "
        "priors.from_network and priors.LatentDiffusion"
    )


def _unet(network: Any, image: tuple[int, int], guidance: float) -> Architecture:
    config = network.config
    kind, width = config.get("addition_embed_type"), config.cross_attention_dim
    others = [config.get(name) for name in ("class_embed_type", "num_class_embeds", "encoder_hid_dim")]
    if not isinstance(width, int) or any(others) or kind not in (None, "text_time"):
        raise UnsupportedError(
            "this UNet2DConditionModel is conditioned on more than Stable Diffusion 1, 2 and XL are; use "
            "priors.from_network with call= and priors.LatentDiffusion"
        )
    embedded = config.get("time_cond_proj_dim")
    scale = _guidance_embedding(guidance - 1, embedded) if embedded else None
    if kind is None:
        call = partial(_call_unet, guidance=scale)
        return Architecture(call, config.in_channels, 1, width, 0, "StableDiffusionPipeline")
    pooled = network.add_embedding.linear_1.in_features - 6 * config.addition_time_embed_dim
    if pooled <= 0:
        raise UnsupportedError(
            "this UNet2DConditionModel is not given sizes as SDXL is (its refiner?); expected SDXL's base"
        )
    sizes = (*image, 0, 0, *image)  # original size, top left corner of the crop, target size
    call = partial(_call_unet, guidance=scale, sizes=sizes)
    return Architecture(call, config.in_channels, 1, width, pooled, "StableDiffusionXLPipeline")


def _guidance_embedding(scale: float, width: int) -> tuple[float, ...]:
    """Sines and cosines of 1000 w for a guidance scale 1 + w, as latent consistency models take it (width,)."""
    half = width // 2
    angles = 1000 * scale * torch.exp(-math.log(10000) / (half - 1) * torch.arange(half, dtype=torch.float64))
    return tuple(torch.cat([angles.sin(), angles.cos(), torch.zeros(width - 2 * half)]).tolist())


def _call_unet(
    net: nn.Module,
    x: Tensor,
    t: Tensor,
    text: TextEmbedding,
    guidance: tuple[float, ...] | None = None,
    sizes: tuple[int, ...] | None = None,
) -> Tensor:
    embeds, pooled, _ = text.rows(x)
    options: dict[str, Any] = {}
    if guidance is not None:
        options["timestep_cond"] = x.new_tensor(guidance).expand(len(x), -1)
    if sizes is not None:
        options["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": x.new_tensor(sizes).expand(len(x), -1)}
    return net(x, t, encoder_hidden_states=embeds, **options).sample


def _call_sd3(net: nn.Module, x: Tensor, t: Tensor, text: TextEmbedding) -> Tensor:
    embeds, pooled, _ = text.rows(x)
    return net(x, timestep=t, encoder_hidden_states=embeds, pooled_projections=pooled).sample


def _call_flux(net: nn.Module, x: Tensor, t: Tensor, text: TextEmbedding, guidance: float | None) -> Tensor:
    """Returns a token is a patch of 2 x 2 codes, channels first; its position is (0, row, column), that of text (0, 0,
    0)."""
    embeds, pooled, _ = text.rows(x)
    batch, channels, height, width = x.shape
    rows, columns = height // 2, width // 2
    tokens = x.reshape(batch, channels, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)
    positions = x.new_zeros(rows, columns, 3)
    positions[..., 1] = torch.arange(rows, device=x.device)[:, None]
    positions[..., 2] = torch.arange(columns, device=x.device)
    out = net(
        tokens,
        timestep=t / 1000,  # the network multiplies by 1000
        encoder_hidden_states=embeds,
        pooled_projections=pooled,
        img_ids=positions.reshape(-1, 3),
        txt_ids=x.new_zeros(embeds.shape[1], 3),
        guidance=None if guidance is None else t.new_full((batch,), guidance),
    ).sample
    return out.reshape(batch, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


def _call_pixart(net: nn.Module, x: Tensor, t: Tensor, text: TextEmbedding, image: tuple[int, int] | None) -> Tensor:
    embeds, _, mask = text.rows(x)
    added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if image is not None:
        added["resolution"] = x.new_tensor(image).expand(len(x), -1)
        added["aspect_ratio"] = x.new_tensor([image[0] / image[1]]).expand(len(x), -1)
    return net(x, timestep=t, encoder_hidden_states=embeds, encoder_attention_mask=mask, added_cond_kwargs=added).sample


def _call_sana(net: Any, x: Tensor, t: Tensor, text: TextEmbedding) -> Tensor:
    embeds, _, mask = text.rows(x)
    t = t * net.config.timestep_scale
    return net(x, timestep=t, encoder_hidden_states=embeds, encoder_attention_mask=mask).sample
