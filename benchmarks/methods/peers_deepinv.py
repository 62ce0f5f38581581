"""The samplers of deepinv (0.5) on the same prior, operator, noise, measurement and seed, with their own code."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from invgen.benchmarks.methods._peer import Clamped, Guided, Peer
from invgen.compose import compose
from invgen.forward import LinearOperator, Operator
from invgen.noise import Gaussian
from invgen.operators import from_function, to_deepinv
from invgen.operators.peers.deepinv_physics import require_deepinv
from invgen.priors import to_deepinv as denoiser_for_deepinv
from invgen.validation.hints import Count, Fraction, Positive


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
        physics, denoiser = to_deepinv(unit.A, unit.noise), denoiser_for_deepinv(Clamped(unit.prior))
        return low + (high - low) * self.restore(require_deepinv(), unit, physics, denoiser).to(post.y.real.dtype)

    @abstractmethod
    def restore(self, dinv: Any, post: Guided, physics: Any, denoiser: Any) -> Tensor:
        """Their call: a sample in [0, 1] for each measurement."""


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
class _PosteriorDiffusion(_Deepinv):
    """deepinv.sampling.PosteriorDiffusion with a data term and their ancestral solver, whose eta = 1 is DDPM's.

    Under "ve" the levels are even in log sigma, and the last evaluation denoises the state that their solver ends in.
    """

    steps: Count = 100
    weight: Positive = 1.0
    process: Literal["vp", "ve"] = "vp"
    eta: Fraction = 1.0
    A: ClassVar[type] = LinearOperator
    backprop: ClassVar[bool] = True

    def restore(self, dinv: Any, post: Guided, physics: Any, denoiser: Any) -> Tensor:
        of, options = dinv.sampling, {"device": post.y.device, "dtype": torch.float64}
        kind = of.VariancePreservingDiffusion if self.process == "vp" else of.VarianceExplodingDiffusion
        times = torch.linspace(1, 0, self.steps, **options)
        solver, fidelity = of.AncestralSolver(timesteps=times, eta=self.eta), self.fidelity(of, denoiser)
        model = of.PosteriorDiffusion(fidelity, denoiser, kind(alpha=1.0, **options), solver, device=post.y.device)
        return model(post.y, physics, x_init=(len(post.y), *post.prior.shape))

    @abstractmethod
    def fidelity(self, of: Any, denoiser: Any) -> Any:
        """Returns their data term, of the module deepinv.sampling."""


@dataclass(frozen=True)
class DeepinvPiGDM(_PosteriorDiffusion):
    """deepinv.sampling.PosteriorDiffusion with PiGDMDataFidelity."""

    def fidelity(self, of: Any, denoiser: Any) -> Any:
        return of.PiGDMDataFidelity(denoiser=denoiser, weight=self.weight)


@dataclass(frozen=True)
class DeepinvMomentMatching(_PosteriorDiffusion):
    """deepinv.sampling.PosteriorDiffusion with MomentMatchingDataFidelity, MMPS by three iterations of CG."""

    iterations: Count = 3

    def fidelity(self, of: Any, denoiser: Any) -> Any:
        return of.MomentMatchingDataFidelity(denoiser=denoiser, weight=self.weight, cg_max_iter=self.iterations)


@dataclass(frozen=True)
class DeepinvDDRM(_Deepinv):
    """deepinv.sampling.DDRM: levels from 1 to 0 in units of [0, 1], evenly spaced, or evenly in their logarithm."""

    steps: Count = 100
    eta: Fraction = 0.85
    etab: Fraction = 1.0
    levels: Literal["linear", "log"] = "linear"
    A: ClassVar[type] = LinearOperator
    svd: ClassVar[bool] = True

    def restore(self, dinv: Any, post: Guided, physics: Any, denoiser: Any) -> Tensor:
        physics.mask = physics.mask.to(post.y.dtype)  # theirs assigns by mask, in one precision
        levels = np.linspace(1, 0, self.steps)
        if self.levels == "log":
            levels = np.geomspace(1, post.prior.sigma_min, self.steps)
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
