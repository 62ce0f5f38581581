"""The problems on which peers are compared, and the signals: some to be judged on, others to tune peers on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.errors import FileError
from invgen.forward import LinearOperator
from invgen.inference.precision import Precision, prior_in_precision
from invgen.inference.simulation import sample
from invgen.noise import Gaussian
from invgen.operators import Blur, Mask, ParallelBeamCT, gaussian_kernel
from invgen.posterior import Posterior
from invgen.priors import load
from invgen.priors.data.fetch import data_folder
from invgen.priors.data.held_out import held_out, held_out_photographs

Part = Literal["judged", "tuning"]
PHOTO, CT, DIGIT = (3, 64, 64), (1, 128, 128), (1, 28, 28)


@dataclass(frozen=True)
class Problem:
    """A linear problem with Gaussian noise.

    Attributes:
        title: for the reader.
        prior: its name; shape: of its signals.
        operator: for signals of that shape.
        noise: standard deviation, in units of the measurement.
        signals: (N, *shape), of a part, at most so many.
        judged, tuned: how many signals are judged, and how many peers are tuned on.
        note: what it is.
    """

    title: str
    prior: str
    shape: tuple[int, ...]
    operator: Callable[[], LinearOperator]
    noise: float
    signals: Callable[[Denoiser, Part, int], Tensor]
    judged: int
    tuned: int
    note: str

    def posterior(
        self, part: Part, count: int | None = None, precision: Precision = "auto"
    ) -> tuple[Posterior, Tensor, str]:
        """Returns the problem, its true signals (N, *shape), and the precision of the network.

        Args:
            part: signals to be judged on, or those for tuning.
            count: of the signals; by default those of the part.
            precision: of the network, for all samplers alike.
        """
        prior = load(self.prior, self.shape)
        truth = self.signals(prior, part, count or (self.judged if part == "judged" else self.tuned))
        A = self.operator()
        y = Gaussian(self.noise).sample(A(truth), torch.Generator().manual_seed(int(part == "tuning")))
        prior, used = prior_in_precision(prior, precision)
        return Posterior(prior, A, self.noise, y), truth, used


def photographs(_: Denoiser, part: Part, count: int) -> Tensor:
    """Returns quarters of scikit-image's photographs, which no prior has seen: of a face, a cat, a cup and a spoon, or of a
    rocket for tuning; (N, 3, 64, 64) in [-1, 1]."""
    if part == "judged":
        pictures, quarters = list(held_out_photographs().values()), (0, 3)
    else:
        rocket = held_out("photo")["scikit-image"][3].float()
        pictures, quarters = [F.avg_pool2d(rocket, 2)], (0, 1, 2, 3)
    pieces = [x[:, 64 * (k // 2) :, 64 * (k % 2) :][:, :64, :64] for k in quarters for x in pictures]
    return torch.stack(pieces[:count])


def slices(_: Denoiser, part: Part, count: int) -> Tensor:
    """Returns slices of the held-out patient lung1, which `invgen data ct` fetches, or pydicom's CT_small for tuning.

    (N, 1, 128, 128), HU / 1000 in [-1, 1].

    Raises:
        FileError: the patient has not been fetched.
    """
    folder = data_folder() / "ct"
    sets = held_out("ct", [folder] if part == "judged" and (folder / "pyradiomics.npz").exists() else [])
    if part == "tuning":
        return torch.stack(sets["pydicom CT_small"])[:count]
    if "lung1" not in sets:
        raise FileError(f"the held-out patient lung1 is not in {folder}; fetch it with `invgen data ct`")
    planes = sets["lung1"]
    return torch.stack([planes[round(k)] for k in torch.linspace(0.2 * len(planes), 0.8 * len(planes), count).tolist()])


def drawn(prior: Denoiser, part: Part, count: int) -> Tensor:
    """Returns draws of the prior by its probability-flow ODE, (N, *shape): its posterior is the right one for them."""
    return sample(prior, count, 1000 + (part == "tuning"), sampler="Heun(steps=32)")


def tomography() -> LinearOperator:
    """Returns 23 parallel views of 128 x 128 pixels, scaled to norm one, as samplers of deepinv expect operators to be."""
    norm = float(ParallelBeamCT(CT, num_angles=23).norm())
    return ParallelBeamCT(CT, num_angles=23, pixel_size=1 / norm)


PROBLEMS = {
    "inpainting": Problem(
        "photographs, 30 % of the pixels",
        "photo",
        PHOTO,
        lambda: Mask.random(PHOTO, 0.3, seed=0),
        0.05,
        photographs,
        4,
        2,
        "64 x 64 pieces of photographs, 30 % of the pixels kept at random, noise 0.05 in units of [-1, 1]",
    ),
    "deblurring": Problem(
        "photographs, Gaussian blur",
        "photo",
        PHOTO,
        lambda: Blur(PHOTO, gaussian_kernel(1.5)),
        0.05,
        photographs,
        4,
        2,
        "the same pieces, blurred by a Gaussian of 1.5 pixels (circular), noise 0.05",
    ),
    "ct": Problem(
        "CT, 23 views",
        "ct",
        CT,
        tomography,
        0.028,
        slices,
        3,
        1,
        "slices of the chest, 128 x 128, of the patient lung1, 23 parallel views, the noise of the suite `ct`",
    ),
    "digits": Problem(
        "drawn digits, 30 % of the pixels",
        "digits",
        DIGIT,
        lambda: Mask.random(DIGIT, 0.3, seed=0),
        0.1,
        drawn,
        8,
        4,
        "draws of the prior itself, for which its posterior is the right one, 30 % of the pixels, noise 0.1",
    ),
}
