"""Compares two results of a suite, cell by cell, and whether that is a regression.

Cells are matched by problem, prior, sampler, image and seed. All that is stated of a metric is of paired differences, new
minus old, over images with the seeds of each averaged first (`invgen.benchmarks.report.statistics`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from invgen.benchmarks.report.result_tables import COSTS
from invgen.benchmarks.report.results import Results, Row, read
from invgen.benchmarks.report.statistics import Difference, direction, holm, interval, paired, per_image
from invgen.benchmarks.report.tables import count, number
from invgen.errors import OptionError

TOLERANCE = 0.01  # relative
EQUAL = 1e-6  # relative: what another machine's rounding changes

Group = tuple[str, str, str]  # problem, prior, sampler


@dataclass(frozen=True)
class Change:
    """One metric of one method on one problem, in the cells that both results have.

    Attributes:
        old, new: means over the shared images.
        difference: new - old, with its interval.
        worse: by how much the loss grew (for "nearest" metrics the distance to the target), below 0 where it became
            better; None where no direction is known. The p values of both are Holm's, over all metrics of the comparison,
            costs apart.
        worse_everywhere: on each image by more than the tolerance.
        lost: cells whose value is finite in the old result, and not in the new one.
        tolerance: how much worse is let pass, in the units of the metric.
        gated: whether it counts for the gate.
    """

    group: Group
    metric: str
    old: float
    new: float
    difference: Difference
    worse: Difference | None
    worse_everywhere: bool
    lost: int
    tolerance: float
    gated: bool

    @property
    def regression(self) -> bool:
        """Worse by more than the tolerance, and not by chance: significantly, or on every image; or no longer a number."""
        beyond = self.worse is not None and self.worse.mean > self.tolerance
        sure = self.worse_everywhere or (self.worse is not None and self.worse.significant)
        return self.gated and ((beyond and sure) or self.lost > 0)

    @property
    def equal(self) -> bool:
        """To rounding, on every image."""
        d = self.difference
        spread = d.half if math.isfinite(d.half) else 0.0
        return not self.lost and max(abs(d.mean), spread) <= EQUAL * max(abs(self.old), abs(self.new))

    @property
    def telling(self) -> bool:
        """Whether a reader should see it first."""
        return self.verdict not in ("equal", "not significant")

    @property
    def step(self) -> str:
        """From what to what."""
        why = f", not finite in {count(self.lost, 'cell')}" if self.lost else ""
        return f"{self.shown(self.old)} -> {self.shown(self.new)} (tolerance {self.tolerance:.3g}){why}"

    def shown(self, value: float) -> str:
        """With as many decimals as show the difference, its interval and the tolerance."""
        sizes = (abs(self.difference.mean), self.difference.half, self.tolerance)
        sizes = [x for x in sizes if math.isfinite(x) and x > EQUAL * abs(self.old)]
        digits = min(max(1 - math.floor(math.log10(min(sizes))), 0), 6) if sizes else 3
        return number(value, digits).replace("\N{MINUS SIGN}", "-")

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.lost:
            return f"not finite in {count(self.lost, 'cell')}"
        if self.equal:
            return "equal"
        if self.worse is not None and (self.worse.significant or self.regression):
            return "worse" if self.worse.mean > 0 else "better"
        return "changed" if self.difference.significant else "not significant"


@dataclass(frozen=True)
class Comparison:
    """Two results.

    Attributes:
        changes: regressions first, then what is significant, then the rest, the largest relative differences first.
        only_old, only_new: cells that one of them lacks.
        newly_failed: cells that had a result and have a failure now; repaired: the other way round.
        lost_metrics: (group, metric) that the new result lacks in all shared cells.
    """

    old: Results
    new: Results
    changes: Sequence[Change]
    shared: int
    only_old: Sequence[Row]
    only_new: Sequence[Row]
    newly_failed: Sequence[Row]
    repaired: Sequence[Row]
    lost_metrics: Sequence[tuple[Group, str]]

    @property
    def regressions(self) -> list[str]:
        """Why the gate is closed, a sentence each; none where it is open."""
        found = [f"{named(c.group)}: {c.metric} became worse, {c.step}" for c in self.changes if c.regression]
        found += [f"{named(group)}: {metric} is no longer computed" for group, metric in self.lost_metrics]
        found += [f"newly failed: {cell(row)}: {row.error}" for row in self.newly_failed]
        return found + [f"missing: {cell(row)}" for row in self.only_old if not row.error]


def compare(
    old: "str | Path | Results", new: "str | Path | Results", tolerances: "float | Mapping[str, float]" = TOLERANCE
) -> Comparison:
    """Returns the changes from `old` to `new`, folders of results or tables (CSV, Parquet) of them.

    Args:
        tolerances: how much worse a metric may become before it is a regression: a number for all, relative to the old mean
            (to the target where nearest is best), and under a metric's spec one for this metric, in its own units; the
            number for all is under "" then. Costs are regressions only where they have a tolerance of their own.

    Raises:
        FileError: one cannot be read.  OptionError: a tolerance is negative, or of a metric that neither result has.
    """
    old, new = (source if isinstance(source, Results) else read(source) for source in (old, new))
    allowed = {"": TOLERANCE, **tolerances} if isinstance(tolerances, Mapping) else {"": tolerances}
    known = {*old.metrics, *new.metrics, *COSTS}
    for name, value in allowed.items():
        if not value >= 0:
            raise OptionError(f"a tolerance must be 0 or more, got {value!r}{' for ' + name if name else ''}")
        if name and name not in known:
            raise OptionError(f"no metric {name!r} has a result; there are {', '.join(sorted(known))}")
    before, after = ({row.identity: row for row in results.rows} for results in (old, new))
    both = [identity for identity in before if identity in after]
    good = [i for i in both if not before[i].error and not after[i].error]
    groups: dict[Group, list[tuple[Row, Row]]] = {}
    for identity in good:
        groups.setdefault(identity[:3], []).append((before[identity], after[identity]))
    changes, lost = [], []
    for group, pairs in groups.items():
        for metric in dict.fromkeys(m for a, _ in pairs for m in a.values):
            if not any(metric in b.values for _, b in pairs):
                lost.append((group, metric))
            else:
                changes.append(_change(group, metric, pairs, allowed))
    return Comparison(
        old=old,
        new=new,
        changes=_sorted(_corrected(changes)),
        shared=len(both),
        only_old=[row for identity, row in before.items() if identity not in after],
        only_new=[row for identity, row in after.items() if identity not in before],
        newly_failed=[after[i] for i in both if after[i].error and not before[i].error],
        repaired=[after[i] for i in both if before[i].error and not after[i].error],
        lost_metrics=lost,
    )


def _change(group: Group, metric: str, pairs: Sequence[tuple[Row, Row]], allowed: Mapping[str, float]) -> Change:
    a = {(old.image, old.seed): old.values[metric] for old, new in pairs if metric in old.values}
    b = {(new.image, new.seed): new.values[metric] for old, new in pairs if metric in new.values}
    lost = sum(math.isfinite(a[place]) and not math.isfinite(b.get(place, math.nan)) for place in a)
    shared = [place for place in a if place in b and math.isfinite(a[place]) and math.isfinite(b[place])]
    a, b = {place: a[place] for place in shared}, {place: b[place] for place in shared}
    difference = paired(b, a)
    better = direction(metric)
    own = allowed.get(metric)
    old = interval(a).mean
    scale = abs(better.target) if better is not None and better.better == "nearest" else abs(old)
    tolerance = own if own is not None else allowed[""] * scale
    worse, everywhere = None, False
    if better is not None and shared:
        before, after = ({place: better.loss(value) for place, value in of.items()} for of in (a, b))
        worse = paired(after, before)
        everywhere = min(per_image({place: after[place] - before[place] for place in a}).values()) > tolerance
    gated = better is not None and (metric not in COSTS or own is not None)
    return Change(group, metric, old, interval(b).mean, difference, worse, everywhere, lost, tolerance, gated)


def _corrected(changes: Sequence[Change]) -> list[Change]:
    """With Holm's p values. Whether costs changed is another question: they are a family of their own."""
    found: list[Change] = []
    for costs in (False, True):
        family = [change for change in changes if (change.metric in COSTS) is costs]
        raw = holm([change.difference.p for change in family])
        losses = holm([math.nan if change.worse is None else change.worse.p for change in family])
        for change, p, of_loss in zip(family, raw, losses, strict=True):
            worse = None if change.worse is None else replace(change.worse, p=of_loss)
            found.append(replace(change, difference=replace(change.difference, p=p), worse=worse))
    return found


def _sorted(changes: Iterable[Change]) -> list[Change]:
    def order(change: Change) -> tuple[bool, bool, bool, float]:
        size = abs(change.difference.mean) / (abs(change.old) or 1.0)
        size = -size if math.isfinite(size) else -math.inf
        return not change.regression, change.metric in COSTS, not change.telling, size

    return sorted(changes, key=order)


def parse_tolerances(texts: Iterable[str]) -> dict[str, float]:
    """Returns ["0.02", "psnr=0.1"] as {"": 0.02, "psnr": 0.1}.

    Raises:
        OptionError: one is not of this form.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise OptionError(f"cannot read the tolerance {text!r}; expected a number, or METRIC=NUMBER") from None
    return found


def named(group: Group) -> str:
    """Returns a method on a problem."""
    problem, prior, sampler = group
    return f"{problem}, {sampler}" + (f", prior {prior}" if prior else "")


def cell(row: Row) -> str:
    """Returns a cell for the reader."""
    return f"{named(row.identity[:3])}, {row.image}, seed {row.seed}"
