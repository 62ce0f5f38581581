"""The benchmark of Scope Crafts & Villa, "Benchmarking diffusion annealing-based Bayesian inverse problem solvers".

IEEE Open J. Signal Process. 2025, arXiv 2503.03007: ten values, a mixture of three Gaussians, four problems.

The prior: weights .4, .3, .3, means -5, 0, 5, covariances I, diag(1 ... 2) and one of eigenvalues 1 ... 2 in a random
basis. The problems: eight of the ten values with noise of .1, where the posterior has one mode, and of 5, where it has
several; photon counts of 15 rays, 1000 exp(-C (x + 10)), C uniform on [.01, .05]; and phase retrieval, (B x)^2 of five
random rows with noise of 25. Settings and the matrices C and B are those of the released code
(github.com/Evan1578/BIPSDA), the random basis is not: the code's depends on what was drawn before it.

Figures, a mean over measurements: error of the mean, Euclidean; error of the variances of the ten values, Euclidean; and
the squared maximum mean discrepancy with the paper's sum of five kernels at its bandwidths, here the unbiased estimate.
Exact samples: in closed form for the first two problems, by annealed importance sampling of the prior for the others.

Here: fewer measurements and samples (6 and 1000 for 100 and 10 000); the exact denoiser for the learned one, by which
most published figures are.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from invgen.benchmarks.studies.outside.rows import EXACT, Figures, Row, run
from invgen.forward import Operator
from invgen.metrics import mmd
from invgen.names import resolve
from invgen.noise import Gaussian, Noise, TransmissionPoisson
from invgen.operators import Mask, Matrix, from_function
from invgen.posterior import Posterior
from invgen.priors import GaussianMixture

F64 = torch.float64
MEASUREMENTS, SAMPLES = 6, 1000
DRAWS, PARTICLES = 2**18, 2**14
BANDWIDTHS = {"inpainting, .1": 2.0774, "inpainting, 5": 4.9753, "x-ray": 4.3266, "phase retrieval": 12.6182}  # theirs
PROBLEMS = tuple(BANDWIDTHS)
CHOSEN = (
    ("MMPS", 25), ("DiffPIR", 100), ("AdaptiveDAPS", 100), ("LinearisedTDS", 100), ("PnPDM", 100), ("DPnP", 100),
    ("AdaptivePiGDM", 100), ("DampedDPS", 100), ("AFDPS", 100), ("DPS", 100), ("MMPS", 100),
)  # fmt: skip


def mixture() -> GaussianMixture:
    """Returns the prior."""
    values = torch.linspace(1, 2, 10, dtype=F64)
    basis = torch.linalg.qr(torch.randn(10, 10, dtype=F64, generator=torch.Generator().manual_seed(0)))[0]
    covariances = torch.stack([torch.eye(10, dtype=F64), values.diag(), basis.T @ values.diag() @ basis])
    means = torch.tensor([-5.0, 0.0, 5.0], dtype=F64)[:, None].expand(3, 10)
    return GaussianMixture(means, torch.tensor([0.4, 0.3, 0.3], dtype=F64), covariances=covariances)


@dataclass(frozen=True, eq=False)
class Problem:
    """One problem with its measurements.

    Attributes:
        post: of a batch of measurements.
        mean, var: of the exact posteriors, (M, 10).
        first, second: two exact sets, (n, M, 10).
    """

    post: Posterior
    mean: Tensor
    var: Tensor
    first: Tensor
    second: Tensor


def parts(name: str) -> tuple[Operator, Noise]:
    """Returns the operator and the noise of a problem."""
    if name.startswith("inpainting"):
        seen = torch.tensor([k not in (3, 8) for k in range(10)])
        return Mask((10,), seen), Gaussian(float(name.split(", ")[1]))
    stream = torch.Generator().manual_seed(0)
    if name == "x-ray":
        C = (0.01 + 0.04 * torch.rand(15, 10, generator=stream)).double()
        return Matrix(C), TransmissionPoisson(1000 * torch.exp(-10 * C.sum(1)))
    B = torch.randn(5, 10, generator=stream).double()
    return from_function(partial(_intensities, B), (10,)), Gaussian(25.0)


def _intensities(B: Tensor, x: Tensor) -> Tensor:
    return (x @ B.to(x.dtype).T) ** 2


@cache
def problem(name: str, measurements: int = MEASUREMENTS, samples: int = SAMPLES) -> Problem:
    """Returns a problem with its exact posteriors."""
    prior, (A, noise) = mixture(), parts(name)
    clean = A(prior.sample(measurements, seed=0))
    y = torch.stack([noise.sample(c, torch.Generator().manual_seed(i)) for i, c in enumerate(clean)])
    post = Posterior(prior, A, noise, y)
    if name.startswith("inpainting"):
        laws = [prior.posterior(A, noise, one) for one in y]
        sets = [torch.stack([law.sample(samples, seed=2 * i + k) for i, law in enumerate(laws)], 1) for k in (0, 1)]
        mean, var = (torch.stack([getattr(law, what) for law in laws]) for what in ("mean", "var"))
        return Problem(post, mean, var, *sets)
    found = [[tempered(prior, A, noise, one, samples, i + shift) for i, one in enumerate(y)] for shift in (0, 1000)]
    mean, var, first = (torch.stack([f[k] for f in found[0]], k // 2) for k in (0, 1, 2))
    return Problem(post, mean, var, first, torch.stack([f[2] for f in found[1]], 1))


def tempered(
    prior: GaussianMixture, A: Operator, noise: Noise, y: Tensor, samples: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns mean, (10,), variances, (10,), and so many samples of a posterior: annealed importance sampling of the prior.

    A quarter of a million draws of the prior are weighed by a power of the likelihood that leaves 8192 of them, these are
    resampled and moved by Metropolis steps, then weighed by the next power that leaves half, until the power is one. No
    sampler of the library has a part in it.

    Args:
        prior: the mixture, of ten values.
        A, noise, y: the problem; y is one measurement.
        samples: how many.
        seed: of all draws.
    """
    stream = torch.Generator().manual_seed(seed)

    def likelihood(x: Tensor) -> Tensor:
        clean = A(x)
        return noise.log_prob(y.expand(clean.shape), clean)

    k = torch.multinomial(prior.weights, DRAWS, replacement=True, generator=stream)
    x = torch.randn(DRAWS, 10, dtype=F64, generator=stream)
    for j in range(3):
        x[k == j] = prior.means[j] + x[k == j] @ torch.linalg.cholesky(prior.condition(j).covariance).T
    log, power = likelihood(x), 0.0
    while power < 1:
        wanted = min(PARTICLES / 2, len(x) / 2)
        low, high = power, 1.0
        for _ in range(40 if _effective(log, 1 - power) < wanted else 0):
            middle = (low + high) / 2
            low, high = (middle, high) if _effective(log, middle - power) > wanted else (low, middle)
        w, power = (log * (high - power)).softmax(0), high
        x = x[torch.multinomial(w, PARTICLES, replacement=True, generator=stream)]
        log, density = likelihood(x), prior.log_prob(x)
        for size in (1.2, 0.6, 0.35, 0.2) * (6 if power == 1 else 2):
            new = x + size * torch.randn(x.shape, dtype=F64, generator=stream)
            log_new, density_new = likelihood(new), prior.log_prob(new)
            chance = torch.rand(len(x), dtype=F64, generator=stream).log()
            accept = chance < power * (log_new - log) + density_new - density
            x = torch.where(accept[:, None], new, x)
            log, density = torch.where(accept, log_new, log), torch.where(accept, density_new, density)
    return x.mean(0), x.var(0), x[torch.randperm(len(x), generator=stream)[:samples]]


def _effective(log: Tensor, power: float) -> float:
    """Returns how many of weighed draws count."""
    return 1 / (log * power).softmax(0).square().sum().item()


def figures(of: Problem, name: str, x: Tensor) -> Figures:
    """Returns the errors of samples, (n, M, 10)."""
    x = x.double()
    widths = [math.sqrt(BANDWIDTHS[name] * 2.0**k / 2) for k in range(-2, 3)]
    return {
        "mean": (x.mean(0) - of.mean).norm(dim=1).mean().item(),
        "variance": (x.var(0) - of.var).norm(dim=1).mean().item(),
        "mmd": 5 * mmd(x[:1000], of.first[:1000], bandwidth=widths).mean().item(),
    }


def cells(chosen: tuple[tuple[str, int], ...] = CHOSEN, problems: tuple[str, ...] = ()) -> Iterator[tuple[str, str, int]]:
    """Yields what there is to run: problem, sampler, budget, each sampler on the problems that it takes, in turn."""
    names, posts = problems or PROBLEMS, {}
    for name in names:
        A, noise = parts(name)
        clean = A(mixture().sample(1))[0]
        posts[name] = Posterior(mixture(), A, noise, noise.sample(clean, torch.Generator().manual_seed(0)))
    yield from ((name, EXACT, 0) for name in names)
    for spec, budget in chosen:
        yield from ((name, spec, budget) for name in names if resolve.sampler(spec).refuses(posts[name]) is None)


def run_one(name: str, spec: str, budget: int, measurements: int = MEASUREMENTS, samples: int = SAMPLES) -> Row:
    """Runs one cell.

    Args:
        name: of the problem.
        spec: of the sampler, or `EXACT`.
        budget: evaluations a sample.
        measurements: how many.
        samples: of each.
    """
    of, row = problem(name, measurements, samples), Row(name, spec, budget)
    if spec == EXACT:
        return Row(name, spec, 0, figures=figures(of, name, of.second))
    return run(resolve.sampler(spec), of.post, budget, samples, partial(figures, of, name), row)
