"""The benchmark of Scope Crafts & Villa, "Benchmarking diffusion annealing-based Bayesian inverse problem solvers".

IEEE Open J. Signal Process. 2025, arXiv 2503.03007: ten values, a mixture of three Gaussians, four problems.

The prior: weights .4, .3, .3, means -5, 0, 5, covariances I, diag(1 ... 2) and one of eigenvalues 1 ... 2 in a random
basis. The problems: eight of the ten values with noise of .1, where the posterior has one mode, and of 5, where it has
several; photon counts of 15 rays, 1000 exp(-C (x + 10)), C uniform on [.01, .05]; and phase retrieval, (B x)^2 of five
random rows with noise of 25. Settings and the matrices C and B are those of the released code
(github.com/Evan1578/BIPSDA), the random basis is not: the code's depends on what was drawn before it.

Figures, a mean over measurements: error of the mean, Euclidean; error of the variances of the ten values, Euclidean; and
the squared maximum mean discrepancy with the paper's sum of five kernels at its bandwidths, here the unbiased estimate.
Exact samples: in closed form for the first two problems, by importance sampling from two million draws of the prior and
Metropolis moves for the others.

Here: fewer measurements and samples (8 and 2000 for 100 and 10 000); the exact denoiser for the learned one, by which
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
MEASUREMENTS, SAMPLES, DRAWS = 8, 2000, 2**21
BANDWIDTHS = {"inpainting, .1": 2.0774, "inpainting, 5": 4.9753, "x-ray": 4.3266, "phase retrieval": 12.6182}  # theirs
PROBLEMS = tuple(BANDWIDTHS)
CHOSEN = (
    ("MMPS", 25), ("MMPS", 100), ("AdaptivePiGDM", 100), ("DiffPIR", 100), ("AdaptiveDAPS", 100), ("PnPDM", 100),
    ("DPnP", 100), ("LinearisedTDS", 100), ("AFDPS", 100), ("DampedDPS", 100), ("DPS", 100),
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
    found = [weighed(prior, A, noise, one, samples, i) for i, one in enumerate(y)]
    mean, var = (torch.stack([f[k] for f in found]) for k in (0, 1))
    both = torch.stack([f[2] for f in found], 1)
    return Problem(post, mean, var, both[:samples], both[samples:])


def weighed(
    prior: GaussianMixture, A: Operator, noise: Noise, y: Tensor, samples: int, seed: int, draws: int = DRAWS
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns mean, (10,), variances, (10,), and twice so many samples, of a posterior, from weighed draws of the prior.

    The samples are drawn by their weights, then moved by random steps that keep the posterior, so that no two are equal.
    """
    stream = torch.Generator().manual_seed(seed)

    def log_likelihood(x: Tensor) -> Tensor:
        clean = A(x)
        return noise.log_prob(y.expand(clean.shape), clean)

    k = torch.multinomial(prior.weights, draws, replacement=True, generator=stream)
    roots = torch.linalg.cholesky(torch.stack([prior.condition(j).covariance for j in range(3)]))
    x = torch.randn(draws, 10, dtype=F64, generator=stream)
    for j in range(3):
        x[k == j] = prior.means[j] + x[k == j] @ roots[j].T
    w = log_likelihood(x).softmax(0)
    mean = w @ x
    var = w @ (x - mean) ** 2
    x = x[torch.multinomial(w, 2 * samples, replacement=True, generator=stream)]
    log = log_likelihood(x) + prior.log_prob(x)
    for _ in range(100):
        new = x + 0.35 * torch.randn(x.shape, dtype=F64, generator=stream)
        log_new = log_likelihood(new) + prior.log_prob(new)
        accept = torch.rand(len(x), dtype=F64, generator=stream).log() < log_new - log
        x, log = torch.where(accept[:, None], new, x), torch.where(accept, log_new, log)
    return mean, var, x


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
    """Yields what there is to run, problem, sampler and budget: of each problem the samplers that take it."""
    for name in problems or PROBLEMS:
        A, noise = parts(name)
        clean = A(mixture().sample(1))[0]
        post = Posterior(mixture(), A, noise, noise.sample(clean, torch.Generator().manual_seed(0)))
        yield name, EXACT, 0
        yield from ((name, spec, budget) for spec, budget in chosen if resolve.sampler(spec).refuses(post) is None)


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
