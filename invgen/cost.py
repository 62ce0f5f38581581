"""The cost of a run: evaluations of networks, applications of operators, linear solves, seconds."""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from invgen.diffusion import Prior
from invgen.forward import LinearOperator, Operator
from invgen.linalg import recorded
from invgen.pushforward import Generator, StandardNormal

SOLVERS = ("solve", "weighted_adjoint", "prox", "pinv")  # methods of a linear operator that solve a linear system


@dataclass
class Cost:
    """The cost of a run.

    Attributes:
        nfe: network evaluations per sample.
        seconds: of wall time.
        vjps: products of a vector with the Jacobian of the network, per sample.
        operator_calls: applications of A and of its adjoint, by call or by differentiation, per sample. What an operator
            does inside an exact solve or a singular value decomposition of its own is not among them.
        iterations: of each iterative linear solve, by the solver's name: {"CG": [12, 11, ...]}.
        exact_solves: how many linear systems with the operator were solved without iterations.
        max_batch: how many signals were worked on at once, where memory was too small for all and none was given; `split`:
            why, in words.
    """

    nfe: float = 0.0
    seconds: float = 0.0
    vjps: float = 0.0
    operator_calls: float = 0.0
    iterations: dict[str, list[int]] = field(default_factory=dict)
    exact_solves: int = 0
    max_batch: int | None = None
    split: str = ""

    @property
    def inner(self) -> str:
        """Which linear solvers ran inside, in words: "40 exact solves", "40 solves by CG in 12 iterations (at most 31)"."""
        parts = [f"{self.exact_solves} exact solve{'s' * (self.exact_solves > 1)}"] if self.exact_solves else []
        for name, counts in self.iterations.items():
            middle, most = round(statistics.median(counts)), max(counts)
            more = f" (at most {most})" if most > middle else ""
            parts.append(
                f"{len(counts)} solve{'s' * (len(counts) > 1)} by {name} in {middle} iteration{'s' * (middle != 1)}{more}"
            )
        return ", ".join(parts)

    def add(self, counter: "Counter", samples: int, seconds: float) -> None:
        """Adds what a counter has seen while `samples` samples were drawn."""
        each = 1 / max(samples, 1)
        self.nfe += counter.rows * each
        self.vjps += counter.vjps * each
        self.operator_calls += counter.operator_rows * each
        self.seconds += seconds
        self.exact_solves += counter.exact_solves
        for name, iterations in counter.solves:
            self.iterations.setdefault(name, []).append(iterations)


@contextmanager
def counted(prior: Prior, A: Operator) -> "Iterator[Counter]":
    """Yields a `Counter` of what passes through the networks of a prior and through an operator within the block."""
    with recorded() as solves:
        counter = Counter(prior, A, solves)
        try:
            yield counter
        finally:
            counter.remove()


@contextmanager
def charged(cost: Cost | None, prior: Prior, A: Operator, samples: int) -> Iterator[None]:
    """Adds what the block uses, and the time it takes, to a cost.

    Args:
        cost: None counts nothing.
        prior, A: whose evaluations are counted.
        samples: how many samples the block draws.
    """
    begin = time.perf_counter()
    with counted(prior, A) as counter:
        yield
    if cost is not None:
        cost.add(counter, samples, time.perf_counter() - begin)


class Counter:
    """Counts the rows that pass through the networks of a prior and through an operator, forwards and backwards.

    By hooks that are removed afterwards. A prior made of others (rescaled, guided by a class, a flow) is counted by what it
    is made of; a decoder counts, and so does the denoiser of its latent codes.

    Attributes:
        rows, vjps, operator_rows: of networks, of their pullbacks, of the operator and its adjoint.
        solves: (name, iterations) of each iterative solve; exact_solves: calls of A.solve and the like without any.
    """

    def __init__(self, prior: Prior, A: Operator, solves: list[tuple[str, int]]) -> None:
        self.rows, self.vjps, self.operator_rows, self.exact_solves = 0, 0, 0, 0
        self.A, self.solves, self._depth = A, solves, 0
        parts = [m for m in prior.modules() if isinstance(m, Prior) and not isinstance(m, StandardNormal)]
        leaves = [m for m in parts if not any(other is not m and other in parts for other in m.modules())]
        decoders = [m for m in parts if isinstance(m, Generator) and m.network and m not in leaves]
        self._handles = [m.register_forward_hook(self._count) for m in leaves + decoders]
        self._handles.append(A.register_forward_hook(self._count_operator))
        self._replaced: list[str] = []
        if isinstance(A, LinearOperator):
            # an adjoint that is derived differentiates `forward`, and is counted there
            if type(A).adjoint is not LinearOperator.adjoint:
                self._replace("adjoint", self._adjoint)
            for name in SOLVERS:
                self._replace(name, self._solver(name))

    def _replace(self, name: str, method: Callable[..., Tensor]) -> None:
        if name not in vars(self.A):  # one that is set on the object itself stays
            setattr(self.A, name, method)
            self._replaced.append(name)

    def _count(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        self.rows += len(output)
        if output.requires_grad:
            output.register_hook(self._count_vjp)

    def _count_vjp(self, gradient: Tensor) -> None:
        self.vjps += len(gradient)

    def _count_operator(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        self._applied(output)
        if output.requires_grad:
            output.register_hook(self._applied)

    def _applied(self, output: Tensor) -> None:
        self.operator_rows += output.numel() // max(math.prod(self.A.out_shape), 1)

    def _adjoint(self, y: Tensor) -> Tensor:
        assert isinstance(self.A, LinearOperator)  # only then is this put in place
        self._applied(y)
        return type(self.A).adjoint(self.A, y)

    def _solver(self, name: str) -> Callable[..., Tensor]:
        """Returns a method that counts as an exact solve where nothing iterated inside; one inside another is not
        counted twice."""

        def solve(*args: object, **kwargs: object) -> Tensor:
            before, self._depth = len(self.solves), self._depth + 1
            try:
                return getattr(type(self.A), name)(self.A, *args, **kwargs)
            finally:
                self._depth -= 1
                if self._depth == 0 and len(self.solves) == before:
                    self.exact_solves += 1

        return solve

    def remove(self) -> None:
        """Takes the hooks away."""
        for handle in self._handles:
            handle.remove()
        for name in self._replaced:
            delattr(self.A, name)
