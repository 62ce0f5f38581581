"""Operators and samplers on a GPU beside the processor: `invgen bench study gpu`, in less than ten minutes.

Each operator and sampler runs on the processor and on the GPU, on the same input: the table has both times and how far the
results are apart, relative to their size. A difference beyond its bound is marked, and the study ends with an error. Then
come half precision and a minute of training. Noise differs between devices, so samplers get that of the processor.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from invgen import samplers
from invgen.errors import InvgenError, UnsupportedError
from invgen.forward import LinearOperator
from invgen.inference.precision import trial
from invgen.numerics.precision import cast
from invgen.numerics.random import Streams
from invgen.operators import (
    MRI,
    Blur,
    Downsample,
    FanBeamCT,
    Mask,
    MultiCoilMRI,
    ParallelBeamCT,
    birdcage_maps,
    equispaced_mask,
    gaussian_kernel,
)
from invgen.posterior import Posterior
from invgen.priors import load

# single precision and other orders of sums; a sampler passes its network a few dozen times
BOUNDS = {"operator": 1e-4, "solve": 1e-3, "sampler": 2e-2}
SAMPLERS = ("DPS", "AdaptivePiGDM", "MMPS", "DiffPIR", "DDRM", "AdaptiveDAPS", "PnPDM", "LinearisedTDS")
MINUTES = 1.0  # of training
PHOTO = (3, 128, 128)


@dataclass
class Row:
    """A line of the table: seconds on either device, how far the results are apart, and how far they may be."""

    what: str
    cpu: float
    gpu: float
    apart: float
    bound: float

    @property
    def wrong(self) -> bool:
        """Whether the results differ by more than they may; no comparison holds for a nan."""
        return not self.apart <= self.bound


def seconds(call: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """Returns what the second call gives, and its seconds; the first sets up."""
    call()
    _wait()
    begin = time.perf_counter()
    out = call()
    _wait()
    return out, time.perf_counter() - begin


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def beside(what: str, bound: float, calls: Sequence[Callable[[], Tensor]]) -> Row:
    """Returns the row of two calls, on the processor and on the GPU."""
    (a, slow), (b, fast) = (seconds(call) for call in calls)
    b = b.to(a.device)
    apart = (torch.linalg.vector_norm(b - a) / torch.linalg.vector_norm(a).clamp(min=1e-30)).item()
    return Row(what, slow, fast, apart, bound)


def operators() -> dict[str, Callable[[], LinearOperator]]:
    """Returns operators by their names, and how to make each."""
    lines = equispaced_mask(320, 4)
    return {
        "Blur": lambda: Blur((3, 512, 512), gaussian_kernel(3.0)),
        "Blur reflect": lambda: Blur((3, 512, 512), gaussian_kernel(3.0), "reflect"),
        "Downsample": lambda: Downsample((3, 512, 512), 4),
        "Mask": lambda: Mask.random((3, 512, 512), 0.3, seed=0),
        "MRI": lambda: MRI((2, 320, 320), lines),
        "MultiCoilMRI": lambda: MultiCoilMRI((2, 320, 320), lines, birdcage_maps((16, 320, 320))),
        "ParallelBeamCT": lambda: ParallelBeamCT((1, 256, 256), 60),
        "FanBeamCT": lambda: FanBeamCT((1, 256, 256), 60, source_origin=400.0, origin_det=200.0),
    }


def of_operators(device: str) -> Iterator[Row]:
    """Yields forward, adjoint and solve of each operator."""
    for name, make in operators().items():
        both = [make(), make().to(device)]
        x = torch.randn(2, *both[0].in_shape, generator=torch.Generator().manual_seed(0))
        y = both[0](x)
        calls: dict[str, Callable[[LinearOperator, Tensor, Tensor], Tensor]] = {
            "": lambda A, x, y: A(x),
            ", adjoint": lambda A, x, y: A.adjoint(y),
            ", solve": lambda A, x, y: A.weighted_adjoint(y, 1.0, 0.1),
        }
        for kind, call in calls.items():
            bound = BOUNDS["solve" if kind == ", solve" else "operator"]
            given = [(A, x.to(where), y.to(where)) for A, where in zip(both, ("cpu", device), strict=True)]
            yield beside(name + kind, bound, [partial(call, *arguments) for arguments in given])


class FromProcessor(Streams):
    """Noise of the processor on any device."""

    def __call__(self, like: Tensor) -> Tensor:
        return super().__call__(torch.empty(like.shape, dtype=like.dtype)).to(like.device)


def of_samplers(device: str) -> Iterator[Row]:
    """Yields ten steps of samplers on deblurring of noise, with the trained network."""
    photo, A = load("photo", PHOTO), Blur(PHOTO, gaussian_kernel(2.0))
    y = A(0.3 * torch.randn(PHOTO, generator=torch.Generator().manual_seed(0)))
    posts = [Posterior(photo, A, 0.1, y), Posterior(load("photo", PHOTO).to(device), A.to(device), 0.1, y.to(device))]
    for name in SAMPLERS:
        sampler = samplers.catalogue()[name.lower()](steps=10)
        with (
            mock.patch("invgen.sampler.streams", FromProcessor),
            mock.patch("invgen.samplers.smc.base.streams", FromProcessor),
        ):
            yield beside(name, BOUNDS["sampler"], [partial(sampler, post, 2) for post in posts])


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table; exits with 1 where a result on the GPU differs from the processor's."""
    parser = argparse.ArgumentParser(prog="invgen bench study gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cuda", help="where to run; cpu tries the study itself")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of training; 0 leaves it out")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError("no CUDA device is here; the study needs one, or --device cpu to try it")
    wrong: list[str] = []
    print("| what | CPU s | GPU s | apart | at most | |\n|---|---:|---:|---:|---:|---|")
    for part in (of_operators, of_samplers):
        try:
            for row in part(options.device):
                mark = "DIFFERS" if row.wrong else ""
                wrong += [row.what] * row.wrong
                print(
                    f"| {row.what} | {row.cpu:.3g} | {row.gpu:.3g} | {row.apart:.1e} | {row.bound:.0e} | {mark} |",
                    flush=True,
                )
        except (InvgenError, RuntimeError) as error:
            wrong.append(part.__name__)
            print(f"| {part.__name__} | | | | | FAILS: {str(error).splitlines()[0]:.200} |", flush=True)
    for name in ("photo", "ct"):
        prior: Any = load(name).to(options.device)
        gain, added = trial(prior, cast(prior))
        print(f"\n`{name}` in bfloat16: {gain:.2f} times as fast, {100 * added:.2f} % more squared error")
    if options.minutes:
        views(options.device, options.minutes)
    if wrong:
        sys.exit(f"different on the GPU: {', '.join(wrong)}")


def views(device: str, minutes: float) -> None:
    """Trains the network of `photo` on noise and prints how many views a second it saw."""
    from invgen.priors.checkpoints.networks.unet import UNet

    net: Any = UNet(3).to(device)
    net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    x = torch.randn(64, 3, 64, 64, device=device).contiguous(memory_format=torch.channels_last)
    losses, count, begin = [], 0, time.perf_counter()
    while time.perf_counter() - begin < 60 * minutes:
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            loss = (net(x, torch.zeros(len(x), device=device)) - x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses, count = [*losses[-9:], loss.item()], count + 1
    rate = count * len(x) / (time.perf_counter() - begin)
    print(f"\ntraining: {rate:.0f} views of 3x64x64 a second, loss {losses[-1]:.4f} after {count} steps")
    if not losses[-1] < 1:  # the variance of what it learns to copy
        sys.exit("training on the GPU does not learn")
