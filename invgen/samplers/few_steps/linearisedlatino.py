"""LATINO whose proximal step has the covariance that the Jacobian of f tells: our variant, of no paper."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from invgen.diffusion import Denoiser, noise_levels
from invgen.linalg import gmres
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.samplers.few_steps.base import FewSteps, decay, regularised
from invgen.validation.hints import Count, Positive


@dataclass(frozen=True)
class LinearisedLATINO(FewSteps):
    """Noise, jump, and the posterior mean around the jump by the Jacobian of f: samples in 1 to 8 evaluations.

    Linear operators, Gaussian noise. x = f + W A^T (A W A^T + sigma_y^2)^-1 (y + sigma_y z - A f), f = f(x + s z', s). For
    every Gaussian prior the posterior is the fixed point of this step at every level if W = s^2 J (1 + J)^-1 J with
    J = df / dx, since Cov[x_0 | x_s] = s^2 J^2 and f = m + J (x_s - m) there. Here 1 + J is taken as the number 1 + a,
    a = sqrt(1 - r^2 / v) with r^2 = `prior.variance`: exact for white priors, and as s grows. On a Gaussian of correlation
    length 6 with every third value measured the relative error of the covariance is below .1 at 4 evaluations.

    A product with W is two with the Jacobian, so that a step costs about 1 + 4 `iterations` evaluations of time.

    Args:
        highest, lowest: the levels, in units of the prior's deviation. A low first level keeps the regularised solution of
            y = A x: better where y tells much (2 for deblurring), worse in holes (70 forgets it).
        iterations: of GMRES.
    """

    steps: Count = 4
    schedule: str | Sequence[float] = "log"
    highest: Positive = 5.0
    lowest: Positive = 0.5
    iterations: Count = 3

    noiseless: ClassVar[bool] = False
    backprop: ClassVar[bool] = True

    def levels(self, prior: Denoiser) -> list[tuple[float, float]]:
        high = min(self.highest * prior.data_std, prior.sigma_max)
        low = min(max(self.lowest * prior.data_std, prior.sigma_min), high)
        return noise_levels(self.steps, low, high, self.schedule, prior.data_std)

    def start(self, post: LinearGaussian, randn: Streams, rows: int) -> Tensor:
        return regularised(post, rows)

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior = post.prior
        for s, _ in self.levels(prior):
            x0, vjp = prior.vjp(x + s * randn(x), s)
            data, size = post.near(x0, prior.variance(s)), s**2 / (1 + decay(prior.variance(s), prior))
            A, var_y = data.A, data.noise.var
            x = x0 + gmres(
                lambda v, moved, A=A, var_y=var_y: var_y * v + A(moved),
                data.y + data.noise.sigma * randn(data.y) - A(x0),
                max_iter=self.iterations,
                along=lambda v, A=A, vjp=vjp, size=size: size * vjp(vjp(A.adjoint(v))),
            )
            yield x
