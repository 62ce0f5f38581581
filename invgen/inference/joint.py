"""Several measurements of one signal, each with an operator and a noise law of its own, as one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from invgen.compose import stack
from invgen.errors import OptionError, ShapeError
from invgen.forward import Operator
from invgen.noise import Gaussian, Joint, Noise, Noiseless, NoiseLike, as_noise
from invgen.posterior import OperatorLike, TensorLike
from invgen.validation.arguments import checked


@checked
def join(*parts: tuple[TensorLike, OperatorLike, NoiseLike]) -> tuple[Tensor, Operator, Noise]:
    """Returns several measurements (y, A, noise) of one signal as one, which all that takes a measurement takes.

        y, A, noise = invgen.join((y_ct, ct, 0.5), (y_mask, mask, invgen.Poisson(0.1)))
        result = invgen.solve(y, A, prior, noise)
        result.residuals  # of each part

    Gaussian noise of different levels is Gaussian noise with a level for each value, and the operator is linear where all
    are, so that samplers for linear operators and Gaussian noise take it. Any other laws are a `Joint`, a loss.

    Args:
        parts: (y, A, noise) each: y (*batch, *A.out_shape) with one batch shape for all; noise a law or a number.

    Raises:
        OptionError: fewer than two parts, one that is not (y, A, noise), or one without noise beside others.
        ShapeError: batches that differ, or signals of different shapes.
    """
    if len(parts) < 2:
        raise OptionError(f"join takes at least two measurements, each (y, A, noise), got {len(parts)}")
    for k, part in enumerate(parts):
        if len(part) != 3 or not isinstance(part[1], Operator):
            got = ", ".join(type(one).__name__ for one in part)
            raise OptionError(f"part {k + 1} of join must be (y, A, noise) with an operator A, got ({got})")
    ys: list[Tensor] = [torch.as_tensor(p[0]) for p in parts]
    operators, laws = [p[1] for p in parts], [as_noise(p[2]) for p in parts]
    shapes = [tuple(A.out_shape) for A in operators]
    batches = {tuple(y.shape[: y.ndim - len(shape)]) for y, shape in zip(ys, shapes, strict=True)}
    for k, (y, shape) in enumerate(zip(ys, shapes, strict=True)):
        if y.ndim < len(shape) or tuple(y.shape[y.ndim - len(shape) :]) != shape:
            raise ShapeError(f"measurement {k + 1} has shape {tuple(y.shape)}, expected (*batch, *{shape})")
    if len(batches) > 1:
        raise ShapeError(f"measurements that are joined have one batch shape, got {sorted(batches)}")
    if any(isinstance(law, Noiseless) for law in laws):
        raise OptionError("an exact measurement cannot be joined with others; state a small noise level for it")
    (batch,) = batches
    y = torch.cat([y.reshape(*batch, -1) for y in ys], -1)
    return y, stack(operators), _law(laws, shapes, y)


def _law(laws: Sequence[Noise], shapes: Sequence[tuple[int, ...]], y: Tensor) -> Noise:
    """Returns the law of y, (*batch, total): Gaussian where all parts are."""
    levels = [law.sigma for law in laws if type(law) is Gaussian]
    if len(levels) < len(laws):
        return Joint(laws, shapes)
    if not any(isinstance(level, Tensor) for level in levels) and len(set(levels)) == 1:
        return Gaussian(levels[0])
    batch = (
        y.shape[:-1] if any(isinstance(s, Tensor) and s.ndim > len(k) for s, k in zip(levels, shapes, strict=True)) else ()
    )
    real = y.real if y.is_complex() else y
    flat = [torch.as_tensor(s, dtype=real.dtype, device=y.device) for s in levels]
    return Gaussian(torch.cat([s.expand(*batch, *k).reshape(*batch, -1) for s, k in zip(flat, shapes, strict=True)], -1))
