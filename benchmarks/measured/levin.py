"""Camera shake: the eight kernels that Levin, Weiss, Durand and Freeman measured (CVPR 2009), on photographs.

The kernels are measured, the photographs are scikit-image's, and the noise is drawn: the one instrument with a truth.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from invgen import samplers
from invgen.benchmarks.measured.case import Case, file
from invgen.benchmarks.methods.total_variation import TV
from invgen.errors import FileError
from invgen.files.matlab import read_matlab
from invgen.metrics import psnr
from invgen.noise import Gaussian
from invgen.operators import Blur
from invgen.posterior import Posterior
from invgen.priors import load

FILE = "levin2009/Levin09.mat"
NOISE = 0.02  # of values in [-1, 1]


def read_kernels(path: Path) -> list[Tensor]:
    """Returns the kernels of a file with a cell `kernels`, (k, k) each, of sum one.

    Raises:
        FileError: the file is damaged, or holds no kernels.
    """
    kernels = read_matlab(path, "kernels")["kernels"]
    tables = [torch.as_tensor(k) for k in kernels] if isinstance(kernels, list) else []
    if not tables or any(k.ndim != 2 or not k.sum() > 0 for k in tables):
        raise FileError(f"kernels of {path} must be a cell of matrices that sum to more than zero")
    return [k / k.sum() for k in tables]


def cases(folder: Path, quick: bool) -> Iterator[Case]:
    """Yields a case for each kernel."""
    from skimage import data

    side = 64 if quick else 128
    kernels = read_kernels(file(folder, FILE))
    prior = load("photo", shape=(3, side, side))
    pictures = (data.chelsea()[60:, 120:], data.astronaut()[20:, 150:], data.coffee()[80:, 180:], data.rocket()[100:, 200:])
    for number, kernel in enumerate(kernels[: 2 if quick else None], 1):
        picture = pictures[(number - 1) % len(pictures)][:side, :side]
        x = torch.as_tensor(picture.copy()).permute(2, 0, 1) / 127.5 - 1
        A = Blur(x.shape, kernel, "reflect")
        y = Gaussian(NOISE).sample(A(x), torch.Generator().manual_seed(number))
        methods = {
            "TV": TV(tol=5e-3, steps=800),
            "AdaptivePiGDM": samplers.AdaptivePiGDM(steps=15 if quick else 25),
            "MMPS": samplers.MMPS(steps=15),
        }

        def score(found: Tensor, x: Tensor = x) -> dict[str, float]:
            return {"PSNR": psnr(found, x, data_range=2.0).item()}

        yield Case("levin", f"kernel {number}", Posterior(prior, A, NOISE, y), methods, score, colour, colour(x))


def colour(x: Tensor) -> Tensor:
    """Returns a signal (3, H, W) in [-1, 1] as a picture in [0, 1]."""
    return (x / 2 + 0.5).clamp(0, 1)
