"""The one network of the shipped priors: a norm-free UNet in plain torch, and the EDM denoiser around it.

The UNet is fully convolutional and has no normalisation over space, so weights trained on crops denoise signals of any
size: images, or waveforms (`dims=1`). Pixels are folded into channels at the input (pixel-unshuffle) and unfolded at the
output, which buys most of the speed. Residual blocks, summed skips, strided convolutions as in DRUNet (Zhang et al., 2021);
noise level, and the class where there are some, by FiLM as in DDPM.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invgen.conditional import ConditionalDenoiser, Conditioned
from invgen.diffusion import Denoiser, Sigma
from invgen.errors import OptionError, ShapeError
from invgen.numerics.gradients import unit_cotangents

CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d}
GROW: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}


class ResidualBlock(nn.Module):
    """x + conv(silu(FiLM(conv(x)))); the second convolution starts at zero, so that the block starts as the identity."""

    def __init__(self, width: int, embedding: int, dims: int = 2) -> None:
        super().__init__()
        self.conv1 = CONV[dims](width, width, 3, padding=1)
        self.conv2 = CONV[dims](width, width, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * width)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x: (B, width, H, W) or (B, width, L); embedding: (B, embedding)."""
        scale, shift = self.film(embedding).unflatten(1, (-1, *[1] * (x.ndim - 2))).chunk(2, dim=1)
        return x + self.conv2(F.silu(torch.addcmul(shift, self.conv1(x), 1 + scale)))


class UNet(nn.Module):
    """Maps signal and noise level to a signal: (B, C, H, W), (B,) -> (B, C, H, W), for any H and W; (B, C, L) with dims=1.

    Sides not divisible by unshuffle * 2^(levels - 1) are padded by reflection (replication if too small for that) and
    cropped at the end.

    Args:
        channels: of the signal, C.
        widths: channels of each resolution, each half the one before.
        blocks: residual blocks per resolution on the way down, and again on the way up.
        embedding: values of the embedding of the noise level.
        unshuffle: the factor by which pixels are folded into channels.
        dims: spatial axes, 1 or 2.
        classes: how many labels there are, 0 to classes - 1; the label `classes` stands for none.
        vector: how many values a vector has that conditions the signal, such as the embedding of a text; a vector of zeros
            stands for none. Its length counts: training and use give vectors of length 1.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int] = (64, 96, 128),
        blocks: int = 2,
        unshuffle: int = 2,
        embedding: int = 128,
        classes: int = 0,
        dims: int = 2,
        vector: int = 0,
    ) -> None:
        super().__init__()
        self.options = {"channels": channels, "widths": list(widths), "blocks": blocks}
        self.options |= {"unshuffle": unshuffle, "embedding": embedding, "classes": classes, "dims": dims}
        self.options |= {"vector": vector} if vector else {}
        self.unshuffle, self.classes, self.dims, self.vector = unshuffle, classes, dims, vector
        self.stride = unshuffle * 2 ** (len(widths) - 1)
        folded = channels * unshuffle**dims

        def stage(width: int) -> nn.ModuleList:
            return nn.ModuleList(ResidualBlock(width, embedding, dims) for _ in range(blocks))

        self.embed = nn.Sequential(nn.Linear(32, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        if classes:
            # drawn as nn.Embedding draws it; draws on the meta device would load torch's compiler or sympy: seconds
            labels = torch.empty(classes + 1, embedding)
            self.label = nn.Embedding(classes + 1, embedding, _weight=labels if labels.is_meta else labels.normal_())
        if vector:  # without a bias, so that zeros stand for none; a vector of length 1 weighs as much as a label
            self.given = nn.Linear(vector, embedding, bias=False)
            if not self.given.weight.is_meta:
                nn.init.normal_(self.given.weight)
        self.stem = CONV[dims](folded, widths[0], 3, padding=1)
        self.down = nn.ModuleList(stage(w) for w in widths)
        self.up = nn.ModuleList(stage(w) for w in widths)
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.pool = nn.ModuleList(CONV[dims](a, b, 2, stride=2) for a, b in pairs)
        self.grow = nn.ModuleList(GROW[dims](b, a, 2, stride=2) for a, b in pairs)
        self.head = CONV[dims](widths[0], folded, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None = None, vector: Tensor | None = None) -> Tensor:
        """x: (B, C, H, W) or (B, C, L). noise: (B,), a function of the noise level of order one (EDM: ln(sigma)
        / 4).

        label: (B,) integers, where the network knows classes; None stands for no class.
        vector: (B, vector), where the network knows vectors; None stands for no vector.
        """
        sides = x.shape[2:]
        padding = [n for side in reversed(sides) for n in (0, -side % self.stride)]
        if any(padding):
            fits = all(-side % self.stride < side for side in sides)
            x = F.pad(x, padding, mode="reflect" if fits else "replicate")
        embedding = self.embed[:3](_fourier(noise).to(x.dtype))
        if self.classes:
            label = torch.full_like(noise, self.classes, dtype=torch.long) if label is None else label
            embedding = embedding + self.label(label)
        if vector is not None:
            embedding = embedding + self.given(vector.to(x.dtype))
        embedding = self.embed[3](embedding)
        h = self.stem(fold(x, self.unshuffle))
        skips = []
        for level, stage in enumerate(self.down):
            for block in stage.children():
                h = block(h, embedding)
            if level < len(self.pool):
                skips.append(h)
                h = self.pool[level](h)
        for level in reversed(range(len(self.up))):
            for block in self.up[level].children():
                h = block(h, embedding)
            if level:
                h = self.grow[level - 1](h) + skips[level - 1]
        return unfold(self.head(h), self.unshuffle)[(..., *(slice(side) for side in sides))]


def fold(x: Tensor, factor: int) -> Tensor:
    """Returns pixels to channels: (B, C, H, W) -> (B, C f^2, H/f, W/f), or (B, C, L) -> (B, C f, L/f)."""
    if x.ndim == 4:
        return F.pixel_unshuffle(x, factor)
    return x.unflatten(2, (-1, factor)).transpose(2, 3).flatten(1, 2)


def unfold(x: Tensor, factor: int) -> Tensor:
    """Returns the inverse of `fold`."""
    if x.ndim == 4:
        return F.pixel_shuffle(x, factor)
    return x.unflatten(1, (-1, factor)).transpose(2, 3).flatten(2, 3)


def _fourier(noise: Tensor, features: int = 32) -> Tensor:
    """Returns (B,) -> (B, features): cosines and sines at frequencies from 0.25 to 8 radians, in float32 or better."""
    noise = noise.to(torch.promote_types(noise.dtype, torch.float32))
    powers = torch.linspace(math.log(0.25), math.log(8.0), features // 2, device=noise.device, dtype=noise.dtype)
    angles = noise[:, None] * powers.exp()
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class EDMDenoiser(Denoiser):
    """D(x, sigma) = m + c_skip (x - m) + c_out net(c_in (x - m), ln(sigma) / 4) (EDM: Karras et al., 2022, Table 1).

    m and data_std are the mean and the standard deviation of a pixel. x is (B, C, H, W), or (B, C, L) for a waveform, in
    the prior's units; its sides may differ from those of `shape`. The network runs in the dtype of its weights, the
    combination in float32 or better, so that half-precision weights stay accurate at large sigma. Noise levels outside
    [sigma_min, sigma_max], which training did not see, get the embedding of the nearest one that it saw.
    """

    def __init__(self, net: UNet, shape: int | Sequence[int], **facts: Any) -> None:
        """facts: sigma_min, sigma_max, value_range, data_mean, data_std, as for every `Denoiser`."""
        super().__init__(shape, **facts)
        self.net = net
        crops = net.dims == 2 and not (net.classes or net.vector)  # networks with conditions saw whole pictures
        self.size_step = net.stride if crops else None

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        """Returns E[x0 | x0 + sigma eps = x], of the shape and dtype of x. sigma: a number or one per sample, (B,)."""
        return self._denoise(x, sigma)

    def _denoise(self, x: Tensor, sigma: Sigma, *given: Tensor | None) -> Tensor:
        if x.ndim != self.net.dims + 2 or x.shape[1] != self.shape[0]:
            sides = "H, W" if self.net.dims == 2 else "L"
            raise ShapeError(f"the prior denoises (B, {self.shape[0]}, {sides}), got {tuple(x.shape)}")
        dtype = torch.promote_types(x.dtype, torch.float32)
        sigma = torch.as_tensor(sigma, dtype=dtype, device=x.device).expand(x.shape[0])
        z, s = x.to(dtype) - self.data_mean, sigma.view(-1, *[1] * (x.ndim - 1))
        total = s**2 + self.data_std**2
        noise = sigma.clamp(self.sigma_min, self.sigma_max).log() / 4
        scaled, dtype_net = z * total.rsqrt(), self.net.head.weight.dtype
        out = self.net(scaled.to(dtype_net), noise, *given).to(dtype)
        if dtype_net in (torch.float16, torch.bfloat16):
            unit_cotangents(scaled, out)
        return (self.data_mean + self.data_std**2 / total * z + s * self.data_std * total.rsqrt() * out).to(x.dtype)


class LabelDenoiser(EDMDenoiser, ConditionalDenoiser):
    """An `EDMDenoiser` that knows classes: `prior.condition(3)` is p(x | class 3), the prior itself p(x).

    Its network was trained with the label left out now and then, so that one network serves as both, and `ClassifierFree`
    can weigh them (Ho & Salimans, 2022).
    """

    def forward(self, x: Tensor, sigma: Sigma, condition: int | Tensor | None = None) -> Tensor:
        """Returns E[x0 | x0 + sigma eps = x, class], of the shape of x; condition: a class, one per sample (B,), or
        None."""
        if condition is None:
            return self._denoise(x, sigma)
        label = torch.as_tensor(condition, device=x.device)
        if label.is_floating_point() or label.ndim > 1 or (label.ndim and len(label) != len(x)):
            raise OptionError(f"a class is a whole number, or one per sample, got {condition!r}")
        return self._denoise(x, sigma, label.long().expand(len(x)))

    def condition(self, condition: int | Tensor) -> Conditioned:
        """Returns p(x | class), for a class from 0 to classes - 1."""
        whole = isinstance(condition, int) or (isinstance(condition, Tensor) and condition.numel() == 1)
        if not (whole and 0 <= int(condition) < self.net.classes):
            raise OptionError(f"there is no class {condition!r}: the prior knows 0 to {self.net.classes - 1}")
        return super().condition(int(condition))


class VectorDenoiser(LabelDenoiser):
    """An `EDMDenoiser` that knows vectors, such as embeddings of texts, and maybe classes as well.

    A condition is a class, a vector, or both, (class, vector); `prior.condition(vector)` is p(x | vector), the prior itself
    p(x). Training left out the one and the other, so that `ClassifierFree` can weigh them.
    """

    def forward(self, x: Tensor, sigma: Sigma, condition: Any = None) -> Tensor:
        """Returns E[x0 | x0 + sigma eps = x, condition], of the shape of x.

        Args:
            x: (B, *shape).
            sigma: a number or one per sample, (B,).
            condition: a class or (B,) classes, a vector (V,) or (B, V), a pair of both, or None.
        """
        label, vector = self._parts(condition, len(x))
        if label is not None:
            label = torch.as_tensor(label, device=x.device).long().expand(len(x))
        return self._denoise(x, sigma, label, None if vector is None else vector.to(x.device).expand(len(x), -1))

    def condition(self, condition: Any) -> Conditioned:
        """Returns p(x | condition), for a class, a vector (V,), (class, vector), or, by the sentence encoder, a text."""
        if isinstance(condition, str) and self.net.vector == 384:
            from invgen.priors.checkpoints.sentences import sentence_encoder

            condition = sentence_encoder()(condition)
        label, vector = self._parts(condition, 1)
        if label is not None:
            super().condition(label)  # whether it exists
        if vector is None:
            return ConditionalDenoiser.condition(self, int(condition))
        return ConditionalDenoiser.condition(self, vector.float() if label is None else (int(label), vector.float()))

    def _parts(self, condition: Any, rows: int) -> tuple[int | Tensor | None, Tensor | None]:
        """Returns class and vector of a condition, None for what it does not have."""
        if condition is None:
            return None, None
        parts = condition if isinstance(condition, tuple) else (condition,)
        vectors = [p for p in parts if isinstance(p, Tensor) and p.is_floating_point()]
        labels = [p for p in parts if isinstance(p, int) or (isinstance(p, Tensor) and not p.is_floating_point())]
        fits = all(v.shape[-1:] == (self.net.vector,) and v.shape[:-1] in ((), (rows,)) for v in vectors)
        fits &= all(not isinstance(n, Tensor) or n.shape in ((), (rows,)) for n in labels)
        fits &= len(vectors) <= 1 and len(labels) <= (self.net.classes > 0) and len(vectors) + len(labels) == len(parts)
        if not fits:
            last = self.net.classes - 1
            knows = f"a class from 0 to {last}, or (class, vector)" if self.net.classes else "for there are no classes"
            got = " and ".join(str(tuple(p.shape)) if isinstance(p, Tensor) else repr(p) for p in parts)
            raise OptionError(f"a condition is a vector of {self.net.vector} values, {knows}, got {got:.100}")
        return labels[0] if labels else None, vectors[0] if vectors else None


def denoiser_around(net: UNet, shape: int | Sequence[int], **facts: Any) -> EDMDenoiser:
    """Returns the denoiser around a network: one that takes the conditions that the network knows. facts: of `Denoiser`."""
    kind = VectorDenoiser if net.vector else LabelDenoiser if net.classes else EDMDenoiser
    return kind(net, shape, **facts)
