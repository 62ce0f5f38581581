"""The log of a training: log.csv, TensorBoard's logs where asked for, and a sheet of samples."""

import csv
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, noise_levels
from invgen.errors import FileError, MissingExtraError
from invgen.priors.checkpoints.networks.unet import LabelDenoiser
from invgen.pushforward import Flow


class Watch:
    """Numbers by step in OUT/log.csv, and in OUT/tensorboard; pictures of samples in OUT/samples.png."""

    def __init__(self, out: Path, tensorboard: bool) -> None:
        self.out, self.board = out, None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingExtraError(
                    "logs for TensorBoard need the package tensorboard: pip install 'invgen-solvers[train]'"
                ) from error
            self.board = SummaryWriter(str(out / "tensorboard"))

    def numbers(self, step: int, **values: float) -> None:
        """A row of the log; the columns of the first row stay."""
        path = self.out / "log.csv"
        try:
            new = not path.exists()
            with path.open("a", newline="", encoding="utf-8") as file:
                rows = csv.writer(file)
                if new:
                    rows.writerow(["step", *values])
                rows.writerow([step, *(f"{v:.6g}" for v in values.values())])
        except OSError as error:
            raise FileError(f"cannot write {path}: {error.strerror or error}") from error
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def samples(self, step: int, prior: Denoiser) -> None:
        """A new sheet of samples."""
        picture = sheet(prior)
        save_sheet(picture, self.out / "samples.png")
        if self.board is not None:
            self.board.add_image("samples", picture, step)

    def close(self) -> None:
        """Ends the logs."""
        if self.board is not None:
            self.board.close()


def draw_samples(prior: Any, count: int, seed: int = 0, steps: int = 24, jumps: int = 2) -> Tensor:
    """Returns samples of a trained prior, (count, *shape), of each class in turn where it has some.

    Args:
        prior: the prior.
        count: of the samples.
        seed: of the codes.
        steps: of Heun's method, for a denoiser.
        jumps: evaluations of a consistency function, from sigma_max down to 1.
    """
    z = torch.randn(count, *getattr(prior, "latent_shape", prior.shape), generator=torch.Generator().manual_seed(seed))
    z = z.to(prior.device)
    with torch.no_grad():
        if isinstance(prior, LabelDenoiser) and prior.net.classes:
            classes = [prior.condition(k) for k in range(prior.net.classes)]
            x = torch.empty(count, *prior.shape)
            for k, one in enumerate(classes):
                x[k :: len(classes)] = _end(one, z[k :: len(classes)], steps, jumps, seed).cpu()
            return x
        if isinstance(prior, Denoiser):
            return _end(prior, z, steps, jumps, seed).cpu()
        if hasattr(prior, "next_logits"):
            return prior.sample(count, seed=seed).cpu()
        return prior(z).cpu()


def _end(prior: Denoiser, z: Tensor, steps: int, jumps: int, seed: int) -> Tensor:
    """Returns the end of the probability flow from codes z, (B, *shape): by Heun's method, or by jumps, noise between."""
    if not prior.consistency:
        return Flow(prior, steps, "edm", "heun")(z)
    generator = torch.Generator().manual_seed(seed + 1)
    levels = noise_levels(jumps, 1.0, prior.sigma_max, "log")
    x = prior(prior.start(z, levels[0][0]), levels[0][0])
    for s, _ in levels[1:]:
        x = prior(x + s * torch.randn(x.shape, generator=generator).to(x.device), s)
    return x


def sheet(prior: Any, seed: int = 0) -> Tensor:
    """Returns a picture of samples, (3, H, W) uint8: ten columns, or four spectrograms of waveforms below each other."""
    low, high = prior.value_range
    if len(prior.shape) == 2:
        waves = draw_samples(prior, 4, seed)[:, 0]
        power = torch.stft(waves, 256, 64, window=torch.hann_window(256), return_complex=True).abs().log10()
        x = ((power + 4) / 5).clamp(0, 1).flip(1)[:, None]  # from -80 dB to 20 dB, low frequencies below
        columns = 1
    else:
        classes = getattr(getattr(prior, "net", None), "classes", 0)
        columns = 10 if prior.shape[-1] <= 64 else 4
        rows = 5 if classes else 1 if hasattr(prior, "next_logits") else 3  # 1024 evaluations a picture: few will do
        x = ((draw_samples(prior, rows * columns, seed) - low) / (high - low)).clamp(0, 1)
    x = torch.nn.functional.pad(x, (1, 1, 1, 1), value=0.5).expand(-1, 3, -1, -1)
    strips = [torch.cat(list(row), dim=2) for row in x.split(columns)]
    return (torch.cat(strips, dim=1) * 255).round().to(torch.uint8)


def save_sheet(picture: Tensor, path: Path, zoom: int = 1) -> None:
    """A (3, H, W) uint8 picture as a PNG file, whole pixels enlarged."""
    from PIL import Image

    from invgen.files.writing import replace

    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    replace(path, lambda temporary: image.save(temporary, format="PNG"))
