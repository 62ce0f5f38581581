"""The samplers of azula (0.11) on the same prior, operator, noise, measurement and seed, with their own code."""

# pyright: reportMissingImports=false
# (azula is an extra of its own, not installed where types are checked)

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from invgen.benchmarks.methods._peer import Clamped, Guided, Peer
from invgen.compose import compose
from invgen.diffusion import Denoiser
from invgen.errors import MissingExtraError
from invgen.forward import LinearOperator, Operator
from invgen.operators import from_function
from invgen.priors import to_azula
from invgen.validation.hints import Count, Fraction, Positive


@dataclass(frozen=True)
class _Azula(Peer):
    """A sampler of azula, on one of its schedules between the noise levels of the prior.

    Args:
        steps: of one evaluation each.
        process: VPSchedule, CosineSchedule, RectifiedSchedule, DecaySchedule or VESchedule, even in log sigma.
        sigma_min: the lowest level, whose noise their samples keep; 0.001 by their default. None is the prior's, which is
            asked at its own where a state has less noise.
    """

    steps: Count = 64
    process: Literal["vp", "cosine", "rectified", "decay", "ve"] = "vp"
    sigma_min: Positive | None = None
    A: ClassVar[type] = LinearOperator

    def draw(self, post: Guided) -> Tensor:
        require_azula()
        from azula import noise

        prior, alpha_min = post.prior, (1 + post.prior.sigma_max**2) ** -0.5
        kinds = {"vp": "VPSchedule", "cosine": "CosineSchedule", "rectified": "RectifiedSchedule", "decay": "DecaySchedule"}
        least = self.sigma_min or prior.sigma_min
        if self.process == "ve":
            schedule = noise.VESchedule(least, prior.sigma_max)
        else:
            schedule = getattr(noise, kinds[self.process])(alpha_min=alpha_min, sigma_min=least)
        sampler = self.sampler(to_azula(Clamped(prior), schedule), post.y.flatten(1), lambda x: post.A(x).flatten(1), post)
        x = sampler.init((len(post.y), *prior.shape), mean=prior.data_mean, var=prior.data_std**2)
        return sampler(x.to(post.y))

    @abstractmethod
    def sampler(self, denoiser: Any, y: Tensor, A: Callable[[Tensor], Tensor], post: Guided) -> Any:
        """Their sampler of the posterior."""


@dataclass(frozen=True)
class _AzulaGuided(_Azula):
    """A guided denoiser of azula, which any of its samplers takes.

    Args:
        stepper: DDPMSampler, EulerSampler (DDIM without noise), or a multistep method of Adams and Bashforth, order 2: zAB,
            zEAB, xEAB (DPM-Solver++ without noise) and REAB. All but the first draw their start alone.
    """

    stepper: Literal["ddpm", "euler", "zab", "zeab", "xeab", "reab"] = "ddpm"

    def stepped(self, denoiser: Any) -> Any:
        """Returns their sampler with a guided denoiser."""
        from azula import sample

        names = {"ddpm": "DDPM", "euler": "Euler", "zab": "zAB", "zeab": "zEAB", "xeab": "xEAB", "reab": "REAB"}
        return getattr(sample, f"{names[self.stepper]}Sampler")(denoiser, steps=self.steps, silent=True)


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
class AzulaMMPS(_AzulaGuided):
    """azula.guidance.mmps: moment matching, one iteration of GMRES by default."""

    iterations: Count = 1
    solver: Literal["cg", "gmres"] = "gmres"
    backprop: ClassVar[bool] = True

    def sampler(self, denoiser: Any, y: Tensor, A: Callable[[Tensor], Tensor], post: Guided) -> Any:
        from azula.guidance.mmps import MMPSDenoiser
        from azula.linalg.covariance import IsotropicCovariance

        cov = IsotropicCovariance(torch.as_tensor(post.noise.sigma**2, dtype=y.dtype, device=y.device))
        return self.stepped(MMPSDenoiser(denoiser, y, A, cov, self.solver, self.iterations))


@dataclass(frozen=True)
class AzulaTMPD(_AzulaGuided):
    """azula.guidance.tmpd: the diagonal of row sums in place of the covariance."""

    backprop: ClassVar[bool] = True

    def sampler(self, denoiser: Any, y: Tensor, A: Callable[[Tensor], Tensor], post: Guided) -> Any:
        from azula.guidance.tmpd import TMPDenoiser

        return self.stepped(TMPDenoiser(denoiser, y, A, post.noise.sigma**2))


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
class AzulaDiffPIR(_AzulaGuided):
    """azula.guidance.diffpir: a few iterations of GMRES on the data term; signals as vectors too."""

    lmbda: Positive = 10.0
    iterations: Count = 1

    def draw(self, post: Guided) -> Tensor:
        return super().draw(_as_vectors(post)).reshape(-1, *post.prior.shape)

    def sampler(self, denoiser: Any, y: Tensor, A: Callable[[Tensor], Tensor], post: Guided) -> Any:
        from azula.guidance.diffpir import DiffPIRDenoiser

        return self.stepped(DiffPIRDenoiser(denoiser, y, A, post.noise.sigma**2, self.lmbda, iterations=self.iterations))


class _Flat(Clamped):
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
