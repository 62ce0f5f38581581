"""The operators of deepinv (Tachella et al., deepinv 0.5) as operators here; `to_deepinv` is the way back.

Nothing here imports deepinv before it is used: whoever holds one of its physics has it installed.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.forward import LinearOperator, Operator, SVDOperator
from invgen.messages import warn
from invgen.numerics.random import Streams
from invgen.operators.peers.deepinv_noise import noise_from_deepinv
from invgen.operators.peers.deepinv_physics import to_deepinv
from invgen.validation.arguments import checked

__all__ = ["from_deepinv", "noise_from_deepinv", "to_deepinv"]

TOLERANCE = 1e-4  # relative, of what a physics says of itself: most compute in single precision


class _Physics:
    """Calls a deepinv physics in a precision that it has, with lists of measurements in one vector.

    One that fails on a batch, or whose rows are not those of its single signals, is called row by row (SinglePhotonLidar).

    Args:
        physics: the module; its parameters hold for every signal of a batch.
        in_shape: of one signal.
        dtype: of signals.
    """

    def __init__(self, physics: Any, in_shape: torch.Size, dtype: torch.dtype) -> None:
        self.physics, self.in_shape, self.dtype = physics, in_shape, dtype
        wide, narrow = _precisions(dtype)
        self.double, self.batches = True, True
        self.double = self._works(wide)
        self.precision = wide if self.double and not self._works(narrow) else None  # the only one that it takes
        y = self.physics.A(self._inputs(torch.zeros(1, *in_shape, dtype=dtype, device=_device(physics))))
        pieces = _pieces(y)
        self.parts = None if pieces is None else [t.shape[1:] for t in pieces]
        x = Streams(0, range(2))(torch.empty(2, *in_shape, device=_device(physics))).abs().to(dtype)
        single = torch.cat([self.forward(x[:1]), self.forward(x[1:])])
        try:
            both = self.forward(x)
            self.batches = both.shape == single.shape and _gap(both, single) < TOLERANCE
        except Exception:  # whatever it fails with, it may take one signal at a time
            self.batches = False

    def _works(self, dtype: torch.dtype) -> bool:
        try:
            y = self.physics.A(torch.zeros(1, *self.in_shape, dtype=dtype, device=_device(self.physics)))
            y = (_pieces(y) or [y])[0]
            return y.dtype in _precisions(dtype) and (y.dtype in _WIDE) == (dtype in _WIDE)
        except Exception:  # what it says of another precision is of no interest: it gets its own
            return False

    def _inputs(self, t: Tensor) -> Tensor:
        """Returns a tensor in a precision that the physics takes."""
        wide, narrow = _precisions(t.dtype)
        return t.to(wide if self.precision is not None else t.dtype if self.double else narrow)

    def _outputs(self, y: Tensor, like: Tensor) -> Tensor:
        """Returns the output y of the physics in the precision of `like`, which the caller gave."""
        wide, narrow = _precisions(y.dtype)
        return y.to(wide if like.dtype in _WIDE else narrow)

    def apply(self, f: Callable[[Tensor], Any], t: Tensor) -> Tensor:
        """Returns f of the rows of a batch, in the precision of t."""
        if not self.batches and len(t) > 1:
            return torch.cat([self.apply(f, row) for row in t.split(1)])
        out = f(self._inputs(t))
        pieces = _pieces(out)
        return self._outputs(out if pieces is None else torch.cat([p.flatten(1) for p in pieces], 1), t)

    def forward(self, x: Tensor) -> Tensor:
        return self.apply(self.physics.A, x)

    def adjoint(self, y: Tensor) -> Tensor:
        x = self.apply(lambda t: self.physics.A_adjoint(self._as_parts(t)), y)
        return x.real if x.is_complex() and not self.dtype.is_complex else x

    def _as_parts(self, y: Tensor) -> Any:
        if self.parts is None:
            return y
        from deepinv.utils import TensorList  # pyright: ignore[reportMissingImports]  (an extra of its own)

        pieces = y.split([math.prod(s) for s in self.parts], 1)
        return TensorList([p.reshape(-1, *s) for p, s in zip(pieces, self.parts, strict=True)])


_WIDE = (torch.float64, torch.complex128)


def _precisions(dtype: torch.dtype) -> tuple[torch.dtype, torch.dtype]:
    """Double and single precision, complex for a complex dtype."""
    return (torch.complex128, torch.complex64) if dtype.is_complex else (torch.float64, torch.float32)


def _pieces(y: Any) -> list[Tensor] | None:
    """Returns the tensors of a list of measurements, None for one measurement."""
    if type(y).__name__ == "TensorList":
        return list(y.x)
    return list(y) if isinstance(y, list | tuple) else None


class DeepinvOperator(Operator):
    """A nonlinear physics of deepinv, without its noise and its sensor."""

    def __init__(self, call: _Physics) -> None:
        super().__init__(call.in_shape, dtype=call.dtype)
        self.physics, self.call = call.physics, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call.forward(x)


class DeepinvLinear(LinearOperator):
    """A linear physics of deepinv, with its own adjoint where that is right."""

    def __init__(self, call: _Physics) -> None:
        super().__init__(call.in_shape, dtype=call.dtype)
        self.physics, self.call = call.physics, call
        self.own_adjoint = False
        self.has_vjp = True

    def forward(self, x: Tensor) -> Tensor:
        if self.has_vjp:
            return self.call.forward(x)
        return _Linear.apply(x, self.call)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.call.adjoint(y) if self.own_adjoint else LinearOperator.adjoint(self, y)


class _Linear(torch.autograd.Function):
    """A linear map that torch cannot differentiate, whose gradient is its adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: _Physics) -> Tensor:
        ctx.call = call
        return call.forward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.call.adjoint(grad), None


class DeepinvSVD(SVDOperator):
    """A decomposable physics of deepinv: A = U diag(mask) V^T, with what keeps it from being one in its own form repaired.

    Phases of the mask go to U. The half of a real spectrum that BlurFFT keeps is weighed by sqrt(2) where it stands for two
    frequencies, which makes V an isometry. A V that spans the row space alone (Decolorize) is completed by the rest of the
    signal, x - V V^T x, with singular values of zero.
    """

    weights: Tensor
    gain: Tensor
    phase: Tensor

    def __init__(self, call: _Physics, weights: Tensor | None, thin: bool) -> None:
        super().__init__(call.in_shape, dtype=call.dtype)
        self.physics, self.call, self.thin = call.physics, call, thin
        with torch.no_grad():
            zeros = torch.zeros(1, *call.in_shape, dtype=call.dtype, device=_device(call.physics))
            z = call.physics.V_adjoint(zeros)
        mask = torch.as_tensor(call.physics.mask, device=z.device)
        if mask.ndim == z.ndim and mask.shape[0] > 1:
            raise UnsupportedError("a mask for each measurement")
        mask = mask.expand(z.shape)[0]
        self.register_buffer("weights", weights)
        self.register_buffer("gain", mask.abs())
        self.register_buffer("phase", torch.where(mask == 0, 0, mask / mask.abs().where(mask != 0, 1)))
        rest = torch.zeros(self.in_shape.numel(), dtype=self.gain.dtype, device=z.device)
        self.register_buffer("s", torch.cat([self.gain.flatten(), rest]) if thin else self.gain)

    def _split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the coordinates of the physics, and what completes them."""
        own, rest = z.split([self.gain.numel(), self.in_shape.numel()], 1)
        return own.reshape(-1, *self.gain.shape), rest.reshape(-1, *self.in_shape)

    def _join(self, z: Tensor, rest: Tensor) -> Tensor:
        return torch.cat([z.flatten(1), rest.flatten(1)], 1)

    def _call(self, method: str, t: Tensor) -> Tensor:
        return self.call.apply(getattr(self.physics, method), t)

    def _Vt(self, x: Tensor) -> Tensor:
        z = self._call("V_adjoint", x)
        return z if self.weights is None else z * self.weights.to(z.dtype)

    def _V(self, z: Tensor) -> Tensor:
        return self._call("V", z if self.weights is None else z / self.weights.to(z.dtype))

    def Vt(self, x: Tensor) -> Tensor:
        z = self._Vt(x)
        return self._join(z, x - self._V(z)) if self.thin else z

    def V(self, z: Tensor) -> Tensor:
        if not self.thin:
            return self._V(z)
        own, rest = self._split(z)
        return self._V(own) + rest - self._V(self._Vt(rest))

    def U(self, z: Tensor) -> Tensor:
        z = (self._split(z)[0] if self.thin else z) * self.phase
        return self._call("U", z if self.weights is None else z / self.weights.to(z.dtype))

    def Ut(self, y: Tensor) -> Tensor:
        z = self._call("U_adjoint", y)
        z = (z if self.weights is None else z * self.weights.to(z.dtype)) * self.phase.conj()
        return self._join(z, z.new_zeros(len(y), self.in_shape.numel())) if self.thin else z


@checked
def from_deepinv(
    physics: nn.Module, in_shape: Sequence[int] | None = None, *, dtype: torch.dtype = torch.float32
) -> Operator:
    """Returns a physics of deepinv as an operator: without its noise (`noise_from_deepinv`) and without its sensor.

    A linear physics is believed in what it says of itself only as far as it holds on random signals, to 1e-4: one that is
    not linear becomes a nonlinear operator, a wrong adjoint is replaced by the derivative of A, both with a warning; one
    with a singular value decomposition that is right, or can be made so (`DeepinvSVD`), becomes an SVDOperator, with exact
    solves. A physics in single precision is called in it, whatever the precision of the signal. Several measurements
    (StackedPhysics, Pansharpen) become one vector, flattened one after the other.

    Args:
        physics: its parameters (mask, filter, angles) are the same for every signal of a batch.
        in_shape: of one signal; by default physics.img_size.
        dtype: torch.complex64 for complex signals.

    Raises:
        OptionError: not a physics of deepinv, or one that does not say its img_size.
        ShapeError: it does not take signals of that shape.
    """
    kinds = _kinds(physics)
    if "Physics" not in kinds:
        raise OptionError(
            f"expected a physics of deepinv, got {type(physics).__name__}; for a function there is operators.from_function"
        )
    shape = _in_shape(physics, in_shape)
    try:
        with torch.no_grad():
            call = _Physics(physics, shape, dtype)
    except Exception as error:  # deepinv raises whatever torch does
        raise ShapeError(
            f"{type(physics).__name__} fails on a signal of shape {tuple(shape)} ({type(error).__name__}: {error}); give "
            "its in_shape, without batch axis"
        ) from error
    if "LinearPhysics" not in kinds:
        return DeepinvOperator(call)
    linear = DeepinvLinear(call)
    x = _normal(linear, 3)
    with torch.no_grad():
        gap = _gap(linear(2 * x[:1] - 3 * x[1:2]), 2 * linear(x[:1]) - 3 * linear(x[1:2]))
    if not gap < TOLERANCE:
        warn(
            f"{type(physics).__name__} is a LinearPhysics but not linear (it differs by {gap:.1e}); taken as nonlinear",
        )
        return DeepinvOperator(call)
    if "DecomposablePhysics" in kinds:
        svd = _svd(call, kinds, linear)
        if svd is not None:
            return svd
    _choose_adjoint(linear)
    return linear


def _svd(call: _Physics, kinds: set[str], linear: DeepinvLinear) -> DeepinvSVD | None:
    """Returns the decomposition of a physics, if one is found that passes."""
    half = _half_spectrum(call) if "BlurFFT" in kinds else None
    for thin in (False, True):
        try:
            with torch.no_grad():
                svd = DeepinvSVD(call, half, thin)
                if _is_svd(svd, linear):
                    return svd
        except Exception:  # of a decomposition that does not fit, none is used
            continue
    return None


def _is_svd(svd: DeepinvSVD, linear: DeepinvLinear) -> bool:
    """Tells whether A = U s V^T with isometries U and V, on random signals."""
    x = _normal(svd, 2)
    y = Streams(1, [0, 1])(linear(x))
    z, u = svd.Vt(x), svd.Ut(y)
    w = torch.where(svd.s > 0, Streams(2, [0, 1])(u), 0)
    w = svd.Ut(svd.U(w))  # real spectra have coordinates that depend on each other: these do not
    checks = [
        (svd.V(z), x),
        (z.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1)),
        (svd.U(svd.s * z), linear(x)),
        (svd.Ut(svd.U(w)), w),
        (svd.U(w).flatten(1).norm(dim=1), w.flatten(1).norm(dim=1)),
        (_inner(svd.U(w), y), _inner(w, u)),
        (_inner(svd.V(z), svd.V(w)), _inner(z, svd.Vt(svd.V(w)))),
    ]
    return all(a.shape == b.shape and _gap(a, b) < TOLERANCE for a, b in checks)


def _half_spectrum(call: _Physics) -> Tensor:
    """Returns sqrt(2) for columns of a real FFT that stand for two frequencies, 1 for others, (W // 2 + 1, 1)."""
    width = call.in_shape[-1]
    weights = torch.full((width // 2 + 1, 1), 2.0, device=_device(call.physics)).sqrt()
    weights[0] = 1
    if width % 2 == 0:
        weights[-1] = 1
    return weights


def _choose_adjoint(linear: DeepinvLinear) -> None:
    """The adjoint of the physics if that of the derivative agrees, else that of the derivative, if there is one."""
    name = type(linear.physics).__name__
    with torch.no_grad():
        like = linear(_normal(linear, 2))
    y = Streams(1, [0, 1])(like)
    try:
        with torch.no_grad():
            own = linear.call.adjoint(y)
    except Exception:  # many have none without img_size
        return
    try:
        derived = LinearOperator.adjoint(linear, y)
    except RuntimeError:  # torch cannot differentiate it: a projector outside torch
        linear.has_vjp, linear.own_adjoint = False, True
        x = _normal(linear, 2)
        with torch.no_grad():
            gap = _gap(_inner(linear(x), y), _inner(x, own))
        if not gap < TOLERANCE:
            warn(
                f"the adjoint of {name} is not the transpose of its A (inner products differ by {gap:.1e}), and A has no "
                "derivative to replace it: solves and gradients inherit that error",
            )
        return
    gap = _gap(own, derived) if own.shape == derived.shape else math.inf
    linear.own_adjoint = gap < TOLERANCE
    if not linear.own_adjoint:
        warn(
            f"the adjoint of {name} is not the transpose of its A (relative error {gap:.1e}); the derivative of A takes "
            "its place",
        )


def _kinds(module: Any) -> set[str]:
    """Returns the names of the deepinv classes that something is of."""
    return {c.__name__ for c in type(module).__mro__ if c.__module__.split(".")[0] == "deepinv"}


def _device(module: nn.Module) -> torch.device:
    table = next(module.buffers(), next(module.parameters(), None))
    return torch.device("cpu") if table is None else table.device


def _in_shape(physics: nn.Module, in_shape: Sequence[int] | None) -> torch.Size:
    shape = in_shape if in_shape is not None else getattr(physics, "img_size", None)
    shape = getattr(physics, "imsize", None) if shape is None else shape
    if shape is None:
        raise OptionError(f"{type(physics).__name__} does not say its img_size: give in_shape=, without batch axis")
    return torch.Size([shape] if isinstance(shape, int) else [int(n) for n in shape])


def _normal(A: Operator, rows: int) -> Tensor:
    return Streams(0, range(rows))(torch.empty(rows, *A.in_shape, dtype=A.in_dtype, device=_device(A)))


def _gap(a: Tensor, b: Tensor) -> float:
    size = b.abs().square().sum().sqrt().clamp(min=1e-30)
    return ((a - b).abs().square().sum().sqrt() / size).item()


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.conj() * b).real.flatten(1).sum(1)
