"""The statistical benchmark of Zach, Haouchat & Unser (ICLR 2026): random walks with jumps, four linear problems.

Signals of 64 values with independent steps, seen with 25 dB: the noise has 10^-2.5 of the median power of measurements.
The problems: denoising; deconvolution, 13 Gaussian taps of two standard deviations, circular; imputation of 31 of the 64
values; and partial Fourier, real and imaginary parts of some of the 33 frequencies, the five lowest among them,
orthonormal. They are those of the released code (github.com/zacmar/dps-benchmark), as is the set of values that are seen.

Figures. gap: 10 log10 of the error of the samples' mean over that of the exact posterior mean, of each signal, mean and
standard deviation over signals. coverage: how often the truth lies in the region of highest posterior density with 90 % of
the samples, (k-th largest log-density, k = ceil(.9 n)); steps below 5e-5 count as zero where the law has zeros.

Here: fewer signals; 19 samples, with which exact ones cover .9 (of 50 they cover .882); the exact denoiser for the learned
one; options are searched on signals that are not judged, as there, on a smaller grid.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from invgen.benchmarks.studies.outside.rows import EXACT, Figures, Row, best_of, run
from invgen.forward import LinearOperator
from invgen.names import resolve
from invgen.noise import Gaussian
from invgen.operators import Blur, Identity, Mask, Matrix
from invgen.posterior import Posterior
from invgen.priors import LevyProcess
from invgen.sampler import Sampler

F64 = torch.float64
LENGTH, LEVEL, SNR = 64, 0.9, 25.0
SIGNALS, SAMPLES, SEARCHED = 12, 19, 4
LAWS = {
    "Gauss(0, .25)": {"increments": "gaussian", "scale": 0.5},
    "Laplace(1)": {"increments": "laplace"},
    "BL(.1, 1)": {"increments": "bernoulli-laplace", "rate": 0.1},
    "St(1)": {"increments": "student", "df": 1.0},
}
SEEN = "1001001011001100011101000101010111010011001110011010010101101011"  # of the released code
PROBLEMS = ("denoising", "deconvolution", "imputation", "Fourier")
ZETAS = (0.1, 0.3, 1.0, 3.0)
GRIDS = {  # what the paper searches over, on fewer points
    "DPS": [f"DPS(zeta={zeta})" for zeta in ZETAS],
    "DiffPIR": [f"DiffPIR(lam={lam}, zeta={zeta})" for zeta in (0.3, 0.7) for lam in (0.3, 1.0, 3.0)],
    "DPnP": [f"DPnP(eta_max={eta}, eta_min=0.05, denoise_steps=5)" for eta in (0.2, 0.8, 3.0)],
}
CHOSEN = (
    ("MMPS", 25), ("DiffPIR", 25), ("AdaptivePiGDM", 25), ("DPnP", 100), ("DPS", 100), ("PnPDM", 100), ("DDS", 25),
    ("LinearisedTDS", 25), ("DiffPIR", 100), ("AdaptivePiGDM", 100), ("MMPS", 100),
)  # fmt: skip


def operator(problem: str) -> LinearOperator:
    """Returns the operator of a problem, on signals of shape (64,)."""
    seen = torch.tensor([c == "1" for c in SEEN])
    if problem == "denoising":
        return Identity((LENGTH,))
    if problem == "deconvolution":
        taps = torch.exp(-0.5 * (torch.arange(-6, 7, dtype=F64) / 2) ** 2)
        return Blur((LENGTH,), taps / taps.sum())
    if problem == "imputation":
        return Mask((LENGTH,), seen)
    kept = torch.cat([torch.ones(5, dtype=torch.bool), seen[5:33]])
    spectrum = torch.fft.rfft(torch.eye(LENGTH, dtype=F64), norm="ortho").T  # (33, 64)
    spectrum[1:-1] *= math.sqrt(2)
    inner = kept.clone()
    inner[[0, -1]] = False  # the imaginary parts of the ends are zero
    return Matrix(torch.cat([spectrum.real[kept], spectrum.imag[inner]]))


@dataclass(frozen=True, eq=False)
class Problem:
    """One problem with its measurements.

    Attributes:
        prior, A, sigma: the parts.
        truth, post: the signals that are judged, (S, 64), and their measurements.
        searched: those on which options are chosen, signals and measurements.
    """

    prior: LevyProcess
    A: LinearOperator
    sigma: float
    truth: Tensor
    post: Posterior
    searched: tuple[Tensor, Posterior]


@cache
def problem(name: str, signals: int = SIGNALS) -> Problem:
    """Returns "LAW, PROBLEM" with so many signals; the first ones are the same for any number."""
    law, kind = name.rsplit(", ", 1)
    prior, A = LevyProcess(LENGTH, **LAWS[law]), operator(kind)
    power = A(prior.sample(1000, seed=2)).square().mean(1).median().item()
    sigma = math.sqrt(power / 10 ** (SNR / 10))

    def seen(count: int, seed: int) -> tuple[Tensor, Posterior]:
        x = prior.sample(count, seed=seed)
        streams = [torch.Generator().manual_seed(1000 * seed + i) for i in range(count)]
        noise = [torch.randn(A.out_shape, dtype=F64, generator=stream) for stream in streams]
        return x, Posterior(prior, A, Gaussian(sigma), A(x) + sigma * torch.stack(noise))

    truth, post = seen(signals, 0)
    return Problem(prior, A, sigma, truth, post, seen(SEARCHED, 1))


def log_posterior(of: Problem, x: Tensor) -> Tensor:
    """Returns log p(x | y) up to a constant, (n, S), for x of shape (n, S, 64)."""
    flat = x.reshape(-1, LENGTH)
    misfit = (of.A(flat).reshape(*x.shape[:2], -1) - of.post.y).square().sum(2)
    return of.prior.log_mass(flat).reshape(x.shape[:2]) - misfit / (2 * of.sigma**2)


def figures(of: Problem, best: Tensor, x: Tensor) -> Figures:
    """Returns gap, gap_std and coverage of samples.

    Args:
        of: the problem.
        best: exact posterior means, (S, 64).
        x: samples, (n, S, 64).
    """
    x = x.double()
    errors = [(mean - of.truth).square().mean(1) for mean in (x.mean(0), best)]
    gap = 10 * torch.log10(errors[0] / errors[1])
    inside = sum_of_larger(log_posterior(of, x), log_posterior(of, of.truth[None])[0]) < math.ceil(LEVEL * len(x))
    return {"gap": gap.mean().item(), "gap_std": gap.std().item(), "coverage": inside.double().mean().item()}


def sum_of_larger(of_samples: Tensor, of_truth: Tensor) -> Tensor:
    """Returns how many samples are more probable than the truth, (S,)."""
    return (of_samples > of_truth).sum(0)


@cache
def exact(name: str, signals: int, sweeps: int) -> tuple[Tensor, Tensor]:
    """Returns exact posterior means, (S, 64), and 19 other samples, (19, S, 64), by Gibbs sampling.

    A fifth of the sweeps are left out; samples are far apart in a chain of their own.
    """
    of = problem(name, signals)
    x = of.prior.posterior_samples(of.A, of.sigma, of.post.y, sweeps, burn_in=sweeps // 4, seed=0)
    apart, burn_in = max(sweeps // 40, 1), sweeps // 4
    few = of.prior.posterior_samples(of.A, of.sigma, of.post.y, SAMPLES, burn_in=burn_in, thin=apart, seed=1)
    return x.mean(0), few


def cells(chosen: tuple[tuple[str, int], ...] = CHOSEN, problems: tuple[str, ...] = ()) -> Iterator[tuple[str, str, int]]:
    """Yields what there is to run: problem, sampler, budget, the samplers in turn."""
    names = problems or tuple(f"{law}, {kind}" for kind in PROBLEMS for law in LAWS)
    for spec, budget in ((EXACT, 0), *chosen):
        yield from ((name, spec, budget) for name in names)


def run_one(name: str, spec: str, budget: int, signals: int = SIGNALS, sweeps: int = 1200) -> Row:
    """Runs one cell.

    Args:
        name: of the problem.
        spec: of the sampler, or `EXACT`. Those of `GRIDS` have their options searched by the error
            of the mean of 8 samples.
        budget: evaluations a sample.
        signals: how many.
        sweeps: of the Gibbs sampler.
    """
    of, row = problem(name, signals), Row(name, spec, budget)
    best, few = exact(name, signals, sweeps)
    if spec == EXACT:
        return Row(name, spec, 0, figures=figures(of, best, few))
    options = ""
    if spec in GRIDS:
        truth, post = of.searched

        def error(sampler: Sampler) -> float:
            judged = run(sampler, post, budget, 8, lambda x: {"mse": (x.mean(0) - truth).square().mean().item()}, row)
            return judged.figures["mse"] if judged.figures else math.inf

        options = best_of(GRIDS[spec], error)
    found = run(resolve.sampler(options or spec), of.post, budget, SAMPLES, lambda x: figures(of, best, x), row)
    return Row(name, spec, budget, options, found.nfe, found.seconds, found.figures, found.error)
