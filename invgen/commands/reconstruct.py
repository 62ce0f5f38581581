"""The job of `invgen reconstruct`: a file in, posterior samples, pictures and a summary out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invgen import __version__
from invgen.diffusion import Prior
from invgen.files import reader
from invgen.files.writing import atomic_folder
from invgen.forward import LinearOperator
from invgen.inference.solve import Result, solve
from invgen.names import resolve
from invgen.names.prepare import prepared
from invgen.noise import Gaussian
from invgen.posterior import Posterior

LARGEST = 1024 * 1024  # pixels of a picture that is taken as it is; more take hours


def reconstruct(
    file: str | Path,
    *,
    operator: str,
    prior: str,
    noise: str,
    sampler: str = "auto",
    num_samples: int = 8,
    seed: int = 0,
    out: str | Path = "out",
    measured: bool = False,
    size: tuple[int, ...] | None = None,
    resize: bool = True,
    window: tuple[float, float] | None = None,
    modality: str | None = None,
    rescale: tuple[float, float] = (1.0, 0.0),
    max_batch: int | None = None,
    device: str = "cpu",
    progress: bool | None = False,
) -> dict[str, Any]:
    """Draws posterior samples for one file and writes, all or nothing, into `out`:

    samples.npy (num_samples, *shape), mean.npy, std.npy, measurement.npy, truth.npy and baseline.npy where there are such,
    in the units of the prior; posterior.png, mean.png; summary.json.

    Args:
        file: a picture, an array, a scan or a recording; with `measured` the measurement, as NPY.
        operator, prior, noise, sampler: names with options, as `invgen.names` reads them.
        num_samples: how many samples to draw.
        seed: of the simulated noise and of the samples.
        out: the folder.
        measured: whether `file` holds y, so that nothing is simulated.
        size: shape of the signal, for a prior that knows several.
        resize: whether the file may be cut and resampled to the prior's size.
        window: Hounsfield units that map to the ends of the prior's value range.
        modality: "CT" or "MR", where the file does not show it.
        rescale: (scale, shift) of the prior's units.
        max_batch: how many signals to work on at once.
        device: of torch, "cpu" or "cuda".
        progress: as for `invgen.solve`.

    Returns:
        The content of summary.json.

    Raises:
        InvgenError: one sentence about what does not fit.
    """
    law, method = resolve.noise(noise), sampler if sampler == "auto" else resolve.sampler(sampler)
    signal = None if measured else reader.read(file, modality)
    base = resolve.prior(prior)
    if signal is not None and size is None:
        signal, size = natural_size(signal, base, resize)
    p = prepared(prior, size, rescale, device, base)
    A = resolve.operator(operator, p.shape).to(p.device)
    truth, notes, spacing = None, (), None
    if signal is None:
        y = reader.read_npy(file)
        y = y.to(p.device, torch.complex64 if y.is_complex() else p.dtype)
    else:
        truth, signal = reader.fit(signal, p, resize=resize, window=window)
        notes, spacing = signal.notes, signal.spacing
        with torch.no_grad():
            y = law.sample(A(truth).cpu(), torch.Generator().manual_seed(seed)).to(p.device)
    with atomic_folder(out) as folder:  # before the work, so that a folder that cannot be written is known at once
        result = solve(y, A, p, law, method, num_samples=num_samples, seed=seed, max_batch=max_batch, progress=progress)
        baseline = classical(result.posterior)
        summary = {
            "file": str(file),
            "operator": operator,
            "prior": prior,
            "noise": repr(law),
            "sampler": repr(result.sampler),
            "reason": result.reason,
            "num_samples": num_samples,
            "seed": seed,
            "shape": list(p.shape),
            "measurement_shape": list(A.out_shape),
            "rescale": list(rescale),
            "value_range": list(p.value_range),
            "notes": list(notes),
            "pixel_spacing_mm": spacing and [round(s, 6) for s in spacing],
            "nfe_per_sample": result.nfe,
            "seconds": round(result.seconds, 3),
            "rows": _rows(result, truth, baseline),
            "invgen": __version__,
            "torch": torch.__version__,
        }
        _write(folder, result, truth, baseline, summary)
    return summary


def natural_size(signal: reader.Signal, prior: Prior, resize: bool = True) -> tuple[reader.Signal, tuple[int, int] | None]:
    """Returns the size at which a prior that knows pictures of any size takes a picture: its own.

    With `resize`, its sides are cut to a multiple of the prior's `size_step`, and a picture of more than LARGEST pixels
    gets a size of about as many, to which `files.fit` resamples it.

    Returns:
        (signal, size): the signal as cut, and its size, None where the prior knows one shape alone.
    """
    own, step = reader.picture_size(signal), prior.size_step
    if own is None or step is None or len(prior.shape) != 3:
        return signal, None
    if not resize or min(own) < step:
        return signal, own
    shrink = max(1.0, (own[0] * own[1] / LARGEST) ** 0.5)
    rows, columns = (max(step, int(n / shrink) // step * step) for n in own)
    if shrink == 1:
        return reader.cut(signal, (rows, columns)), (rows, columns)
    note = f"it has more than {LARGEST} pixels, at which the size of a picture ends unless --size says more"
    return replace(signal, notes=(*signal.notes, note)), (rows, columns)


def classical(post: Posterior) -> tuple[str, Tensor] | None:
    """Returns a reconstruction without a learned prior: filtered backprojection for CT, for other linear operators the
    posterior
    mean under a Gaussian prior of the same mean and variance (Tikhonov), none otherwise. (its name, (*batch, *shape))."""
    post = post.reduced()  # of photon counts, their line integrals
    A, prior = post.A, post.prior
    with torch.no_grad():
        backprojection = getattr(A, "fbp", None)
        if backprojection is not None:
            return "FBP", backprojection(post.y)
        if isinstance(A, LinearOperator) and isinstance(post.noise, Gaussian):
            start = torch.full((*post.batch, *prior.shape), prior.data_mean, dtype=prior.dtype, device=prior.device)
            return "Tikhonov", A.prox(start, post.y, prior.data_std**2, post.noise.var)
    return None


def _rows(result: Result, truth: Tensor | None, baseline: tuple[str, Tensor] | None) -> list[dict[str, Any]]:
    """Returns a row of numbers for the baseline, the mean and the average sample."""
    images = [("mean of samples", result.mean[None]), ("each sample, average", result.samples)]
    if baseline is not None:
        images.insert(0, (baseline[0], baseline[1][None]))
    return [{"estimate": name, **_scores(x, result.posterior, truth)} for name, x in images]


def _scores(x: Tensor, post: Posterior, truth: Tensor | None) -> dict[str, float | None]:
    from invgen.metrics import psnr, ssim

    residual = torch.stack([post.rows(torch.zeros(1, dtype=torch.long)).residual_over_noise(one[None]) for one in x])
    scores: dict[str, float | None] = {"psnr": None, "ssim": None, "residual_over_noise": round(residual.mean().item(), 4)}
    if truth is not None:
        low, high = post.prior.value_range
        scores["psnr"] = round(psnr(x, truth, data_range=high - low, dims=truth.ndim).mean().item(), 3)
        if truth.ndim == 3 and min(truth.shape[1:]) >= 11 and not truth.is_complex():
            scores["ssim"] = round(ssim(x, truth, value_range=(low, high)).mean().item(), 4)
    return scores


def _write(
    folder: Path, result: Result, truth: Tensor | None, baseline: tuple[str, Tensor] | None, summary: dict[str, Any]
) -> None:
    import numpy as np

    from invgen.plots import save_picture, show_posterior

    arrays = {"samples": result.samples, "mean": result.mean, "std": result.std, "measurement": result.posterior.y}
    arrays |= {} if truth is None else {"truth": truth}
    arrays |= {} if baseline is None else {"baseline": baseline[1]}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array.detach().cpu().numpy())
    title = f"{summary['operator']}, {summary['noise']}, {summary['sampler']}"
    show_posterior(result, truth, baseline, folder / "posterior.png", title=title)
    if len(result.posterior.prior.shape) >= 2:
        save_picture(result.mean, result.posterior.prior.value_range, folder / "mean.png")
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def table(summary: dict[str, Any]) -> str:
    """Returns the summary for a terminal."""
    lines = [f"{note[0].upper()}{note[1:]}." for note in summary["notes"]]
    if summary["pixel_spacing_mm"]:
        row, column = summary["pixel_spacing_mm"]
        lines.append(f"A pixel is {row:g} x {column:g} mm: pass pixel_size to the operator for lengths in mm.")
    lines.append(f"{'':<22}{'PSNR / dB':>10}{'SSIM':>8}{'residual / noise':>18}")
    for row in summary["rows"]:
        psnr = "-" if row["psnr"] is None else f"{row['psnr']:.2f}"
        ssim = "-" if row["ssim"] is None else f"{row['ssim']:.3f}"
        lines.append(f"{row['estimate']:<22}{psnr:>10}{ssim:>8}{row['residual_over_noise']:>18.3f}")
    lines.append(
        f"{summary['num_samples']} samples by {summary['sampler']}: {summary['nfe_per_sample']:g} network evaluations a "
        f"sample, {summary['seconds']:.1f} s"
    )
    if summary["reason"]:
        lines.append(f"Picked because {summary['reason']}.")
    return "\n".join(lines)
