"""Closure quantities of an interferometer: what is left of visibilities when each station's gain is unknown."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError
from invgen.forward import Operator
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, Positive


class _OfVisibilities(Operator):
    """Base: a function of visibilities (M, 2), real and imaginary part, that looks at sets of them."""

    sets: Tensor

    def __init__(self, count: int, sets: Tensor | Sequence[Sequence[int]], width: int) -> None:
        super().__init__((count, 2))
        sets = torch.as_tensor(sets)
        name = type(self).__name__
        if sets.ndim != 2 or sets.shape[1] != width or sets.is_floating_point() or not len(sets):
            raise ShapeError(f"{name} takes whole numbers of shape (T, {width}), got {sets.dtype} of {tuple(sets.shape)}")
        if not bool(((sets != 0) & (sets.abs() <= count)).all()):
            raise OptionError(f"{name} counts visibilities from 1 to {count}, negative where conjugated; got {sets.min()} "
                              f"to {sets.max()}")  # fmt: skip
        self.register_buffer("sets", sets.long())

    def _members(self, x: Tensor) -> Tensor:
        """Returns the visibilities of each set, complex (B, T, width), conjugated where the set says so."""
        v = torch.view_as_complex(x.contiguous())[:, self.sets.abs() - 1]
        return torch.where(self.sets > 0, v, v.conj())


class ClosurePhases(_OfVisibilities):
    """y_t = exp(i (phi_a + phi_b + phi_c)) of three baselines that close a triangle, as real and imaginary part.

        A = operators.ClosurePhases(len(points), triangles) @ operators.NonUniformFourier(shape, points)

    The phase that each station adds cancels (Jennison, MNRAS 118, 1958). As a unit vector in place of an angle it has no
    jump; with Gaussian noise of level sigma, that of the phase in radians, the log-likelihood is (cos(difference) - 1) /
    sigma^2, which is the one that is customary (Chael et al., ApJ 857, 2018).

    Args:
        count: number of visibilities, M.
        sets: triangles (T, 3): visibilities counted from 1, negative where the complex conjugate is meant, so that the
            baselines lead from station to station (`closure_sets`).

    (M, 2) -> (T, 2).
    """

    def __init__(self, count: int, sets: Tensor | Sequence[Sequence[int]]) -> None:
        super().__init__(count, sets, 3)
        self.out_shape = (len(self.sets), 2)

    def forward(self, x: Tensor) -> Tensor:
        v = self._members(x)
        unit = v / v.abs().clamp(min=torch.finfo(x.dtype).tiny ** 0.5)
        return torch.view_as_real(unit.prod(2))


class LogClosureAmplitudes(_OfVisibilities):
    """y_t = log |V_a| + log |V_b| - log |V_c| - log |V_d| of four stations.

    The gain of each station cancels (Twiss, Carter & Little, The Observatory 80, 1960), as does the total flux.

    Args:
        count: number of visibilities, M.
        sets: quadrangles (T, 4): visibilities counted from 1, the first two over the last two (`closure_sets`).

    (M, 2) -> (T,).
    """

    def __init__(self, count: int, sets: Tensor | Sequence[Sequence[int]]) -> None:
        super().__init__(count, sets, 4)
        self.out_shape = (len(self.sets),)

    def forward(self, x: Tensor) -> Tensor:
        size = self._members(x).abs().clamp(min=torch.finfo(x.dtype).tiny ** 0.5).log()
        return size[..., 0] + size[..., 1] - size[..., 2] - size[..., 3]


@checked
def closure_sets(times: Sequence[float], pairs: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Returns an independent set of triangles (T, 3) and quadrangles (Q, 4) of the visibilities of an array.

    Of n stations that are all connected at one time there are (n - 1)(n - 2) / 2 triangles and n (n - 3) / 2 quadrangles.

    Args:
        times: of each visibility; those of one time close.
        pairs: its two stations, (from, to).
    """
    triangles: list[list[int]] = []
    quadrangles: list[list[int]] = []
    for time in dict.fromkeys(times):
        at = {}
        for k, (t, (a, b)) in enumerate(zip(times, pairs, strict=True), 1):
            if t == time:
                at[a, b], at[b, a] = k, -k
        stations = sorted({a for a, _ in at})
        columns = {abs(k): i for i, k in enumerate(dict.fromkeys(abs(k) for k in at.values()))}
        found: list[list[int]] = []
        for a, b, c in itertools.combinations(stations, 3):
            if {(a, b), (b, c), (a, c)} <= at.keys():
                found.append([at[a, b], at[b, c], at[c, a]])
        triangles += _independent(found, columns, [1, 1, 1], signed=True)
        found = []
        for a, b, c, d in itertools.combinations(stations, 4):
            for p, q, r, s in ((a, b, c, d), (a, c, b, d)):  # |ab| |cd| / (|ac| |bd|) and |ac| |bd| / (|ad| |bc|)
                up, down = [(p, q), (r, s)], [(a, d), (b, c)] if p == a and q == c else [(a, c), (b, d)]
                if {*up, *down} <= at.keys():
                    found.append([abs(at[pair]) for pair in (*up, *down)])
        quadrangles += _independent(found, columns, [1, 1, -1, -1], signed=False)
    if not triangles:
        raise OptionError("no three stations are connected at one time, so that no phases close")
    return torch.tensor(triangles), torch.tensor(quadrangles, dtype=torch.long).reshape(-1, 4)


def _independent(sets: list[list[int]], columns: dict[int, int], signs: list[int], signed: bool) -> list[list[int]]:
    """Returns the sets, from the first on, whose sums of phases or of log-amplitudes do not follow from those before."""
    basis = torch.zeros(0, len(columns), dtype=torch.float64)
    kept = []
    for one in sets:
        row = torch.zeros(len(columns), dtype=torch.float64)
        for k, sign in zip(one, signs, strict=True):
            row[columns[abs(k)]] += sign * (1 if k > 0 or not signed else -1)
        rest = row - basis.T @ (basis @ row)
        if rest.norm() > 1e-6:
            basis = torch.cat([basis, (rest / rest.norm())[None]])
            kept.append(one)
    return kept


@checked
def sky_points(u: Tensor, v: Tensor, field_of_view: Positive, size: Count) -> Tensor:
    """Returns baselines of an interferometer as points of `NonUniformFourier`, (M, 2) in cycles per pixel.

    The visibility is the integral of I(x, y) exp(2 pi i (u x + v y)) with x to the east and y to the north, for a baseline
    from the second station to the first, as files of the Event Horizon Telescope have it (baselines the other way round
    have minus u and v); in a picture of the sky north is up and east is left.

    Args:
        u, v: components of the baselines to the east and to the north, in wavelengths, (M,).
        field_of_view: side of the square picture, in radians.
        size: its pixels along a side.
    """
    return torch.stack([v, u], 1).double() * (field_of_view / size)
