"""Checkpoints of guided-diffusion (ADM), the layout of OpenAI's, DPS's and many other pixel-space models.

Dhariwal & Nichol, "Diffusion models beat GANs on image synthesis" (NeurIPS 2021). No network is written here: the tensors
are renamed into diffusers' UNet2DModel, which computes the same function. What the shapes do not tell is how the
attention's channels are divided: into how many heads, and whether heads or (query, key, value) come first. A mistake in
either goes unnoticed (diffusers' own conversion script takes the second order for every network), so that they are known
for the published models and must be said for others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from invgen.errors import OptionError, UnsupportedError, WeightsError
from invgen.files import pickles
from invgen.priors.checkpoints import entries
from invgen.priors.wrappers.from_network import NetworkDenoiser, takes_data
from invgen.priors.wrappers.schedules import Schedule
from invgen.validation.arguments import checked

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d import UNet2DModel

MARKS = ("input_blocks.", "output_blocks.", "out.")  # how the names of its tensors begin
RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


@dataclass(frozen=True)
class Layout:
    """Returns the options of the network that the names and shapes in a state dict tell."""

    in_channels: int
    out_channels: int
    model_channels: int
    channels: tuple[int, ...]  # at each level, the finest first
    blocks: int  # residual blocks per level on the way down
    attention: tuple[int, ...]  # levels with attention
    classes: int
    scale_shift: bool
    residual_resampling: bool

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> "Layout":
        """Raises KeyError or ValueError if the tensors are not those of a guided-diffusion U-Net."""
        count = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("output_blocks."))

        def resampler(block: str) -> str | None:
            """Returns the name of the upsampler in an output block: a residual block or a convolution behind the first
            one."""
            tails = ("1.in_layers.0.weight", "2.in_layers.0.weight", "1.conv.weight", "2.conv.weight")
            return next((f"{block}.{tail}" for tail in tails if f"{block}.{tail}" in tensors), None)

        blocks = next((k for k in range(count) if resampler(f"output_blocks.{k}")), count - 1)
        levels = count // (blocks + 1)
        width, out = tensors["input_blocks.0.0.weight"], tensors["out.2.weight"]
        if width.ndim != 4:
            raise ValueError(f"its convolutions have {width.ndim - 2} dimensions, expected 2")
        label = tensors.get("label_emb.weight")
        first = tensors["input_blocks.1.0.emb_layers.1.weight"]
        return cls(
            in_channels=width.shape[1],
            out_channels=out.shape[0],
            model_channels=tensors["time_embed.0.weight"].shape[1],
            channels=tuple(
                tensors[f"input_blocks.{1 + i * (blocks + 1)}.0.out_layers.3.weight"].shape[0] for i in range(levels)
            ),
            blocks=blocks,
            attention=tuple(i for i in range(levels) if f"input_blocks.{1 + i * (blocks + 1)}.1.qkv.weight" in tensors),
            classes=0 if label is None else label.shape[0],
            scale_shift=first.shape[0] == 2 * tensors["input_blocks.1.0.out_layers.0.weight"].shape[0],
            residual_resampling="in_layers" in (resampler(f"output_blocks.{blocks}") or "in_layers"),
        )


@dataclass(frozen=True)
class Published:
    """A published model: how to recognise it, and what its tensors do not tell."""

    size: int
    model_channels: int
    multiples: tuple[float, ...]
    blocks: int
    attention: tuple[int, ...]  # sizes
    classes: int = 0
    num_head_channels: int | None = 64
    num_heads: int | None = None
    new_attention_order: bool = False
    cosine: bool = False
    plain: bool = False  # the noise embedding shifts only, and convolutions resample

    def fits(self, layout: Layout) -> bool:
        return (
            layout.model_channels == self.model_channels
            and layout.channels == tuple(int(m * self.model_channels) for m in self.multiples)
            and layout.blocks == self.blocks
            and tuple(self.size >> level for level in layout.attention) == self.attention
            and layout.classes == self.classes
            and layout.in_channels == 3
            and layout.scale_shift == layout.residual_resampling == (not self.plain)
        )


# From the model cards and flags in the README of openai/guided-diffusion and the configs of DPS.
PUBLISHED = {
    "ffhq256": Published(256, 128, (1, 1, 2, 2, 4, 4), 1, (16,)),  # DPS's ffhq_10m.pt
    "imagenet256": Published(256, 256, (1, 1, 2, 2, 4, 4), 2, (32, 16, 8)),  # and LSUN's
    "imagenet256_class": Published(256, 256, (1, 1, 2, 2, 4, 4), 2, (32, 16, 8), 1000),
    "imagenet512_class": Published(512, 256, (0.5, 1, 1, 2, 2, 4, 4), 2, (32, 16, 8), 1000),
    "imagenet128_class": Published(128, 256, (1, 1, 2, 3, 4), 2, (32, 16, 8), 1000, None, 4),
    "imagenet64_class": Published(
        64, 192, (1, 2, 3, 4), 3, (32, 16, 8), 1000, new_attention_order=True, cosine=True
    ),
}  # fmt: skip


@takes_data
@checked
def from_guided_diffusion(
    path: str | Path,
    shape: Sequence[int] | None = None,
    *,
    model: str | None = None,
    num_head_channels: int | None = None,
    num_heads: int | None = None,
    new_attention_order: bool | None = None,
    prediction: str = "epsilon",
    schedule: Schedule | None = None,
    key: str | None = None,
    ema: bool = True,
    **facts: Any,
) -> NetworkDenoiser:
    """Returns the prior in a .pt or .safetensors file of guided-diffusion: OpenAI's ADM, DPS's FFHQ and ImageNet, ...

    The networks work on images in [-1, 1]. One with a learned variance (6 channels out for 3) gives its mean; a
    class-conditional one is used through `prior.condition(label)`.

    Args:
        path: the state dict, or a checkpoint that has it, whatever the entry and the prefix (`priors.read_weights`).
        shape: (C, H, W); known for a published model.
        model: the name of a published one: "ffhq256" (DPS's ffhq_10m.pt), "imagenet256", "imagenet256_class",
            "imagenet512_class", "imagenet128_class", "imagenet64_class". By default recognised by the shapes of its
            tensors; the options below then need not be given.
        num_head_channels, num_heads: the width of an attention head, or their number; training flags of the same names.
        new_attention_order: the training flag `use_new_attention_order`, False in guided-diffusion by default.
        prediction: "epsilon", or "sample" for a network trained with `predict_xstart`.
        schedule: by default `Schedule.linear()`, for "imagenet64_class" `Schedule.cosine()`.
        key: the entry of the checkpoint that holds the network.
        ema: take the averaged weights if the checkpoint has them; `prior.read_from` says which were taken.
        facts: value_range, data_mean, data_std; sigma_min, sigma_max.
        data: clean signals, which check it and set what the facts leave open, the range of sigma first; see `from_network`.

    Raises:
        WeightsError: the file is damaged, not safe to open, not such a network, or holds several.
        OptionError: the network is not a published one and an option is missing.
        UnsupportedError: a network whose output does not match its input.
    """
    tensors = entries.state_dict(path, [MARKS], key, ema)
    heads = {"num_head_channels": num_head_channels, "num_heads": num_heads, "new_attention_order": new_attention_order}
    net, shape, known = recognised(tensors, path, PUBLISHED, model, shape, **heads)
    if schedule is None:
        schedule = Schedule.cosine() if known is not None and known.cosine else Schedule.linear()
    prior = NetworkDenoiser(net, shape, prediction, schedule, call=call_with_label, stride=stride(net), **facts)
    return tensors.of(prior)


def recognised(
    tensors: dict[str, Tensor],
    source: str | Path,
    published: dict[str, Published],
    model: str | None,
    shape: Sequence[int] | None,
    *,
    num_head_channels: int | None = None,
    num_heads: int | None = None,
    new_attention_order: bool | None = None,
) -> tuple["UNet2DModel", Sequence[int], Published | None]:
    """Returns the network, its shape and what is known of it: a published model needs no options.

    Args:
        tensors: the state dict.
        source: the file, for messages.
        published: the models that are known, by name.
        model: the name of one of them; None to recognise it by its shapes.
        shape: (C, H, W), where the model is not known.
        num_head_channels, num_heads, new_attention_order: see `from_guided_diffusion`.

    Raises:
        WeightsError, OptionError: see `from_guided_diffusion`.
    """
    layout = _layout(tensors, source)
    if model is not None and model not in published:
        raise OptionError(f"unknown model {model!r}; known are {', '.join(published)}")
    known = published[model] if model else next((p for p in published.values() if p.fits(layout)), None)
    if known is not None and not known.fits(layout):
        raise WeightsError(f"the network in {source} is not {model!r}: it has {layout}")
    if layout.out_channels not in (layout.in_channels, 2 * layout.in_channels):
        raise UnsupportedError(
            f"the network in {source} turns {layout.in_channels} channels into {layout.out_channels}; expected as many or "
            "twice as many"
        )
    if known is not None:
        if num_heads is None and num_head_channels is None:
            num_heads, num_head_channels = known.num_heads, known.num_head_channels
        new_attention_order = known.new_attention_order if new_attention_order is None else new_attention_order
        shape = (layout.in_channels, known.size, known.size) if shape is None else shape
    if shape is None or (num_heads is None) == (num_head_channels is None) or new_attention_order is None:
        raise OptionError(
            f"the network in {source} is none of the published ones ({', '.join(published)}): pass shape=(C, H, W), "
            "num_head_channels= or num_heads=, and new_attention_order=, as it was trained"
        )
    return unet(tensors, source, num_head_channels, num_heads, new_attention_order), shape, known


def stride(net: "UNet2DModel") -> int:
    """Returns the number that the sizes of images must be multiples of."""
    return 2 ** (len(net.config["block_out_channels"]) - 1)


def unet(
    tensors: dict[str, Tensor],
    source: str | Path,
    num_head_channels: int | None,
    num_heads: int | None,
    new_attention_order: bool,
) -> "UNet2DModel":
    """Returns diffusers' UNet2DModel with the weights of a guided-diffusion state dict.

    Args:
        tensors: the state dict.
        source: the file, for messages.
        num_head_channels, num_heads, new_attention_order: see `from_guided_diffusion`.

    Raises:
        WeightsError, OptionError: see `from_guided_diffusion`.
    """
    from diffusers.models.attention_processor import Attention
    from diffusers.models.embeddings import TimestepEmbedding, Timesteps
    from diffusers.models.unets.unet_2d import UNet2DModel

    layout = _layout(tensors, source)
    levels = range(len(layout.channels))
    resampling, down, up = "conv", "DownBlock2D", "UpBlock2D"
    if layout.residual_resampling:
        resampling, down, up = "resnet", "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"
    with_attention = [layout.channels[level] for level in layout.attention] + [layout.channels[-1]]
    for width in with_attention:
        if width % (num_heads or num_head_channels or 1):
            raise OptionError(
                f"the network in {source} has attention over {width} channels, which num_heads={num_heads!r}, "
                f"num_head_channels={num_head_channels!r} do not divide"
            )
    with torch.device("meta"):  # the tensors take the place of the parameters, so that none is allocated twice
        net = UNet2DModel(
            in_channels=layout.in_channels,
            out_channels=layout.out_channels,
            block_out_channels=layout.channels,
            down_block_types=tuple("AttnDownBlock2D" if i in layout.attention else down for i in levels),
            up_block_types=tuple("AttnUpBlock2D" if i in layout.attention else up for i in reversed(levels)),
            layers_per_block=layout.blocks,
            downsample_type=resampling,
            upsample_type=resampling,
            resnet_time_scale_shift="scale_shift" if layout.scale_shift else "default",
            attention_head_dim=num_head_channels or 1,
            attn_norm_num_groups=32,  # else the attention in the middle has no norm
            time_embedding_dim=4 * layout.model_channels,
            num_class_embeds=layout.classes or None,
        )
        if layout.channels[0] != layout.model_channels:  # as in the 512 x 512 model, whose first level is half as wide
            net.time_proj = Timesteps(layout.model_channels, True, 0)
            net.time_embedding = TimestepEmbedding(layout.model_channels, 4 * layout.model_channels)
    if num_heads is not None:  # diffusers knows heads of one width, these are of one number
        for block in net.modules():
            if isinstance(block, Attention):
                block.heads, block.scale = num_heads, (block.inner_dim / num_heads) ** -0.5
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        renamed |= _renamed(name, tensor, layout, num_head_channels, num_heads, new_attention_order)
    return pickles.fill(net, renamed, source)


def call_with_label(net: "UNet2DModel", x: Tensor, t: Tensor, condition: Any) -> Tensor:
    """Returns the output of a UNet2DModel `net` at x and times t; the condition is a class, a number or one per sample."""
    classes = net.class_embedding.num_embeddings if isinstance(net.class_embedding, nn.Embedding) else 0
    if classes and condition is None:
        raise UnsupportedError(f"the network is class-conditional: use prior.condition(label) with a label below {classes}")
    if not classes and condition is not None:
        raise UnsupportedError("the network knows no classes: use the prior without a condition")
    label = None
    if classes:
        label = torch.as_tensor(condition, device=x.device).long().expand(len(x))
        if not ((label >= 0) & (label < classes)).all():
            raise OptionError(f"the network knows the classes 0 to {classes - 1}, got {condition!r}")
    return net(x, t, label).sample


def _layout(tensors: dict[str, Tensor], source: str | Path) -> Layout:
    try:
        return Layout.of(tensors)
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(
            f"{source} does not hold a U-Net of guided-diffusion (input_blocks, middle_block, output_blocks): {error}"
        ) from error


def _renamed(
    name: str, tensor: Tensor, layout: Layout, head_channels: int | None, heads: int | None, new_order: bool
) -> dict[str, Tensor]:
    """Returns one tensor under its name in UNet2DModel; of a query-key-value projection, three."""
    stem, _, kind = name.rpartition(".")
    if stem in ENDS:
        return {f"{ENDS[stem]}.{kind}": tensor}
    parts = stem.split(".")
    if parts[0] not in ("input_blocks", "middle_block", "output_blocks") or len(parts) < 3:
        return {name: tensor}  # not known: `fill` will say so
    rest = ".".join(parts[3:] if parts[0] != "middle_block" else parts[2:])
    attention = rest in ("norm", "qkv", "proj_out")
    if parts[0] == "middle_block":
        prefix = "mid_block.attentions.0" if parts[1] == "1" else f"mid_block.resnets.{int(parts[1]) // 2}"
    else:
        down = parts[0] == "input_blocks"
        level, k = divmod(int(parts[1]) - down, layout.blocks + 1)
        prefix = f"{'down' if down else 'up'}_blocks.{level}."
        if (down and k == layout.blocks) or (not down and parts[2] != "0" and not attention):
            prefix += f"{'down' if down else 'up'}samplers.0"
        else:
            prefix += f"{'attentions' if attention else 'resnets'}.{k}"
    if not attention:
        return {f"{prefix}.{RESIDUAL.get(rest, 'conv')}.{kind}": tensor}
    if rest == "norm":
        return {f"{prefix}.group_norm.{kind}": tensor}
    tensor = tensor.squeeze(-1) if kind == "weight" else tensor  # a convolution over the flattened image
    if rest == "proj_out":
        return {f"{prefix}.to_out.0.{kind}": tensor}
    if not new_order:  # rows are (head, qkv, channel) rather than (qkv, head, channel)
        n = heads or len(tensor) // (3 * (head_channels or len(tensor)))
        tensor = tensor.unflatten(0, (n, 3, -1)).transpose(0, 1).flatten(0, 2)
    return {f"{prefix}.to_{q}.{kind}": part for q, part in zip("qkv", tensor.chunk(3), strict=True)}
