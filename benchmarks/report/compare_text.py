"""The changes between two results as text, for a terminal and as Markdown."""

import math
from collections.abc import Sequence

from invgen.benchmarks.report.compare import Change, Comparison, cell, named
from invgen.benchmarks.report.results import Row, environments
from invgen.benchmarks.report.statistics import LEVEL
from invgen.benchmarks.report.tables import count

LISTED = 20  # cells under a head
QUIET = 30  # changes that are not significant


def text(c: Comparison, markdown: bool = False) -> str:
    """Significant changes first, then others, then cells that only one has or that fail."""
    parts = [f"{'# ' if markdown else ''}{c.old.name} -> {c.new.name}: {count(c.shared, 'shared cell')}"]
    facts = _facts(c)
    if facts:
        parts.append("\n".join(facts))
    telling = [x for x in c.changes if x.telling]
    quiet = [x for x in c.changes if not x.telling and not x.equal]
    equal = len(c.changes) - len(telling) - len(quiet)
    if telling:
        parts += [_head("Significant changes", markdown), _table(telling, markdown)]
    if quiet:
        shown = f", {QUIET} largest of {len(quiet)}" if len(quiet) > QUIET else ""
        parts += [_head(f"Changes that are not significant{shown}", markdown), _table(quiet[:QUIET], markdown)]
    if equal:
        parts.append(f"Equal in every cell: {count(equal, 'metric')} of a method and a problem.")
    for what, rows in (("newly failed", c.newly_failed), (f"only in {c.old.name}", c.only_old)):
        parts += _cells(what, rows, markdown, bool(rows and rows[0].error))
    for what, rows in ((f"only in {c.new.name}", c.only_new), ("failed before and done now", c.repaired)):
        parts += _cells(what, rows, markdown, False)
    if c.lost_metrics:
        lines = [f"{named(group)}: {metric}" for group, metric in c.lost_metrics]
        parts += [_head("No longer computed", markdown), "\n".join(f"- {line}" for line in lines)]
    n = len(c.regressions)
    parts.append(f"{count(n, 'regression')} for the gate." if n else "No regressions.")
    return "\n\n".join(parts) + "\n"


def _facts(c: Comparison) -> list[str]:
    """Of the environments, what differs between the two."""
    old, new = environments(c.old.rows), environments(c.new.rows)
    lines = []
    for name in old:
        if name in new and set(old[name]) != set(new[name]):
            lines.append(f"{name}: {', '.join(sorted(old[name])[:4])} -> {', '.join(sorted(new[name])[:4])}")
    return lines


def _head(text: str, markdown: bool) -> str:
    return f"## {text}" if markdown else text


def _table(changes: Sequence[Change], markdown: bool) -> str:
    head = ["problem, sampler", "metric", "old", "new", f"difference ({LEVEL:.0%} interval)", "images", ""]
    rows = [
        [
            named(c.group),
            c.metric,
            c.shown(c.old),
            c.shown(c.new),
            _difference(c),
            str(c.difference.images),
            c.verdict + (" (regression)" if c.regression else ""),
        ]
        for c in changes
    ]
    if markdown:
        lines = [head, ["---", "---", "---:", "---:", "---:", "---:", "---"], *([_escaped(t) for t in r] for r in rows)]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    widths = [max(len(line[k]) for line in [head, *rows]) for k in range(len(head))]
    left = (0, 1, 6)
    return "\n".join(
        "  ".join(
            t.ljust(w) if k in left else t.rjust(w) for k, (t, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [head, *rows]
    )


def _escaped(text: str) -> str:
    for character in "\\|<>*_`":
        text = text.replace(character, "\\" + character)
    return text


def _difference(c: Change) -> str:
    d = c.difference
    sign = "+" if d.mean > 0 else ""
    if not math.isfinite(d.half):
        return f"{sign}{c.shown(d.mean)}"
    return f"{sign}{c.shown(d.mean)} ({c.shown(d.low)} to {c.shown(d.high)})"


def _cells(what: str, rows: Sequence[Row], markdown: bool, errors: bool) -> list[str]:
    if not rows:
        return []
    lines = [f"- {cell(row)}{': ' + row.error if errors and row.error else ''}" for row in rows[:LISTED]]
    if len(rows) > LISTED:
        lines.append(f"- and {len(rows) - LISTED} more")
    text = "\n".join(lines)
    return [_head(f"{count(len(rows), 'cell')} {what}", markdown), _escaped(text) if markdown else text]
