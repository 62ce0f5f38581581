"""Speed, as ratios of processor time on one thread: `invgen bench study speed`.

1. Each sampler over its network evaluations; the goal is 1.05. `invgen bench study speed --overhead FILE` measures
   this table alone and keeps its rows in FILE; benchmarks/data/overhead.csv was made so.
2. CT against ASTRA slice by slice, the sparse matrix and scikit-image (benchmarks/studies/ct_speed.py).
3. Blur, mask and downsample against the plain torch expression.
4. Peak memory against the number of samples or particles, with and without `max_batch`.
5. Noise, steps, half precision, training and first use, beside torch and their limits (benchmarks/studies/loop_speed.py).

A sampler and its network are timed in the same run; elsewhere times are medians over rounds in which all candidates take
turns. So a drift of the machine's speed cancels.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from invgen import samplers
from invgen.diffusion import Denoiser, Sigma
from invgen.forward import Operator
from invgen.noise import Noiseless
from invgen.operators import Blur, Downsample, Mask, gaussian_kernel
from invgen.posterior import Posterior
from invgen.priors.checkpoints.networks.unet import EDMDenoiser, UNet
from invgen.pushforward import Generator, StandardNormal
from invgen.sampler import Sampler
from invgen.samplers.unconditional.ancestral import Unconditional

_OPERATOR = ("forward", "adjoint", "solve", "prox", "pinv", "norm", "V", "Vt", "U", "Ut")


@dataclass
class Call:
    """One evaluation of a network on so many rows, and the products with its Jacobian that were taken there.

    Attributes:
        products: of first order; `second`: derivatives of such a product.
    """

    rows: int
    products: int = 0
    second: int = 0


class Tape:
    """A recording of a sampler's calls to its networks, and of its processor time in them and in its operator.

    Backward passes are seen by hooks at the output and the input of a network, wherever they are called from.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets the times and the calls."""
        self.network = self.operator = 0.0
        self.calls: list[Call] = []
        self._depth, self._begin, self._turned = 0, 0.0, 0.0

    def through(self, network: Callable[..., Tensor], x: Tensor, *rest: Sigma) -> Tensor:
        """Returns network(x, *rest), noted and timed."""
        call = Call(len(x))
        self.calls.append(call)
        differentiable = torch.is_grad_enabled() and x.requires_grad
        if differentiable:
            x = x.view_as(x)  # a tensor of this call alone, so that what arrives there has passed the network
            x.register_hook(partial(self._leave, call))
        begin = time.process_time()
        out = network(x, *rest)
        self.network += time.process_time() - begin
        if differentiable:
            out.register_hook(lambda _: self._enter(call))
        return out

    def _enter(self, call: Call, again: bool = False) -> None:
        call.products += not again
        call.second += again
        self._begin = time.process_time()

    def _leave(self, call: Call, gradient: Tensor) -> None:
        self.network += time.process_time() - self._begin
        if gradient.requires_grad:  # a product that will be differentiated itself: that pass comes in by the product
            gradient.register_hook(lambda _: self._enter(call, again=True))

    def time(self, A: Operator) -> Operator:
        """Returns A, whose own methods are timed from now on, and the passes of autograd back through them."""
        for name in _OPERATOR:
            if hasattr(A, name):
                setattr(A, name, partial(self._timed, getattr(A, name)))
        return A

    def _timed(self, f: Callable, *args: Any, **kwargs: Any) -> Any:
        if self._depth:  # one method of the operator calls another
            return f(*args, **kwargs)
        differentiable = [k for k, x in enumerate(args) if isinstance(x, Tensor) and x.requires_grad]
        if len(differentiable) == 1 and torch.is_grad_enabled():
            (k,) = differentiable
            x = args[k].view_as(args[k])
            x.register_hook(self._return)
            args = (*args[:k], x, *args[k + 1 :])
        self._depth = 1
        begin = time.process_time()
        try:
            out = f(*args, **kwargs)
        finally:
            self._depth = 0
            self.operator += time.process_time() - begin
        if isinstance(out, Tensor) and out.requires_grad and len(differentiable) == 1:
            out.register_hook(self._turn)
        return out

    def _turn(self, gradient: Tensor) -> None:
        self._turned = time.process_time()

    def _return(self, gradient: Tensor) -> None:
        self.operator += time.process_time() - self._turned


class Recorded(Denoiser):
    """A denoiser whose calls, and the products with its Jacobian, are noted on a tape."""

    def __init__(self, net: Denoiser, tape: Tape | None = None) -> None:
        super().__init__(
            net.shape,
            sigma_min=net.sigma_min,
            sigma_max=net.sigma_max,
            value_range=net.value_range,
            data_mean=net.data_mean,
            data_std=net.data_std,
        )
        self.prior, self.tape, self.mmse = net, tape or Tape(), net.mmse

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        return self.tape.through(self.prior, x, sigma)


class RecordedDecoder(Generator):
    """An untrained autoencoder of half the resolution, for samplers in a latent; its values do not matter here.

    Args:
        latent: the prior over codes.
        shape: of one signal.
        tape: records the calls.
        widths: of the networks.
    """

    def __init__(self, latent: Denoiser, shape: torch.Size, tape: Tape, widths: tuple[int, ...]) -> None:
        super().__init__(shape, latent, data_mean=latent.data_mean, data_std=latent.data_std)
        self.tape = tape
        self.nets = torch.nn.ModuleList(UNet(3, widths=widths, blocks=2) for _ in range(2)).requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        return self.tape.through(self._decode, z)

    def encode(self, x: Tensor) -> Tensor:
        return self.tape.through(self._encode, x)

    def _decode(self, z: Tensor) -> Tensor:
        x = F.interpolate(z, scale_factor=2)
        return x + self.nets[0](x, x.new_zeros(len(x)))

    def _encode(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x + self.nets[1](x, x.new_zeros(len(x))), 2)


def cpu(f: Callable[[], object]) -> float:
    begin = time.process_time()
    f()
    return time.process_time() - begin


def alternate(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Returns seconds of each candidate in each round, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for k in range(rounds + 1):
        for name, f in candidates.items():
            seconds = cpu(f)
            if k:
                times[name].append(seconds)
    return times


def ratio(a: list[float], b: list[float]) -> float:
    """Returns the median of the paired ratios."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def problems(
    net: Denoiser, tape: Tape, latent: Denoiser | None = None, widths: tuple[int, ...] = (32, 64)
) -> dict[str, Posterior]:
    """Returns problems of which each sampler gets the first that it accepts, at the shape of the prior.

    Args:
        net: the prior.
        tape: records the calls.
        latent: a denoiser of half the resolution; None for no problems with a latent.
        widths: of the decoder.
    """
    prior = Recorded(net, tape)
    down, mask = tape.time(Downsample(net.shape, 4)), tape.time(Mask.random(net.shape, 0.3, seed=0))
    generator = torch.Generator().manual_seed(0)
    clean = net.data_mean + net.data_std * torch.randn(1, *net.shape, generator=generator)
    out = {
        "downsample": Posterior(prior, down, 0.05, down(clean)[0]),
        "mask": Posterior(prior, mask, 0.05, mask(clean)[0]),
        "exact mask": Posterior(prior, mask, Noiseless(), mask(clean)[0]),
    }
    if latent is not None:
        codes = {"latent diffusion": Recorded(latent, tape), "generator": StandardNormal(latent.shape)}
        for name, prior in codes.items():
            out[name] = Posterior(RecordedDecoder(prior, net.shape, tape, widths), down, 0.05, down(clean)[0])
    return out


_SMALL = {"particles": 4, "candidates": 4, "leapfrogs": 2, "warm": 2, "iterations": 5, "repeat": 2, "repeats": 1}
_SMALL |= {"prior_steps": 4, "corrections": 2, "inner_steps": 4, "restarts": 1, "stages": 4}


def short(kind: type[Sampler], steps: int) -> Sampler:
    """Returns the sampler with its defaults but for the steps and what multiplies the evaluations of one."""
    options: dict[str, Any] = kind.options()
    larger: dict[str, Any] = {name: value for name, value in _SMALL.items() if name in options and options[name] > value}
    return kind(steps=steps, **larger)


def sampler_overhead(
    network: str, posts: dict[str, Posterior], tape: Tape, rounds: int, steps: int, batch: int, names: list[str] | None
) -> Iterator[dict[str, str]]:
    """Yields one row for each sampler on the first of `posts` that it accepts, `batch` samples (of 4 particles each).

    A sampler whose step takes many evaluations gets fewer steps, so that no run takes many more than others. All times are
    processor time. `own` is the overhead that samplers are judged by: all time but the operator's, over that of the
    networks, forwards and products with their Jacobians, in the same run. `whole` has the operator's time too, which is the
    problem's and not the sampler's: some spend most there by their nature.

    Args:
        network: its name.
        posts: the problems, by name.
        tape: records the calls.
        rounds: of which the fastest counts.
        steps, batch: of the runs.
        names: of the samplers; None for all.
    """
    for name, kind in samplers.catalogue().items():
        if names and name not in names:
            continue
        unconditional = issubclass(kind, Unconditional) and not kind.consistency
        fits = [p for p, post in posts.items() if unconditional or kind().refuses(post) is None]
        if not fits:
            print(f"no problem here fits {kind.__name__}", file=sys.stderr)
            continue
        post = posts[fits[0]].prior if unconditional else posts[fits[0]]
        shares: dict[str, list[float]] = {"whole": [], "own": []}

        def run(sampler: Sampler, post: Any = post, shares: dict[str, list[float]] = shares) -> float:
            tape.clear()
            whole = cpu(lambda: sampler(post, batch, seed=0))
            shares["whole"].append(whole / tape.network)
            shares["own"].append((whole - tape.operator) / tape.network)
            return whole

        run(short(kind, 2))
        # one network evaluation a step is the rule; where there are n, a step counts for n
        work = sum(c.rows * (1 + c.products) for c in tape.calls)
        sampler = short(kind, max(2, min(steps, 2 * 3 * steps * batch // work)))
        seconds = [run(sampler) for _ in range(rounds)]
        row = {
            "network": network,
            "sampler": kind.__name__,
            "problem": "prior" if unconditional else fits[0],
            "samples": batch,
            "forward": sum(c.rows for c in tape.calls),
            "backward": sum(c.rows * (c.products + c.second) for c in tape.calls),
            "milliseconds": f"{1e3 * statistics.median(seconds):.0f}",
            **{k: f"{statistics.median(v[1:]):.3f}" for k, v in shares.items()},
        }
        yield {k: str(v) for k, v in row.items()}


def overhead_table(
    path: Path | None, chosen: list[str], rounds: int, steps: int, batch: int, names: list[str] | None
) -> None:
    """Prints the table of `sampler_overhead` on the chosen networks, and keeps it in `path`.

    Rows are kept the moment they are measured; those of samplers that are not measured stay as they are.

    Args:
        path: the file; None to print only.
        chosen: the names of the networks.
        rounds, steps, batch, names: as for `sampler_overhead`.
    """
    from invgen.priors import load

    large = large_network((3, 64, 64))
    # name -> prior, prior of half the resolution, widths of the decoder to it
    networks = {
        "small": (load("photo"), load("photo", (3, 32, 32)), (32, 64)),
        "large": (large, large_network((3, 32, 32)), (64, 128)),
    }
    rows = {}
    if path is not None and path.exists():
        with path.open(newline="") as file:
            rows = {(row["network"], row["sampler"]): row for row in csv.DictReader(file)}
    for network in chosen:
        net, latent, widths = networks[network]
        millions = sum(p.numel() for p in net.parameters()) / 1e6
        title = f"samplers over their network, {network}: {millions:.1f}M parameters, {tuple(net.shape)}, batch {batch}"
        print(f"\n## {title}\n\n{_HEADER}", flush=True)
        tape = Tape()
        for row in sampler_overhead(network, problems(net, tape, latent, widths), tape, rounds, steps, batch, names):
            print("| " + " | ".join(list(row.values())[1:]) + " |", flush=True)
            rows[network, row["sampler"]] = row
            if path is not None:
                with path.open("w", newline="") as file:
                    writer = csv.DictWriter(file, list(row), lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(sorted(rows.values(), key=lambda r: (r["network"] != "small", r["sampler"].lower())))


_HEADER = (
    "| sampler | problem | samples | forward | backward | CPU ms | whole | own |\n|---|---|---:|---:|---:|---:|---:|---:|"
)


def operator_overhead(rounds: int, shape: tuple[int, ...] = (3, 256, 256), batch: int = 8) -> list[dict]:
    """Returns rows for forward and adjoint of the image operators over the plain torch expression of the same map."""
    x = torch.randn(batch, *shape)
    kernel = gaussian_kernel(1.0, 9)
    mask = Mask.random(shape, 0.3, seed=0)
    index = mask.mask.expand(shape).flatten().nonzero().flatten()
    blur, down = Blur(shape, kernel), Downsample(shape, 4)
    transfer = torch.fft.rfft2(
        torch.zeros(shape[1:]).index_put_((torch.arange(81) // 9, torch.arange(81) % 9), kernel.flatten().float())
    )

    def spread(y: Tensor) -> Tensor:
        return torch.zeros(len(y), x[0].numel()).index_copy_(1, index, y)

    plain = {
        "Blur 9x9 circular": (
            blur,
            lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * transfer, s=shape[1:]),
            lambda y: torch.fft.irfft2(torch.fft.rfft2(y) * transfer.conj(), s=shape[1:]),
        ),
        "Mask": (mask, lambda x: x.flatten(1).index_select(1, index), spread),
        "Downsample x4": (down, lambda x: F.avg_pool2d(x, 4), lambda y: F.interpolate(y / 16, scale_factor=4)),
    }
    rows = []
    for name, (A, forward, adjoint) in plain.items():
        y = A(x)
        for what, ours, bare, z in (("A", A, forward, x), ("adjoint", A.adjoint, adjoint, y)):
            # a call takes milliseconds: ten at a time, so that the clock's grain does not matter
            times = alternate(
                {
                    "ours": lambda ours=ours, z=z: [ours(z) for _ in range(10)],
                    "plain": lambda bare=bare, z=z: [bare(z) for _ in range(10)],
                },
                rounds,
            )
            seconds = statistics.median(times["ours"]) / 10
            rows.append({"what": f"{name}, {what}", "seconds": seconds, "ratio": ratio(times["ours"], times["plain"])})
    return rows


_MEMORY = """
import sys, torch
from invgen import Posterior, operators, priors, samplers
size, sampler = int(sys.argv[1]), eval(sys.argv[2], vars(samplers))
num_samples, max_batch = (int(a) or None for a in sys.argv[3:])
prior = priors.load("photo", (3, size, size))
A = operators.Downsample(prior.shape, 4)
sampler(Posterior(prior, A, 0.05, torch.zeros(A.out_shape)), num_samples, max_batch=max_batch)
# not resource.ru_maxrss, which a child inherits from the process that forked it
print(next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_memory() -> None:
    """Prints the peak resident memory (Linux) of a process that draws samples, by their number and the batch size."""
    print(
        "\n## peak memory with `photo` (a process each)\n\n"
        "| sampler | size | samples | max_batch | MB |\n|---|---|---:|---:|---:|"
    )
    runs = [(128, "AdaptivePiGDM(steps=2)", n, k) for n, k in ((2, 2), (8, 2), (32, 2), (8, 0), (32, 0))]
    runs += [(64, "LinearisedTDS(steps=2, particles=64)", n, k) for n, k in ((1, 4), (1, 16), (4, 16), (1, 0), (4, 0))]
    for size, sampler, num_samples, max_batch in runs:
        command = [sys.executable, "-c", _MEMORY, str(size), sampler, str(num_samples), str(max_batch)]
        megabytes = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"| {sampler} | 3x{size}x{size} | {num_samples} | {max_batch or 'all'} | {megabytes:.0f} |", flush=True)


def print_rows(title: str, rows: list[dict]) -> None:
    print(f"\n## {title}\n\n| what | CPU ms | ratio |\n|---|---:|---:|")
    for r in rows:
        print(f"| {r['what']} | {1e3 * r['seconds']:.2f} | {r['ratio']:.3f} |", flush=True)


def large_network(shape: tuple[int, ...]) -> EDMDenoiser:
    """Returns about ten million parameters, untrained: what it computes does not matter here."""
    net = UNet(3, widths=(96, 192, 288), blocks=2, unshuffle=2)
    return EDMDenoiser(net, shape, sigma_min=0.01, sigma_max=80.0, data_std=0.5).eval().requires_grad_(False)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="invgen bench study speed", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds; medians are printed")
    parser.add_argument("--steps", type=int, default=4, help="of a sampler with one network evaluation a step")
    parser.add_argument("--batch", type=int, default=4, help="samples at once")
    parser.add_argument("--overhead", type=Path, metavar="FILE", help="the samplers' table alone, kept as CSV")
    parser.add_argument("--networks", nargs="*", choices=["small", "large"], default=["small", "large"])
    parser.add_argument("--samplers", nargs="*", type=str.lower, help="these alone")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    overhead_table(options.overhead, options.networks, options.rounds, options.steps, options.batch, options.samplers)
    if options.overhead or options.samplers:
        return
    print_rows("operators over the plain torch expression, batch 8, 3x256x256", operator_overhead(5 * options.rounds))
    peak_memory()
    print()
    from invgen.benchmarks.studies import ct_speed, loop_speed

    loop_speed.main([])
    print()
    ct_speed.main([])
