"""The posterior p(x | y): a prior, an operator, a noise law and a measurement."""

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic

import torch
from torch import Tensor
from typing_extensions import TypeVar

from invgen.diffusion import Denoiser, Prior
from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.forward import LinearOperator, Operator
from invgen.html import card
from invgen.linalg import dot
from invgen.noise import Gaussian, Noise, NoiseLike, RandnLike, as_noise
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.random import Streams
from invgen.pushforward import Decoded, Generator
from invgen.validation.arguments import named
from invgen.validation.hints import check

PriorLike = Annotated[Prior, "see invgen.priors"]
OperatorLike = Annotated[Operator, "wrap a function with operators.from_function(f, in_shape)"]
if TYPE_CHECKING:
    import numpy as np

    TensorLike = Tensor | np.ndarray
else:
    TensorLike = Annotated[Tensor, "use torch.as_tensor"]  # an array of NumPy, too, keeps its precision
# what may be given for each field
GIVEN = {"prior": PriorLike, "A": OperatorLike, "noise": NoiseLike, "y": TensorLike, "init": TensorLike | None}

# `Posterior` alone is any problem; `Posterior[Denoiser, LinearOperator, Gaussian]` is one of these parts
PriorT = TypeVar("PriorT", bound=Prior, covariant=True, default=Prior)
OperatorT = TypeVar("OperatorT", bound=Operator, covariant=True, default=Operator)
NoiseT = TypeVar("NoiseT", bound=Noise, covariant=True, default=Noise)


@named
@dataclass(frozen=True)
class Posterior(Generic[PriorT, OperatorT, NoiseT]):
    """p(x | y) ~ p(x) p(y | A(x)).

    Type hints may name its parts: `Posterior[Denoiser, LinearOperator, Gaussian]`. It is no other class when it runs.

    Args:
        prior: over signals of shape `prior.shape`.
        A: an operator with in_shape = prior.shape.
        noise: a Noise, or a number, the standard deviation of Gaussian noise in units of y.
        y: the measurement, (*batch, *A.out_shape), finite: a tensor, or an array of NumPy.
        init: signals (*batch, *prior.shape) around which a sampler that starts from noise begins, at the prior's highest
            level; see `solve(init=, level=)`.
    """

    prior: PriorT
    A: OperatorT
    noise: NoiseT
    y: Tensor
    init: Tensor | None = None

    if TYPE_CHECKING:

        def __init__(
            self, prior: PriorT, A: OperatorT, noise: NoiseT | float, y: TensorLike, init: TensorLike | None = None
        ) -> None: ...

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, check(name, value, GIVEN[name]))
        object.__setattr__(self, "noise", as_noise(self.noise))
        prior, A, y = self.prior, self.A, self.y
        if A.in_shape != prior.shape:
            raise ShapeError(
                f"the operator takes signals of shape {tuple(A.in_shape)} but the prior is over {tuple(prior.shape)}"
            )
        k = len(A.out_shape)
        if y.ndim < k or y.shape[y.ndim - k :] != A.out_shape:
            raise ShapeError(
                f"the measurement has shape {tuple(y.shape)}, expected (*batch, {', '.join(map(str, A.out_shape))}) as "
                f"{type(A).__name__} gives"
            )
        if not (y.is_floating_point() or y.is_complex()):
            raise ShapeError(f"the measurement has dtype {y.dtype}, expected floating point; convert it with y.float()")
        if y.is_complex() and not (A.out_dtype.is_complex or prior.dtype.is_complex):
            raise ShapeError(
                f"the measurement is complex but {type(A).__name__} of the prior's signals is real; pass y.real, or an "
                "operator with complex values"
            )
        if y.device != prior.device:
            raise ShapeError(f"the measurement is on {y.device} but the prior on {prior.device}; move one with .to()")
        if self.init is not None and self.init.shape != (*self.batch, *prior.shape):
            raise ShapeError(
                f"init has shape {tuple(self.init.shape)}, expected one signal for each measurement, "
                f"{(*self.batch, *prior.shape)}"
            )
        if not torch.isfinite(y).all():
            bad = (~torch.isfinite(y)).sum().item()
            raise OptionError(
                f"the measurement has {bad} values that are not finite, of {y.numel()}; mask them out with operators.Mask "
                "or replace them before solving"
            )

    def __repr__(self) -> str:
        A = f"{type(self.A).__name__}({self.A.extra_repr()})"
        return f"Posterior({self.prior}, {A}, {self.noise}, y of shape {tuple(self.y.shape)})"

    def facts(self) -> dict[str, Any]:
        """Returns the problem as a table, name -> value: prior, operator, noise, and the measurement's shape and values."""
        y = self.y.abs() if self.y.is_complex() else self.y
        values = (
            ""
            if not y.numel()
            else f", {'magnitudes' if self.y.is_complex() else 'values'} from {y.min():.3g} to {y.max():.3g}"
        )
        return {
            "prior": self.prior,
            "operator": f"{type(self.A).__name__}({self.A.extra_repr()})",
            "noise": self.noise,
            "measurement": f"shape {tuple(y.shape)}{values}",
        }

    def _repr_html_(self) -> str:
        return card("Posterior p(x | y)", self.facts())

    @property
    def batch(self) -> torch.Size:
        """The batch axes of the measurement."""
        return self.y.shape[: self.y.ndim - len(self.A.out_shape)]

    def changed(self, **parts: Any) -> "Posterior[PriorT, OperatorT, NoiseT]":
        """Returns this posterior with other parts, unchecked: the check of a measurement would stall an accelerator."""
        other = copy(self)
        for name, value in parts.items():
            object.__setattr__(other, name, value)
        return other

    def rows(self, index: Tensor) -> "Posterior[PriorT, OperatorT, NoiseT]":
        """Returns the posterior whose row i is measurement index[i] of the flattened batch."""
        y = self.y.reshape(-1, *self.A.out_shape)[index.to(self.y.device)]
        init = self.init if self.init is None else self.init.reshape(-1, *self.prior.shape)[index.to(self.init.device)]
        return self.changed(y=y, noise=self.noise.rows(index, tuple(self.batch), tuple(self.A.out_shape)), init=init)

    def latent(self) -> "Posterior[Denoiser, Decoded, NoiseT]":
        """Returns the posterior over z of a pushforward prior x = g(z): the operator becomes A after g."""
        if not isinstance(self.prior, Generator):
            raise UnsupportedError(f"only a Generator prior has latent codes, got {type(self.prior).__name__}")
        return Posterior(self.prior.latent, Decoded(self.A, self.prior), self.noise, self.y)

    # The methods below take x of shape (B, *shape) for a y of shape (B, *out_shape).

    def reduced(self) -> "Posterior[PriorT, OperatorT]":
        """Returns the same posterior with a measurement that is A(x) plus noise: photon counts become line integrals."""
        y, noise = self.noise.reduced(self.y)
        return self if noise is self.noise else self.changed(y=y, noise=noise)

    def near(self, x: Tensor, var_x: float | Tensor) -> "Posterior[PriorT, OperatorT, NoiseT]":
        """Returns this posterior with the data and the Gaussian noise that stand for it where the signal is N(x, var_x I).

        Itself, unless the law of the data is curved in A(x) (`LineIntegrals.near`). The variance of A(x) is the mean over
        the measured values of what one white perturbation of x, the same for all, changes.
        """
        law_near = getattr(self.noise, "near", None)
        if law_near is None:
            return self
        std = torch.as_tensor(var_x, dtype=x.dtype, device=x.device).sqrt()
        clean = self.A(x)
        change = self.A(x + std * Streams(0, [0])(x[:1])) - clean
        var = (dot(change, change) / change[0].numel()).reshape(-1, *[1] * (clean.ndim - 1))
        y, noise = law_near(self.y, clean, var.clamp(min=1e-12))
        return self.changed(y=y, noise=noise)

    def residual(self, x: Tensor) -> Tensor:
        """Returns y - A(x), (B, *out_shape)."""
        return self.y - self.A(x)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Returns log p(y | x), (B,), differentiable in x."""
        return self.noise.log_prob(self.y, self.A(x))

    def likelihood_score(self, x: Tensor) -> Tensor:
        """Returns the gradient of log p(y | x) at x, exactly that, (B, *shape), in closed form for linear-Gaussian
        problems."""
        if isinstance(self.A, LinearOperator) and isinstance(self.noise, Gaussian):
            if not isinstance(self.noise.sigma, Tensor) and self.noise.sigma == 0:
                self.noise.log_prob(self.y, self.y)  # raises the sentence about noiseless measurements
            return self.A.adjoint(self.noise.score(self.y, self.A(x)))
        with differentiating():
            x = leaf(x)
            return torch.autograd.grad(self.log_likelihood(x).sum(), x)[0]

    def draw(self, x: Tensor, var_x: float | Tensor, randn: RandnLike = torch.randn_like) -> Tensor:
        """Returns an exact sample of N(u; x, var_x I) p(y | u), (B, *shape), for a linear operator and Gaussian noise.

        For photon counts it is a sample of Laplace's approximation, by the law that is `near` x.

        Perturb and solve (Papandreou & Yuille, NIPS 2010; Orieux et al., 2012): the minimiser of the quadratic whose
        two data, x and y, are perturbed by their own noise has the law of the posterior.
        """
        if not (isinstance(self.A, LinearOperator) and isinstance(self.noise, Gaussian)):
            raise UnsupportedError(
                f"an exact Gaussian draw needs a linear operator and Gaussian noise, got {type(self.A).__name__} and "
                f"{type(self.noise).__name__}; use a Langevin step"
            )
        std = var_x.sqrt() if isinstance(var_x, Tensor) else var_x**0.5
        u = x + std * randn(x)
        post = self.near(x, var_x)
        noise = post.noise
        assert isinstance(noise, Gaussian)  # `near` gives Gaussian noise
        var_y = noise.var
        if isinstance(var_y, Tensor):
            var_y = var_y[(None,) * (self.y.ndim - var_y.ndim)]  # per detector, not per sample
        return self.A.prox(u, post.y + noise.sigma * randn(self.y), var_x, var_y)

    def scaled_residual(self, x: Tensor) -> Tensor:
        """Returns (y - A(x)) / noise level, (B, *out_shape); for photon counts the distance from the expected counts."""
        clean = self.A(x)
        std = self.noise.std(clean)
        r = self.y - self.noise.mean(clean)
        return r / std if isinstance(std, Tensor) or std > 0 else r

    def residual_over_noise(self, x: Tensor) -> Tensor:
        """Returns the root mean square of `scaled_residual`, (B,): about 1 where x explains the data, no more, no less."""
        r = scaled = self.scaled_residual(x)
        count = r[0].numel() * (2 if r.is_complex() else 1)
        return (dot(scaled, scaled).flatten() / count).sqrt()


LinearGaussian = Posterior[Denoiser, LinearOperator, Gaussian]  # what half of the samplers require, for type hints
