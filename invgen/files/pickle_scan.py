"""Counts what a pickle asks for before it is opened: a few bytes of one can ask for gigabytes of memory, or for years.

The pickle is walked through as the unpickler would walk, with sizes in place of objects. Three things are bounded by the
length of the file: the slots of its memo, the objects it makes, and the objects that a walk through what it makes would
meet, which doubles with each list that holds another one twice.
"""

import pickletools
from typing import Any, Protocol

from invgen.validation.limits import check_size

CODES = {op.code.encode("latin1"): op for op in pickletools.opcodes}
WIDTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
# how many objects go into the one below them; None: those down to the mark
FILL = {"APPEND": 1, "APPENDS": None, "SETITEM": 2, "SETITEMS": None, "ADDITEMS": None, "BUILD": 1}
LARGE = ("EMPTY_SET", "EMPTY_DICT", "FROZENSET", "DICT", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST")
OBJECT, CONTAINER = 100, 240  # bytes of a small object, and of a set or dict, with what refers to it
WALK, WALK_PER_OBJECT = 10_000_000, 100  # objects met in a walk; whole checkpoints nest about ten deep and share little


class Stream(Protocol):
    """The stream that a pickle is read from; `read` gives no more than there is, whatever is asked for."""

    def read(self, n: int = ..., /) -> bytes: ...
    def readline(self) -> bytes: ...
    def tell(self) -> int: ...
    def seek(self, position: int, /) -> Any: ...


def check(stream: Stream, length: int, what: str) -> None:
    """Walks through one pickle, and leaves the stream behind it.

    Args:
        stream: open at the first byte of the pickle.
        length: bytes in the whole stream.
        what: the file, for the sentence.

    Raises:
        FileError: it asks for more memory than a file may take.
        ValueError: it is no whole pickle, or what it makes would take too long to walk through.
    """
    mark: list[int] = []
    stack: list[list[int]] = []  # of each object one cell, its size in objects; shared as the objects are
    memo: dict[int, list[int]] = {}
    made = cost = walk = 0
    while True:
        op = CODES.get(stream.read(1))
        if op is None:
            raise ValueError("the pickle breaks off" if stream.tell() >= length else "it is not a pickle")
        name, argument = op.name, _argument(op, stream, length)
        made += 1
        if name == "STOP":
            return
        if name == "MARK":
            stack.append(mark)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            place = len(memo) if name == "MEMOIZE" else argument
            if not 0 <= place <= made:  # written in order, so that a larger one only asks for memory
                raise ValueError(f"slot {place} of the memo of a pickle of {length} bytes")
            memo[place] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in FILL:
            parts = _popped(stack, FILL[name], mark)
            size = sum(cell[0] for cell in parts)
            stack[-1][0] += size
            walk += size
        else:
            before, after = op.stack_before, op.stack_after
            size = 0
            if before:
                count = None if pickletools.markobject in before else len(before)
                size = sum(cell[0] for cell in _popped(stack, count, mark))
            if after:
                stack.append([1 + size])
                walk += size
                cost += CONTAINER if name in LARGE else OBJECT
        if walk > WALK + WALK_PER_OBJECT * made:
            raise ValueError("its lists hold each other so often that they could not be walked through")
        if made % 4096 == 0:
            check_size(cost, what)


def _popped(stack: list[list[int]], count: int | None, mark: list[int]) -> list[list[int]]:
    """Takes `count` cells from the stack, or those above the last mark and the mark."""
    if count is None:
        at = next((k for k in range(len(stack) - 1, -1, -1) if stack[k] is mark), None)
        if at is None:
            raise ValueError("the pickle has no mark where it needs one")
        parts = stack[at + 1 :]
        del stack[at:]
        return parts
    if count > len(stack):
        raise ValueError("the pickle takes more than it made")
    parts = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return [part or [1] for part in parts]


def _argument(op: Any, stream: Stream, length: int) -> int:
    """Skips the argument of an opcode; returns the slot of a memo opcode, -1 for all others."""
    if op.arg is None:
        return -1
    n = op.arg.n
    if n == pickletools.UP_TO_NEWLINE:
        lines = [stream.readline() for _ in range(2 if op.name in ("GLOBAL", "INST") else 1)]
        if not lines[-1].endswith(b"\n"):
            raise ValueError("the pickle breaks off")
        return int(lines[0]) if op.name in ("PUT", "GET") else -1
    raw = stream.read(n if n >= 0 else WIDTHS[n])
    number = int.from_bytes(raw, "little")
    if n < 0:
        end = stream.tell() + number
        if end > length:
            raise ValueError("the pickle breaks off")
        stream.seek(end)
    elif len(raw) < n:
        raise ValueError("the pickle breaks off")
    return number
