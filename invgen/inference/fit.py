"""Does the measured signal look like one of the prior's? Two checks of posterior samples, and a sentence.

The first asks whether the measurement is as far from the samples as the noise makes it: a posterior predictive check
(Gelman, Meng & Stern, Statistica Sinica 1996) of |y - A(x)| over the noise, whose law given x is known. Each sample of a
true posterior has a uniform p-value, and twice their average is a p-value again (Meng, Annals of Statistics 1994; Vovk &
Wang, Biometrika 2020). The second asks whether the prior's denoiser, given a sample and fresh noise, errs as much as its
table `mmse` says it does on signals that it knows: for signals from elsewhere it errs more (Graham et al., Denoising
diffusion models for out-of-distribution detection, CVPR workshops 2023). Samples are drawn towards the prior, so that
what was not measured says little: no alarm is no proof.

Both say what the sampler does as well. A calibration knows what it does where x is the prior's: `Calibration.fit` ranks
both figures among those of its pairs (conformal p-values: Bates et al., Testing for outliers with conformal p-values,
Annals of Statistics 2023).
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from invgen.diffusion import Denoiser
from invgen.inference.simulation import rows_at_once
from invgen.noise import Energy, Gaussian, Noiseless
from invgen.numerics.gradients import running
from invgen.numerics.random import Streams
from invgen.posterior import Posterior

ALPHA = 0.05  # of an alarm where x is the prior's; each of two checks has half of it
LEAST_PAIRS = round(2 / ALPHA) - 1  # of a calibration: fewer have no ranks that are as rare as an alarm
LARGE = 1.5  # residual over noise that counts: that of 25 steps is up to 1.2 where little noise leaves nothing else open
SMALL = 1.1  # and from which on it is told, as its inverse is: the sampler is off, or x is elsewhere
SURPRISING = 1.75  # error over table that counts: signals of one kind differ, those of the shipped priors up to that
SIGMA = 0.1  # the noise to remove, over the prior's data_std
REPLICATES = 200  # draws of a noise law whose residuals have no known law, over all samples


@dataclass(frozen=True)
class Fit:
    """How measurement and prior fit the samples; print it. Tensors are (*batch,), nan where there is nothing to compare.

    Attributes:
        residual: |y - A(x)| over the noise, on average over the samples.
        p_residual: probability of a larger one, where x is a sample of the posterior.
        denoising: mean squared error of the prior's denoiser on the samples, over that of its table.
        p_denoising: probability of a larger one, where a calibration tells.
        overfitted: whether the samples follow the noise of the measurement, and so say nothing of the prior.
        sigma: the level of noise that the denoiser removed.
        pairs: of the calibration that the p-values are ranks among; 0 without one.
    """

    residual: Tensor
    p_residual: Tensor
    denoising: Tensor
    p_denoising: Tensor
    overfitted: Tensor
    sigma: float
    pairs: int = 0

    @property
    def elsewhere(self) -> Tensor:
        """Whether x seems to come from elsewhere than the prior, (*batch,)."""
        return self._far | (self._surprising & ~self.overfitted)

    @property
    def _far(self) -> Tensor:
        return (self.p_residual <= ALPHA / 2) & ((self.residual > LARGE) | (self.pairs > 0))

    @property
    def _surprising(self) -> Tensor:
        return self.p_denoising <= ALPHA / 2 if self.pairs else self.denoising > SURPRISING

    def __str__(self) -> str:
        odd, lost = self.elsewhere.flatten(), self.overfitted.flatten()
        unexplained = ((self.p_residual < ALPHA / 2) & (self.residual > SMALL)).flatten()
        if not odd.any():
            what, rows = "nothing says that x comes from elsewhere than the prior", ~odd
            if lost.any():
                what, rows = "the samples follow the noise, take more steps or another sampler", lost
            elif unexplained.any():
                what, rows = "the sampler is off, or x is not quite the prior's, which Calibration.fit tells", unexplained
            return f"{what}: {'; '.join(self._figures(rows))}"
        numbers = ", ".join(map(str, odd.nonzero().flatten().tolist()[:8])) + ", ..." * (int(odd.sum()) > 8)
        which = f"x of {int(odd.sum())} of {len(odd)} measurements (number {numbers})" if len(odd) > 1 else "x"
        return (
            f"{which} seems to come from elsewhere than the prior, or the sampler has not converged: "
            f"{'; '.join(self._figures(odd))}"
        )

    def _figures(self, rows: Tensor) -> list[str]:
        """Returns the figures of some measurements, the worst of each, in words."""
        found, most = [], "up to " * (int(rows.sum()) > 1)
        for value, p, what in (
            (self.residual, self.p_residual, "the residual is {} times the noise"),
            (self.denoising, self.p_denoising, f"at sigma = {self.sigma:.3g} the denoiser errs {{}} times its table"),
        ):
            value, p = value.flatten()[rows], p.flatten()[rows]
            if value.numel() and not value.isnan().any():
                chance = "" if p.isnan().any() else f" (p = {p.min():.2g})"
                found.append(what.format(f"{most}{value.max():.2f}") + chance)
        return found or ["there is neither a law of the noise nor a table of the denoiser's error (measure_mmse) to ask"]


def fit(post: Posterior, samples: Tensor, pairs: tuple[Tensor, Tensor] | None = None) -> Fit:
    """Compares samples, (num_samples, *batch, *shape), with their measurement and with their prior.

    One evaluation of the network a sample, all with the same noise; for photon counts also draws of the noise.

    Args:
        post: the problem.
        samples: of its posterior.
        pairs: (y, samples) of the same sampler for signals of the prior, as many samples each.
    """
    flat = samples.reshape(len(samples), math.prod(post.batch), *post.prior.shape)
    known = post.y.reshape(-1, *post.A.out_shape)
    with running(post.A), running(post.prior):
        residual, tail = _residual(post, flat, known)
        p_residual, overfitted = (2 * tail).clamp(max=1), (2 * (1 - tail) < ALPHA / 2) & (residual < 1 / SMALL)
        denoising, sigma = _denoising(post, flat)
        p_denoising, count = denoising * math.nan, 0
        if pairs is not None:
            others, count, overfitted = replace(post, y=pairs[0]), len(pairs[0]), torch.zeros_like(overfitted)
            p_residual = _ranked(residual, _residual(others, pairs[1], pairs[0])[0])
            p_denoising = _ranked(denoising, _denoising(others, pairs[1])[0])
    figures = (residual, p_residual, denoising, p_denoising, overfitted)
    return Fit(*[value.reshape(post.batch) for value in figures], sigma=sigma, pairs=count)


def _ranked(value: Tensor, others: Tensor) -> Tensor:
    """Returns (1 + how many of the others are as large) / (1 + how many there are), nan for nan."""
    p = (1 + (others >= value[:, None]).sum(1)).double() / (1 + len(others))
    return torch.where(value.isnan(), torch.nan, p)


def _residual(post: Posterior, samples: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns residual over noise and the probability of a larger one by the noise's law, averages over samples, (B,)."""
    nothing = torch.full((len(y),), torch.nan, dtype=torch.float64)
    if isinstance(post.noise, Noiseless | Energy) or not len(y):
        return nothing, nothing
    rows = post.rows(torch.arange(len(y)))
    found = torch.stack([rows.residual_over_noise(x) for x in samples]).double().cpu()
    if isinstance(post.noise, Gaussian):  # the squares of m residuals have the chi-square law of m degrees
        m = math.prod(post.A.out_shape) * (2 if y.is_complex() else 1)
        p = torch.special.gammaincc(torch.tensor(m / 2, dtype=torch.float64), found.square() * m / 2)
        return found.mean(0), p.mean(0)
    generator, above, count = torch.Generator().manual_seed(0), torch.zeros(len(y), dtype=torch.float64), 0
    law = rows.noise.to("cpu")
    for r, x in zip(found, samples, strict=True):
        clean = rows.A(x).cpu()
        for _ in range(-(-REPLICATES // len(samples))):
            again = replace(rows, y=law.sample(clean, generator).to(y.device))
            above += again.residual_over_noise(x).double().cpu() >= r
            count += 1
    return found.mean(0), (1 + above) / (2 + count)


def _denoising(post: Posterior, samples: Tensor) -> tuple[Tensor, float]:
    """Returns the denoiser's error on the samples over that of its table, on average over them, (B,), and the level."""
    prior, nothing = post.prior, torch.full((samples.shape[1],), torch.nan, dtype=torch.float64)
    if not (isinstance(prior, Denoiser) and prior.mmse) or prior.consistency:  # f errs as a sample does, not as a mean
        return nothing, math.nan
    sigma = min(max(SIGMA * prior.data_std, prior.sigma_min), prior.sigma_max)
    total = torch.zeros_like(nothing)
    for k, x in enumerate(samples):
        noise = sigma * Streams(0, [k])(x.new_empty(1, *prior.shape))
        parts = [(prior(part + noise, sigma) - part).square().flatten(1).mean(1) for part in x.split(rows_at_once(prior))]
        total += torch.cat(parts).double().cpu()
    return total / (len(samples) * prior.variance(sigma)), sigma
