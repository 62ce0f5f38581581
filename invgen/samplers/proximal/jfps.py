"""Rozet, Jacobian-free posterior sampling (`JFPSDenoiser` of the package azula, version 0.11): moment matching with the
covariance of the data in place of the network's Jacobian."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from invgen.errors import OptionError
from invgen.forward import LinearOperator
from invgen.linalg import cg
from invgen.noise import Gaussian
from invgen.posterior import LinearGaussian, Posterior
from invgen.samplers.guided.base import GuidedSampler
from invgen.validation.hints import Count


@dataclass(frozen=True)
class JFPS(GuidedSampler):
    """Moment matching without the network's gradient: Cov[x_0 | x_sigma] is that of a Gaussian of the data's covariance.

    Linear operators, Gaussian noise. D_y = D + C_s A^T (noise + A C_s A^T)^-1 (y - A D), C_s = (C^-1 + 1 / sigma^2)^-1,
    where MMPS has the Jacobian's sigma^2 dD/dx. Without a covariance C is data_std^2 I: one step of DiffPIR's kind, and as
    wrong as that on correlated signals. With the true one it is exact for Gaussian priors, at the cost of `iterations`
    applications of the operator and none of the network's gradient.

    Args:
        spectrum: (*shape), the variances of the coefficients of the orthonormal Fourier transform over the last two axes
            (over the last, of a shape (n,)): a covariance that is the same everywhere. `fitted` takes it from signals.
        covariance: (values, values), any other, of the flattened signal.
        iterations: of conjugate gradients; 1 in azula.
    """

    spectrum: Tensor | None = None
    covariance: Tensor | None = None
    iterations: Count = 5

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    backprop: ClassVar[bool] = False
    exact: ClassVar[str] = "for Gaussian priors of that covariance, as iterations and steps grow"

    @classmethod
    def fitted(cls, signals: Tensor, **options: Any) -> "JFPS":
        """Returns the sampler with the spectrum of clean signals, (count, *shape), of the prior's units; a few dozen do."""
        if signals.ndim < 2 or len(signals) < 2:
            raise OptionError(f"JFPS.fitted needs at least two signals, (count, *shape), got shape {tuple(signals.shape)}")
        centred = signals - signals.mean(0)
        power = torch.fft.fftn(centred, dim=axes(signals[0]), norm="ortho").abs().square().sum(0) / (len(signals) - 1)
        return cls(spectrum=power, **options)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spectrum is not None and self.covariance is not None:
            raise OptionError("JFPS takes spectrum or covariance, got both")
        for name, table in (("spectrum", self.spectrum), ("covariance", self.covariance)):
            if table is not None and (table.is_complex() or not torch.isfinite(table).all()):
                raise OptionError(f"{name} of JFPS must be real and finite numbers")
        if self.covariance is not None:
            C = self.covariance.double()
            if C.ndim != 2 or C.shape[0] != C.shape[1] or not torch.allclose(C, C.mT, atol=1e-6 * C.abs().max().item()):
                raise OptionError(f"covariance of JFPS must be a symmetric (values, values) matrix, got {tuple(C.shape)}")

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        shape = post.prior.shape
        if why is None and self.spectrum is not None and self.spectrum.shape != shape:
            why = f"needs a spectrum of the prior's shape {tuple(shape)}, got {tuple(self.spectrum.shape)}"
        if why is None and self.covariance is not None and len(self.covariance) != shape.numel():
            why = f"needs a covariance of the prior's {shape.numel()} values, got one of {len(self.covariance)}"
        return why

    def spread(self, post: LinearGaussian, v: Tensor, s: float) -> Tensor:
        """Returns (C^-1 + 1 / s^2)^-1 v, (B, *shape)."""
        if self.spectrum is not None:
            power, dim = self.spectrum.to(v), axes(v[0])
            return torch.fft.ifftn(shrunk(power, s) * torch.fft.fftn(v, dim=dim), dim=dim).real
        if self.covariance is not None:
            values, vectors = (part.to(v) for part in eigen(self.covariance))
            return (v.flatten(1) @ vectors * shrunk(values, s) @ vectors.mT).reshape(v.shape)
        return shrunk(torch.as_tensor(post.prior.data_std**2), s).item() * v

    def guide(self, post: LinearGaussian, x: Tensor, s: float) -> Tensor:
        x0 = post.prior(x, s)
        data = post.near(x0, post.prior.variance(s))
        A, var_y = data.A, data.noise.var

        def measured(v: Tensor) -> Tensor:
            return var_y * v + A(self.spread(post, A.adjoint(v), s))

        u = cg(measured, data.residual(x0), max_iter=self.iterations, warn=False)
        return x0 + self.within(post.prior, x, s, self.spread(post, A.adjoint(u), s))


def axes(signal: Tensor) -> tuple[int, ...]:
    """Returns the axes of a signal along which a covariance may be the same everywhere: the last two, or the only one."""
    return (-2, -1)[-min(signal.ndim, 2) :]


@lru_cache(maxsize=4)  # of one covariance for all steps of a run
def eigen(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the eigenvalues, none below zero, and the eigenvectors of a covariance."""
    values, vectors = torch.linalg.eigh(covariance.double())
    return values.clamp(min=0), vectors


def shrunk(variance: Tensor, s: float) -> Tensor:
    """Returns the variance of a Gaussian value given itself under noise of level s."""
    return variance * s**2 / (variance + s**2)
