"""Tables of results, one for each problem, samplers by metrics: as data for the page, in Markdown and in LaTeX."""

import math
import re
import statistics as of_python
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from invgen.benchmarks.report.result_tables import COSTS
from invgen.benchmarks.report.results import Results, Row
from invgen.benchmarks.report.statistics import Direction, Interval, Mark, Place, direction, interval, marks

HEADS = {"nfe": "network evaluations", "seconds": "seconds"}
GROUPS = {"classical": "classical methods", "sampler": "samplers", "peer": "samplers of other packages"}
NOTE = (
    "Mean over images (seeds averaged first) ± half width of its 95 % t interval. {best}: significantly better than every "
    "other row (paired t test over the same images and seeds, 5 %, Holm's correction); {second}: the same among the others."
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One number of a table.

    Attributes:
        text: as it is printed, without the interval; error: its half width, "" where there is none.
        mark: "best", "second" or "".
    """

    interval: Interval
    text: str
    error: str
    mark: Mark = ""

    def __str__(self) -> str:
        return f"{self.text} ± {self.error}" if self.error else self.text


@dataclass(frozen=True)
class Line:
    """One method on one problem: its entries by metric (and cost), and its cells, done and failed."""

    number: int
    sampler: str
    prior: str
    kind: str
    entries: Mapping[str, Entry]
    cells: Sequence[Row]

    @property
    def failed(self) -> int:
        return sum(bool(row.error) for row in self.cells)

    def values(self, metric: str) -> dict[Place, float]:
        """By image and seed."""
        return values_of(self.cells, metric)


@dataclass(frozen=True)
class Table:
    """One problem: methods by metrics, then costs.

    Attributes:
        columns: specs of metrics; costs are the last two.
        priors: whether there are several, and lines have to say theirs.
    """

    problem: str
    operator: str
    noise: str
    columns: Sequence[str]
    lines: Sequence[Line]
    images: int
    seeds: int
    priors: bool

    def label(self, line: Line) -> str:
        return f"{line.sampler}, prior {line.prior}" if self.priors else line.sampler

    def head(self, column: str) -> str:
        """With the sign of what is better."""
        better = direction(column)
        name = HEADS.get(column, column)
        return f"{name} {better.sign}" if better and column not in COSTS else name

    def groups(self) -> list[tuple[str, list[Line]]]:
        """Returns the lines by kind: classical methods, samplers, peers."""
        kinds = list(dict.fromkeys(line.kind for line in self.lines))
        return [(GROUPS.get(kind, kind), [line for line in self.lines if line.kind == kind]) for kind in kinds]


def values_of(rows: Iterable[Row], metric: str) -> dict[Place, float]:
    """Returns the values of a metric by image and seed."""
    return {(row.image, row.seed): row.values[metric] for row in rows if metric in row.values}


def tables(results: Results) -> list[Table]:
    """Returns one for each problem, in the order of the rows."""
    problems: dict[str, list[Row]] = {}
    for row in results.rows:
        problems.setdefault(row.problem, []).append(row)
    return [_table(problem, rows) for problem, rows in problems.items()]


def _table(problem: str, rows: list[Row]) -> Table:
    methods: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        methods.setdefault((row.kind, row.prior, row.sampler), []).append(row)
    metrics = [m for m in dict.fromkeys(m for row in rows for m in row.values) if m not in COSTS]
    columns = [*metrics, *COSTS]
    entries: dict[str, list[Entry | None]] = {}
    for column in columns:
        values = [values_of(of, column) if _applies(column, kind) else {} for (kind, _, _), of in methods.items()]
        intervals = [interval(v) if v else None for v in values]
        usual = decimals(i for i in intervals if i is not None)
        # costs differ by orders of magnitude within a column, and below milliseconds mean nothing
        digits = [(min(decimals([i]), 3) if column in COSTS else usual) if i is not None else 0 for i in intervals]
        marked = marks(values, direction(column) if column not in COSTS else None)
        entries[column] = [_entry(*of) for of in zip(intervals, marked, digits, strict=True)]
    lines = []
    for k, ((kind, prior, sampler), of) in enumerate(methods.items()):
        own = {column: entry for column in columns if (entry := entries[column][k]) is not None}
        lines.append(Line(k + 1, sampler, prior, kind, own, of))
    return Table(
        problem=problem,
        operator=rows[0].operator,
        noise=rows[0].noise,
        columns=columns,
        lines=lines,
        images=len({row.image for row in rows}),
        seeds=len({row.seed for row in rows}),
        priors=len({row.prior for row in rows}) > 1,
    )


def _applies(metric: str, kind: str) -> bool:
    """Returns a point estimate has no intervals that could cover anything."""
    return kind != "classical" or metric.partition("(")[0] != "coverage"


def _entry(found: Interval | None, mark: Mark, digits: int) -> Entry | None:
    if found is None:
        return None
    error = number(found.half, digits) if math.isfinite(found.half) else ""
    return Entry(found, number(found.mean, digits), error if error != "0" else "", mark)


# -- numbers as text -----------------------------------------------------------------------------------------------------


def decimals(of: Iterable[Interval]) -> int:
    """For all numbers of a column: two digits of a usual half width, but no more than four of a usual mean."""
    column = list(of)
    halves = [i.half for i in column if i.half > 0 and math.isfinite(i.half)]
    means = [abs(i.mean) for i in column if i.mean and math.isfinite(i.mean)]
    size = _exponent(of_python.median(means)) if means else 0
    wanted = 1 - _exponent(of_python.median(halves)) if halves else 2 - size
    if all(i.mean == round(i.mean) for i in column if math.isfinite(i.mean)) and not halves:
        return 0  # counts
    return min(max(min(wanted, 3 - size), 0), 6)


def _exponent(x: float) -> int:
    return math.floor(math.log10(x))


def number(value: float, digits: int) -> str:
    """With this many decimals; scientific where that would show nothing of it, or too much."""
    if not math.isfinite(value):
        return {True: "∞", False: "−∞"}[value > 0] if math.isinf(value) else "undefined"
    text = f"{value:.{digits}f}"
    if abs(value) >= 1e6 or (value and float(text) == 0 and digits >= 6):
        text = f"{value:.2e}"
    return text.replace("-", "−")


# -- Markdown and LaTeX --------------------------------------------------------------------------------------------------


def markdown(found: Sequence[Table], title: str) -> str:
    """Returns all tables as one document; best in bold, second best in italics."""
    parts = [f"# {_md(title)}", NOTE.format(best="**Bold**", second="*italic*")]
    for table in found:
        parts.append(f"## {_md(table.problem)}\n\n{_md(about(table))}")
        rows = [["", *map(table.head, table.columns)], ["---", *["---:"] * len(table.columns)]]
        for name, lines in table.groups():
            if len(table.groups()) > 1:
                rows.append([f"*{name}*", *[""] * len(table.columns)])
            for line in lines:
                rows.append([_md(table.label(line)), *(_md_entry(line.entries.get(c)) for c in table.columns)])
        parts.append("\n".join("| " + " | ".join(row) + " |" for row in rows))
    return "\n\n".join(parts) + "\n"


def _md_entry(entry: Entry | None) -> str:
    if entry is None:
        return ""
    around = {"best": "**", "second": "*", "": ""}[entry.mark]
    return f"{around}{entry}{around}"


def _md(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", " ".join(text.split()))


def about(table: Table) -> str:
    """Returns the measurements and their number, in words."""
    failed = sum(line.failed for line in table.lines)
    cells = sum(len(line.cells) for line in table.lines)
    text = "" if table.operator in table.problem else f"{table.operator}, noise {table.noise}; "
    text += f"{count(table.images, 'image')}, {count(table.seeds, 'seed')}, "
    text += count(cells, "cell") + (f", {failed} of them failed" if failed else "")
    return text + (". One image: no intervals, and nothing is marked." if table.images == 1 else ".")


def count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def latex(found: Sequence[Table], title: str) -> str:
    r"""Returns all tables, for \usepackage{booktabs}; best in bold, second best underlined."""
    head = f"% {_tex(title)}; needs \\usepackage{{booktabs}}\n"
    return head + "".join(f"\n{_latex(table)}" for table in found)


def _latex(table: Table) -> str:
    note = NOTE.format(best=r"@bold@", second=r"@underlined@")
    caption = _tex(f"{table.problem}: {about(table)} {note}")
    caption = caption.replace("@bold@", r"\textbf{Bold}").replace("@underlined@", r"\underline{underlined}")
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
    ]
    lines += [r"\toprule", " & ".join(["", *(_tex_head(table, c) for c in table.columns)]) + r" \\"]
    for _, members in table.groups():  # classical and peer rows set apart by rules
        lines.append(r"\midrule")
        for line in members:
            entries = [_tex_entry(line.entries.get(c)) for c in table.columns]
            lines.append(" & ".join([_tex(table.label(line)), *entries]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _tex_head(table: Table, column: str) -> str:
    better: Direction | None = direction(column) if column not in COSTS else None
    signs = {"higher": r" $\uparrow$", "lower": r" $\downarrow$"}
    sign = signs.get(better.better, rf" $\to {better.target:g}$") if better else ""
    return _tex(HEADS.get(column, column)) + sign


def _tex_entry(entry: Entry | None) -> str:
    if entry is None:
        return ""
    names = {"∞": r"\infty", "−∞": r"-\infty", "undefined": r"\mathrm{undefined}"}

    def shown(text: str) -> str:
        return names.get(text, re.sub(r"e(.?)0*(\d+)", r" \\cdot 10^{\1\2}", text).replace("+", "")).replace("−", "-")

    value, error = shown(entry.text), rf" \pm {shown(entry.error)}" if entry.error else ""
    if entry.mark == "best":
        return rf"$\mathbf{{{value}}}{error}$"
    return rf"$\underline{{{value}}}{error}$" if entry.mark == "second" else f"${value}{error}$"


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "→": r"$\to$",
    **{c: rf"\{c}" for c in "&%$#_{}"},
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
