"""TDS with a twisting function that knows the uncertainty of D: our variant, of no paper."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Prior, extrapolate
from invgen.forward import LinearOperator, as_svd, has_svd, per_sample
from invgen.linalg import dot
from invgen.noise import Energy, Gaussian
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.samplers.data_term import local_fit
from invgen.samplers.smc._linearised import Linearised, centred, deviations, unnormalised
from invgen.samplers.smc.tds import TDS
from invgen.validation.hints import Count, Fraction


@dataclass(frozen=True)
class LinearisedTDS(TDS):
    """TDS whose twisting function is a Gaussian by the Jacobian at D, as wide as the noise and the uncertainty of D
    together.

    Any differentiable operator, any noise with a density; exact as TDS is. A sample costs particles / draws times steps
    network evaluations. A nonlinear operator is evaluated beyond its Jacobian, over the width of x_0 given x_sigma: where
    it is flat at D and steep nearby, as a square is at zero, the function has the mean and the width that it has there.
    This costs two evaluations of the operator and one product with dD/dx for each of a few directions (4, or 2 for
    "local"). Few measured values make the weights even, many make them collapse: with thousands, a chain is one guided
    path, the best of its particles.

    Args:
        twist: "covariance", N(y; A D, noise + J C J^T) with the true covariance C = sigma^2 dD/dx and the Jacobian J of the
            operator: one product with dD/dx for each measured value. "local", for a linear operator and Gaussian noise N(y;
            A D, noise + r^2 A A^T) with r^2 = prior.variance(sigma), elsewhere the likelihood of D tempered by what the
            uncertainty of D adds. "auto" is "covariance" up to 16 measured values, else "local". Its gradient takes its
            width for constant.
        order: 2 extrapolates the denoiser as SDE-DPM-Solver++(2M) does (Lu et al., 2022), for a more
            accurate variance at no cost; 1 is the ancestral step.
        steps, particles: at high noise the modes are chosen, so more particles help more than more steps.
    """

    schedule: str | Sequence[float] = "log"
    particles: Count = 16
    threshold: Fraction = 0.5
    twist: Literal["auto", "covariance", "local"] = "auto"
    order: Literal[1, 2] = 2

    def refuses(self, post: Posterior) -> str | None:
        if self.twist == "covariance" and isinstance(post.noise, Energy):
            return 'needs noise with a standard deviation for twist="covariance", got a loss'
        return super().refuses(post)

    def potential(
        self, post: Posterior[Denoiser], x: Tensor, s: float, s_next: float, *before: Tensor
    ) -> tuple[Tensor, ...]:
        x0, vjp = post.prior.vjp(x, s)
        post = post.near(x0, post.prior.variance(s))
        if self._dense(post):
            at = Linearised(post, x0)
            moved = torch.stack([vjp(row) for row in at.rows.unbind(1)], 1)
            spread, residual = s**2 * torch.einsum("bin,bjn->bij", moved.flatten(2), at.rows.flatten(2)), at.residual
            if not isinstance(post.A, LinearOperator):
                moves, weight = deviations(x0, vjp, s)
                shift, beyond = at.beyond(moves, weight)
                spread, residual = spread + beyond, residual - shift
            twist, u = at.gaussian(spread, residual)
            guidance = s**2 * torch.einsum("bi,bi...->b...", u, moved)
        elif isinstance(post.A, LinearOperator) and isinstance(post.noise, Gaussian):
            r = post.residual(x0)
            u = post.A.solve(r, post.prior.variance(s), post.noise.var)
            gradient = post.A.adjoint(u)
            guidance = s**2 * vjp(gradient)
            # C is far larger than r^2 in some directions, such as the mean of an image: as far as the data allow along it
            seen = post.A(guidance)
            rise, curvature = (per_sample(dot(a / post.noise.var, seen), x0) for a in (r, seen))
            fraction = rise.clamp(min=0) / (curvature + dot(gradient, guidance).clamp(min=0)).clamp(min=1e-30)
            twist, guidance = -0.5 * dot(r, u).flatten(), fraction * guidance
        else:
            near, spread, even = post, 0.0, 0.0
            if not (isinstance(post.A, LinearOperator) or isinstance(post.noise, Energy)):
                near, spread, even = centred(post, x0, *deviations(x0, vjp, s, 2))
            gradient, curvature = local_fit(near, x0, math.sqrt(post.prior.variance(s)))
            guidance = s**2 * vjp(gradient)
            slope = dot(gradient, guidance)
            linear = curvature(guidance).clamp(min=0) / slope.clamp(min=1e-30)
            fraction = 1 / (1 + torch.maximum(linear, torch.as_tensor(spread).to(linear)) + even)
            twist, guidance = fraction.flatten() * unnormalised(near, x0), fraction * guidance
        ahead = extrapolate(x0, s, s_next, *before) if self.order == 2 else x0
        return twist, x0, ahead, guidance

    def _dense(self, post: Posterior[Denoiser]) -> bool:
        few = not isinstance(post.noise, Energy) and post.A.out_shape.numel() * (2 if post.y.is_complex() else 1) <= 16
        return few if self.twist == "auto" else self.twist == "covariance"

    def finish(self, post: Posterior[Denoiser], x0: Tensor, var: float, randn: Streams) -> tuple[Tensor, Tensor]:
        """Returns x ~ N(x; x0, var I) p(y | x) where that can be drawn, and its log-weight but for the likelihood, (B,).

        The prior's last step is to N(x; x0, var I) then: so noise far below the lowest level is fitted. It is
        to x0 itself where there are many measured values and no SVD.
        """
        if self._dense(post):
            return Linearised(post.near(x0, var), x0).draw(var, randn)
        A, noise = post.A, post.noise
        if not isinstance(noise, Gaussian) or isinstance(noise.sigma, Tensor) or not has_svd(A) or post.y.is_complex():
            return x0, x0.new_zeros(len(x0), dtype=torch.float64)
        spectrum = as_svd(A).s.double()
        r, x = post.residual(x0), post.draw(x0, var, randn)
        left = post.residual(x)
        log_w = 0.5 * (dot(left, left) / noise.var - dot(r, A.solve(r, var, noise.var))).flatten().double()
        return x, log_w - 0.5 * (1 + var * spectrum**2 / noise.var).log().sum()

    def advice(self, prior: Prior) -> str:
        return super(TDS, self).advice(prior)  # TDS's is to take this class
