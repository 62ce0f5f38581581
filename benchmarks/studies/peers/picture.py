"""The picture of the study: quality and coverage against network evaluations, a column a problem."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from invgen.benchmarks.studies.peers.candidates import package
from invgen.benchmarks.studies.peers.problems import PROBLEMS
from invgen.benchmarks.studies.peers.runs import LEVEL, Run, name_of
from invgen.plots import save

SHOWN = {"invgen": 3, "azula": 2, "deepinv": 2}  # curves of a package, those of the least CRPS
DEPTH = 6.0  # dB below the best mean that are shown
COVERED = 0.02  # the band around the nominal coverage
# ours in solid lines and filled marks, peers broken and hollow: told apart without colour
STYLES: dict[str, tuple[str, dict[str, Any]]] = {
    "invgen": ("o^s", {"color": "#0072B2", "linestyle": "-", "linewidth": 1.6}),
    "azula": ("v<", {"color": "#D55E00", "linestyle": "--", "linewidth": 1.0, "markerfacecolor": "white"}),
    "deepinv": ("dh", {"color": "#555555", "linestyle": ":", "linewidth": 1.2, "markerfacecolor": "white"}),
}


def shown(curves: Mapping[str, Mapping[str, Sequence[Run]]]) -> dict[str, list[str]]:
    """Returns the samplers of each package that are drawn: those whose CRPS, over the least of its problem and evaluations,
    is the smallest; the same in every panel."""
    ratios: dict[str, list[float]] = {}
    for of in curves.values():
        runs = [r for found in of.values() for r in found]
        least = {b: min(r.crps for r in runs if r.budget == b) for b in {r.budget for r in runs}}
        for run in runs:
            ratios.setdefault(name_of(run.sampler), []).append(run.crps / least[run.budget])
    # a sampler that is missing somewhere comes after those that ran everywhere
    most = max(map(len, ratios.values()))
    order = sorted(ratios, key=lambda n: (len(ratios[n]) < most, sum(ratios[n]) / len(ratios[n])))
    return {of: [n for n in order if package(n) == of][:count] for of, count in SHOWN.items()}


def draw(curves: Mapping[str, Mapping[str, Sequence[Run]]], path: Path) -> None:
    """Writes the picture.

    Args:
        curves: problem -> sampler -> its runs by evaluations.
        path: of the file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(3.0 * len(curves), 6.0), 4.9), layout="constrained")
    panels, kept = figure.subplots(2, len(curves), squeeze=False, sharex=True), shown(curves)
    for column, (problem, of) in enumerate(curves.items()):
        top, bottom = panels[:, column]
        best = max(r.psnr for found in of.values() for r in found)
        for which, names in kept.items():
            marks, style = STYLES[which]
            for mark, name in zip(marks, names, strict=False):
                runs = of.get(name, ())
                at, look = [r.budget for r in runs], {**style, "marker": mark, "markersize": 5}
                top.plot(at, [r.psnr for r in runs], label=name if which == "invgen" else f"{name} (peer)", **look)
                bottom.plot(at, [r.coverage for r in runs], **look)
        top.axhspan(best - 0.1, best, color="0.85", linewidth=0)
        top.set_ylim(best - DEPTH, best + 0.4)
        top.set_title(PROBLEMS[problem].title, fontsize=9)
        bottom.axhspan(LEVEL - COVERED, LEVEL + COVERED, color="0.85", linewidth=0)
        bottom.set_ylim(0.1, 0.7)
        bottom.set_xscale("log")
        ticks = sorted({r.budget for each in curves.values() for found in each.values() for r in found})
        bottom.set_xticks(ticks, [str(t) for t in ticks])
        bottom.minorticks_off()
        bottom.set_xlabel("network evaluations a sample", fontsize=8)
        for axes in (top, bottom):
            axes.tick_params(labelsize=7)
            axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("PSNR of the mean, dB", fontsize=8)
    panels[1, 0].set_ylabel("in the central 50 % intervals", fontsize=8)
    lines, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=max(2, len(curves)), fontsize=7, frameon=False)
    save(figure, path)
