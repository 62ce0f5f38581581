"""Pictures of a posterior, with matplotlib (loaded when a picture is drawn, and without touching its global state).

A figure that is the last value of a notebook's cell is shown there, once.
"""

import base64
import functools
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.files.writing import atomic_file
from invgen.forward import LinearOperator
from invgen.validation.arguments import checked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from invgen.inference.calibration import Calibration
    from invgen.inference.score import Scores
    from invgen.inference.solve import Result


@checked
def show_posterior(
    result: "Result",
    truth: Tensor | None = None,
    baseline: Tensor | tuple[str, Tensor] | None = None,
    path: str | Path | None = None,
    *,
    num_samples: int = 3,
    index: int = 0,
    title: str | None = None,
) -> "Figure":
    """Draws one row: measurement, classical baseline, samples, mean, standard deviation, truth.

    Args:
        result: of `invgen.solve`.
        truth: (*batch, *shape), for the last picture and for the PSNR above mean and baseline.
        baseline: a reconstruction by a classical method, (*batch, *shape), or (its name, it).
        path: where to write the figure (.png, .pdf, .svg), whole or not at all.
        num_samples: how many samples to show.
        index: which measurement of a batch, by its place in the flattened batch.
        title: above the row.

    Returns:
        The matplotlib Figure.
    """
    post = result.posterior
    shape, batch = post.prior.shape, max(int(torch.tensor(post.batch).prod()), 1)
    if not 0 <= index < batch:
        raise OptionError(f"index must be in 0 to {batch - 1}, the measurements of the batch, got {index}")
    name, baseline = baseline if isinstance(baseline, tuple) else ("baseline", baseline)
    samples = result.samples.reshape(len(result.samples), batch, *shape)[:, index].detach().cpu()

    def of_batch(x: Tensor) -> Tensor:
        return x.detach().cpu().reshape(batch, *shape)[index]

    truth = None if truth is None else of_batch(truth.expand(*post.batch, *shape))
    panels: list[tuple[str, Tensor, str]] = [_measurement(result, index)]
    if baseline is not None:
        baseline = of_batch(baseline.expand(*post.batch, *shape))
        panels.append((_scored(name, baseline, truth, post.prior.value_range), baseline, "signal"))
    panels += [(f"sample {k + 1}", x, "signal") for k, x in enumerate(samples[:num_samples])]
    mean = samples.mean(0)
    panels.append((_scored(f"mean of {len(samples)}", mean, truth, post.prior.value_range), mean, "signal"))
    if len(samples) > 1:
        panels.append(("standard deviation", samples.std(0), "std"))
    if truth is not None:
        panels.append(("truth", truth, "signal"))

    figure = _row(panels, post.prior.value_range, 2.75 + 0.2 * bool(title))
    if title:
        figure.suptitle(title, fontsize=10)
    if path is not None:
        save(figure, path)
    return figure


@checked
def show_estimate(result: "Result", path: str | Path | None = None) -> "Figure":
    """Draws mean, standard deviation and one sample of the first measurement of a batch.

    Args:
        result: of `invgen.solve`.
        path: where to write the figure (.png, .pdf, .svg), whole or not at all.

    Returns:
        The matplotlib Figure.
    """
    shape, value_range = result.posterior.prior.shape, result.posterior.prior.value_range
    samples = result.samples.reshape(len(result.samples), -1, *shape)[:, 0].detach().cpu()
    panels = [("mean", samples.mean(0), "signal"), ("a sample", samples[0], "signal")]
    if len(samples) > 1:
        panels.insert(1, ("standard deviation", samples.std(0), "std"))
    figure = _row(panels, value_range, 2.5)
    if path is not None:
        save(figure, path)
    return figure


@checked
def show_calibration(calibration: "Calibration", path: str | Path | None = None) -> "Figure":
    """Returns the coverage of joint credible regions and of balls around random points, then the rank histogram of each
    quantity.

    Grey is where calibrated samples lie: with the confidence of the whole test, over all panels and positions at once.
    Blue lines with their pointwise bootstrap limits are what was found; red what left the grey band, or failed the test.

    Args:
        calibration: of `invgen.calibrate`.
        path: where to write the figure (.png, .pdf, .svg), whole or not at all.
    """
    from invgen.inference.quantities import JOINT, RANDOM_POINTS

    c = calibration
    curves = {"coverage of joint credible regions": c.coverage, "coverage around random points (TARP)": c.tarp}
    histograms = {name: hist for name, hist in c.histograms.items() if name not in (JOINT, RANDOM_POINTS)}
    columns = 5
    rows = -(-(len(curves) + len(histograms)) // columns)
    figure = _figure(figsize=(2.7 * columns, 2.3 * rows + 0.6))
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (label, curve) in zip(panels, curves.items(), strict=False):
        colour = "tab:blue" if curve.inside else "tab:red"
        level = [0.0, *curve.level.tolist()]
        axes.fill_between(level, [0.0, *curve.low.tolist()], [0.0, *curve.high.tolist()], color="0.85", linewidth=0)
        axes.plot([0, 1], [0, 1], color="0.4", linewidth=0.7)
        if curve.bootstrap is not None:
            low, high = ([0.0, *limits.tolist()] for limits in curve.bootstrap)
            axes.fill_between(level, low, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(level, [0.0, *curve.coverage.tolist()], color=colour, linewidth=1.2)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="level", ylabel="truths inside")
        axes.set_title(label, fontsize=8)
    for axes, (label, hist) in zip(panels[len(curves) :], histograms.items(), strict=False):
        edges, verdict = (hist.edges / hist.edges[-1]).tolist(), c.verdict(label)
        axes.stairs(hist.counts.tolist(), edges, fill=True, color="tab:blue" if verdict == "ok" else "tab:red")
        axes.stairs(hist.high.tolist(), edges, baseline=hist.low.tolist(), fill=True, color="0.6", alpha=0.45)
        axes.stairs(hist.expected.tolist(), edges, color="0.3", linewidth=0.7, baseline=None)
        axes.set(xlim=(0, 1), xlabel="rank of the truth / samples")
        axes.set_title(f"{label}\n{verdict}", fontsize=8)
    for axes in figure.axes:
        axes.tick_params(labelsize=6)
        axes.xaxis.label.set_fontsize(7)
        axes.yaxis.label.set_fontsize(7)
    for axes in panels[len(curves) + len(histograms) :]:
        axes.set_axis_off()
    word = "calibrated" if c.calibrated else "not calibrated"
    sampler, problem = (text if len(text) < 130 else text[:127] + "..." for text in (c.sampler, c.problem))
    figure.suptitle(f"{sampler}\n{problem}: {word} at level {c.alpha:g}", fontsize=9)
    if path is not None:
        save(figure, path)
    return figure


@checked
def show_texts(columns: Mapping[str, Sequence[str]], path: str | Path | None = None) -> "Figure":
    """Draws columns of texts side by side, a line each, letters of equal width.

    Args:
        columns: title -> texts, as many in each column.
        path: where to write the figure (.png, .pdf, .svg), whole or not at all.

    Returns:
        The matplotlib Figure.
    """
    lines = {title: [title, *texts] for title, texts in columns.items()}
    widths = [max(map(len, texts)) + 3 for texts in lines.values()]
    rows = max(map(len, lines.values()))
    figure = _figure(figsize=(0.086 * sum(widths) + 0.2, 0.22 * rows + 0.1))
    axes = figure.subplots()
    axes.axis("off")
    axes.set(xlim=(0, sum(widths)), ylim=(rows, 0))
    for k, texts in enumerate(lines.values()):
        for row, text in enumerate(texts):
            style = {"family": "monospace", "fontsize": 9, "va": "center", "weight": "normal" if row else "bold"}
            axes.text(sum(widths[:k]), row + 0.5, text, parse_math=False, **style)
    if path is not None:
        save(figure, path)
    return figure


@checked
def show_roc(scores: "Scores", path: str | Path | None = None) -> "Figure":
    """Draws how well each figure tells the signals from the reference: one-sided in the left panel, two-sided in the right.

    A curve is the share of signals that are caught, against the share of reference signals that are taken for strange.

    Args:
        scores: of `invgen.score`.
        path: where to write the figure (.png, .pdf, .svg), whole or not at all.

    Returns:
        The matplotlib Figure.
    """
    figure = _figure(figsize=(8.4, 4.2))
    areas, known = scores.auroc(), scores.reference
    two_sided = scores.typicality, scores.reference_typicality
    for axes, (title, (values, reference)) in zip(
        figure.subplots(1, 2), {"one-sided": (scores.values, known), "two-sided": two_sided}.items(), strict=True
    ):
        for name, v in values.items():
            cuts = torch.cat([v, reference[name]]).unique().flip(0)
            caught, false = ([0.0, *(w >= cuts[:, None]).double().mean(1).tolist()] for w in (v, reference[name]))
            area = areas[name if title == "one-sided" else f"{name}, two-sided"].value
            axes.plot(false, caught, lw=1.2, label=f"{name}: {area:.3f}")
        axes.plot([0, 1], [0, 1], color="0.7", lw=0.8)
        axes.set(title=title, xlabel="reference signals taken for strange", ylabel="signals caught", aspect="equal")
        axes.legend(fontsize=7, title="area under the curve", title_fontsize=7)
    if path is not None:
        save(figure, path)
    return figure


@checked
def show_samples(
    samples: Tensor,
    value_range: tuple[float, float],
    path: str | Path | None = None,
    *,
    columns: int | None = None,
    titles: Sequence[str] = (),
    title: str | None = None,
) -> "Figure":
    """Returns a sheet of signals side by side, all in one range of grey levels or heights.

    Args:
        samples: (N, *shape).
        value_range: of the prior.
        path: where to write the figure (.png, .pdf, .svg), whole or not at all.
        columns: of the sheet; about as many as rows by default.
        titles: one above each signal. title: above the sheet.
    """
    if not len(samples):
        raise OptionError("a sheet needs at least one sample")
    columns = min(columns or math.ceil(math.sqrt(len(samples))), len(samples))
    rows = -(-len(samples) // columns)
    figure = _figure(figsize=(1.5 * columns, (1.5 + 0.2 * bool(titles)) * rows + 0.3 * bool(title)))
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, x in zip(panels, samples, strict=False):
        _draw(figure, axes, x, "signal", value_range)
    for axes, label in zip(panels, titles, strict=False):
        axes.set_title(label, fontsize=8)
    for axes in panels[len(samples) :]:
        axes.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=9)
    if path is not None:
        save(figure, path)
    return figure


def png(figure: "Figure", dpi: int = 80) -> str:
    """Returns a figure as a PNG in base64."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return base64.b64encode(file.getvalue()).decode()


def save(figure: "Figure", path: str | Path) -> Path:
    """Writes a figure, whole or not at all; the suffix says the format."""
    with atomic_file(path) as work:
        figure.savefig(work, dpi=130)
    return Path(path)


def save_picture(x: Tensor, value_range: tuple[float, float], path: str | Path) -> Path:
    """Writes one signal as an 8-bit picture, `value_range` from black to white, whole or not at all."""
    from PIL import Image

    low, high = value_range
    levels = ((as_picture(x) - low) / (high - low)).clamp(0, 1).mul(255).round().to(torch.uint8)
    with atomic_file(path) as work:
        Image.fromarray(levels.numpy()).save(work)
    return Path(path)


def as_picture(x: Tensor) -> Tensor:
    """Returns a signal as (H, W), (H, W, 3) or, for one-dimensional signals, (N,): what can be drawn of it.

    Complex values, and two channels (real and imaginary part), become magnitudes; of volumes the middle slice is taken.
    """
    x = x.detach().cpu()
    if x.is_complex():
        x = x.abs()
    x = x.squeeze() if x.ndim > 3 else x
    while x.ndim > 3:
        x = x[len(x) // 2]
    if x.ndim == 3 and len(x) == 3:
        return x.movedim(0, -1)
    if x.ndim == 3:
        x = torch.linalg.vector_norm(x, dim=0) if len(x) == 2 else x[len(x) // 2]
    return x[0] if x.ndim == 2 and len(x) == 1 else x


def _figure(figsize: tuple[float, float]) -> "Figure":
    """Returns an empty figure that a notebook can show.

    IPython knows figures once pyplot has been imported, which changes global state; without it, it asks for `_repr_png_`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, layout="constrained")
    vars(figure)["_repr_png_"] = functools.partial(png, figure)
    return figure


def _row(panels: Sequence[tuple[str, Tensor, str]], value_range: tuple[float, float], height: float) -> "Figure":
    """Returns a figure of panels side by side, each given as its title, its signal and what it is, see `_draw`."""
    figure = _figure(figsize=(2.3 * len(panels), height))
    for axes, (label, x, kind) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(figure, axes, x, kind, value_range)
        axes.set_title(label, fontsize=9)
    return figure


def _measurement(result: "Result", index: int) -> tuple[str, Tensor, str]:
    """Returns the measurement where it is a picture, else its image under the adjoint."""
    post = result.posterior
    A = post.A
    y = post.y.reshape(-1, *A.out_shape)[index]
    if y.ndim >= 2 and not y.is_complex():
        alike = y.ndim == len(post.prior.shape) and y.shape[0] == post.prior.shape[0] and not _transforms(result)
        return "measurement", y, "signal" if alike else "own"
    if isinstance(A, LinearOperator) and len(post.prior.shape) >= 2:
        with torch.no_grad():
            return "measurement ($A^T y$)", A.adjoint(y), "own"
    return "measurement", y, "own"


def _transforms(result: "Result") -> bool:
    """Tells whether the measurement has other units than the signal, judged by its values."""
    low, high = result.posterior.prior.value_range
    y, margin = result.posterior.y, 0.5 * (high - low)
    return bool(y.min() < low - margin) or bool(y.max() > high + margin)


def _scored(name: str, x: Tensor, truth: Tensor | None, value_range: tuple[float, float]) -> str:
    if truth is None:
        return name
    mse = (x - truth).abs().square().mean()
    return f"{name}, {10 * torch.log10((value_range[1] - value_range[0]) ** 2 / mse):.1f} dB"


def _draw(figure: "Figure", axes: "Axes", x: Tensor, kind: str, value_range: tuple[float, float]) -> None:
    picture = as_picture(x).float()
    if picture.ndim < 2:
        axes.plot(picture.reshape(-1).numpy(), linewidth=0.7)
        if kind == "signal":
            axes.set_ylim(*value_range)
        axes.tick_params(labelsize=6)
        return
    axes.set_axis_off()
    if kind == "std":
        picture = picture.mean(-1) if picture.ndim == 3 else picture
        drawn = axes.imshow(picture.numpy(), cmap="magma", vmin=0, interpolation="nearest")
        figure.colorbar(drawn, ax=axes, fraction=0.046, pad=0.02).ax.tick_params(labelsize=6)
        return
    low, high = value_range if kind == "signal" else (picture.min().item(), picture.max().item())
    unit = ((picture - low) / max(high - low, 1e-12)).clamp(0, 1)
    # a sinogram of few views is a thin strip: let it fill the panel
    wide = kind == "own" and max(picture.shape[:2]) > 2 * min(picture.shape[:2])
    axes.imshow(unit.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto" if wide else "equal")


@checked
def show_spectrograms(
    sounds: Tensor, rate: float, path: str | Path | None = None, *, titles: Sequence[str] = (), window: int = 512
) -> "Figure":
    """Draws power spectrograms of recordings below each other, 80 dB of range from the loudest of all.

    Args:
        sounds: (N, 1, L) or (N, L).
        rate: of sampling, in Hz.
        path: where to write the figure, whole or not at all.
        titles: one above each.
        window: of Hann's form, in samples; frames overlap by three quarters.
    """
    flat = sounds.detach().float().cpu().reshape(len(sounds), -1)
    z = torch.stft(flat, window, window // 4, window=torch.hann_window(window), return_complex=True)
    level = 20 * z.abs().clamp(min=1e-9).log10()
    figure = _figure(figsize=(6, 1.4 * len(flat) + 0.4))
    panels = figure.subplots(len(flat), 1, squeeze=False, sharex=True)[:, 0]
    extent = (0, flat.shape[1] / rate, 0, rate / 2000)
    top = level.max().item()
    for k, (axes, one) in enumerate(zip(panels, level, strict=True)):
        axes.imshow(one.numpy(), origin="lower", aspect="auto", extent=extent, vmin=top - 80, vmax=top, cmap="magma")
        axes.set_ylabel("kHz", fontsize=7)
        axes.tick_params(labelsize=6)
        if k < len(titles):
            axes.set_title(titles[k], fontsize=8)
    panels[-1].set_xlabel("seconds", fontsize=7)
    if path is not None:
        save(figure, path)
    return figure
