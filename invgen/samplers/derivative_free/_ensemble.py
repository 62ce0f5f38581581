"""Pieces of ensemble Kalman methods: residuals of a chain in units of the noise, and moves within the ensemble's span."""

import math

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Prior
from invgen.forward import Operator
from invgen.noise import Gaussian
from invgen.posterior import Posterior
from invgen.samplers.smc.base import Cloud, by_rows


def whitened(post: Posterior[Prior, Operator, Gaussian], clean: Tensor, particles: int) -> Tensor:
    """Returns (y - clean) / noise level of C chains, (C, particles, m) in double precision, complex values as pairs."""
    r = (post.y - clean) / post.noise.sigma
    r = torch.view_as_real(r) if r.is_complex() else r
    return r.reshape(-1, particles, math.prod(r.shape[1:])).double()


def centred(x: Tensor, particles: int) -> Tensor:
    """Returns deviations from the mean of each chain, (C, particles, n) in double precision, of x, (C * particles,
    *shape)."""
    x = x.reshape(-1, particles, math.prod(x.shape[1:])).double()
    return x - x.mean(1, keepdim=True)


def combined(coefficients: Tensor, deviations: Tensor, like: Tensor) -> Tensor:
    """Returns sum_k coefficients_jk deviations_k, in the shape and dtype of `like`, (C * particles, *shape)."""
    return (coefficients @ deviations).reshape(like.shape).to(like.dtype)


def denoised(post: Posterior[Denoiser], x: Tensor, s: float, cloud: Cloud) -> Tensor:
    """Returns D(x, s), (C * particles, *shape), with no more rows at once than the chain allows."""
    return by_rows(lambda p, u: (p.prior(u, s),), cloud.split, x, post=post)[0]


def measured(post: Posterior, x: Tensor, cloud: Cloud) -> Tensor:
    """Returns A(x), (C * particles, *out_shape), with no more rows at once than the chain allows."""
    return by_rows(lambda p, u: (p.A(u),), cloud.split, x, post=post)[0]
