"""FlowPriors with a gradient scaled by its curvature: our variant, of no paper."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.forward import LinearOperator
from invgen.noise import Gaussian
from invgen.sampler import Sampler
from invgen.samplers.variational.flowpriors import Descent, FlowPriors
from invgen.validation.hints import Count, NonNegative


@dataclass(frozen=True)
class DampedFlowPriors(Sampler):
    """FlowPriors whose gradient is scaled by the inverse of its curvature, so that the data are met at any noise level.

    Linear operators, Gaussian noise. The curvature is the data's plus 1 / (1 - t)^2, which bounds the prior's. The data's
    gradient is taken with respect to u_(t + dt), and the prior's part is followed `rate` times per unit of t. A point
    estimate for each random start, pulled towards the mode.

    Args:
        iterations: see FlowPriors.
        rate: of the prior's gradient; does not depend on the steps.
    """

    iterations: Count = 1
    rate: NonNegative = 10.0

    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    family: ClassVar[str] = "variational"
    backprop: ClassVar[bool] = True

    levels, start, run = FlowPriors.levels, FlowPriors.start, FlowPriors.run

    def slope(self, A: LinearOperator, u: Tensor, r: Tensor, var: Tensor | float, ratio: float) -> Tensor:
        """Returns the gradient of the data term without the Jacobian of u_(t + dt), which is at most 1 / ratio.

        The curvature that scales the step has no part outside the range of A^T. u, r and var: as for `FlowPriors.slope`.
        """
        return ratio * A.adjoint(-r.detach() / var)

    def descent(self, A: LinearOperator, t: float, dt: float, var: Tensor | float) -> Descent:
        """Returns the step at time t, (u, gradient of the data, gradient of the prior) -> the next u; var: of the noise."""
        fraction, width = -math.expm1(-self.rate * dt / self.iterations), (1 - t) ** 2

        def descend(u: Tensor, data: Tensor, density: Tensor) -> Tensor:
            grad = data + fraction * density
            # (A^T A / var + I / width)^-1 grad, by the identity of Woodbury
            return u - width * (grad - width * A.weighted_adjoint(A(grad), width, var))

        return descend
