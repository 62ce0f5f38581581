"""Steps, draws, networks and operators beside the plain torch that they stand for: part of `invgen bench study speed`.

All candidates take turns in one process on one thread, in processor time: the ratios carry over to other machines. Beside
each stands the limit that it is held to. deepinv and azula are timed where they are installed.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from invgen.benchmarks.studies.loop_peers import SIZES, Row, steps, turns
from invgen.inference.precision import trial
from invgen.numerics.precision import cast
from invgen.numerics.random import Streams
from invgen.operators import Blur, MultiCoilMRI, birdcage_maps, equispaced_mask, gaussian_kernel
from invgen.priors import load
from invgen.priors.checkpoints.networks.unet import UNet


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
