"""Speed, as ratios of processor time in one alternating run on one thread: `python -m invgen.benchmarks.speed`.

1. Each sampler over its bare network evaluations: the run is recorded, then the same calls (forward, or forward and
   backward) are replayed without the sampler. The target is 1.05.
2. CT against ASTRA slice by slice, scikit-image and the memory-bandwidth floor (benchmarks/ct_speed.py).
3. Blur, mask and downsample against the plain torch expression.
4. Peak memory against the number of samples, with and without `max_batch`.

Times are medians over rounds in which all candidates take turns, so that a drift of the machine's speed cancels.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from invgen import samplers
from invgen.diffusion import Denoiser, Sigma
from invgen.operators import Blur, Downsample, Mask, gaussian_kernel
from invgen.posterior import Posterior
from invgen.priors.network import EDMDenoiser, UNet
from invgen.samplers.unconditional import Unconditional

Replay = Callable[[], object]


class Recorded(Denoiser):
    """A denoiser that notes its calls, so that they can be replayed bare."""

    def __init__(self, net: Denoiser) -> None:
        super().__init__(
            net.shape, sigma_min=net.sigma_min, sigma_max=net.sigma_max, data_mean=net.data_mean, data_std=net.data_std
        )
        self.net, self.calls = net, []

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        self.calls.append((x.shape, sigma, 0))
        return self.net(x, sigma)

    def vjp(self, x: Tensor, sigma: Sigma) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        x0, pullback = super().vjp(x, sigma)
        place = len(self.calls) - 1

        def counted(v: Tensor) -> Tensor:
            shape, level, products = self.calls[place]
            self.calls[place] = (shape, level, products + 1)
            return pullback(v)

        return x0, counted

    def replay(self) -> None:
        """The network evaluations of the recorded run and nothing else."""
        for shape, sigma, products in self.calls:
            x = torch.zeros(shape)
            if not products:
                with torch.no_grad():
                    self.net(x, sigma)
                continue
            x0, pullback = self.net.vjp(x, sigma)
            for _ in range(products):
                pullback(x0)


def cpu(f: Callable[[], object]) -> float:
    begin = time.process_time()
    f()
    return time.process_time() - begin


def alternate(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each candidate in each round, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for k in range(rounds + 1):
        for name, f in candidates.items():
            seconds = cpu(f)
            if k:
                times[name].append(seconds)
    return times


def ratio(a: list[float], b: list[float]) -> float:
    """The median of the paired ratios."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def sampler_overhead(net: Denoiser, rounds: int, steps: int) -> list[dict]:
    """Rows (sampler, operator, seconds a network evaluation, ratio) at the prior's shape, batch 1."""
    rows = []
    A = Downsample(net.shape, 4)
    y = torch.zeros(A.out_shape)
    for kind in samplers.catalogue().values():
        sampler = kind(steps=steps)
        recorded = Recorded(net)
        post = recorded if issubclass(kind, Unconditional) else Posterior(recorded, A, 0.05, y)

        def run(sampler: object = sampler, post: object = post, recorded: Recorded = recorded) -> None:
            recorded.calls.clear()
            sampler(post, 1, seed=0)

        run()
        times = alternate({"sampler": run, "bare": recorded.replay}, rounds)
        rows.append(
            {
                "what": f"{kind.__name__}, {len(recorded.calls)} evaluations, {sum(c[2] for c in recorded.calls)} products",
                "seconds": statistics.median(times["sampler"]),
                "ratio": ratio(times["sampler"], times["bare"]),
            }
        )
    return rows


def operator_overhead(rounds: int, shape: tuple[int, ...] = (3, 256, 256), batch: int = 8) -> list[dict]:
    """Rows for forward and adjoint of the image operators over the plain torch expression of the same map."""
    import torch.nn.functional as F

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
prior = priors.load("photo", (3, 128, 128))
A = operators.Downsample(prior.shape, 4)
num_samples, max_batch = (int(a) or None for a in sys.argv[1:])
samplers.PiGDM(steps=2)(Posterior(prior, A, 0.05, torch.zeros(A.out_shape)), num_samples, max_batch=max_batch)
# not resource.ru_maxrss, which a child inherits from the process that forked it
print(next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_memory() -> None:
    """Prints the peak resident memory (Linux) of a process that draws samples, by their number and the batch size."""
    print(
        "\n## peak memory of PiGDM with `photo` at 3x128x128 (a process each)\n\n"
        "| samples | max_batch | MB |\n|---:|---:|---:|"
    )
    for num_samples, max_batch in ((2, 2), (8, 2), (32, 2), (8, 0), (32, 0)):
        command = [sys.executable, "-c", _MEMORY, str(num_samples), str(max_batch)]
        megabytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"| {num_samples} | {max_batch or 'all'} | {float(megabytes):.0f} |", flush=True)


def print_rows(title: str, rows: list[dict]) -> None:
    print(f"\n## {title}\n\n| what | CPU ms | ratio |\n|---|---:|---:|")
    for r in rows:
        print(f"| {r['what']} | {1e3 * r['seconds']:.2f} | {r['ratio']:.3f} |", flush=True)


def large_network() -> EDMDenoiser:
    """About ten million parameters at 3x256x256, untrained: what it computes does not matter here."""
    net = UNet(3, widths=(96, 192, 288), blocks=2, unshuffle=2)
    return EDMDenoiser(net, (3, 256, 256), sigma_min=0.01, sigma_max=80.0, data_std=0.5).eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds; medians are printed")
    parser.add_argument("--skip-large", action="store_true", help="leave out the 10M-parameter network (minutes)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    from invgen.benchmarks import ct_speed
    from invgen.priors import load

    print_rows(
        "samplers over bare network evaluations, shipped prior `photo`, 3x64x64",
        sampler_overhead(load("photo"), options.rounds, 20),
    )
    if not options.skip_large:
        net = large_network()
        millions = sum(p.numel() for p in net.parameters()) / 1e6
        print_rows(
            f"samplers over bare network evaluations, {millions:.1f}M parameters, 3x256x256", sampler_overhead(net, 1, 3)
        )
    print_rows("operators over the plain torch expression, batch 8, 3x256x256", operator_overhead(5 * options.rounds))
    peak_memory()
    print()
    ct_speed.main()


if __name__ == "__main__":
    main()
