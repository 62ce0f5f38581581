"""Rout, Raoof, Daras, Caramanis, Dimakis & Shakkottai, "Solving linear inverse problems provably via posterior sampling
with latent diffusion models" (NeurIPS 2023), Algorithm 2."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.forward import LinearOperator, per_sample
from invgen.linalg import dot
from invgen.noise import Gaussian
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.pushforward import Decoded, Generator
from invgen.samplers.guided.base import GuidedSampler
from invgen.validation.hints import NonNegative


@dataclass(frozen=True)
class PSLD(GuidedSampler):
    """Latent DPS with a gluing term: the clean code is pulled to the code of its own signal with the measurement glued in.

    Linear operators, Gaussian noise, a generator with an encoder. The gluing objective |z - E(x + K (y - A x))|^2 with
    x = g(z) singles out codes that the encoder and the decoder agree on. The paper's K = A^T wants A A^T = I; here K is the
    gain of a signal with values of variance data_std^2, A^T (A A^T + sigma_y^2 / data_std^2)^-1, so that noise is not glued
    in and units cancel. The score form: both terms are gradients with respect to the noisy code, in units of the score,
    that of gluing over the variance of the denoised code; a likelihood that is counted twice in part, gamma of it.

    The released code adds fresh noise to its prediction of y, takes one norm over the batch, and weighs un-squared norms:
    omega = 0.1 (0.9 for super-resolution) and gamma = 0.1 (0.01 for boxes with Stable Diffusion).

    Args:
        zeta: strength of the measurement, the paper's omega.
        gamma: strength of gluing.
    """

    zeta: NonNegative = 1.0
    gamma: NonNegative = 0.1

    prior: ClassVar[type] = Generator
    A: ClassVar[type] = LinearOperator
    noise: ClassVar[type] = Gaussian
    family: ClassVar[str] = "latent"

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and not post.prior.has_encoder:
            why = f"needs a generator with an encoder, and {type(post.prior).__name__} has none"
        return why

    def levels(self, prior: Denoiser | Generator) -> list[tuple[float, float]]:
        return super().levels(prior.latent if isinstance(prior, Generator) else prior)

    def run(self, post: Posterior[Generator, LinearOperator, Gaussian], z: Tensor, randn: Streams) -> Iterator[Tensor]:
        codes = post.latent()
        yield from super().run(codes, codes.prior.start(z, self.levels(codes.prior)[0][0]), randn)

    def guide(self, post: Posterior[Denoiser, Decoded, Gaussian], z: Tensor, s: float) -> Tensor:
        z0, vjp = post.prior.vjp(z, s)
        data, glue, misfit = self._terms(post, z0)
        guidance = s**2 * vjp(data)
        # as in DPS: the variance of the residual along itself, in units of the noise, is 1 + what the code leaves open
        spread = dot(data, guidance).flatten() / misfit.clamp(min=1e-30)
        move = self.zeta / (1 + per_sample(spread.clamp(min=0), z0)) * guidance
        if self.gamma > 0:
            move = move + self.gamma * s**2 / post.prior.variance(s) * vjp(glue)
        return z0 + self.within(post.prior, z, s, move)

    def _terms(self, post: Posterior[Denoiser, Decoded, Gaussian], z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns gradients of log p(y | z) and of minus half the gluing objective, and |y - A x|^2 over the noise,
        (B,)."""
        A, generator = post.A.A, post.A.generator
        assert isinstance(A, LinearOperator)  # `refuses` has seen to it
        var_x, var_y = generator.data_std**2, post.noise.var
        if isinstance(var_y, Tensor):
            var_y = var_y[(None,) * (post.y.ndim - var_y.ndim)]  # per detector, not per sample
        with differentiating():
            z = leaf(z)
            decoded = generator(z)
            x = decoded.detach()
            r = post.y - A(x)
            glued = leaf(x + var_x * A.weighted_adjoint(r, var_x, var_y))
            code = generator.encode(glued)
        (data,) = torch.autograd.grad(decoded, z, A.adjoint(r / var_y), retain_graph=True)
        gap = z.detach() - code.detach()
        (back,) = torch.autograd.grad(code, glued, gap)
        back = back - A.weighted_adjoint(A(var_x * back), var_x, var_y)  # (I - K A)^T
        (back,) = torch.autograd.grad(decoded, z, back)
        return data, back - gap, dot(r, r / var_y).flatten()
