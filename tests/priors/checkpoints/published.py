"""Published networks, written anew from their descriptions: what a researcher brings. The weights are field data."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from invgen.files import pickles
from invgen.priors import Schedule


class MnistDDPM(nn.Module):
    """Yichizz/hot_vs_cold_diffusion (MIT): 7 x 7 convolutions with layer norm over whole maps, the time added to the first.

    Predicts epsilon, of digits in [-0.5, 0.5] by 1000 linear betas; the time is i / 1000.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 32, 16), waves: int = 16) -> None:
        super().__init__()
        maps = [
            nn.ModuleDict({"net": nn.Sequential(nn.Conv2d(a, b, 7, padding=3), nn.LayerNorm((b, 28, 28)), nn.GELU())})
            for a, b in zip((1, *widths), widths, strict=False)
        ]
        self.blocks = nn.ModuleList([*maps, nn.Conv2d(widths[-1], 1, 3, padding=1)])
        sizes = [2 * waves, 128, 128, 128, widths[0]]
        layers = [m for a, b in zip(sizes, sizes[1:], strict=False) for m in (nn.Linear(a, b), nn.GELU())]
        self.time_embed = nn.Sequential(*layers[:-1])
        self.register_buffer("frequencies", torch.tensor([0.0] + [2 * math.pi * 1.5**i for i in range(waves - 1)]))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        phase = t[:, None] * self.frequencies
        time = self.time_embed(torch.cat([phase.sin(), phase.cos() - 1], 1))[:, :, None, None]
        x = self.blocks[0]["net"](x) + time
        for block in self.blocks[1:-1]:
            x = block["net"](x)
        return self.blocks[-1](x)


def mnist_ddpm(file: Path) -> tuple[MnistDDPM, Schedule]:
    """The trained network and its schedule."""
    state = pickles.read(file)
    net = MnistDDPM()
    net.load_state_dict({name.removeprefix("gt."): v for name, v in state.items() if name.startswith("gt.")})
    betas = state["beta_t"][1:].double()
    return net.eval(), Schedule.from_betas(betas, times=torch.arange(1, 1001) / 1000)


def digits(file: Path, number: int, split: str = "test") -> Tensor:
    """MNIST digits in [-0.5, 0.5], (number, 1, 28, 28), evenly spaced through the file."""
    with np.load(file) as stored:
        images = stored[f"{split}_images"]
    return torch.from_numpy(images[:: len(images) // number][:number]).float()[:, None] / 255 - 0.5


def mnist_vae(file: Path) -> nn.Module:
    """csinva/gan-vae-pretrained-pytorch (MIT): 20 codes, one hidden layer, a sigmoid at the end; its decoder."""
    state = pickles.read(file)
    decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784), nn.Sigmoid(), nn.Unflatten(1, (1, 28, 28)))
    decoder.load_state_dict(
        {f"{to}.{k}": state[f"{of}.{k}"] for of, to in (("fc3", 0), ("fc4", 2)) for k in ("weight", "bias")}
    )
    return decoder


class ConditionalWGAN(nn.Module):
    """HayatoHongo/MNIST-Conditional-WGAN-gp (MIT): ten codes and the embedding of a digit, a tanh at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.label_emb, self.l1 = nn.Embedding(10, 10), nn.Sequential(nn.Linear(20, 6272))
        body = [nn.BatchNorm2d(128), nn.Upsample(scale_factor=2), nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128)]
        body += [nn.LeakyReLU(0.2), nn.Upsample(scale_factor=2), nn.Conv2d(128, 64, 3, padding=1), nn.BatchNorm2d(64)]
        self.conv_blocks = nn.Sequential(*body, nn.LeakyReLU(0.2), nn.Conv2d(64, 1, 3, padding=1), nn.Tanh())

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return self.conv_blocks(self.l1(torch.cat([self.label_emb(label), z], 1)).reshape(-1, 128, 7, 7))
