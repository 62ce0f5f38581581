"""Block Gibbs sampling of the steps of a random walk, each Gaussian once its variance is known."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from invgen.numerics.random import Streams


@dataclass(frozen=True)
class Steps:
    """The law of a step; arguments as of `LevyProcess`."""

    increments: str
    scale: float
    df: float
    rate: float


def gibbs(law: Steps, H: Tensor, var: float, y: Tensor, num_samples: int, burn_in: int, thin: int, seed: int) -> Tensor:
    """Returns walks, (num_samples, B, d), drawn in turn with the variances of their steps.

    All steps are drawn at once, N((H^T H / var + 1 / w)^-1 H^T y / var, ...). Which steps of "bernoulli-laplace" are there
    is drawn before them, one after another, with the sizes of all steps summed out: a chain that drew both in turn would
    never leave a zero. Sources: Bohra, del Aguila Pla, Giovannelli & Unser, "A statistical framework to investigate the
    optimality of signal-reconstruction methods" (IEEE Trans. Signal Process. 71, 2023); Kuschmierz, Zach et al., Gaussian
    latent machines (2025).

    Args:
        law: of the walk.
        H: measurements of steps, (m, d).
        var: of the noise.
        y: (B, m).
        num_samples, burn_in, thin, seed: as of `LevyProcess.posterior_samples`.
    """
    (rows, _), d = y.shape, H.shape[1]
    draw = Streams(seed, torch.arange(rows))
    gram, right = H.T @ H / var, y @ H / var
    like = y.new_empty(rows, d)
    # the first steps: of least squares with a little of the prior, so that no chain starts a power law away
    u = torch.linalg.solve(gram + torch.eye(d).to(gram) / law.scale**2, right.T).T
    present = torch.ones_like(like)
    out = y.new_empty(num_samples, rows, d)
    for k in range(-burn_in, num_samples * thin):
        precision = precisions(law, u, draw)
        if law.increments == "bernoulli-laplace":
            absent = torch.log(draw.uniform(like)).mul_(-2 * law.scale**2).reciprocal_()  # their variance is the prior's
            precision = torch.where(present > 0, precision, absent)
            _flip(present, 1 / precision, y, H, var, law.rate, draw.uniform(like))
        P = gram * present[:, :, None] * present[:, None] if law.increments == "bernoulli-laplace" else gram
        L = torch.linalg.cholesky(P + torch.diag_embed(precision))
        white = torch.linalg.solve_triangular(L, (right * present)[..., None], upper=False)
        white = white + draw(like)[..., None]
        u = torch.linalg.solve_triangular(L.mT, white, upper=True)[..., 0] * present
        if k >= 0 and (k + 1) % thin == 0:
            out[k // thin] = u.cumsum(1)
    return out


def precisions(law: Steps, u: Tensor, draw: Streams) -> Tensor:
    """Returns draws of 1 / variance of each step given the step, (B, d)."""
    if law.increments == "gaussian":
        return torch.full_like(u, 1 / law.scale**2)
    if law.increments == "student":  # Gamma((df + 1) / 2, (df + u^2) / 2)
        from scipy import special

        shape = (law.df + 1) / 2
        gamma = -torch.log(draw.uniform(u)) if shape == 1 else special.gammaincinv(shape, draw.uniform(u).numpy())
        return torch.as_tensor(gamma) / (0.5 * (law.df + (u / law.scale) ** 2)) / law.scale**2
    # the inverse Gaussian law of mean 1 / (scale |u|) and shape 1 / scale^2, by Michael, Schucany & Haas (1976)
    mean = 1 / (law.scale * u.abs().clamp(min=1e-12 * law.scale))
    a = mean * draw(u) ** 2 * law.scale**2 / 2
    small = mean / (1 + a + (a * (a + 2)).sqrt())
    return torch.where(draw.uniform(u) * (mean + small) < mean, small, mean**2 / small)


def _flip(present: Tensor, w: Tensor, y: Tensor, H: Tensor, var: float, rate: float, u: Tensor) -> None:
    from invgen.priors.laws._lattice import flip

    there = H * (present * w)[:, None]  # (B, m, d)
    inverse = torch.linalg.inv(there @ H.T + var * torch.eye(len(H)).to(H))
    odds = math.log(rate) - (math.log1p(-rate) if rate < 1 else -math.inf)
    arrays = (present, w, y, H.T, inverse)
    flip(*(np.ascontiguousarray(t.numpy()) if t is not present else t.numpy() for t in arrays), odds, u.numpy())
