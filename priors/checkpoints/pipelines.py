"""Latent priors from pipelines of the diffusers library: an autoencoder, a network over its codes and a scheduler.

LDM (UNet2DModel), Stable Diffusion 1, 2, XL and latent consistency models (UNet2DConditionModel), Stable Diffusion 3, Flux,
PixArt, Sana and DiT (transformers), over AutoencoderKL, AutoencoderTiny, AutoencoderDC or VQModel.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError, UnsupportedError, WeightsError
from invgen.priors.checkpoints.architectures import architecture
from invgen.priors.checkpoints.diffusers import (
    AUTOENCODERS,
    DiffusersDenoiser,
    described,
    descriptions,
    network_stride,
    parametrisation,
    read_json,
    read_network,
    reading,
)
from invgen.priors.checkpoints.text import ENCODE, TEXT_ENCODERS, LatentConsistency, Prompts, TextDenoiser, TextEmbedding
from invgen.priors.wrappers.from_network import NetworkDenoiser, takes_data
from invgen.priors.wrappers.latent import Autoencoder, LatentDiffusion
from invgen.validation.arguments import checked

NETWORKS = ("unet", "transformer")
LABELLED = ("UNet2DModel", "DiTTransformer2DModel")  # conditioned on a class or on nothing


@takes_data
@checked
def from_pipeline(
    model: Any,
    shape: Sequence[int] | None = None,
    *,
    scheduler: Any = None,
    empty: TextEmbedding | Tensor | None = None,
    guidance: float | None = None,
    quantize: bool = True,
    latent: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    revision: str | None = None,
    **facts: Any,
) -> LatentDiffusion:
    """Returns the latent prior in a folder (or hub name) that diffusers wrote, or in a pipeline that has been built.

        prior = priors.from_pipeline("path/to/stable-diffusion")
        prior = prior.guided("a photograph of a cat", scale=7.5)

    Images are in diffusers' units, about [-1, 1], and are not clamped. The text encoders are read at the first prompt, from
    safetensors only. Without text encoders, texts are given as embeddings: `TextEmbedding`. The networks of a pipeline that
    has been built are put into eval mode and frozen.

    Args:
        shape: (C, H, W) of the images, H and W multiples of the autoencoder's stride; by default what the network was
            trained on.
        scheduler: a scheduler of diffusers in place of the pipeline's, or where it has none.
        empty: the embedding of the empty text, for the unconditional prior, if the pipeline has no text encoders.
        guidance: the guidance scale that a distilled network is given as an input: 3.5 by default for Flux (dev), 8.5 for
            latent consistency models.
        quantize: whether a VQModel decodes the nearest codewords, as trained; see `Autoencoder`.
        latent: options of the denoiser over codes, such as data_std (1 by default, which a scaling_factor is there for),
            null_label or stride.
        dtype: of the weights, by default float32. An autoencoder that asks for it (force_upcast) stays in float32.
        variant, revision: see `from_diffusers`.
        facts: value_range, data_mean, data_std of the images.
        data: clean signals, which check it and set what the facts leave open, the range of sigma first; see `from_network`.

    Raises:
        WeightsError: there is no such model, a part of it is missing, or its files are damaged or do not fit.
        UnsupportedError: a pipeline of another kind.
        ShapeError: a size that the autoencoder's stride does not divide.
    """
    files = {"variant": variant, "revision": revision, "torch_dtype": dtype}
    if isinstance(model, str | Path):
        title, source = str(model), str(model)
        parts = _read(model, scheduler is None, files)
        read_from = described(model, files["revision"])
    else:
        if any(v is not None for v in files.values()):
            raise OptionError("dtype, variant and revision are for files; this pipeline has been built")
        title, source, parts = type(model).__name__, model, dict(getattr(model, "components", {}))
        read_from = None
        parts["_class_name"] = title
    network, vae = (_part(parts, names, title) for names in (NETWORKS, AUTOENCODERS))
    scheduler = _part(parts, ("scheduler",), title) if scheduler is None else scheduler
    for part in (network, vae):
        part.eval().requires_grad_(False)
    autoencoder = Autoencoder(vae, quantize)
    size = _latent_size(shape, network, autoencoder)
    codes = (autoencoder.channels, *size)
    options: dict[str, Any] = {"data_std": 1.0, "value_range": (-4.0, 4.0), **(latent or {})}
    denoiser: NetworkDenoiser
    if type(network).__name__ in LABELLED:
        if empty is not None or guidance is not None:
            raise OptionError(f"{type(network).__name__} takes no text and no guidance scale: leave out empty and guidance")
        denoiser = DiffusersDenoiser(network, scheduler, codes, mu=_shift(scheduler, size, network), **options)
        return _latent(autoencoder, denoiser, read_from, facts)
    kind = architecture(network, (autoencoder.stride * size[0], autoencoder.stride * size[1]), guidance)
    if kind.channels != autoencoder.channels:
        raise UnsupportedError(
            f"the network takes {kind.channels} channels but the autoencoder's codes have {autoencoder.channels}: this is "
            "no prior of images alone (an inpainting or editing model?)"
        )
    options = parametrisation(scheduler, kind.call, _shift(scheduler, size, network)) | {"stride": kind.stride} | options
    prompts = _prompts(kind.prompts, source, parts, files)
    options |= {"width": kind.width, "pooled": kind.pooled, "empty": empty, "prompts": prompts}
    if type(scheduler).__name__ == "LCMScheduler":
        denoiser = LatentConsistency(network, codes, **options, time_scale=scheduler.config.timestep_scaling)
    else:
        denoiser = TextDenoiser(network, codes, **options)
    return _latent(autoencoder, denoiser, read_from, facts)


def _latent(
    autoencoder: Autoencoder, denoiser: NetworkDenoiser, read_from: str | None, facts: Mapping[str, Any]
) -> LatentDiffusion:
    prior = LatentDiffusion(autoencoder, denoiser, **facts)
    prior.read_from = read_from
    return prior


def _read(model: str | Path, with_scheduler: bool, files: dict[str, Any]) -> dict[str, Any]:
    """Returns the network, autoencoder and scheduler of a folder or hub name; True for a text encoder that is there."""
    import diffusers

    with reading(model):
        folder, files["revision"] = descriptions(model, files["revision"])
        index = read_json(folder / "model_index.json")

        def there(name: str) -> bool:  # without an index, whatever has a folder
            return index is None or (isinstance(index.get(name), list) and all(index[name]))

        def described(name: str, file: str) -> tuple[Any, Any]:
            """Returns the class and the configuration of a part, None for one that the pipeline lacks."""
            config = read_json(folder / name / file) if there(name) else None
            if config is None:
                if index is not None and there(name):
                    raise WeightsError(f"{model} lacks {name}/{file}, the description of a part that its index names")
                return None, None
            kind = getattr(diffusers, str(config.get("_class_name")), None)
            if not hasattr(kind, "from_config"):
                raise UnsupportedError(
                    f"{name} of {model} is a {config.get('_class_name')}, which is no class of diffusers "
                    f"{diffusers.__version__}"
                )
            return kind, config

        parts: dict[str, Any] = {name: True for name in TEXT_ENCODERS if index is not None and there(name)}
        parts["_class_name"] = (index or {}).get("_class_name")
        for name in (*NETWORKS, *AUTOENCODERS):
            kind, config = described(name, "config.json")
            if kind is not None:
                half = files["torch_dtype"] in (torch.float16, torch.bfloat16)
                upcast = {"torch_dtype": torch.float32} if half and config.get("force_upcast") else {}
                parts[name] = read_network(kind, model, name, **{**files, **upcast})
        kind, config = described("scheduler", "scheduler_config.json") if with_scheduler else (None, None)
        if kind is not None:
            parts["scheduler"] = kind.from_config(config)
    return parts


def _part(parts: Mapping[str, Any], names: Sequence[str], title: str) -> Any:
    for name in names:
        if parts.get(name) is not None:
            return parts[name]
    missing = f"no {' or '.join(names)}"
    if names == ("scheduler",):
        raise WeightsError(
            f"{title} has {missing}, so that its noise schedule is unknown; pass the one it was trained with, such as "
            "scheduler=diffusers.DDPMScheduler()"
        )
    raise WeightsError(f"{title} has {missing}; expected a latent pipeline of diffusers, built or as a folder or hub name")


def _prompts(kind: str, source: Any, parts: Mapping[str, Any], files: Mapping[str, Any]) -> Prompts | None:
    """Returns the text encoders, if the pipeline has any; by its own class where that is known, by its network's
    otherwise."""
    kind = parts["_class_name"] if parts["_class_name"] in ENCODE else kind
    if not any(parts.get(name) is not None for name in TEXT_ENCODERS):
        return None
    if not isinstance(source, str):
        return Prompts(kind, source)
    loaded = {name: part for name, part in parts.items() if name not in (*TEXT_ENCODERS, "_class_name")}
    return Prompts(kind, source, loaded, **{k: v for k, v in files.items() if v is not None})


def _latent_size(shape: Sequence[int] | None, network: Any, autoencoder: Autoencoder) -> tuple[int, int]:
    """Returns the height and width of the codes of images of a shape."""
    stride, channels = autoencoder.stride, autoencoder.network.config["in_channels"]
    if shape is None:
        size = 128 if type(network).__name__ == "FluxTransformer2DModel" else network.config.get("sample_size")
        if size is None:
            raise OptionError("the network does not say the size of its images; pass shape=(C, H, W)")
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    shape = tuple(shape)
    if len(shape) != 3 or shape[0] != channels or any(n < stride or n % stride for n in shape[1:]):
        raise ShapeError(
            f"the autoencoder takes images ({channels}, H, W) with H and W multiples of {stride}, got {shape}; take the "
            "next larger size and crop in the operator"
        )
    return shape[1] // stride, shape[2] // stride


def _shift(scheduler: Any, size: tuple[int, int], network: Any) -> float | None:
    """Returns the dynamic shift of a flow-matching scheduler: linear in the number of tokens, between those of two image
    sizes."""
    config = scheduler.config
    if not config.get("use_dynamic_shifting"):
        return None
    patch = 2 if type(network).__name__ == "FluxTransformer2DModel" else network_stride(network.config)
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return low + (high - low) * (math.prod(size) // patch**2 - few) / (many - few)
