"""How well a trained prior denoises what it was not trained on, next to classical denoisers.

evaluate({"prior": load("photo"), "Wiener": wiener}, held_out("photo", "BSDS500"), LEVELS["photo"])
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invgen.errors import MissingExtraError, OptionError
from invgen.priors.datasets import ct_slices, photographs, read_picture

LEVELS = {"photo": tuple(2 * s / 255 for s in (15, 25, 50, 100)), "ct": (0.05, 0.1, 0.2, 0.5, 1.0)}
Denoise = Callable[[Tensor, float], Tensor]


def held_out(recipe: str, folder: Path | str | None = None, every: int = 1) -> dict[str, list[Tensor]]:
    """Test images in the prior's units, none of them trained on: {set: [(C, H, W)]}.

    "photo": the centres, 256 x 256, of four photographs of scikit-image, and each `every`-th picture of FOLDER/**/val
    (BSDS500's), whole.
    "ct": pydicom's CT_small at full resolution, and the held-out patients of FOLDER/**.npz averaged to 128 x 128.
    """
    sets: dict[str, list[Tensor]] = {}
    if recipe == "photo":
        from skimage import data

        photos = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
        sets["scikit-image"] = [_colour(_centre(p, 256)) for p in photos]
        if folder is not None:
            paths = [p for p in photographs(folder, leave_out=()) if p.parent.name == "val"][::every]
            sets["BSDS500 val"] = [_colour(read_picture(p)) for p in paths]
    elif recipe == "ct":
        from pydicom import examples
        from pydicom.pixels import apply_rescale

        sets["pydicom CT_small"] = [_hounsfield(apply_rescale(examples.ct.pixel_array, examples.ct), 128)]
        if folder is not None:
            for patient, volume in ct_slices(folder, "test").items():
                name = "lung1" if patient == "lung1" else "COVID-19-NY-SBU"
                sets.setdefault(name, []).extend(_hounsfield(plane, 128) for plane in volume[::every])
    else:
        raise OptionError(f"no held-out images for recipe '{recipe}'; there are: photo, ct")
    return sets


def _colour(picture: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 127.5 - 1


def _centre(picture: np.ndarray, size: int) -> np.ndarray:
    top, left = ((n - size) // 2 for n in picture.shape[:2])
    return picture[top : top + size, left : left + size]


def _hounsfield(plane: np.ndarray, size: int) -> Tensor:
    """(H, W) in HU -> (1, size, size) in HU / 1000, averaged over blocks and clipped to [-1, 1]."""
    values = torch.as_tensor(np.asarray(plane, dtype=np.float32))[None] / 1000
    return F.avg_pool2d(values, values.shape[-1] // size).clamp(-1, 1)


def psnr(denoise: Denoise, images: Sequence[Tensor], sigma: float, seed: int = 0) -> float:
    """Mean over images of the PSNR in dB (data range 2) of denoise(image + sigma noise), clipped to [-1, 1]."""
    total = 0.0
    for index, image in enumerate(images):
        generator = torch.Generator().manual_seed(seed + index)
        noisy = image + sigma * torch.randn(image.shape, generator=generator)
        error = denoise(noisy[None], sigma)[0].clamp(-1, 1) - image
        total += 10 * float(torch.log10(4 / error.square().mean()))
    return total / len(images)


def evaluate(
    methods: Mapping[str, Denoise], sets: Mapping[str, Sequence[Tensor]], levels: Sequence[float], seed: int = 0
) -> dict[str, Any]:
    """{set: {"count": images, "psnr": {method: [dB at each level]}}}, all methods on the same noise."""
    with torch.no_grad():
        return {
            name: {
                "count": len(images),
                "psnr": {m: [round(psnr(f, images, s, seed), 2) for s in levels] for m, f in methods.items()},
            }
            for name, images in sets.items()
        }


def noisy(x: Tensor, sigma: float) -> Tensor:
    """No denoising."""
    return x


def wiener(x: Tensor, sigma: float) -> Tensor:
    """scipy's local Wiener filter, 5 x 5, knowing the noise variance. (1, C, H, W)."""
    from scipy.signal import wiener as local_wiener

    planes = [torch.from_numpy(local_wiener(p.double().numpy(), 5, sigma**2)) for p in x[0]]
    return torch.stack(planes)[None].to(x.dtype)


def bm3d(x: Tensor, sigma: float) -> Tensor:
    """BM3D (Dabov et al., 2007; colour: CBM3D) of the package `bm3d`, knowing sigma. (1, C, H, W)."""
    try:
        import bm3d as package
    except ImportError as error:
        raise MissingExtraError("the BM3D baseline needs the package bm3d: pip install bm3d") from error
    image = x[0].permute(1, 2, 0).double().numpy() / 2 + 0.5
    clean = package.bm3d_rgb(image, sigma / 2) if image.shape[2] == 3 else package.bm3d(image[..., 0], sigma / 2)
    return torch.from_numpy(clean.reshape(image.shape) * 2 - 1).permute(2, 0, 1)[None].to(x.dtype)
