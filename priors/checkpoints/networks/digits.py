"""The small networks of the digits family: a VAE, a GAN's generator, a normalising flow and a PixelCNN, (1, 32, 32).

Each one's `objectives(x, generator)` is what its training minimises, for x (B, 1, 32, 32) in [-1, 1]; one in turn for each
of the groups of parameters `groups()`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

SIDE = 32
LEVELS = (-1.0, -1 / 3, 1 / 3, 1.0)  # of the PixelCNN


def _normal(shape: int | Sequence[int], generator: Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=generator).to(like)


def decoder(latent: int, widths: Sequence[int] = (56, 40, 24)) -> nn.Sequential:
    """Returns codes (B, latent) to pictures in [-1, 1]: transposed convolutions from 4 x 4 on."""
    a, b, c = widths
    return nn.Sequential(
        nn.Linear(latent, a * 16), nn.Unflatten(1, (a, 4, 4)), nn.GroupNorm(4, a), nn.SiLU(),
        nn.ConvTranspose2d(a, b, 4, 2, 1), nn.GroupNorm(4, b), nn.SiLU(),
        nn.ConvTranspose2d(b, c, 4, 2, 1), nn.GroupNorm(4, c), nn.SiLU(),
        nn.ConvTranspose2d(c, 1, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def encoder(out: int, widths: Sequence[int] = (20, 32, 48)) -> nn.Sequential:
    """Returns pictures to (B, out): strided convolutions down to 4 x 4."""
    layers: list[nn.Module] = []
    for a, b in zip((1, *widths), widths, strict=False):
        layers += [nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * 16, out))


class VAENetworks(nn.Module):
    """Encoder and decoder (Kingma & Welling, ICLR 2014). The decoder's one variance is the best for each batch, the mean
    squared error (Rybkin, Daniilidis & Levine, "Simple and effective VAE training with calibrated decoders", ICML 2021)."""

    def __init__(self, latent: int = 12) -> None:
        super().__init__()
        self.options = {"latent": latent}
        self.decoder, self.encoder = decoder(latent), encoder(2 * latent)

    def elbo(self, x: Tensor, eps: Tensor, variance: float | None = None) -> Tensor:
        """Returns the evidence lower bound in nats, (B,), with the decoder's variance given, or that of the batch."""
        mean, log_var = self.encoder(x).chunk(2, 1)
        error = (self.decoder(mean + (0.5 * log_var).exp() * eps) - x).square().flatten(1).sum(1)
        n = x[0].numel()
        v = torch.as_tensor(error.mean() / n if variance is None else variance)
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)
        return -0.5 * (error / v + n * (2 * math.pi * v).log()) - kl

    def groups(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]

    def objectives(self, x: Tensor, generator: Generator) -> Iterator[Tensor]:
        mean, log_var = self.encoder(x).chunk(2, 1)
        z = mean + (0.5 * log_var).exp() * _normal(mean.shape, generator, x)
        error = (self.decoder(z) - x).square().mean()
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1).mean()
        yield 0.5 * error.log() + kl / x[0].numel()

    def prior(self, **facts: Any) -> Any:
        from invgen.priors.wrappers.generators import from_vae

        latent = self.options["latent"]
        both = nn.Sequential(self.encoder, Halves())
        return from_vae(self.decoder, both, latent_shape=(latent,), shape=(1, SIDE, SIDE), **facts)


class Halves(nn.Module):
    """(B, 2 n) to mean and log-variance."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.chunk(2, 1)


class GANNetworks(nn.Module):
    """A generator, and in training its critic: hinge losses, spectral normalisation (Miyato et al., ICLR 2018)."""

    def __init__(self, latent: int = 24, critic: bool = False) -> None:
        super().__init__()
        self.options = {"latent": latent}
        self.generator = decoder(latent)
        if critic:
            self.critic = encoder(1, (24, 48, 64))
            for layer in self.critic:
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    nn.utils.parametrizations.spectral_norm(layer)

    def groups(self) -> list[list[nn.Parameter]]:
        return [list(self.critic.parameters()), list(self.generator.parameters())]

    def objectives(self, x: Tensor, generator: Generator) -> Iterator[Tensor]:
        latent = self.options["latent"]
        with torch.no_grad():
            made = self.generator(_normal((len(x), latent), generator, x))
        scores = self.critic(torch.cat([x, made])).ravel()
        yield F.relu(1 - scores[: len(x)]).mean() + F.relu(1 + scores[len(x) :]).mean()
        yield -self.critic(self.generator(_normal((len(x), latent), generator, x))).mean()

    def prior(self, **facts: Any) -> Any:
        from invgen.priors.wrappers.generators import from_generator

        return from_generator(self.generator, (self.options["latent"],), (1, SIDE, SIDE), **facts)


class Coupling(nn.Module):
    """Half of the channels scaled and shifted by a function of the other half (RealNVP: Dinh et al., ICLR 2017)."""

    order: Tensor
    back: Tensor

    def __init__(self, channels: int, hidden: int, seed: int) -> None:
        super().__init__()
        half = channels // 2
        order = torch.randperm(channels, generator=Generator().manual_seed(seed))
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)
        first, middle = nn.Conv2d(half, hidden, 3, padding=1), nn.Conv2d(hidden, hidden, 1)
        last = nn.Conv2d(hidden, 2 * (channels - half), 3, padding=1)
        self.net = nn.Sequential(first, nn.SiLU(), middle, nn.SiLU(), last)
        for weight in last.parameters():
            nn.init.zeros_(weight)

    def _terms(self, a: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.net(a).chunk(2, 1)
        return 2 * torch.tanh(log_scale / 2), shift

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From data to code: the output and log |det|, (B,)."""
        x = x[:, self.order]
        a, b = x.tensor_split([x.shape[1] // 2], 1)
        log_scale, shift = self._terms(a)
        return torch.cat([a, (b + shift) * log_scale.exp()], 1), log_scale.flatten(1).sum(1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """From code to data."""
        a, b = z.tensor_split([z.shape[1] // 2], 1)
        log_scale, shift = self._terms(a)
        return torch.cat([a, b * (-log_scale).exp() - shift], 1)[:, self.back], -log_scale.flatten(1).sum(1)


class FlowNetwork(nn.Module):
    """A RealNVP over pictures with a little noise: couplings at 16, 8 and 4 pixels; x <-> z of one shape.

    The noise, N(0, NOISE^2), is what gives pictures that are black nearly everywhere a density that a small smooth map can
    reach; the prior is that of the noisy pictures, as a diffusion's at its lowest level.
    """

    PLAN = ((4, 24, 4), (16, 32, 6), (64, 24, 3))  # channels, hidden channels, couplings at each resolution
    NOISE = 0.1
    MEAN, SCALE = -0.8, 0.55  # of the pictures

    def __init__(self) -> None:
        super().__init__()
        self.options: dict[str, Any] = {}
        self.levels = nn.ModuleList(
            nn.ModuleList(Coupling(c, h, 100 * k + i) for i in range(n)) for k, (c, h, n) in enumerate(self.PLAN)
        )

    def inverse_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns z and log |det dz/dx|: (B, 1, 32, 32) -> (B, 1, 32, 32), (B,)."""
        h = (x - self.MEAN) / self.SCALE
        log_det = x.new_full((len(x),), -x[0].numel() * math.log(self.SCALE))
        for level in self.levels:
            h = F.pixel_unshuffle(h, 2)
            for layer in level.children():
                assert isinstance(layer, Coupling)  # which a ModuleList does not say
                h, more = layer.inverse(h)
                log_det = log_det + more
        for _ in self.levels:
            h = F.pixel_shuffle(h, 2)
        return h, log_det

    def forward_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x and log |det dx/dz|."""
        h, log_det = z, z.new_full((len(z),), z[0].numel() * math.log(self.SCALE))
        for _ in self.levels:
            h = F.pixel_unshuffle(h, 2)
        for level in reversed(self.levels):
            for layer in reversed(list(level.children())):
                h, more = layer(h)
                log_det = log_det + more
            h = F.pixel_shuffle(h, 2)
        return h * self.SCALE + self.MEAN, log_det

    def groups(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]

    def objectives(self, x: Tensor, generator: Generator) -> Iterator[Tensor]:
        z, log_det = self.inverse_and_log_det(x + self.NOISE * _normal(x.shape, generator, x))
        yield (0.5 * z.square().flatten(1).sum(1) - log_det).mean() / x[0].numel() + 0.5 * math.log(2 * math.pi)

    def prior(self, **facts: Any) -> Any:
        from invgen.priors.wrappers.normalising_flows import from_flow

        return from_flow(self, (1, SIDE, SIDE), **facts)


class MaskedConv(nn.Conv2d):
    """A convolution that sees the pixels before the centre in raster order, and with `centre` the centre itself.

    Args:
        inputs, outputs: the numbers of channels.
        size, dilation: of the kernel.
        centre: whether the centre is seen.
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, size: int, centre: bool, dilation: int = 1) -> None:
        super().__init__(inputs, outputs, size, padding=dilation * (size // 2), dilation=dilation)
        mask = torch.zeros(size, size)
        mask[: size // 2] = 1
        mask[size // 2, : size // 2 + centre] = 1
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class PixelCNN(nn.Module):
    """Logits of four grey levels for each pixel, from the pixels before it (van den Oord et al., ICML 2016)."""

    def __init__(self, width: int = 32, dilations: Sequence[int] = (1, 2, 1, 4, 1)) -> None:
        super().__init__()
        self.options = {"width": width, "dilations": list(dilations)}
        self.first = MaskedConv(2, width, 7, centre=False)  # the second channel is 1 inside the picture
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), MaskedConv(width, width, 3, True, d), nn.SiLU(), nn.Conv2d(width, width, 1))
            for d in dilations
        )
        self.last = nn.Sequential(nn.SiLU(), nn.Conv2d(width, len(LEVELS), 1))

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, 1, H, W) -> logits (B, levels, 1, H, W)."""
        h = self.first(torch.cat([x, torch.ones_like(x)], 1))
        for block in self.blocks:
            h = h + block(h)
        return self.last(h)[:, :, None]

    def groups(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]

    def objectives(self, x: Tensor, generator: Generator) -> Iterator[Tensor]:
        # A grey level between two of the four becomes either with the chance that keeps its mean.
        token = ((x + 1) * 1.5 + torch.rand(x.shape, generator=generator).to(x)).floor().clamp(0, 3).long()
        yield F.cross_entropy(self(torch.tensor(LEVELS).to(x)[token]), token)

    def prior(self, **facts: Any) -> Any:
        from invgen.priors.wrappers.autoregressive import from_autoregressive

        return from_autoregressive(self, (1, SIDE, SIDE), LEVELS, layout="image", **facts)


NETWORKS: dict[str, Any] = {"VAE": VAENetworks, "GAN": GANNetworks, "Flow": FlowNetwork, "PixelCNN": PixelCNN}
