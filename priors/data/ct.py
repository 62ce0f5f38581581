"""CT slices for training: those of the patients' files, and drawn ellipses; random views of them in the prior's units."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from invgen.priors.data.readable import DataError, readable
from invgen.priors.data.warps import crop, warp

HELD_OUT_PATIENTS = ("lung1", "A067967", "A072894", "A098752")


HEAD_SLICES = slice(0, 80)  # of "head"; its upper slices are kept apart as a same-patient test


def ct_slices(folder: Path | str, split: str = "train") -> dict[str, np.ndarray]:
    """Returns CT slices in Hounsfield units by patient, {patient: (N, H, W) int16}, from the .npz files under a folder.

    A file holds arrays named PATIENT or PATIENT_VISIT, (H, W) or (N, H, W); arrays named *_spacing_mm are left aside.
    split: "train" (without the held-out patients), "test" (these alone: lung1, A067967, A072894, A098752) or "all".
    """
    if split not in ("train", "test", "all"):
        raise DataError(f"split is '{split}', expected 'train', 'test' or 'all'")
    slices: dict[str, list[np.ndarray]] = {}
    for path in sorted(Path(folder).rglob("*.npz")):
        with readable(path), np.load(path, allow_pickle=False) as arrays:
            for name in arrays:
                patient = name.split("_")[0]
                if name.endswith("_spacing_mm") or (split != "all" and (patient in HELD_OUT_PATIENTS) != (split == "test")):
                    continue
                volume = arrays[name]
                if volume.ndim not in (2, 3):
                    raise DataError(
                        f"'{name}' of {path} has shape {volume.shape}, expected (H, W) or (N, H, W) Hounsfield units"
                    )
                volume = volume.reshape(-1, *volume.shape[-2:]).clip(-1024, 3071).astype(np.int16)
                slices.setdefault(patient, []).append(volume[HEAD_SLICES] if patient == "head" else volume)
    if not slices:
        raise DataError(f"no CT slices (.npz) for split '{split}' under {folder}: `invgen data ct` fetches some")
    return {patient: np.concatenate(parts) for patient, parts in slices.items()}


class CTViews:
    """Random views of CT slices, from the whole body to full resolution, and phantoms; HU / 1000 clipped to [-1, 1].

    40 % of the views are plain crops of a slice reduced by averaging 1, 2, 4 ... pixels, with flips; the others are also
    turned, scaled, sheared a little and bent by a smooth random field, interpolated bicubically. Patients are drawn in
    proportion to the cube root of their number of slices, since slices of one patient resemble each other.
    """

    def __init__(self, slices: dict[str, np.ndarray], size: int = 128, phantoms: float = 0.08) -> None:
        self.size, self.phantoms = size, phantoms
        self.pyramids: list[list[Tensor]] = []
        weights = []
        for volume in slices.values():
            for plane in volume:
                level = torch.from_numpy(plane.astype(np.float32) / 1000)[None, None]
                pyramid = [level]
                while min(level.shape[-2:]) >= 2 * size:
                    level = F.avg_pool2d(level, 2)
                    pyramid.append(level)
                self.pyramids.append([(p * 1000).round().to(torch.int16) for p in pyramid])
                weights.append(len(volume) ** (1 / 3) / len(volume))
        self.weights = torch.tensor(weights, dtype=torch.float64)

    def batch(self, count: int, generator: Generator) -> Tensor:
        """Returns (count, 1, size, size) float32 in [-1, 1]."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator).tolist()
        uniform = torch.rand(count, 8, generator=generator)
        normal = torch.randn(count, 4, generator=generator)
        displacement = torch.randn(count, 2, 4, 4, generator=generator) * 0.02
        views = []
        for k, index in enumerate(chosen):
            kind, plain, level, a, b, mirror, upside, zoom = uniform[k].tolist()
            if kind < self.phantoms:
                views.append(ellipses(self.size, generator))
                continue
            pyramid = self.pyramids[index]
            # Half of the views show the whole slice, the others a part of it at a finer level.
            depth = len(pyramid) - 1 if level < 0.5 else int((level - 0.5) * 2 * len(pyramid))
            if plain < 0.4:
                view = crop(pyramid[depth].float() / 1000, self.size, a, b, wiggle=8)
            else:
                view = warp(pyramid[depth].float() / 1000, self.size, a, b, zoom, normal[k].tolist(), displacement[k])
            view = view.flip(3) if mirror < 0.5 else view
            views.append(view.flip(2) if upside < 0.2 else view)
        return torch.cat(views).clamp(-1, 1)


def ellipses(size: int, generator: Generator, count: int = 14) -> Tensor:
    """Returns a phantom, (1, 1, size, size) in HU / 1000: an ellipse of soft tissue in air, with `count` ellipses in it."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    u = torch.rand(count + 1, 6, generator=generator)
    u[0] = torch.tensor([0.5, 0.5, 0.9, 0.8, 0.5, 0.5]) + (u[0] - 0.5) * 0.25
    centre = (u[:, :2] * 2 - 1) * 0.6
    radii = 0.03 + u[:, 2:4] ** 2 * 0.35
    radii[0] = 0.45 + u[0, 2:4] * 0.4
    centre[0] *= 0.3
    angle = u[:, 4] * math.pi
    dx, dy = x - centre[:, 0, None, None], y - centre[:, 1, None, None]
    c, s = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along, across = (c * dx + s * dy) / radii[:, 0, None, None], (c * dy - s * dx) / radii[:, 1, None, None]
    distance = (along**2 + across**2).sqrt()
    # A soft edge of about one pixel: what partial volume leaves of a sharp one.
    inside = ((1 - distance) * radii.amin(1)[:, None, None] * size / 2 + 0.5).clamp(0, 1)
    image = -1 + inside[0] * (1.0 + 0.1 * (u[0, 5] - 0.5))
    for k in range(1, count + 1):
        level = (-0.85, 0.0, 0.05, -0.1, 0.6)[int(u[k, 5] * 4.999)] + 0.1 * (u[k, 4] - 0.5)
        image = image + inside[0] * inside[k] * (level - image)
    return image[None, None]
