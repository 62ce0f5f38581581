"""How kernels are compiled, and their sums over lanes: vectors of neighbouring values."""

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_vectors: Any = intrinsic  # what it decorates takes no `typing` when it is called, which type checkers cannot see


def compiled(function: Any) -> Any:
    """Compiles at the first call, without the interpreter's lock; kept on disk where a folder can be written."""
    try:
        return njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})(function)
    except RuntimeError:  # no folder to keep it in
        return njit(nogil=True, error_model="numpy", fastmath={"contract"})(function)


def _vector(context: Any, builder: Any, kind: Any, array: Any, start: Any, lanes: int, number: int) -> Any:
    """Returns the pointer to the `number`-th vector of `lanes` values from array[start] on."""
    data = context.make_array(kind)(context, builder, array).data
    scalar = context.get_data_type(kind.dtype)
    pointer = builder.gep(data, [builder.add(start, context.get_constant(types.intp, number * lanes))])
    return builder.bitcast(pointer, ir.VectorType(scalar, lanes).as_pointer())


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    vector = ir.VectorType(value.type, lanes)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    )


@_vectors
def collect(typing: Any, out: Any, o: Any, x: Any, k: Any, w0: Any, w1: Any, lanes: Any) -> Any:
    """Adds out[o] += w0 x[k] + w1 x[k + 1], all of them vectors of len(lanes) neighbouring values.

    Args:
        typing: numba's context.
        out, o: the sums and the place of one.
        x, k: the values and the place of the first.
        w0, w1: the weights.
        lanes: a tuple as long as the lanes are many.
    """
    signature = types.void(out, types.intp, x, types.intp, out.dtype, out.dtype, lanes)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n, size = len(lanes), out.dtype.bitwidth // 8
        target = _vector(context, builder, out, args[0], args[1], n, 0)
        taps = [builder.load(_vector(context, builder, x, args[2], args[3], n, t), align=size) for t in (0, 1)]
        total = builder.load(target, align=size)
        for tap, weight in zip(taps, args[4:6], strict=True):
            product = builder.fmul(tap, _splat(builder, weight, n), flags=("contract",))
            total = builder.fadd(total, product, flags=("contract",))
        builder.store(total, target, align=size)
        return context.get_dummy_value()

    return signature, generate


@_vectors
def distribute(typing: Any, x: Any, k: Any, y: Any, o: Any, w0: Any, w1: Any, lanes: Any) -> Any:
    """Adds x[k] += w0 y[o], x[k + 1] += w1 y[o], all of them vectors of len(lanes) neighbouring values.

    Args:
        typing: numba's context.
        x, k: the sums and the place of the first.
        y, o: the values and the place of one.
        w0, w1: the weights.
        lanes: a tuple as long as the lanes are many.
    """
    signature = types.void(x, types.intp, y, types.intp, x.dtype, x.dtype, lanes)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n, size = len(lanes), x.dtype.bitwidth // 8
        value = builder.load(_vector(context, builder, y, args[2], args[3], n, 0), align=size)
        targets = [_vector(context, builder, x, args[0], args[1], n, t) for t in (0, 1)]
        old = [builder.load(target, align=size) for target in targets]
        for before, target, weight in zip(old, targets, args[4:6], strict=True):
            product = builder.fmul(value, _splat(builder, weight, n), flags=("contract",))
            builder.store(builder.fadd(before, product, flags=("contract",)), target, align=size)
        return context.get_dummy_value()

    return signature, generate
