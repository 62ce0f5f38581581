"""Steps, draws, networks and operators beside the plain torch that they stand for: part of `invgen bench study speed`.

All candidates take turns in one process on one thread, in processor time: the ratios carry over to other machines. Beside
each stands the limit that it is held to. deepinv and azula are timed where they are installed, on one deblurring problem
with a network that does nothing, D(x) = x / 2, called as each package calls its own: what is measured is the loop.
Operations are torch's; memory is the most that tensors of a call hold at once.
"""

import argparse
import importlib
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from invgen import samplers
from invgen.benchmarks.methods import peers
from invgen.benchmarks.methods._peer import Peer
from invgen.diffusion import Denoiser, Sigma
from invgen.inference.precision import trial
from invgen.numerics.memory import peak
from invgen.numerics.precision import cast
from invgen.numerics.random import Streams
from invgen.operators import Blur, MultiCoilMRI, birdcage_maps, equispaced_mask, gaussian_kernel, to_deepinv
from invgen.posterior import Posterior
from invgen.priors import load
from invgen.priors.checkpoints.networks.unet import UNet

Row = tuple[str, float, str, float, str]  # what, its ms, beside what, the ratio or number, the limit
SIZES = ((1, 3, 64, 64), (8, 3, 256, 256))
# of a sampler, the same in other packages
SAME: dict[str, dict[str, type[Peer]]] = {
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


def draws(rounds: int) -> Iterator[Row]:
    """Yields a draw of noise over torch.randn."""
    for shape in SIZES:
        streams, like = Streams(0, range(shape[0])), torch.empty(shape)
        many = range(max(1, 2**20 // like.numel()))  # a draw takes microseconds
        calls = {
            "ours": lambda streams=streams, like=like, many=many: [streams(like) for _ in many],
            "torch": lambda shape=shape, many=many: [torch.randn(shape) for _ in many],
        }
        ms = turns(calls, rounds)
        yield f"noise {shape}", ms["ours"] / len(many), "torch.randn", ms["ours"] / ms["torch"], "1.2"


def precision() -> Iterator[Row]:
    """Yields how many times as fast networks are in bfloat16, and the share of the squared error that it adds."""
    for name in ("photo", "ct", "mr"):
        prior = load(name)
        gain, added = trial(prior, cast(prior))
        yield f"bfloat16, `{name}`", float("nan"), "float32", 1 / gain, ""
        yield f"bfloat16, `{name}`: added squared error", float("nan"), "the denoiser's", added, "0.1"


def operators(rounds: int) -> Iterator[Row]:
    """Yields operators over the torch functions that do their work."""
    maps = birdcage_maps((16, 320, 320))
    A = MultiCoilMRI((2, 320, 320), equispaced_mask(320, 4), maps)
    x, coils = torch.randn(1, 2, 320, 320), torch.randn(1, 16, 320, 320, dtype=torch.complex64)
    y = A(x)
    ms = turns({"A": lambda: A(x), "adjoint": lambda: A.adjoint(y), "plain": lambda: torch.fft.fft2(coils)}, rounds)
    for name in ("A", "adjoint"):
        yield f"MultiCoilMRI 16x320x320, {name}", ms[name], "its FFTs", ms[name] / ms["plain"], "1.5"
    image = torch.randn(1, 3, 512, 512)
    for size in (3, 5, 9):
        blur = Blur(image.shape[1:], gaussian_kernel(size / 6, size), "reflect")
        kernel = gaussian_kernel(size / 6, size).float().flip(0, 1).expand(3, 1, size, size).contiguous()
        pad = [size // 2] * 4
        plain = lambda kernel=kernel, pad=pad: F.conv2d(F.pad(image, pad, mode="reflect"), kernel, groups=3)  # noqa: E731
        ms = turns({"ours": lambda blur=blur: blur(image), "plain": plain}, rounds)
        yield f"Blur {size}x{size} reflect, 512", ms["ours"], "conv2d", ms["ours"] / ms["plain"], "1"


def training(rounds: int) -> Iterator[Row]:
    """Yields a view of training `photo`'s network: 8 in float32 a step, or 32 in bfloat16 with a fused optimiser."""
    calls: dict[str, Callable[[], object]] = {}
    for name, batch, half in (("before", 8, False), ("now", 32, True)):
        net: Any = UNet(3)
        net.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(net.parameters(), fused=half)
        x = torch.randn(batch, 3, 64, 64).contiguous(memory_format=torch.channels_last)

        def step(net: Any = net, optimizer: torch.optim.AdamW = optimizer, x: Tensor = x, half: bool = half) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = (net(x, torch.zeros(len(x))) - x).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        calls[name] = step
    ms = turns(calls, rounds)
    now = ms["now"] / 32
    yield "training step, a view, bfloat16, 32 and fused", now, "float32, 8", now / (ms["before"] / 8), "0.4"


_IMPORT = "import time; begin = time.process_time(); {}; print(time.process_time() - begin)"


def first_use(rounds: int) -> Iterator[Row]:
    """Yields the processor time of imports and of loading a small prior, each in processes of its own."""
    code = {
        "torch": "import torch",
        "import of operators, priors, solve": "import invgen; from invgen import operators, priors; invgen.solve",
        'load("digits")': 'from invgen import priors; priors.load("digits")',
    }

    def seconds(text: str) -> float:
        command = [sys.executable, "-c", _IMPORT.format(text)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    found: dict[str, list[float]] = {name: [] for name in code}
    for _ in range(rounds):
        for name, text in code.items():
            found[name].append(seconds(text))
    least = {name: min(values) for name, values in found.items()}
    for name in list(code)[1:]:
        yield name, 1e3 * least[name], "import torch", least[name] / least["torch"], "1.15"


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="invgen bench study loop-speed", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds; medians are printed")
    rounds = parser.parse_args(argv).rounds
    torch.set_num_threads(1)
    print("## the loop, on one thread\n\n| what | CPU ms | beside | ratio or number | limit |\n|---|---:|---|---:|---:|")
    parts = (draws(rounds), steps(rounds), precision(), operators(rounds), training(rounds), first_use(rounds))
    for part in parts:
        for what, ms, beside, ratio, limit in part:
            cells = ("" if n != n else f"{n:.3g}" for n in (ms, ratio))
            print("| " + " | ".join([what, next(cells), beside, next(cells), limit]) + " |", flush=True)
