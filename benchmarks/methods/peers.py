"""Samplers of other packages on the same prior, operator, noise, measurement and seed: the peer rows of a suite.

deepinv (0.5) and azula (0.11) run through the adapters that invgen has for them, with their own code and their own
defaults; what is adapted is units and shapes. Their random numbers are torch's, seeded for each call, so that a result is
reproduced, but depends on what it is batched with. Both need a torchvision that fits torch: extra `peers`, which is no
part of `all`.
"""

# pyright: reportMissingImports=false
# (azula is an extra of its own, not installed where types are checked)

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from invgen.compose import compose
from invgen.cost import charged
from invgen.diffusion import Denoiser
from invgen.errors import MissingExtraError
from invgen.forward import LinearOperator, Operator
from invgen.method import Method, Run
from invgen.noise import Gaussian
from invgen.numerics.random import Streams
from invgen.operators import from_function, to_deepinv
from invgen.operators.peers.deepinv_physics import require_deepinv
from invgen.posterior import Posterior
from invgen.priors import to_azula
from invgen.priors import to_deepinv as denoiser_for_deepinv
from invgen.trust import warn_untrusted
from invgen.validation.hints import Count, Fraction, Positive

__all__ = [
    "AzulaDPS",
    "AzulaDiffPIR",
    "AzulaMMPS",
    "AzulaPiGDM",
    "AzulaTMPD",
    "DeepinvDDRM",
    "DeepinvDPS",
    "DeepinvDiffPIR",
    "DeepinvPiGDM",
]


Guided = Posterior[Denoiser, Operator, Gaussian]  # for type hints


@dataclass(frozen=True)
class Peer(Method):
    """A sampler of another package. A subclass writes `draw`."""

    kind: ClassVar[str] = "peer"
    family: ClassVar[str] = "guided"
    prior: ClassVar[type] = Denoiser
    noise: ClassVar[type] = Gaussian
    one_level: ClassVar[bool] = True
    many_levels: ClassVar[bool] = True
    alone: ClassVar[bool] = False  # whether their formula holds for one signal at a time only

    @abstractmethod
    def draw(self, post: Guided) -> Tensor:
        """Returns a sample, (B, *shape), for each measurement post.y, (B, *out_shape), by torch's global random state."""

    def solve(self, post: Guided, num_samples: int, seed: int | Tensor, run: Run) -> Tensor:
        """Returns samples, (num_samples, *batch, *shape), with one seed for all: what each draws depends on its batch."""
        batch, device = math.prod(post.batch), post.prior.device
        rows = torch.arange(num_samples * batch)
        x = torch.empty(len(rows), *post.prior.shape, dtype=post.prior.dtype, device=device)
        warn_untrusted(post.prior)
        with torch.no_grad(), charged(run.cost, post.prior, post.A, len(rows)):
            for part in rows.split(1 if self.alone else run.max_batch or max(len(rows), 1)):
                index = torch.stack([part // batch, part % batch], 1)
                uniform = Streams(seed, index).uniform(torch.empty(len(part), 1, dtype=torch.float64, device=device))
                with torch.random.fork_rng([device] if device.type == "cuda" else []):
                    torch.manual_seed(int(uniform[0].item() * 2**31))
                    x[part] = self.draw(post.rows(index[:, 1])).to(x.dtype)
                self.check_samples(post.prior, x[part])
        return x.reshape(num_samples, *post.batch, *post.prior.shape)


# -- deepinv -------------------------------------------------------------------------------------------------------------


def in_unit_range(post: Guided) -> Guided:
    """Returns the same problem for signals in [0, 1], as deepinv wants them: x = low + (high - low) u.

    A linear operator stays what it is: y less the measurement of `low`, and the noise, are divided by the range. Any other
    is put after the map.
    """
    low, high = post.prior.value_range
    size = high - low
    prior = post.prior.rescaled(1 / size, -low / size)
    if isinstance(post.A, LinearOperator):
        with torch.no_grad():
            floor = post.A(torch.full((1, *post.A.in_shape), low, dtype=post.y.real.dtype, device=post.y.device))
        return replace(post, prior=prior, y=(post.y - floor) / size, noise=Gaussian(post.noise.sigma / size))
    shift = from_function(lambda u: low + size * u, post.A.in_shape)
    return replace(post, prior=prior, A=compose(post.A, shift))


@dataclass(frozen=True)
class _Deepinv(Peer):
    """A sampler of deepinv, on signals in [0, 1]."""

    def draw(self, post: Guided) -> Tensor:
        low, high = post.prior.value_range
        unit = in_unit_range(post)
        physics, denoiser = to_deepinv(unit.A, unit.noise), denoiser_for_deepinv(_Clamped(unit.prior))
        return low + (high - low) * self.restore(require_deepinv(), unit, physics, denoiser).to(post.y.real.dtype)

    @abstractmethod
    def restore(self, dinv: Any, post: Guided, physics: Any, denoiser: Any) -> Tensor:
        """Their call: a sample in [0, 1] for each measurement."""


class _Clamped(Denoiser):
    """A prior that takes levels outside its range for its ends: their schedules end at zero."""

    def __init__(self, prior: Denoiser) -> None:
        names = ("sigma_min", "sigma_max", "value_range", "data_mean", "data_std")
        super().__init__(prior.shape, **{name: getattr(prior, name) for name in names})
        self.prior = prior

    @property
    def dtype(self) -> torch.dtype:
        return self.prior.dtype

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        return self.prior(x, level.clamp(self.sigma_min, self.sigma_max).expand(len(x)))


@dataclass(frozen=True)
class DeepinvDPS(_Deepinv):
    """deepinv.sampling.DPS: the variance-preserving SDE, guided by the gradient of the norm of the residual."""

    steps: Count = 1000
    weight: Positive = 1.0
    solver: Literal["ancestral", "ddpm", "ddim", "euler"] = "ddpm"
    guidance: Literal["norm", "annealed"] = "norm"
    A: ClassVar[type] = Operator
    backprop: ClassVar[bool] = True

    def restore(self, dinv: Any, post: Guided, physics: Any, denoiser: Any) -> Tensor:
        options = {"num_steps": self.steps, "weight": self.weight, "solver": self.solver, "guidance": self.guidance}
        return dinv.sampling.DPS(denoiser, **options)(post.y, physics, x_init=(len(post.y), *post.prior.shape))


@dataclass(frozen=True)
class DeepinvPiGDM(_Deepinv):
    """deepinv.sampling.PosteriorDiffusion with PiGDMDataFidelity, on DPS's SDE and solver."""

    steps: Count = 100
    weight: Positive = 1.0
    A: ClassVar[type] = LinearOperator
    backprop: ClassVar[bool] = True

    def restore(self, dinv: Any, post: Guided, physics: Any, denoiser: Any) -> Tensor:
        of = dinv.sampling
        times = torch.linspace(1, 0, self.steps, dtype=torch.float64, device=post.y.device)
        sde = of.VariancePreservingDiffusion(alpha=1.0, device=post.y.device, dtype=torch.float64)
        fidelity = of.PiGDMDataFidelity(denoiser=denoiser, weight=self.weight)
        model = of.PosteriorDiffusion(fidelity, denoiser, sde, of.DDPMSolver(timesteps=times), device=post.y.device)
        return model(post.y, physics, x_init=(len(post.y), *post.prior.shape))


@dataclass(frozen=True)
class DeepinvDDRM(_Deepinv):
    """deepinv.sampling.DDRM: levels evenly spaced from 1 to 0, in units of [0, 1]."""

    steps: Count = 100
    eta: Fraction = 0.85
    etab: Fraction = 1.0
    A: ClassVar[type] = LinearOperator
    svd: ClassVar[bool] = True

    def restore(self, dinv: Any, post: Guided, physics: Any, denoiser: Any) -> Tensor:
        physics.mask = physics.mask.to(post.y.dtype)  # theirs assigns by mask, in one precision
        levels = np.linspace(1, 0, self.steps)
        return dinv.sampling.DDRM(denoiser, levels, self.eta, self.etab)(post.y, physics)


@dataclass(frozen=True)
class DeepinvDiffPIR(_Deepinv):
    """deepinv.sampling.DiffPIR with the data term L2."""

    steps: Count = 100
    zeta: Positive = 0.1
    lambda_: Positive = 7.0
    A: ClassVar[type] = LinearOperator

    def restore(self, dinv: Any, post: Guided, physics: Any, denoiser: Any) -> Tensor:
        data = dinv.optim.data_fidelity.L2()
        options = {"max_iter": self.steps, "zeta": self.zeta, "lambda_": self.lambda_, "device": post.y.device}
        return dinv.sampling.DiffPIR(denoiser, data, sigma=post.noise.sigma, **options)(post.y, physics)


# -- azula ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Azula(Peer):
    """A sampler of azula, on its variance-preserving schedule between the noise levels of the prior."""

    steps: Count = 64
    A: ClassVar[type] = LinearOperator

    def draw(self, post: Guided) -> Tensor:
        require_azula()
        from azula.noise import VPSchedule

        prior = post.prior
        schedule = VPSchedule(alpha_min=(1 + prior.sigma_max**2) ** -0.5, sigma_min=prior.sigma_min)
        sampler = self.sampler(to_azula(_Clamped(prior), schedule), post.y.flatten(1), lambda x: post.A(x).flatten(1), post)
        x = sampler.init((len(post.y), *prior.shape), mean=prior.data_mean, var=prior.data_std**2)
        return sampler(x.to(post.y))

    @abstractmethod
    def sampler(self, denoiser: Any, y: Tensor, A: Callable[[Tensor], Tensor], post: Guided) -> Any:
        """Their sampler of the posterior."""

    def ancestral(self, denoiser: Any) -> Any:
        """Their DDPM steps with a guided denoiser."""
        from azula.sample import DDPMSampler

        return DDPMSampler(denoiser, steps=self.steps, silent=True)


@dataclass(frozen=True)
class AzulaDPS(_Azula):
    """azula.guidance.dps. It takes one norm over a whole batch, so that signals go through one at a time."""

    zeta: Positive = 1.0
    A: ClassVar[type] = Operator
    backprop: ClassVar[bool] = True
    alone: ClassVar[bool] = True

    def sampler(self, denoiser: Any, y: Tensor, A: Callable[[Tensor], Tensor], post: Guided) -> Any:
        from azula.guidance.dps import DPSSampler

        return DPSSampler(denoiser, y, A, self.zeta, steps=self.steps, silent=True)


@dataclass(frozen=True)
class AzulaMMPS(_Azula):
    """azula.guidance.mmps: moment matching, one iteration of GMRES by default, in DDPM's steps."""

    iterations: Count = 1
    solver: Literal["cg", "gmres"] = "gmres"
    backprop: ClassVar[bool] = True

    def sampler(self, denoiser: Any, y: Tensor, A: Callable[[Tensor], Tensor], post: Guided) -> Any:
        from azula.guidance.mmps import MMPSDenoiser
        from azula.linalg.covariance import IsotropicCovariance

        cov = IsotropicCovariance(torch.as_tensor(post.noise.sigma**2, dtype=y.dtype, device=y.device))
        return self.ancestral(MMPSDenoiser(denoiser, y, A, cov, self.solver, self.iterations))


@dataclass(frozen=True)
class AzulaTMPD(_Azula):
    """azula.guidance.tmpd: the diagonal of row sums in place of the covariance, in DDPM's steps."""

    backprop: ClassVar[bool] = True

    def sampler(self, denoiser: Any, y: Tensor, A: Callable[[Tensor], Tensor], post: Guided) -> Any:
        from azula.guidance.tmpd import TMPDenoiser

        return self.ancestral(TMPDenoiser(denoiser, y, A, post.noise.sigma**2))


@dataclass(frozen=True)
class AzulaPiGDM(_Azula):
    """azula.guidance.pgdm: the form for measurements without noise, whatever the noise, in DDIM's steps."""

    eta: Fraction = 1.0
    backprop: ClassVar[bool] = True

    def sampler(self, denoiser: Any, y: Tensor, A: Callable[[Tensor], Tensor], post: Guided) -> Any:
        from azula.guidance.pgdm import PGDMSampler

        linear = post.A
        assert isinstance(linear, LinearOperator)  # `refuses` sees to it

        def pinv(v: Tensor) -> Tensor:
            return linear.pinv(v.reshape(-1, *post.A.out_shape))

        return PGDMSampler(denoiser, y, A, pinv, eta=self.eta, steps=self.steps, silent=True)


@dataclass(frozen=True)
class AzulaDiffPIR(_Azula):
    """azula.guidance.diffpir: a few iterations of GMRES on the data term, in DDPM's steps; signals as vectors too."""

    lmbda: Positive = 10.0
    iterations: Count = 1

    def draw(self, post: Guided) -> Tensor:
        return super().draw(_as_vectors(post)).reshape(-1, *post.prior.shape)

    def sampler(self, denoiser: Any, y: Tensor, A: Callable[[Tensor], Tensor], post: Guided) -> Any:
        from azula.guidance.diffpir import DiffPIRDenoiser

        return self.ancestral(DiffPIRDenoiser(denoiser, y, A, post.noise.sigma**2, self.lmbda, iterations=self.iterations))


class _Flat(_Clamped):
    """A prior over its signals as vectors."""

    def __init__(self, prior: Denoiser) -> None:
        super().__init__(prior)
        self.shape = torch.Size([math.prod(prior.shape)])

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return super().forward(x.reshape(-1, *self.prior.shape), sigma).flatten(1)


def _as_vectors(post: Guided) -> Guided:
    shape = post.prior.shape
    unflatten = from_function(lambda x: x.reshape(-1, *shape), (math.prod(shape),), linear=True)
    return replace(post, prior=_Flat(post.prior), A=compose(post.A, unflatten))


def require_azula() -> None:
    """Sees that azula is there.

    Raises:
        MissingExtraError: it is not, or does not import.
    """
    try:
        import azula.guidance  # noqa: F401
    except Exception as error:  # a torchvision that does not fit torch fails with errors of several kinds
        raise MissingExtraError.of_broken("azula", "peers", error) from error
