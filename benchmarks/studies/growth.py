"""Measures how time and memory grow with the problem: `invgen bench study growth`.

Each row doubles one thing twice: pixels across, views, images of a batch, samples, steps. Time is that of the processor, on
one thread, the least of three. Memory is the peak of a call above what the process had before it, with inputs and tables.
The exponent is that of time between the last two sizes, in pixels, views, images, samples or steps: 1 is linear.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from invgen import operators, samplers, solve
from invgen.benchmarks.studies.volume import peak, reset_peak
from invgen.priors import from_denoiser

FACTORS = (1, 2, 4)
# what is freed goes back to the system at once, so that the next call's memory is seen
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
SAMPLERS = ("DPS", "AdaptivePiGDM", "DiffPIR")


def projection(size: int = 64, views: int = 32, batch: int = 1) -> Callable[[], object]:
    """Returns a product with a parallel beam and with its transpose.

    Args:
        size, views, batch: pixels across, views, and images.
    """
    A = operators.ParallelBeamCT((size, size), views)
    x = torch.rand(batch, size, size)
    return lambda: A.adjoint(A(x))


def fan(size: int = 64, views: int = 32, batch: int = 1) -> Callable[[], object]:
    """Returns the same of a fan beam."""
    A = operators.FanBeamCT((size, size), views, source_origin=2.0 * size, origin_det=1.0 * size)
    x = torch.rand(batch, size, size)
    return lambda: A.adjoint(A(x))


def stack(slices: int = 8, size: int = 64, views: int = 32) -> Callable[[], object]:
    """Returns the same of a synchrotron's stack of slices."""
    A = operators.ParallelBeamCT3D((slices, size, size), views)
    x = torch.rand(1, slices, size, size)
    return lambda: A.adjoint(A(x))


def iterated(size: int = 64, views: int = 32) -> Callable[[], object]:
    """Returns a proximal step of a parallel beam by conjugate gradients."""
    A = operators.ParallelBeamCT((size, size), views, solver="cg")
    x = torch.rand(1, size, size)
    y = A(x)
    return lambda: A.prox(x, y + 1.0, 1.0, 1.0)


def exact(views: int = 32, size: int = 64) -> Callable[[], object]:
    """Returns the same, exact, by the diagonalised blocks of the scan, which are made before."""
    A = operators.ParallelBeamCT((size, size), views, solver="exact")
    x = torch.rand(1, size, size)
    y = A(x)
    return lambda: A.prox(x, y + 1.0, 1.0, 1.0)


def cone(size: int = 24, views: int = 16, batch: int = 1) -> Callable[[], object]:
    """Returns the same of a cone beam; a volume has the cube of `size`."""
    A = operators.ConeBeamCT((size, size, size), views, source_origin=4.0 * size, origin_det=2.0 * size)
    x = torch.rand(batch, size, size, size)
    return lambda: A.adjoint(A(x))


def blur(size: int = 128, batch: int = 1) -> Callable[[], object]:
    """Returns a proximal step of a blur."""
    A = operators.Blur((3, size, size), operators.gaussian_kernel(2.0))
    x = torch.rand(batch, 3, size, size)
    y = A(x)
    return lambda: A.prox(x, y, 1.0, 0.01)


def mri(size: int = 64, batch: int = 1) -> Callable[[], object]:
    """Returns a product with MRI of eight coils and with its adjoint."""
    maps = operators.birdcage_maps((8, size, size))
    A = operators.MultiCoilMRI((2, size, size), operators.random_mask(size, 4), maps)
    x = torch.rand(batch, 2, size, size)
    return lambda: A.adjoint(A(x))


def mask(size: int = 256, batch: int = 1) -> Callable[[], object]:
    """Returns a proximal step of a mask."""
    A = operators.Mask.random((3, size, size), 0.3)
    x = torch.rand(batch, 3, size, size)
    y = A(x)
    return lambda: A.prox(x, y, 1.0, 0.01)


def downsampling(size: int = 256, batch: int = 1) -> Callable[[], object]:
    """Returns a proximal step of downsampling by four."""
    A = operators.Downsample((3, size, size), 4)
    x = torch.rand(batch, 3, size, size)
    y = A(x)
    return lambda: A.prox(x, y, 1.0, 0.01)


def volume_blur(size: int = 24) -> Callable[[], object]:
    """Returns a proximal step of the blur of a volume."""
    A = operators.Blur((1, size, size, size), operators.gaussian_kernel(1.0, dim=3))
    x = torch.rand(1, 1, size, size, size)
    y = A(x)
    return lambda: A.prox(x, y, 1.0, 0.01)


def volume_mri(size: int = 24) -> Callable[[], object]:
    """Returns a proximal step of MRI of a volume."""
    A = operators.MRI((2, size, size, size), operators.random_mask(size, 2))
    x = torch.rand(1, 2, size, size, size)
    y = A(x)
    return lambda: A.prox(x, y, 1.0, 0.01)


def sampler(name: str, size: int = 32, samples: int = 2, steps: int = 8) -> Callable[[], object]:
    """Returns a solve of a blur with a denoiser of two convolutions.

    Args:
        name: of the sampler.
        size, samples, steps: pixels across, samples, and steps.
    """
    weight = torch.randn(16, 3, 3, 3, generator=torch.Generator().manual_seed(0)) / 9

    def net(x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        s = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
        h = torch.conv2d(x / (0.25 + s**2).sqrt(), weight.to(x), padding=1).tanh()
        return 0.25 / (0.25 + s**2) * x + 0.01 * torch.conv_transpose2d(h, weight.to(x), padding=1) / (1 + s)

    prior = from_denoiser(net, (3, size, size), sigma_min=0.01, sigma_max=10.0)
    A = operators.Blur(prior.shape, operators.gaussian_kernel(1.0))
    y = A(torch.zeros(prior.shape))
    chosen = getattr(samplers, name)(steps=steps)
    return lambda: solve(y, A, prior, noise=0.5, sampler=chosen, num_samples=samples, seed=0)


ROWS: tuple[tuple[str, Callable[..., Callable[[], object]], dict[str, int], float], ...] = (
    ("parallel beam", projection, {"size": 128}, 2),
    ("parallel beam", projection, {"views": 32}, 1),
    ("parallel beam", projection, {"batch": 2}, 1),
    ("fan beam", fan, {"size": 128}, 2),
    ("fan beam", fan, {"views": 32}, 1),
    ("stack of slices", stack, {"slices": 8}, 1),
    ("parallel beam, prox by CG", iterated, {"size": 64}, 2),
    ("parallel beam, prox by CG", iterated, {"views": 16}, 1),
    ("parallel beam, prox exact", exact, {"views": 32}, 1),
    ("cone beam", cone, {"size": 24}, 3),
    ("cone beam", cone, {"views": 16}, 1),
    ("cone beam", cone, {"batch": 1}, 1),
    ("blur, prox", blur, {"size": 128}, 2),
    ("blur, prox", blur, {"batch": 1}, 1),
    ("blur of a volume, prox", volume_blur, {"size": 24}, 3),
    ("mask, prox", mask, {"size": 256}, 2),
    ("downsampling, prox", downsampling, {"size": 256}, 2),
    ("MRI of a volume, prox", volume_mri, {"size": 24}, 3),
    ("MRI of 8 coils", mri, {"size": 64}, 2),
    ("MRI of 8 coils", mri, {"batch": 1}, 1),
    *((name, sampler, start, power) for name in SAMPLERS for start, power in (
        ({"size": 32}, 2.0), ({"samples": 2}, 1.0), ({"steps": 8}, 1.0))),
)  # fmt: skip


def measure(row: int, factors: Sequence[int] = FACTORS, rounds: int = 3) -> list[dict[str, float]]:
    """Returns seconds and MB of a row at multiples of its first size.

    Args:
        row: its number.
        factors: the multiples.
        rounds: of which the fastest counts.
    """
    return [_measured(row, factor, rounds) for factor in factors]


def _measured(row: int, factor: int, rounds: int) -> dict[str, float]:
    torch.set_num_threads(1)
    name, make, start, _ = ROWS[row]
    grown = {key: factor * value for key, value in start.items()}
    work = make(name, **grown) if make is sampler else make(**grown)
    work()  # kernels are compiled, tables made
    before = peak()
    reset_peak()
    before = peak() if peak() < before else before
    seconds = []
    for _ in range(rounds):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return {"seconds": min(seconds), "mb": 1024 * max(peak() - before, 0.0)}


def table(rows: Sequence[int], factors: tuple[int, ...] = FACTORS) -> Iterator[dict[str, Any]]:
    """Yields the sizes, seconds and MB of each row, and the exponent of time in what grows linearly with the work."""
    for row in rows:
        name, _, start, power = ROWS[row]
        key, first = next(iter(start.items()))
        code = f"from invgen.benchmarks.studies import growth as g; print(g.json.dumps(g.measure({row}, {factors})))"
        command = [sys.executable, "-W", "ignore", "-c", code]
        found = json.loads(
            subprocess.run(command, capture_output=True, text=True, check=True, env=ENV).stdout.split("\n")[-2]
        )
        orders = math.log2(found[-1]["seconds"] / found[-2]["seconds"]) / math.log2(factors[-1] / factors[-2]) / power
        yield {"work": name, "what": key, "sizes": [first * f for f in factors], "order": orders} | {
            unit: [one[unit] for one in found] for unit in ("seconds", "mb")
        }


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, as Markdown."""
    parser = argparse.ArgumentParser(prog="invgen bench study growth", description=(__doc__ or "").split("\n")[0])
    parser.parse_args(argv)
    print("| work | what grows | CPU ms | MB beside | exponent |\n|---|---|---|---|---|")
    for row in table(range(len(ROWS))):
        sizes, ms = ", ".join(map(str, row["sizes"])), ", ".join(f"{1e3 * s:.3g}" for s in row["seconds"])
        mb = ", ".join(f"{m:.0f}" for m in row["mb"])
        print(f"| {row['work']} | {row['what']}: {sizes} | {ms} | {mb} | {row['order']:.2f} |", flush=True)
