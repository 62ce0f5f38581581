"""Problems whose exact posterior can be sampled: families of instances for `invgen bench study exact --full`.

Each family says where it comes from, how a sample set is judged, and which published or re-run numbers stand beside ours.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from invgen.benchmarks.studies import mixture
from invgen.diffusion import Denoiser
from invgen.forward import LinearOperator
from invgen.metrics import sliced_wasserstein
from invgen.noise import Gaussian, Noise, Noiseless
from invgen.operators import Mask, Matrix
from invgen.posterior import Posterior
from invgen.priors import GaussianMixture, GaussianPrior
from invgen.pushforward import Generator, StandardNormal

F64 = torch.float64
Metric = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Problem:
    """One instance: what the samplers get, and exact samples to judge theirs by.

    Attributes:
        law: draws n exact posterior samples with a seed, (n, *shape).
        truth: the signal behind the measurement, where a metric wants it.
    """

    posterior: Posterior
    law: Callable[[int, int], Tensor]
    truth: Tensor | None = None


class Judged(TypedDict):
    """How far samples are from exact ones, and from the truth where that is known."""

    distance: float
    rmse: NotRequired[float]


@dataclass(frozen=True, eq=False)
class Family:
    """Instances of one kind.

    Attributes:
        title: for the table.
        note: origin, metric, and how the set-up differs from the published one.
        make: instance number -> Problem.
        count: how many instances.
        samples: how many samples are judged, against as many exact ones (or `against`).
        published: what others print, by the name of a row; the note says whether the set-up is the same.
    """

    title: str
    note: str
    make: Callable[[int], Problem]
    count: int
    samples: int = 1000
    against: int = 1000
    metric: Metric = lambda x, y: sliced_wasserstein(x, y, p=1, slices=1000).item()
    published: dict[str, str] = field(default_factory=dict)

    def evaluate(self, x: Tensor, instance: int) -> Judged:
        """Returns the distance of samples to exact ones, the error to the truth, and the residual over the noise."""
        problem = _made(self, instance)
        out: Judged = {"distance": self.metric(x.double(), problem.law(self.against, 0))}
        if problem.truth is not None:
            out["rmse"] = (x - problem.truth).square().mean().sqrt().item()
        return out

    def floor(self, instance: int) -> Judged:
        """Returns the same of an independent exact set."""
        return self.evaluate(_made(self, instance).law(self.samples, 1), instance)


@lru_cache(maxsize=64)
def _made(family: Family, instance: int) -> Problem:
    return family.make(instance)


def _exact_law(
    prior: GaussianMixture, A: LinearOperator, noise: Noise | float, y: Tensor, salt: int = 0
) -> Callable[[int, int], Tensor]:
    posterior = prior.posterior(A, noise, y)
    return lambda n, seed: posterior.sample(n, seed=2 * salt + seed)


def _mixture(d: int, dy: int) -> Family:
    def make(i: int) -> Problem:
        post = mixture.problem(d, dy, i)
        law = _exact_law(post.prior, post.A, post.noise, post.y, salt=i)
        if d == 800:  # samplers in single precision take half the time; no distance moves in its third digit
            post = Posterior(deepcopy(post.prior).float(), deepcopy(post.A).float(), post.noise, post.y.float())
        return Problem(post, law)

    return Family(
        f"Mixture of MCGDiff, d = {d}, d_y = {dy}",
        "25 components, random rows; Cardoso et al. (ICLR 2024), 20 shipped instances, sliced W1 of 1000 samples. Public "
        "code: our own re-run on the same instances, 100 evaluations, the paper's reversed linear-beta grid; the same "
        "set-up but for the noise levels.",
        make,
        mixture.INSTANCES,
    )


def _benchopt(dy: int) -> Family:
    def make(_: int) -> Problem:
        tables = mixture.table("mixture25_benchopt.npz")
        A, y, w = (torch.from_numpy(tables[f"{name}_dy{dy}"]).double() for name in ("A", "y", "weights"))
        sigma = float(tables[f"sigma_dy{dy}"])
        prior = mixture.mixture(8, w)
        return Problem(Posterior(prior, Matrix(A), Gaussian(sigma), y), _exact_law(prior, Matrix(A), sigma, y))

    def largest(x: Tensor, y: Tensor) -> float:
        return sliced_wasserstein(x, y, p=2, slices=100, reduce="max").item()

    return Family(
        f"Seeded mixture, d = 8, d_y = {dy}",
        "one instance of the mixture, made by the public recipe with seed 27 and shipped as data; largest of 100 sliced W2 "
        "between 1000 samples and 10 000 exact ones. Published: the ranges stored with the benchmark of "
        "gabrielvc/benchopts_inverse_problem_diffusion_prior, 100 evaluations"
        + (" (same instance)." if dy == 1 else " (its instance could not be reproduced: another one of the same law)."),
        make,
        1,
        against=10_000,
        metric=largest,
        published=_BENCHOPT[dy],
    )


def _sixteen(kind: str, sigma: float) -> Family:
    def make(i: int) -> Problem:
        prior, A, truth = _sixteen_parts(kind)
        y = A(truth) + sigma * torch.randn(A.out_shape, dtype=F64, generator=torch.Generator().manual_seed(i))
        return Problem(Posterior(prior, A, Gaussian(sigma), y), _exact_law(prior, A, sigma, y, salt=i), truth)

    words = {"many-weak": "14 weak measurements, none of the two multimodal values", "few-strong": "4 strong measurements"}
    return Family(
        f"Sixteen dimensions, {words[kind]}, sigma = {sigma}",
        "Qiu et al. (2026, arXiv 2602.04189): two of sixteen values have two modes (0.8 and 0.2), the others are standard "
        "normal; 5 draws of the noise, 500 samples, sliced W1 and the root mean square error of single samples. Published: "
        "that error (same set-up but for the draws of the noise; their budgets differ).",
        make,
        5,
        samples=500,
        published={name: f"rmse {value:.2f}" for name, value in _QIU[kind, sigma].items()},
    )


@lru_cache
def _sixteen_parts(kind: str) -> tuple[GaussianMixture, Matrix, Tensor]:
    means, cov = torch.zeros(2, 16, dtype=F64), torch.eye(16, dtype=F64).repeat(2, 1, 1)
    means[1, :2], cov[1, :2, :2] = 3.0, 2 * torch.eye(2, dtype=F64)
    prior = GaussianMixture(means, torch.tensor([0.8, 0.2], dtype=F64), covariances=cov)
    A = torch.zeros(14, 16, dtype=F64)
    A[torch.arange(14), torch.arange(14) + 2] = torch.arange(0.1, 0.76, 0.05, dtype=F64)
    if kind == "few-strong":
        A = 3 * torch.eye(16, dtype=F64)[:4]
    truth = [3, 2, 0.5, -0.5, 1, 0.8, -0.6, 1.1, -0.9, 0.4, 0, -1.2, 0.7, -0.3, 0.5, -0.8]
    return prior, Matrix(A), torch.tensor(truth, dtype=F64)


def _gaussian(i: int) -> Problem:
    g = torch.Generator().manual_seed(i)
    root = torch.randn(100, 100, dtype=F64, generator=g) / 10
    prior = GaussianPrior(
        (100,), torch.randn(100, dtype=F64, generator=g), covariance=root @ root.T + 1e-4 * torch.eye(100, dtype=F64)
    )
    A = Matrix(torch.randn(50, 100, dtype=F64, generator=g))
    y = A(prior.sample(1, seed=i)[0]) + 0.1 * torch.randn(50, dtype=F64, generator=g)
    return Problem(Posterior(prior, A, Gaussian(0.1), y), _exact_law(prior, A, 0.1, y, salt=i))


def _mask(i: int) -> Problem:
    """Returns the mixture of d = 8, i % 4 + 1 values measured without noise."""
    prior, seen = mixture.mixture(8), torch.arange(8) < i % 4 + 1
    A, truth = Mask((8,), seen), prior.sample(1, seed=100 + i)[0]
    y = A(truth)
    # a standard deviation of 1e-4 beside components of 1 stands for none in the exact posterior
    return Problem(Posterior(prior, A, Noiseless(), y), _exact_law(prior, A, 1e-4, y, salt=i))


class LinearDecoder(Generator):
    """x = W z + 1 in 16 dimensions with orthonormal columns; the posterior over z is known where that of `latent` is."""

    W: Tensor

    def __init__(self, latent: Denoiser) -> None:
        super().__init__((16,), latent, data_std=latent.data_std, data_mean=1.0)
        g = torch.Generator().manual_seed(0)
        self.register_buffer("W", torch.linalg.qr(torch.randn(16, 8, dtype=F64, generator=g))[0])

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.W.T + 1

    def encode(self, x: Tensor) -> Tensor:
        return (x - 1) @ self.W


def _latent(i: int, normal: bool) -> Problem:
    """Returns three noisy rows of a decoded signal, z from the mixture, or standard normal as GANs and VAEs have it."""
    exact_prior = GaussianPrior((8,), torch.zeros(8, dtype=F64), 1.0) if normal else mixture.mixture(8)
    prior = LinearDecoder(StandardNormal((8,), F64) if normal else exact_prior)
    g, sigma = torch.Generator().manual_seed(i), 0.1
    A = torch.randn(3, 16, dtype=F64, generator=g) / 4
    y = A @ prior(exact_prior.sample(1, seed=i))[0] + sigma * torch.randn(3, dtype=F64, generator=g)
    law = exact_prior.posterior(Matrix(A @ prior.W), sigma, y - A.sum(1))
    return Problem(Posterior(prior, Matrix(A), Gaussian(sigma), y), lambda n, seed: prior(law.sample(n, seed=2 * i + seed)))


# root mean square errors of single samples that Qiu et al. (2026) print, by kind and sigma
_QIU = {
    ("many-weak", 0.2): {"floor": 1.13, "MCGDiff": 1.07, "DiffPIR": 1.20, "DDRM": 1.08, "DAPS": 1.04, "DPS": 1.14}
    | {"PnPDM": 1.19, "REDdiff": 1.11},
    ("many-weak", 0.5): {"floor": 1.30, "MCGDiff": 1.26, "DiffPIR": 1.69, "DDRM": 1.29, "DAPS": 1.57, "DPS": 1.23}
    | {"PnPDM": 1.83, "REDdiff": 1.65},
    ("few-strong", 0.2): {"floor": 1.17, "PnPDM": 0.96, "REDdiff": 0.85},
    ("few-strong", 0.5): {"floor": 1.20},
}
# the ranges stored with gabrielvc/benchopts_inverse_problem_diffusion_prior
_BENCHOPT = {
    1: {"DDRM": "29.7 [26.9, 33.1]", "MCGDiff": "5.2 [4.7, 5.8] (128 particles)"},
    2: {"DDRM": "13.4 [11.7, 15.6]", "MCGDiff": "4.3 [3.8, 4.7] (128 particles)"},
    4: {"DDRM": "0.45 [0.43, 0.61]", "MCGDiff": "0.19 [0.14, 0.20] (128 particles)"},
}


@cache
def families() -> dict[str, Family]:
    """Returns all families by their key, in the order of the report."""
    out = {f"mixture-{d}-{dy}": _mixture(d, dy) for d, dy in mixture.ALL_DIMS}
    out |= {f"seeded-{dy}": _benchopt(dy) for dy in _BENCHOPT}
    out |= {f"sixteen-{kind}-{sigma}": _sixteen(kind, sigma) for kind, sigma in _QIU}
    out["gaussian"] = Family(
        "Gaussian, d = 100, d_y = 50",
        "a random covariance and 50 random rows, sigma = 0.1, after the test of MGPS (Moufad et al., ICLR 2025); 5 "
        "instances of our own, sliced W1 of 1000 samples.",
        _gaussian,
        5,
    )
    out["mask"] = Family(
        "Exact mask on the mixture, d = 8",
        "1 to 4 of the 8 values measured without noise, for the methods made for that; 12 instances of our own, sliced W1 "
        "of 1000 samples.",
        _mask,
        12,
    )
    for key, normal, words in (("latent", False, "from the mixture of d = 8"), ("normal", True, "standard normal")):
        out[key] = Family(
            f"Linear decoder, {'normal' if normal else 'mixture'} latent",
            f"x = W z + 1 in 16 dimensions, z {words}, three noisy rows, sigma = 0.1: latent methods against the exact "
            "posterior; 10 instances of our own, sliced W1 of 1000 samples.",
            partial(_latent, normal=normal),
            10,
        )
    return out
