"""Published networks, loaded as their users would, checked and tried: `invgen bench study networks --weights FOLDER`.

The classes are written anew from their descriptions; docs/networks.md says where the files come from and prints the table.
"""

import argparse
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import invgen
from invgen import priors
from invgen.diffusion import Prior
from invgen.errors import InvgenError
from invgen.metrics import psnr
from invgen.operators import Mask

NOISE, KEEP = 0.05, 0.3


class MnistDDPM(nn.Module):
    """Yichizz/hot_vs_cold_diffusion (MIT): 7 x 7 convolutions with layer norm over whole maps, the time added to the first.

    Predicts epsilon, of digits in [-0.5, 0.5] by 1000 linear betas; the time is i / 1000.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 32, 16), waves: int = 16) -> None:
        super().__init__()
        maps = [
            nn.ModuleDict({"net": nn.Sequential(nn.Conv2d(a, b, 7, padding=3), nn.LayerNorm([b, 28, 28]), nn.GELU())})
            for a, b in zip((1, *widths), widths, strict=False)
        ]
        self.blocks = nn.ModuleList([*maps, nn.Conv2d(widths[-1], 1, 3, padding=1)])
        sizes = [2 * waves, 128, 128, 128, widths[0]]
        layers = [m for a, b in zip(sizes, sizes[1:], strict=False) for m in (nn.Linear(a, b), nn.GELU())]
        self.time_embed = nn.Sequential(*layers[:-1])
        self.register_buffer("frequencies", torch.tensor([0.0] + [2 * math.pi * 1.5**i for i in range(waves - 1)]))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns the predicted noise of x (B, 1, 28, 28) at times t (B,)."""
        phase = t[:, None] * self.get_buffer("frequencies")
        time = self.time_embed(torch.cat([phase.sin(), phase.cos() - 1], 1))[:, :, None, None]
        first, *others, last = self.blocks
        x = first.get_submodule("net")(x) + time
        for block in others:
            x = block.get_submodule("net")(x)
        return last(x)


class ConditionalWGAN(nn.Module):
    """HayatoHongo/MNIST-Conditional-WGAN-gp (MIT): ten codes and the embedding of a digit, a tanh at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.label_emb, self.l1 = nn.Embedding(10, 10), nn.Sequential(nn.Linear(20, 6272))
        body = [nn.BatchNorm2d(128), nn.Upsample(scale_factor=2), nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128)]
        body += [nn.LeakyReLU(0.2), nn.Upsample(scale_factor=2), nn.Conv2d(128, 64, 3, padding=1), nn.BatchNorm2d(64)]
        self.conv_blocks = nn.Sequential(*body, nn.LeakyReLU(0.2), nn.Conv2d(64, 1, 3, padding=1), nn.Tanh())

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        """Returns digits (B, 1, 28, 28) of codes (B, 10) and labels (B,)."""
        return self.conv_blocks(self.l1(torch.cat([self.label_emb(label), z], 1)).reshape(-1, 128, 7, 7))


def mnist_ddpm(path: Path) -> tuple[MnistDDPM, priors.Schedule]:
    """Returns the trained network and its schedule."""
    net = MnistDDPM()
    net.load_state_dict(priors.read_weights(path, prefix="gt."))
    betas = priors.read_weights(path, prefix="")["beta_t"][1:].double()
    return net.eval(), priors.Schedule.from_betas(betas, times=torch.arange(1, 1001) / 1000)


def mnist_vae(path: Path) -> nn.Module:
    """Returns the decoder of csinva/gan-vae-pretrained-pytorch (MIT): 20 codes, one hidden layer, a sigmoid at the end."""
    state = priors.read_weights(path, prefix="")
    decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784), nn.Sigmoid(), nn.Unflatten(1, (1, 28, 28)))
    decoder.load_state_dict(
        {f"{to}.{k}": state[f"{of}.{k}"] for of, to in (("fc3", 0), ("fc4", 2)) for k in ("weight", "bias")}
    )
    return decoder


def dncnn(path: Path) -> Callable[[Tensor], Tensor]:
    """Returns the denoiser of cszn/KAIR (MIT), 17 layers that find the noise of grey pictures in [0, 1]."""
    layers: list[nn.Module] = [nn.Conv2d(1, 64, 3, padding=1), nn.ReLU()]
    for _ in range(15):
        layers += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Conv2d(64, 1, 3, padding=1))
    net.load_state_dict(priors.read_weights(path, prefix="model."))
    net.eval().requires_grad_(False)
    return lambda x: x - net(x)


def told(make: Callable[[], object]) -> tuple[object, list[str]]:
    """Returns what a call gives and the warnings that it raised."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = make()
    return made, [str(w.message).split("\n")[0] for w in caught]


def tried(prior: Prior, x: Tensor, samplers: tuple[str, ...], samples: int) -> dict[str, float]:
    """Returns the PSNR of the mean of some samples, by sampler: 30 % of the pixels known, noise of 5 % of the range.

    Args:
        prior: of the signals.
        x: the truth, (B, *shape).
        samplers: their names; one that refuses says why.
        samples: of each sampler.
    """
    low, high = prior.value_range
    noise = NOISE * (high - low)
    A = Mask.random(x.shape[1:], keep=KEEP)
    y = A(x) + noise * torch.randn(len(x), *A.out_shape, generator=torch.Generator().manual_seed(0))
    found = {}
    for sampler in samplers:
        try:
            (result, _) = told(lambda s=sampler: invgen.solve(y, A, prior, noise, s, num_samples=samples, seed=0))
        except InvgenError as error:
            print(f"  {sampler}: {error}")
            continue
        assert isinstance(result, invgen.Result)
        name = f"auto = {result.sampler}" if sampler == "auto" else sampler
        found[name] = psnr(result.mean, x, data_range=high - low).mean().item()
        print(f"  {name}: {found[name]:.2f} dB", flush=True)
    return found


def networks(folder: Path, digits: Path, number: int, samples: int) -> Iterator[None]:
    """Prints what each network of the folder does; a file that is not there is passed over.

    Args:
        folder: of the files.
        digits: what `invgen data digits` wrote.
        number: of the signals.
        samples: of each sampler.
    """
    import numpy as np

    with np.load(digits) as stored:
        held, seen = (torch.from_numpy(stored[f"{part}_images"]).float()[:, None] / 255 for part in ("test", "train"))
    truth, clean = (x[:: len(x) // n][:n] for x, n in ((held, number), (seen, 16)))
    if (path := folder / "ddpm_mnist.pth").is_file():
        print("ddpm_mnist.pth: diffusion, epsilon")
        net, schedule = mnist_ddpm(path)
        plain, _ = told(lambda: priors.from_network(net, (1, 28, 28), prediction="epsilon", schedule=schedule))
        assert isinstance(plain, invgen.Denoiser)
        report, words = told(lambda: priors.check_prior(plain, clean - 0.5))
        print(f"  check_prior: {words[0] if words else 'the declaration fits'}")
        prior = priors.from_network(net, (1, 28, 28), prediction="epsilon", schedule=schedule, data=clean - 0.5)
        print(f"  trusted from sigma = {prior.sigma_min:.3g} to {prior.sigma_max:.3g} of {plain.sigma_max:.3g}")
        tried(prior, truth - 0.5, ("auto", "AdaptivePiGDM(steps=30)", "MMPS(steps=20)", "DampedDPS(steps=100)"), samples)
        yield
    if (path := folder / "vae_mnist.pth").is_file():
        print("vae_mnist.pth: decoder of a variational autoencoder")
        decoder = mnist_vae(path)
        vae = priors.from_vae(decoder, latent_shape=(20,))
        print(f"  range {vae.value_range}, mean {vae.data_mean:.3f}, deviation {vae.data_std:.3f}")
        tried(vae, truth, ("auto", "CSGM(steps=200)", "HMC(steps=100)"), samples)
        yield
    if (path := folder / "hayato_conditional_wgan.pth").is_file():
        print("hayato_conditional_wgan.pth: generator, of the digit 3")
        generator = ConditionalWGAN()
        generator.load_state_dict(priors.read_weights(path, generator))
        with np.load(digits) as stored:
            threes = held[torch.from_numpy(stored["test_labels"] == 3)][:number]
        gan = priors.from_generator(generator.eval(), (10,), condition=3)
        tried(gan, 2 * threes - 1, ("auto", "CSGM(steps=200)", "HMC(steps=50)"), samples)
        yield
    if (path := folder / "dncnn_25.pth").is_file():
        from skimage import data

        print("dncnn_25.pth: denoiser of one level, 25 / 255")
        picture = torch.as_tensor(data.camera()[160:256, 180:276].copy()).float()[None, None] / 255
        prior = priors.from_denoiser(dncnn(path), (1, 96, 96), level=25 / 255, value_range=(0, 1))
        noisy = picture + 25 / 255 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
        cleaned = prior(noisy, 25 / 255)
        before, after = (psnr(x, picture, data_range=1.0).item() for x in (noisy, cleaned))
        print(f"  denoising: {before:.2f} to {after:.2f} dB")
        tried(prior, picture, ("auto", "PnPADMM", "RED", "MMPS(steps=5)"), 1)
        yield


def main(argv: list[str] | None = None) -> None:
    """Prints what `check_prior` says of each network, and the PSNR of inpainting by `auto` and by others."""
    from invgen.priors.data.fetch import data_folder

    parser = argparse.ArgumentParser(prog="invgen bench study networks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, help="the folder of the files (docs/networks.md)")
    parser.add_argument(
        "--digits", type=Path, default=data_folder() / "digits" / "digits.npz", help="what `invgen data digits` wrote"
    )
    parser.add_argument("--number", type=int, default=8, help="of the signals")
    parser.add_argument("--samples", type=int, default=4, help="whose mean is judged")
    args = parser.parse_args(argv)
    for _ in networks(args.weights, args.digits, args.number, args.samples):
        pass
