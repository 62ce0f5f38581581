"""Measurements that were not all made alike: an operator for each row of a batch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from invgen.diffusion import Denoiser
from invgen.errors import OptionError
from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.posterior import Posterior
from invgen.validation.batches import Variance, per_sample


def measured(A: LinearOperator, x: Tensor) -> Tensor:
    """Returns A(x) as rows of real numbers, (B, m): complex values as their real and imaginary parts."""
    y = A(x)
    return (torch.view_as_real(y) if y.is_complex() else y).flatten(1)


def real_rows(A: LinearOperator, y: Tensor) -> Tensor:
    """Returns measurements (B, *A.out_shape) as rows of real numbers, (B, m)."""
    return (torch.view_as_real(y) if y.is_complex() else y).reshape(len(y), -1)


def as_measured(A: LinearOperator, rows: Tensor) -> Tensor:
    """Returns rows of real numbers as measurements of A, (B, *A.out_shape)."""
    if A.out_dtype.is_complex:
        return torch.view_as_complex(rows.reshape(len(rows), *A.out_shape, 2))
    return rows.reshape(len(rows), *A.out_shape)


def by_operator(operators: Sequence[LinearOperator]) -> list[tuple[LinearOperator, Tensor]]:
    """Returns each operator once, with the numbers of the rows that it measured."""
    rows: dict[int, list[int]] = {}
    for k, A in enumerate(operators):
        rows.setdefault(id(A), []).append(k)
    return [(operators[index[0]], torch.tensor(index)) for index in rows.values()]


class OperatorPerRow(LinearOperator):
    """y_i = A_i(x_i): row i of a batch has an operator of its own, (B, *in_shape) -> (B, m) real.

    Rows of measurements that are shorter than the longest end in zeros, which A measures as zeros: they carry nothing. A
    batch must have as many rows as there are operators; an operator that several rows share is applied to them at once.

    Args:
        operators: A_i, linear maps of real signals of one shape.

    Raises:
        OptionError: signals of several shapes, or complex ones.
    """

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        shapes = {tuple(A.in_shape) for A in operators}
        if len(shapes) != 1 or any(A.in_dtype.is_complex for A in operators):
            raise OptionError(f"operators must take real signals of one shape, got {sorted(shapes)}")
        super().__init__(operators[0].in_shape)
        self.count, self.parts = len(operators), by_operator(operators)
        self.moved = nn.ModuleList(A for A, _ in self.parts)  # so that `.to(device)` finds them
        self.sizes = [A.out_shape.numel() * (2 if A.out_dtype.is_complex else 1) for A, _ in self.parts]
        self.out_shape, self.out_dtype = (max(self.sizes),), torch.float32

    @property
    def own_solve(self) -> bool:
        return all(A.own_solve for A, _ in self.parts)

    def _apply_each(self, x: Tensor, shape: Sequence[int], method: str, *variances: Variance) -> Tensor:
        if len(x) != self.count:
            raise OptionError(
                f"{len(x)} rows do not fit {self.count} measurements with an operator each: take a sampler that keeps a "
                "row for each measurement, such as MMPS, DiffPIR or AdaptivePiGDM"
            )
        out = x.new_zeros(len(x), *shape)
        for (A, index), size in zip(self.parts, self.sizes, strict=True):
            if method == "forward":
                out[index, :size] = measured(A, x[index])
                continue
            some = [v[index] if isinstance(v, Tensor) and v.ndim and len(v) == len(x) else v for v in variances]
            out[index] = getattr(A, method)(as_measured(A, x[index, :size]), *some)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self._apply_each(x, self.out_shape, "forward")

    def adjoint(self, y: Tensor) -> Tensor:
        return self._apply_each(y, self.in_shape, "adjoint")

    def weighted_adjoint(self, r: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        return self._apply_each(r, self.in_shape, "weighted_adjoint", per_sample(var_x, r), per_sample(var_y, r))


def posterior(
    prior: Denoiser, y: Sequence[Tensor] | Tensor, operators: Sequence[LinearOperator], noise: float
) -> Posterior[Denoiser, OperatorPerRow, Gaussian]:
    """Returns the posterior of a batch of measurements, each by its own operator.

    Args:
        prior: of the signals.
        y: (B, *out_shape), or B tensors.
        operators: one for each.
        noise: standard deviation.
    """
    A = OperatorPerRow(operators)
    rows = torch.zeros(len(operators), *A.out_shape)
    for row, A_i, y_i in zip(rows, operators, y, strict=True):
        values = real_rows(A_i, y_i[None])[0]
        row[: len(values)] = values
    return Posterior(prior, A.to(prior.device), noise, rows.to(prior.device))
