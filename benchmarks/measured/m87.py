"""The black hole M87*, Event Horizon Telescope 2017 (EHT Collaboration, ApJL 875, L4, 2019): closure quantities alone.

Phases and gains of the stations are not known, so that closure phases and log closure amplitudes are the data. The prior
is a positive random field, the exponential of a Gaussian one (Arras et al., Nature Astronomy 6, 2022): it knows that
brightness is positive and smooth, and nothing of rings. The score is the diameter of the ring: 42 +- 3 microarcseconds.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import invgen
from invgen import samplers
from invgen.benchmarks.measured.case import Case, file
from invgen.benchmarks.measured.fields import MostProbable, PositiveField
from invgen.errors import FileError
from invgen.forward import Operator
from invgen.noise import Gaussian, Noise
from invgen.operators import ClosurePhases, LogClosureAmplitudes, NonUniformFourier, closure_sets, sky_points
from invgen.posterior import Posterior

FILE = "m87/SR1_M87_2017_095_lo.csv"
MICROARCSECOND = math.radians(1 / 3600e6)
FIELD, SIZE = 128.0, 40  # side of the image in microarcseconds, and its pixels
LENGTH, SPREAD, WIDTH = 8.0, 1.0, 20.0  # of the prior: its lengths in microarcseconds


class Visibilities(NamedTuple):
    """Of each baseline and scan: time in hours, stations, u and v in wavelengths, complex value and its error in Jy."""

    times: list[float]
    pairs: list[tuple[str, str]]
    u: Tensor
    v: Tensor
    values: Tensor
    sigma: Tensor


def read_visibilities(path: Path, gap: float = 0.1) -> Visibilities:
    """Returns the visibilities of a CSV file of an Event Horizon Telescope data release, averaged over scans.

    Args:
        path: columns time (h), station, station, u, v (wavelengths), amplitude (Jy), phase (degrees), sigma (Jy); lines
            that begin with # are not read.
        gap: hours without data that end a scan.

    Raises:
        FileError: the file cannot be read, or a line has other columns.
    """
    try:
        lines = [line.split(",") for line in path.read_text(encoding="ascii").splitlines() if line and line[0] != "#"]
        pairs = [(c[1].strip(), c[2].strip()) for c in lines]
        numbers = np.array([[float(n) for n in (c[0], *c[3:8])] for c in lines])
    except (OSError, UnicodeError, ValueError, IndexError) as error:
        raise FileError(f"{path} must have lines time,T1,T2,U,V,amplitude,phase,sigma ({error})") from error
    if numbers.ndim != 2 or numbers.shape[1] != 6 or not np.isfinite(numbers).all() or (numbers[:, 5] <= 0).any():
        raise FileError(f"{path} must hold finite visibilities of eight columns, with errors above zero")
    times = np.unique(numbers[:, 0])
    scans = np.cumsum(np.diff(times, prepend=times[0]) > gap)[np.searchsorted(times, numbers[:, 0])].tolist()
    groups: dict[tuple[int, tuple[str, str]], list[int]] = {}
    for row, key in enumerate(zip(scans, pairs, strict=True)):
        groups.setdefault(key, []).append(row)
    averaged = []
    for rows in groups.values():
        _, u, v, amplitude, phase, sigma = numbers[rows].T
        share = sigma**-2 / (sigma**-2).sum()
        value = (share * amplitude * np.exp(1j * np.radians(phase))).sum()
        averaged.append((share @ u, share @ v, value.real, value.imag, (sigma**-2).sum() ** -0.5))
    u, v, real, imaginary, sigma = torch.tensor(averaged, dtype=torch.float64).T
    return Visibilities(
        [float(scan) for scan, _ in groups], [pair for _, pair in groups], u, v, torch.complex(real, imaginary), sigma
    )


def closures(seen: Visibilities, size: int, field: float) -> tuple[Tensor, Operator, Noise]:
    """Returns closure phases and log closure amplitudes as one measurement: values, operator and noise.

    Their errors are those of the visibilities, to first order; that closures share baselines is not looked at, as is usual.

    Args:
        seen: the visibilities.
        size: pixels of the image along a side.
        field: its side, in microarcseconds.
    """
    V = NonUniformFourier((size, size), sky_points(seen.u, seen.v, field * MICROARCSECOND, size))
    triangles, quadrangles = closure_sets(seen.times, seen.pairs)
    pairs = torch.view_as_real(seen.values).float()
    share = (seen.sigma / seen.values.abs()).square()
    parts = []
    for kind, sets in ((ClosurePhases, triangles), (LogClosureAmplitudes, quadrangles)):
        closure = kind(len(pairs), sets)
        error = share[sets.abs() - 1].sum(1).sqrt().float()
        good = error < 0.7  # of more the angle says nothing, and first order is wrong
        closure = kind(len(pairs), sets[good])
        sigma = error[good].reshape(-1, *[1] * (len(closure.out_shape) - 1)).expand(closure.out_shape)
        parts.append((closure(pairs), closure @ V, Gaussian(sigma.contiguous())))
    return invgen.join(*parts)


def cases(folder: Path, quick: bool) -> Iterator[Case]:
    """Yields the case of 5 April 2017."""
    seen = read_visibilities(file(folder, FILE))
    size, cell = SIZE, FIELD / SIZE
    y, A, noise = closures(seen, size, FIELD)
    prior = PositiveField(size, LENGTH / cell, SPREAD, WIDTH / cell)

    def score(x: Tensor) -> dict[str, float]:
        return {"diameter, microarcseconds": ring_diameter(x, cell)}

    methods = {
        "most probable": MostProbable(steps=400, starts=16),
        "HMC": samplers.HMC(steps=100 if quick else 400, leapfrogs=15),
    }
    post = Posterior(prior, A, noise, y)
    # closures do not know where the source is: a mean over samples would blur it
    yield Case("m87", "5 April", post, methods, score, lambda x: (x / x.max()).clamp(0, 1), each=True)


def ring_diameter(x: Tensor, cell: float) -> float:
    """Returns the diameter of a ring in an image (H, W), in the units of `cell`, the size of a pixel.

    Along 60 rays from a centre the brightness has its peak at some radius; the centre is where these radii differ least,
    and the diameter twice their mean (EHT Collaboration, ApJL 875, L4, 2019, section 9).
    """
    import scipy.ndimage

    image = scipy.ndimage.gaussian_filter(x.double().numpy(), 0.5)
    radius = np.linspace(8.0, 40.0, 129) / cell
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    rows, columns = (radius * wave[:, None] for wave in (np.sin(angle), np.cos(angle)))
    middle = np.array(scipy.ndimage.center_of_mass(image))
    best = (math.inf, math.nan)
    for down, right in np.ndindex(13, 13):
        centre = middle + (np.array([down, right]) - 6) * 2.0 / cell
        profile = scipy.ndimage.map_coordinates(image, [centre[0] + rows, centre[1] + columns], order=1)
        peak = radius[profile.argmax(1)] * cell
        best = min(best, (peak.std() / peak.mean(), 2 * peak.mean()))
    return float(best[1])
