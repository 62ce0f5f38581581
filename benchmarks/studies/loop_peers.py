"""A step of a sampler beside that of the same paper in the packages that are installed: part of `loop-speed`.

All solve one deblurring problem with a network that does nothing, D(x) = x / 2, called as each package calls its own: what
is measured is the loop. Operations are torch's. Memory is the most that tensors of a call hold at once.
"""

import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from invgen import samplers
from invgen.benchmarks.methods import peers
from invgen.diffusion import Denoiser, Sigma
from invgen.numerics.memory import peak
from invgen.operators import Blur, gaussian_kernel, to_deepinv
from invgen.posterior import Posterior

Row = tuple[str, float, str, float, str]  # what, its ms, beside what, the ratio or number, the limit
SIZES = ((1, 3, 64, 64), (8, 3, 256, 256))
# of a sampler, the same in other packages
SAME: dict[str, dict[str, type[peers.Peer]]] = {
    "DPS": {"deepinv": peers.DeepinvDPS, "azula": peers.AzulaDPS},
    "PiGDM": {"deepinv": peers.DeepinvPiGDM, "azula": peers.AzulaPiGDM},
    "DDRM": {"deepinv": peers.DeepinvDDRM},
    "DiffPIR": {"deepinv": peers.DeepinvDiffPIR},
}
Steps = Callable[[int], object]  # makes so many steps


class Count(TorchDispatchMode):
    """Counts the operations of torch."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return func(*args, **(kwargs or {}))


def operations(call: Callable[[], object]) -> int:
    """Returns the number of torch's operations in a call."""
    with Count() as count:
        call()
    return count.number


def turns(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Returns the median milliseconds of each candidate, which take turns; the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for k in range(rounds + 1):
        for name, call in candidates.items():
            begin = time.process_time()
            call()
            if k:
                times[name].append(1e3 * (time.process_time() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


class Half(Denoiser):
    """D(x) = x / 2: what a step costs beside its network."""

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        return 0.5 * x


def problem(shape: tuple[int, ...]) -> Posterior[Any, Any, Any]:
    """Returns deblurring under a network that does nothing.

    Args:
        shape: (rows, *signal).
    """
    prior = Half(shape[1:], sigma_min=0.01, sigma_max=1.0, value_range=(-1, 1), data_mean=0.0, data_std=0.5)
    A = Blur(prior.shape, gaussian_kernel(1.0, 9))
    return Posterior(prior, A, 0.05, A(torch.zeros(prior.shape)))


def ours(name: str, post: Posterior[Any, Any, Any], rows: int) -> Steps:
    """Returns a sampler of invgen on the problem."""
    return lambda steps: getattr(samplers, name)(steps=steps)(post, rows)


def deepinvs(kind: type[Any], post: Posterior[Any, Any, Any], rows: int) -> Steps:
    """Returns a sampler of deepinv on the problem, without what invgen's adapter does for units.

    Args:
        kind: of `invgen.benchmarks.methods.peers`.
        post: the problem.
        rows: signals at once.
    """
    dinv, physics = importlib.import_module("deepinv"), to_deepinv(post.A, post.noise)
    batch = Posterior(post.prior, post.A, post.noise, post.y.expand(rows, *post.y.shape))

    class Nothing(nn.Module):
        def forward(self, x: Tensor, sigma: Any = None, **kwargs: Any) -> Tensor:
            return 0.5 * x

    def run(steps: int) -> Tensor:
        with torch.no_grad():
            return kind(steps=steps).restore(dinv, batch, physics, Nothing())

    return run


def azulas(kind: type[Any], post: Posterior[Any, Any, Any], rows: int) -> Steps:
    """Returns a sampler of azula on the problem; arguments as of `deepinvs`."""
    denoise, noise = (importlib.import_module(f"azula.{name}") for name in ("denoise", "noise"))

    class Nothing(denoise.Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = noise.VPSchedule()

        def forward(self, x_t: Tensor, t: Tensor) -> Any:
            return denoise.DiracPosterior(mean=0.5 * x_t)

    net, y = Nothing(), post.y.expand(rows, *post.y.shape)

    def run(steps: int) -> Tensor:
        return kind(steps=steps).sampler(net, y, post.A, post)(torch.randn(rows, *post.prior.shape))

    return run


PACKAGES = {"deepinv": deepinvs, "azula": azulas}


def steps(rounds: int) -> Iterator[Row]:
    """Yields operations, time and memory of a step of ours, each beside that of every package that is installed."""
    there = [name for name in PACKAGES if importlib.util.find_spec(name) is not None]
    for (name, same), shape in ((item, shape) for item in SAME.items() for shape in SIZES):
        post, rows = problem(shape), shape[0]
        named = {"ours": ours(name, post, rows)}
        named |= {package: PACKAGES[package](kind, post, rows) for package, kind in same.items() if package in there}
        few, many = (4, 44) if rows == 1 else (2, 4)
        count = {package: (operations(lambda f=f: f(6)) - operations(lambda f=f: f(2))) / 4 for package, f in named.items()}
        held = {package: peak(lambda f=f: f(2)) / 2**20 for package, f in named.items()}
        ms = turns({f"{package} {n}": lambda f=f, n=n: f(n) for package, f in named.items() for n in (few, many)}, rounds)
        step = {package: (ms[f"{package} {many}"] - ms[f"{package} {few}"]) / (many - few) for package in named}
        limit = "45" if (name, shape) == ("DPS", SIZES[0]) else ""
        yield f"{name} {shape}: operations of a step", float("nan"), "", count["ours"], limit
        yield f"{name} {shape}: peak, MB", float("nan"), "", held["ours"], ""
        yield f"{name} {shape}: a step", step["ours"], "", float("nan"), ""
        for package in list(named)[1:]:
            yield f"{name} {shape}: operations", float("nan"), f"{package}'s", count["ours"] / count[package], ""
            yield f"{name} {shape}: peak", float("nan"), f"{package}'s", held["ours"] / held[package], "1"
            yield f"{name} {shape}: a step", step["ours"], f"{package}'s", step["ours"] / step[package], "1"
