"""The main job: real images and a real CT slice reconstructed by posterior sampling, next to the classical baseline.

`make demo` and `invgen demo` run it; it leaves in `out/` a picture for every problem (measurement,
baseline, samples, mean, standard deviation, truth) and the table of results.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import invgen
from invgen import metrics, plots
from invgen.benchmarks.methods.images import Bicubic, Biharmonic
from invgen.benchmarks.methods.total_variation import TV
from invgen.diffusion import Denoiser
from invgen.files.writing import require_writable, write_text
from invgen.forward import Operator
from invgen.operators import Blur, Downsample, Mask, ParallelBeamCT, gaussian_kernel, hu_to_mu, motion_kernel
from invgen.priors.data.fetch import data_folder
from invgen.priors.data.held_out import held_out_photographs, held_out_slices
from invgen.priors.load import load

PHOTO_NOISE = 0.05  # standard deviation, images in [-1, 1]
CT_NOISE = 0.02  # of the line integrals, which reach about 2.5
PHOTO_SAMPLES, CT_SAMPLES = 8, 16  # of each problem; the CT prior's network is four times as fast
OVERVIEW = ("ct-23-CT_small", "super-resolution-x4", "inpainting-box", "deblurring-motion")  # the README's picture
EVALUATIONS = 25  # of the network for each sample, by the sampler that `solve` takes of itself
LEVEL = 0.5  # of the central intervals whose coverage is shown, which few samples can span
WEIGHTS = (4.0, 8.0, 12.0, 24.0, 70.0)  # of total variation, over the width of the range; the truth picks one of them
TV_TOL = 2e-3  # the error of the demo's CT changes by less than 0.1 % from this to a quarter of it


@dataclass
class Problem:
    """A measurement, the truth (or a reference where the measurement is real) and the classical reconstructions."""

    name: str
    title: str
    truth: Tensor
    A: Operator
    noise: float
    y: Tensor
    prior: Denoiser
    num_samples: int
    classical: dict[str, Callable[[], Tensor]] = field(default_factory=dict)

    @property
    def posterior(self) -> invgen.Posterior:
        """The posterior of the problem."""
        return invgen.Posterior(self.prior, self.A, self.noise, self.y)


def photographs(prior_of: Callable[[tuple[int, ...]], Denoiser], seed: int) -> Iterator[Problem]:
    """Yields five restorations of photographs that come with scikit-image, 128x128, noise 0.05 in units of [-1, 1]."""
    face, cat, cup, spoon = held_out_photographs().values()
    shape = face.shape
    prior = prior_of(tuple(shape))

    def problem(name: str, title: str, truth: Tensor, A: Operator, seed: int) -> Problem:
        y = invgen.Gaussian(PHOTO_NOISE).sample(A(truth), torch.Generator().manual_seed(seed))
        return Problem(name, title, truth, A, PHOTO_NOISE, y, prior, PHOTO_SAMPLES)

    sr = problem("super-resolution-x4", "super-resolution x4", face, Downsample(shape, 4, "bicubic"), seed)
    sr.classical["bicubic"] = lambda: Bicubic()(sr.posterior)[0]
    yield sr
    box = problem("inpainting-box", "box inpainting, 32x32", cat, Mask.box(shape, 32), seed + 1)
    box.classical["biharmonic"] = lambda: Biharmonic()(box.posterior)[0]
    yield box
    few = problem("inpainting-random", "random inpainting, 30 % kept", cup, Mask.random(shape, 0.3, seed=seed), seed + 2)
    few.classical["biharmonic"] = lambda: Biharmonic()(few.posterior)[0]
    yield few
    kernels = {"gaussian": gaussian_kernel(2.0), "motion": motion_kernel(15, seed=3)}
    for k, (name, image) in enumerate({"gaussian": cat, "motion": spoon}.items()):
        blur = problem(f"deblurring-{name}", f"{name} deblurring", image, Blur(shape, kernels[name]), seed + 3 + k)
        blur.classical["tuned TV"] = lambda p=blur: tuned_tv(p)
        yield blur


def slices(prior_of: Callable[[tuple[int, ...]], Denoiser], seed: int) -> Iterator[Problem]:
    """Yields the sparse-view CT at 23 and at 60 angles: pydicom's slice, and the held-out patient's where it has been
    fetched."""
    prior = prior_of((1, 128, 128))
    water = float(hu_to_mu(torch.zeros(())))
    prior = prior.rescaled(water, water)  # the prior's [-1, 1] is [-1000, 1000] HU, so attenuation is water (1 + x)
    for name, (hu, pixel) in held_out_slices().items():
        truth = hu_to_mu(hu.clamp(-1000, 1000))[None]
        for angles in (23, 60):
            A = ParallelBeamCT(truth.shape, num_angles=angles, pixel_size=pixel)
            y = invgen.Gaussian(CT_NOISE).sample(A(truth), torch.Generator().manual_seed(seed))
            yield _tomography(f"ct-{angles}-{name}", f"CT, {angles} angles ({name})", truth, A, CT_NOISE, y, prior)


def _tomography(
    name: str, title: str, truth: Tensor, A: ParallelBeamCT, noise: float, y: Tensor, prior: Denoiser
) -> Problem:
    problem = Problem(name, title, truth, A, noise, y, prior, CT_SAMPLES)
    problem.classical["FBP"] = lambda: A.fbp(y, "hann")
    problem.classical["tuned TV"] = lambda: tuned_tv(problem)
    return problem


def tuned_tv(p: Problem, weights: Sequence[float] = WEIGHTS) -> Tensor:
    """Returns total variation at the weight of least squared error against the truth.

    The weights are tried from the heaviest, which converges soonest, until the error grows: it has one minimum. No sampler
    is told the truth: the comparison errs on the side of the classical method.

    Args:
        p: the problem.
        weights: of the total variation, over the width of the prior's range.
    """
    low, high = p.prior.value_range
    best, least = torch.empty(0), float("inf")
    for weight in sorted(weights, reverse=True):
        x = TV(weight=weight / (high - low), tol=TV_TOL)(p.posterior)[0]
        error = (x - p.truth).square().mean().item()
        if error > least:
            break
        best, least = x, error
    return best


def measured(prior_of: Callable[[tuple[int, ...]], Denoiser]) -> Iterator[Problem]:
    """Yields a real measurement, where it is at hand: synchrotron CT of a tooth (TomoPy), 23 of its 181 views.

    Five detector pixels are binned to one; the rotation axis is at detector pixel 296 of 640, off the middle. The
    reference is the filtered backprojection of all 181 views.
    """
    path = next((p for p in (data_folder() / "tooth.h5", Path("../shared/data/measured/tooth.h5")) if p.exists()), None)
    if path is None:
        return
    import h5py

    with h5py.File(path) as file:
        group: Any = file["exchange"]  # of data sets
        counts, white, dark = (torch.tensor(group[k][:, 0]) for k in ("data", "data_white", "data_dark"))
        theta = torch.deg2rad(torch.tensor(group["theta"][:]))
    transmission = ((counts - dark.mean(0)) / (white.mean(0) - dark.mean(0))).reshape(181, 128, 5).mean(-1)
    sinogram = -transmission.clamp(min=1e-3).log()[None]
    geometry = {"det_count": 128, "det_spacing": 5.0, "pixel_size": 5.0, "det_offset": 296 - 319.5}
    reference = ParallelBeamCT((1, 128, 128), angles=theta, **geometry).fbp(sinogram)
    A = ParallelBeamCT((1, 128, 128), angles=theta[::8], **geometry)
    y = sinogram[:, ::8]
    # enamel, the densest part, is put at 0.5 of the prior's range [-1, 1], where bone is, and air at its bottom
    scale = reference.quantile(0.999).item() / 1.5
    # the reference leaves this of the measured views: photon noise (0.005 in air, twice that behind the tooth), rings and
    # the binning
    noise = 0.017
    yield _tomography(
        "ct-23-tooth-measured", "measured sinogram of a tooth, 23 of 181 views", reference, A, noise, y,
        prior_of((1, 128, 128)).rescaled(scale, scale),
    )  # fmt: skip


def run(out: Path | str = "out", *, quick: bool = False, seed: int = 0, progress: bool = True) -> list[dict]:
    """Solves every problem, writes a picture each and the table, and returns the rows.

    Args:
        out: the folder for pictures, results.md and results.json.
        quick: two problems with few steps, to see that everything works.
        seed: of measurements and samples.
        progress: whether to show a bar.
    """
    from tqdm.auto import tqdm

    out = Path(out)
    require_writable(out)
    problems = [*measured(lambda shape: load("ct", shape)), *slices(lambda shape: load("ct", shape), seed)]
    problems += photographs(lambda shape: load("photo", shape), seed)
    if quick:
        problems = [p for p in problems if p.name in ("ct-23-CT_small", "super-resolution-x4")]
    rows = []
    bar = tqdm(problems, desc="demo", disable=not progress)
    for p in bar:
        bar.set_postfix_str(p.title)
        rows += solve(p, out, 2 if quick else p.num_samples, seed)
    write(rows, out)
    overview([out / f"{p.name}.png" for p in problems if p.name in OVERVIEW], out / "overview.png")
    return rows


def solve(p: Problem, out: Path, num_samples: int, seed: int) -> list[dict]:
    """Reconstructs one problem by the classical methods and by sampling; returns a row for each, draws the picture.

    Args:
        p: the problem.
        out: the folder for the picture.
        num_samples, seed: as for `invgen.solve`.
    """
    rows, pictures = [], {}
    for name, method in p.classical.items():
        begin = time.perf_counter()
        pictures[name] = method()
        rows.append(row(p, name, pictures[name], time.perf_counter() - begin, 0.0))
    result = invgen.solve(
        *(p.y, p.A, p.prior, p.noise), evaluations=EVALUATIONS, num_samples=num_samples, seed=seed, precision="auto"
    )
    name = type(result.sampler).__name__ + (" in bfloat16" if result.precision == "bfloat16" else "")
    samples = [row(p, f"{name}, one sample", x, result.seconds / num_samples, result.nfe) for x in result.samples]
    rows.append({k: sum(r[k] for r in samples) / num_samples if isinstance(v, float) else v for k, v in samples[0].items()})
    mean = row(p, f"{name}, mean of {num_samples}", result.mean, result.seconds, result.nfe * num_samples)
    if num_samples > 2:
        mean["coverage"] = metrics.interval_coverage(result.samples, p.truth, LEVEL, dims=p.truth.ndim).item()
    rows.append(mean)
    best = max(pictures, key=lambda n: metrics.psnr(pictures[n], p.truth, data_range=data_range(p)).item())
    plots.show_posterior(result, p.truth, (best, pictures[best]), out / f"{p.name}.png", title=p.title)
    return rows


def overview(pictures: list[Path], path: Path, width: int = 1200) -> None:
    """Some of the pictures below each other, `width` pixels wide."""
    from PIL import Image

    rows = [Image.open(p).convert("RGB") for p in pictures]
    rows = [r.resize((width, round(r.height * width / r.width)), Image.Resampling.LANCZOS) for r in rows]
    page = Image.new("RGB", (width, sum(r.height for r in rows)), "white")
    top = 0
    for r in rows:
        page.paste(r, (0, top))
        top += r.height
    work = path.with_name(f".{path.name}.unfinished")
    page.save(work, "PNG", optimize=True)
    os.replace(work, path)


def data_range(p: Problem) -> float:
    return p.prior.value_range[1] - p.prior.value_range[0]


def row(p: Problem, method: str, x: Tensor, seconds: float, nfe: float) -> dict:
    """Returns a row of the table.

    Args:
        p: the problem.
        method: its name.
        x: the reconstruction.
        seconds, nfe: its cost; nfe per sample.
    """
    low, high = p.prior.value_range
    shown = x.clamp(low, high)  # what a picture can show; the residual is of the reconstruction as it is
    return {
        "problem": p.name,
        "method": method,
        "psnr": metrics.psnr(shown, p.truth, data_range=high - low).item(),
        "ssim": metrics.ssim(shown, p.truth, value_range=(low, high)).item(),
        "residual": p.posterior.rows(torch.arange(1)).residual_over_noise(x[None]).item(),
        "coverage": None,
        "seconds": seconds,
        "nfe": nfe,
    }


def table(rows: list[dict]) -> str:
    """Returns the rows as a Markdown table."""
    lines = [
        f"| problem | method | PSNR, dB | SSIM | residual / noise | {LEVEL:.0%} intervals hold | seconds | evaluations |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        lines.append(
            f"| {r['problem']} | {r['method']} | {r['psnr']:.2f} | {r['ssim']:.3f} | {r['residual']:.2f} | "
            f"{_percent(r['coverage'])} | {r['seconds']:.1f} | {r['nfe']:.0f} |"
        )
    return "\n".join(lines)


def summary(rows: list[dict]) -> str:
    """Returns one line a problem, in Markdown: PSNR of the best classical method, of one sample and of the mean of the
    samples, and the share of values that the samples' central intervals hold."""
    lines = [
        f"| problem | best classical method | one sample | mean of the samples | {LEVEL:.0%} intervals hold | seconds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(r["problem"] for r in rows):
        of = [r for r in rows if r["problem"] == name]
        one, mean = (next(r for r in of if part in r["method"]) for part in (", one sample", ", mean of"))
        best = max((r for r in of if "," not in r["method"]), key=lambda r: r["psnr"])
        classical = f"{best['psnr']:.2f} ({best['method']})"
        lines.append(
            f"| {name} | {classical} | {one['psnr']:.2f} | {mean['psnr']:.2f} | {_percent(mean['coverage'])} | "
            f"{mean['seconds']:.0f} |"
        )
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def write(rows: list[dict], out: Path) -> None:
    """results.md and results.json, whole or not at all."""

    write_text(out / "results.md", table(rows) + "\n")
    write_text(out / "results.json", json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    print(table(run()))
