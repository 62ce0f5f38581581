"""Operators and noises as the physics of deepinv, for its algorithms.

Nothing here imports deepinv before it is used.
"""

from typing import Any

import torch
from torch import Tensor, nn

from invgen.errors import MissingExtraError, OptionError, UnsupportedError
from invgen.forward import LinearOperator, Operator, SVDOperator
from invgen.noise import Gaussian, Noise, Noiseless, Poisson, as_noise
from invgen.validation.arguments import checked


@checked
def to_deepinv(A: Operator, noise: Noise | float | None = None) -> nn.Module:
    """Returns an operator, and its noise, as a physics for deepinv's algorithms.

    An SVDOperator becomes a DecomposablePhysics, another linear one a LinearPhysics whose prox_l2 and A_dagger are `prox`
    and `pinv` (conjugate gradients to convergence), any other a Physics.

    Args:
        noise: Gaussian, Poisson, Noiseless, or a number, the standard deviation of Gaussian noise; None for none.

    Raises:
        MissingExtraError: deepinv cannot be imported.
        UnsupportedError: a noise that deepinv does not have.
    """
    dinv = require_deepinv()
    if not isinstance(A, Operator):
        raise OptionError(f"expected an invgen Operator, got {type(A).__name__}")
    model = _noise_model(dinv, Noiseless() if noise is None else as_noise(noise))
    options = {"noise_model": model, "img_size": tuple(A.in_shape)}
    if isinstance(A, SVDOperator):
        physics = dinv.physics.DecomposablePhysics(
            U=A.U, U_adjoint=A.Ut, V=A.V, V_adjoint=A.Vt, mask=A.s[None].clone(), **options
        )
    elif isinstance(A, LinearOperator):
        physics = _linear_physics(dinv)(A, options)
    else:
        physics = dinv.physics.Physics(A=lambda x, **_: A(x), noise_model=model)
    physics.operator = A  # moves with the physics
    return physics


def require_deepinv() -> Any:
    """Returns the package deepinv.

    Raises:
        MissingExtraError: it is not there, or does not import (its torchvision must fit torch).
    """
    try:
        import deepinv
    except Exception as error:  # a torchvision that does not fit torch fails with errors of several kinds
        raise MissingExtraError.of_broken("deepinv", "deepinv", error) from error
    return deepinv


def _linear_physics(dinv: Any) -> type[nn.Module]:
    class Linear(dinv.physics.LinearPhysics):
        def __init__(self, A: LinearOperator, options: dict[str, Any]) -> None:
            super().__init__(A=lambda x, **_: A(x), A_adjoint=lambda y, **_: A.adjoint(y), **options)

        def prox_l2(self, z: Any, y: Tensor, gamma: Any, *args: Any, **kwargs: Any) -> Tensor:
            z = z if isinstance(z, Tensor) else torch.full_like(self.operator.adjoint(y), z or 0.0)
            return self.operator.prox(z, y, gamma, 1.0)

        def A_dagger(self, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return self.operator.pinv(y)

    return Linear


def _noise_model(dinv: Any, noise: Noise) -> nn.Module:
    if isinstance(noise, Noiseless):
        return dinv.physics.ZeroNoise()
    if isinstance(noise, Gaussian) and not isinstance(noise.sigma, Tensor):
        return dinv.physics.GaussianNoise(sigma=noise.sigma)
    if isinstance(noise, Poisson):
        return dinv.physics.PoissonNoise(gain=noise.gain, normalize=True, clip_positive=True)
    raise UnsupportedError(f"deepinv has no noise like {noise!r}; there are Gaussian of one level, Poisson and Noiseless")
