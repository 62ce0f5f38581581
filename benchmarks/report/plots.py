"""The plots of a report: quality against time and network evaluations, and calibration curves; as SVG in data: URIs.

Points carry the numbers of the rows in the table above them, in the colour of the method's name, so that they are read
without a legend, in grey too.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from invgen.benchmarks.report.results import Row
from invgen.benchmarks.report.statistics import Interval, direction, interval
from invgen.benchmarks.report.tables import Line, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by the colour-blind, yellow left out
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#555555")
_MARKERS = {"sampler": "o", "classical": "s", "peer": "^"}
QUALITY = 2  # metrics that are drawn against the costs


def colours(tables: Sequence[Table]) -> dict[str, str]:
    """Of each method by the name before its options, the same on the whole page."""
    names = dict.fromkeys(_name(line) for table in tables for line in table.lines)
    return {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(names)}


def colour_of(line: Line, found: Mapping[str, str]) -> str:
    return found[_name(line)]


def _name(line: Line) -> str:
    return line.sampler.partition("(")[0]


def costs(table: Table, colour: Mapping[str, str]) -> str | None:
    """Quality against seconds and network evaluations, a panel each, with 95 % intervals.

    None where there is no metric to rank, or no second method.

    The grey line joins the methods that no other one beats in both.
    """
    metrics = [m for m in table.columns if (found := direction(m)) is not None and found.better != "nearest"]
    metrics = [m for m in metrics if m not in ("nfe", "seconds")][:QUALITY]
    panels = [(metric, cost) for metric in metrics for cost in ("seconds", "nfe")]
    if not panels or sum(bool(line.entries) for line in table.lines) < 2:
        return None
    figure, axes_of = _row_of(len(panels))
    for axes, (metric, cost) in zip(axes_of, panels, strict=True):
        _cost_panel(axes, table, metric, cost, colour)
    return _svg(figure)


def _cost_panel(axes: "Axes", table: Table, metric: str, cost: str, colour: Mapping[str, str]) -> None:
    points = []
    for line in table.lines:
        x, y = line.entries.get(cost), line.entries.get(metric)
        if x is None or y is None or not math.isfinite(y.interval.mean):
            continue
        own = colour_of(line, colour)
        if x.interval.mean <= 0:  # methods without a network, on a logarithmic axis of its evaluations
            axes.axhline(y.interval.mean, color=own, linewidth=0.8, linestyle=":")
            axes.annotate(str(line.number), (0.0, y.interval.mean), (2, 1), **_beside("axes fraction", own))
            continue
        points.append((x.interval, y.interval, line, own))
    better = direction(metric)
    assert better is not None  # `costs` takes no others
    front = _front([(x.mean, better.loss(y.mean), y.mean) for x, y, _, _ in points])
    axes.step([p[0] for p in front], [p[1] for p in front], where="post", color="0.75", linewidth=1.0, zorder=0)
    for name in dict.fromkeys(_name(line) for _, _, line, _ in points):  # the options of one method
        alike = sorted((x.mean, y.mean, own) for x, y, line, own in points if _name(line) == name)
        axes.plot([a[0] for a in alike], [a[1] for a in alike], color=alike[0][2], linewidth=0.7, alpha=0.6)
    if points:
        x, y, lines, own = (list(of) for of in zip(*points, strict=True))
        across, up = [i.mean for i in x], [i.mean for i in y]
        # a bar to zero, or to many times the mean, has no place on a logarithmic axis
        bars = [[min(_half(i), 0.9 * i.mean) for i in x], [min(_half(i), 9 * i.mean) for i in x]]
        each: Any = own  # a colour for each bar, which matplotlib's types leave out
        axes.errorbar(across, up, xerr=bars, yerr=[_half(i) for i in y], fmt="none", ecolor=each, elinewidth=0.7)
        for kind, marker in _MARKERS.items():
            alike = [k for k, line in enumerate(lines) if (line.kind if line.kind in _MARKERS else "sampler") == kind]
            at = [across[k] for k in alike], [up[k] for k in alike]
            axes.scatter(*at, s=16, c=[own[k] for k in alike], marker=marker, zorder=3, linewidths=0)
        for k, line in enumerate(lines):
            axes.annotate(str(line.number), (across[k], up[k]), (4, 3), **_beside("data", own[k]))
        axes.margins(0.09, 0.09)  # room for the numbers
        axes.set_xscale("log")
        _plain_numbers(axes)
    axes.set_xlabel("seconds" if cost == "seconds" else "network evaluations", fontsize=8)
    axes.set_ylabel(_plain(table.head(metric)), fontsize=8)
    _small(axes)


def _beside(coordinates: str, colour: str) -> dict[str, Any]:
    xy = ("axes fraction", "data") if coordinates == "axes fraction" else coordinates
    return {"xycoords": xy, "textcoords": "offset points", "fontsize": 7, "color": colour, "fontweight": "bold"}


def _half(found: Interval) -> float:
    return found.half if math.isfinite(found.half) else 0.0


def _front(points: Sequence[tuple[float, float, float]]) -> list[tuple[float, float]]:
    """Returns (cost, value) of those that are not beaten in both, by cost. Points are (cost, loss, value)."""
    found, least = [], math.inf
    for cost, loss, value in sorted(points):
        if loss < least:
            found.append((cost, value))
            least = loss
    return found


# -- calibration ---------------------------------------------------------------------------------------------------------


def curve(rows: Sequence[Row]) -> list[tuple[float, Interval]]:
    """Returns the coverage of the cells that have curves, at each level: its mean over images with the 95 % interval."""
    found: dict[float, dict[tuple[str, int], float]] = {}
    for row in rows:
        own = row.record.get("calibration")
        if isinstance(own, Mapping) and isinstance(own.get("levels"), list) and isinstance(own.get("coverage"), list):
            for level, coverage in zip(own["levels"], own["coverage"], strict=False):
                if isinstance(level, int | float) and isinstance(coverage, int | float):
                    found.setdefault(round(float(level), 6), {})[row.image, row.seed] = float(coverage)
    return [(level, interval(values)) for level, values in sorted(found.items())]


def calibrations(table: Table, colour: Mapping[str, str]) -> str | None:
    """Returns the coverage against level, samplers side by side in panels of a few; None where no cell has a curve."""
    curves = [(line, curve(line.cells)) for line in table.lines]
    curves = [(line, points) for line, points in curves if points]
    if not curves:
        return None
    each = max(2, -(-len(curves) // 4))
    count = -(-len(curves) // each)
    figure, axes_of = _row_of(count)
    for k, axes in enumerate(axes_of):
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
        for j, (line, points) in enumerate(curves[k * each : (k + 1) * each]):
            own = colour_of(line, colour)
            style: dict[str, Any] = {"color": own, "linestyle": ("-", "--", "-.", ":")[j % 4]}
            level, mean = [p[0] for p in points], [p[1].mean for p in points]
            axes.plot(level, mean, **style, linewidth=1.1, marker="o", markersize=2.5, label=_numbered(line))
            low, high = [p.mean - _half(p) for _, p in points], [p.mean + _half(p) for _, p in points]
            axes.fill_between(level, low, high, color=own, alpha=0.15, linewidth=0)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set_xlabel("level of the intervals", fontsize=8)
        axes.set_ylabel("true values inside", fontsize=8)
        axes.legend(fontsize=6, frameon=False, loc="upper left", handlelength=2.2)
        _small(axes)
    return _svg(figure)


def _numbered(line: Line) -> str:
    text = f"{line.number}  {line.sampler}"
    return _plain(text if len(text) < 38 else text[:37] + "…")


# -- drawing -------------------------------------------------------------------------------------------------------------


def _row_of(panels: int) -> "tuple[Figure, list[Axes]]":
    """Returns a figure of panels side by side, in fixed places: matplotlib's layouts take longer than all else."""
    from matplotlib.figure import Figure

    width, height, left, bottom = 3.05 * panels, 2.75, 0.55, 0.45  # inches
    figure = Figure(figsize=(width, height))
    edges = {"left": left / width, "right": 1 - 0.12 / width, "bottom": bottom / height, "top": 1 - 0.12 / height}
    gap = 0.6 / ((width - left - 0.12 - 0.6 * (panels - 1)) / panels)
    return figure, list(figure.subplots(1, panels, squeeze=False, gridspec_kw={**edges, "wspace": gap})[0])


def _plain(text: str) -> str:
    """As it stands: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def _plain_numbers(axes: "Axes") -> None:
    """5, 10, 20 along a short logarithmic axis, 0.1, 1, 10 along a long one."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axes.get_xlim()
    decades = math.log10(high / low) if 0 < low < high < math.inf else 3.0
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.6 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())  # minor ticks take half the time of a plot


def _small(axes: "Axes") -> None:
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _svg(figure: "Figure") -> str:
    from matplotlib import rc_context

    data = io.BytesIO()
    with rc_context({"svg.hashsalt": "invgen"}):  # the same page for the same results
        figure.savefig(data, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(data.getvalue()).decode()}"
