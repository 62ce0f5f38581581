"""The page docs/samplers.md from the stored runs: `invgen bench study sampler-page --out docs/samplers.md`.

What a sampler needs and which gradients it takes come from its class, what it costs from a count on a small problem, how
far its samples are from the exact posterior from the runs of `invgen bench study exact --full`.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from invgen import samplers
from invgen.benchmarks.studies import evidence, manifold, mixture, spread
from invgen.benchmarks.studies import exact as exact_full
from invgen.benchmarks.studies.problems import families
from invgen.commands import catalogue
from invgen.files.writing import write_text
from invgen.operators import Mask
from invgen.posterior import Posterior
from invgen.priors import GaussianConsistency
from invgen.sampler import Cost, Sampler
from invgen.samplers.unconditional.ancestral import Unconditional

TUNED = exact_full.RESULTS.with_name("tuning_gain.md")
MANIFOLD = exact_full.RESULTS.with_name("exact_manifold.json")
HEADINGS = {
    "smc": "Sequential Monte Carlo",
    "mcmc": "Langevin and Markov chains",
    "guided": "Guided denoisers",
    "projection": "Spectral and projection",
    "variational": "Variational and optimisation",
    "plug-and-play": "Plug-and-play",
    "flow": "Flow matching",
    "few-steps": "Few steps",
    "latent": "Latent",
    "derivative-free": "Derivative-free",
    "editing": "Editing",
    "unconditional": "The prior alone",
}
# columns of the overview: heading -> the families behind it
GROUPS = {
    "mixture 8": ("mixture-8-1", "mixture-8-2", "mixture-8-4"),
    "mixture 80": ("mixture-80-1", "mixture-80-2", "mixture-80-4"),
    "mixture 800": ("mixture-800-1", "mixture-800-2", "mixture-800-4"),
    "sixteen": tuple(key for key in families() if key.startswith("sixteen")),
    "Gaussian": ("gaussian",),
    "exact mask": ("mask",),
    "latent": ("latent",),
    "normal latent": ("normal",),
}


def over_floor(runs: Sequence[exact_full.Run], budget: int = 100) -> dict[str, dict[str, float]]:
    """Returns sampler -> group -> mean distance over the floor's at a budget, geometric mean over the cells of a group that
    have been run. Instances differ in difficulty: those count that all samplers of a family have run."""
    cells: dict[tuple[str, str], float] = {}
    for key in families():
        own = [r for r in runs if r.family == key and r.budget in (0, budget) and r.affordable]
        shared = set.intersection(*({r.instance for r in own if r.sampler == name} for name in {r.sampler for r in own}))
        rows = exact_full.lines(key, [r for r in own if r.instance in shared], budget)
        floor = next((row.mean for row in rows if row.sampler == exact_full.FLOOR), math.nan)
        for row in rows:
            cells[row.sampler, key] = row.mean / floor
    out: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(name for name, _ in cells if name != exact_full.FLOOR):
        for group, keys in GROUPS.items():
            values = [cells[name, key] for key in keys if (name, key) in cells]
            if values:
                out.setdefault(name, {})[group] = float(np.exp(np.mean(np.log(values))))
    return out


def evaluations(cls: type[Sampler]) -> float:
    """Returns network evaluations for one sample with the default options, found on the first small problem that fits."""
    if issubclass(cls, Unconditional):
        spent = Cost()
        cls()(GaussianConsistency(8) if cls.consistency else mixture.mixture(8), 1, cost=spent)
        return spent.nfe
    if cls.consistency:  # the problems below have denoisers
        post = Posterior(GaussianConsistency(8), Mask((8,), torch.arange(8) < 4), 0.1, torch.ones(4))
        return math.nan if cls().refuses(post) else exact_full.evaluations(cls(), post)
    for key in ("mixture-8-4", "mask", "latent", "normal"):
        post = families()[key].make(0).posterior
        if cls().refuses(post) is None:
            return exact_full.evaluations(cls(), post)
    return math.nan


def number_of(cls: type[Sampler]) -> str:
    """Returns the network evaluations of a sampler for the table; a dash for one that none of the small problems fits."""
    count = evaluations(cls)
    return "-" if math.isnan(count) else f"{count:.0f}"


def number(value: float) -> str:
    """Returns a ratio for the table: two figures."""
    return (
        "" if math.isnan(value) else "diverged" if math.isinf(value) else f"{value:.1f}" if value < 10 else f"{value:.0f}"
    )


def overview(ratios: dict[int, dict[str, dict[str, float]]]) -> list[str]:
    """Returns the distance of each sampler from the floor, by group, at each budget; the best of each in bold."""
    best = {
        (b, g): min((r[g] for r in of.values() if g in r), default=math.nan) for b, of in ratios.items() for g in GROUPS
    }
    lines = ["| sampler | " + " | ".join(GROUPS) + " |", "|" + " --- |" * (len(GROUPS) + 1)]
    for name in sorted({name for of in ratios.values() for name in of}, key=str.lower):
        cells = []
        for group in GROUPS:
            values = {budget: of.get(name, {}).get(group, math.nan) for budget, of in ratios.items()}
            shown = [f"**{number(v)}**" if v == best[b, group] else number(v) or "-" for b, v in values.items()]
            cells.append("" if all(math.isnan(v) for v in values.values()) else " / ".join(shown))
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return lines


def markdown(runs: Sequence[exact_full.Run]) -> str:
    """Returns the whole page."""
    ratios = {budget: over_floor(runs, budget) for budget in exact_full.BUDGETS}
    _, described = catalogue.samplers()
    about = {row[0]: row for row in described}
    text = [INTRODUCTION, "## Distance to the exact posterior", OVERVIEW, "\n".join(overview(ratios))]
    for family, heading in HEADINGS.items():
        members = [c for c in samplers.catalogue().values() if c.family == family]
        lines = ["| sampler | needs | evaluations | network gradient | exact | when to use it |", "|" + " --- |" * 6]
        for cls in sorted(members, key=lambda c: c.__name__.lower()):
            gradient = "yes" if cls.backprop else "no"
            needs = about[cls.__name__][1] + ("" if cls.gradient else "; no gradient of it")
            lines.append(
                f"| `{cls.__name__}` | {needs} | {number_of(cls)} | {gradient} | {cls.exact or 'no'} | "
                f"{WHEN[cls.__name__]} |"
            )
        text.append(f"## {heading}\n\n" + "\n".join(lines))
    text += ["## Spread at few evaluations", spread.markdown(spread.load())]
    text += ["## All tables, at 100 evaluations", DETAILS, exact_full.markdown(runs).strip()]
    if evidence.STORE.exists():
        text.append(evidence.markdown(json.loads(evidence.STORE.read_text())).strip())
    if MANIFOLD.exists():
        text.append(manifold.markdown(json.loads(MANIFOLD.read_text())).strip())
    if TUNED.exists():
        text += [TUNING, TUNED.read_text().strip()]
    return "\n\n".join(text) + "\n"


INTRODUCTION = """# Posterior samplers

Generated from stored runs by `invgen bench study sampler-page --out docs/samplers.md`; the runs are made, and
resumed, by `invgen bench study exact --full --steps 10 25 100`, those of the spread by `invgen bench study spread --full`.

Evaluations are those of the network for one sample with default options; a chain of particles with `draws=1` spends all its
particles on one sample. "exact" says in which limit the samples have the exact law. `invgen.solve(..., sampler="auto")`
picks by these tables and says why (`Result.reason`)."""

OVERVIEW = """Sliced Wasserstein-1 distance to exact posterior samples, over that between two exact sets (the floor): 1 is
indistinguishable. Every sampler has 10 / 25 / 100 network evaluations a sample; chains of particles give as many samples
as they have particles. Geometric means over the cells of a column, of the instances that all samplers have run there (one
to three at 10 and 25 evaluations and on the mixture of 8, up to 20 elsewhere): compare within a column and a budget. An
empty cell: the sampler does not take the problem, or has not been run on it; a dash: not at that budget. A point estimate
is far from the floor by its nature: it has no spread. On the mixtures of 80 and 800, "sixteen", masks and latents the rows
of guided samplers are of steps of first order on "edm" levels."""

DETAILS = """Mean over the instances +- 1.96 standard errors (runs that stayed finite / runs); "/ floor": over the mean of
two exact sets; NFE: network evaluations a sample; s: seconds a run of all samples, one thread; failed: runs that raised an
error, which are counted and left out of the mean."""

TUNING = """## Tuning without ground truth

Made by `invgen bench study tuning-gain`: DPS and DAPS with their published hyper-parameters and as `invgen.tune`
set them on problems that the prior `photo` drew itself (12 trials of 8 problems), both at no more than 50 evaluations a
sample, on 24 held-out photographs of 32x32 pixels, noise 0.05 in units of [-1, 1]. Energy scores are the smaller the
better; gains are paired by photograph, with 95 % intervals."""

WHEN: dict[str, str] = {
    "ReverseDiffusion": "denoising alone; calibrated, it judges a network without any guidance",
    "TDS": "as LinearisedTDS with loud noise, or to compare with the paper",
    "LinearisedTDS": "few measured values (tens at most) and samples that must be right: distant modes, model evidence",
    "MCGDiff": "few values of a linear operator with an SVD, exact or noisy; no network gradient, the cheapest",
    "AFDPS": "few values of a linear operator with an SVD, as MCGDiff; no network gradient, a hundred steps and more",
    "DDSMC": "as MCGDiff, with another split of the noise; independent short chains",
    "FPS": "to compare with the paper; its target is too narrow",
    "CorrectedFPS": "operators with an SVD, where a path of measurements helps",
    "SMCDiff": "inpainting with particles, where the other methods of this family cannot be had",
    "AutoregressiveSMC": "autoregressive priors, any operator and noise; exact as particles grow",
    "BeamSearch": "autoregressive priors: one likely signal, without a probability; a baseline",
    "DiscreteParticleFilter": "autoregressive priors, any operator and noise: particles that all differ, unbiased evidence",
    "ForwardBackward": "Markov chains in a channel or behind a mask; exact",
    "ALD": "to compare with the released code",
    "WidenedALD": "the classical annealed baseline, any noise; many levels",
    "SNIPS": "annealed Langevin with an SVD, where singular values differ by orders",
    "ULA": "chains near one mode, any noise; a check on other samplers' spread",
    "MALA": "as ULA, without its step bias, for priors with a density or an accurate score",
    "SKROCK": "as ULA, on stiff problems (blur, tomography)",
    "PnPADMM": "a denoiser of one noise level (DnCNN, BM3D, your own); one image, no uncertainty",
    "DPIR": "one good image in eight evaluations of a denoiser of many levels; no uncertainty",
    "RED": "as PnPADMM, with a denoiser of a low level",
    "TemperedSMC": "the few parameters of a scene, some of them discrete; several modes, an evidence; no gradient",
    "PCN": "low-dimensional latents with an operator that has no gradient; exact, slow",
    "HMC": "latents of GANs, VAEs and flows, one mode, exact in the limit",
    "DAPS": "as published: more levels, and wider samples than AdaptiveDAPS",
    "AdaptiveDAPS": "nonlinear operators and any noise, images",
    "PnPDM": "a sampler with a stationary law that is known (`PnPDM.fixed`); any noise",
    "DPnP": "as PnPDM; deterministic denoising draws (DDS-DDIM), any noise",
    "MGDM": "to compare with the paper: thousands of evaluations, latent and audio priors",
    "DPS": "to compare with the paper: 1000 steps, a constant for each task, signals in [-1, 1]",
    "DampedDPS": "any differentiable operator, any noise: the first to try where nothing is linear",
    "PiGDM": "as published: signals of unit variance, many steps",
    "AdaptivePiGDM": "as MMPS where the noise is none, or the prior fits the signals badly: one solve a step",
    "MMPS": "linear operators with Gaussian noise: the right spread from 10 evaluations on",
    "TMPD": "as AdaptivePiGDM where A C A^T is nearly diagonal (masks)",
    "DiffPIR": "no network gradient, linear operators, a fast estimate with little spread",
    "JFPS": "no network gradient, linear operators: MMPS's role where the covariance of the data is known (`JFPS.fitted`)",
    "DDS": "no network gradient, a handful of CG steps: large CT and MRI volumes",
    "LGD": "to compare with the paper; its constant is tuned for each task",
    "DampedLGD": "losses that vary within the uncertainty of D; otherwise DampedDPS",
    "MPGD": "to compare with the paper; signals in [-1, 1]",
    "DampedMPGD": "when the network's gradient does not fit in memory",
    "FreeDoM": "to compare with the paper; a constant for each loss",
    "DampedFreeDoM": "any loss (embeddings, style), with time travel",
    "UniversalGuidance": "to compare with the paper; a weight for each loss",
    "DampedUniversalGuidance": "any loss, also when backward guidance is worth its cost",
    "SITCOM": "few noise levels, each with an inner optimisation; a point estimate for restoration",
    "DCPS": "to compare with the paper; signals in [-1, 1]",
    "ConjugateDCPS": "better mode weights than DampedDPS for more evaluations",
    "MGPS": "to compare with the paper; signals in [-1, 1]",
    "ConjugateMGPS": "as ConjugateDCPS, with guidance from a midpoint",
    "DDRM": "to compare with the paper; 20 steps, signals in [-1, 1]",
    "AdaptiveDDRM": "linear operators with an SVD at 20 evaluations, no gradient: a cheap baseline",
    "DDNM": "exact or nearly exact linear measurements with an SVD; time travel repairs the null space",
    "ScoreSDE": "the baseline of replacement, with corrector steps",
    "MedicalProjection": "to compare with Song et al. (2022) in CT and MRI",
    "ILVR": "the low frequencies of a reference, the rest from the prior",
    "PhaseCrossing": "sound from the magnitudes of its spectrogram, in mel bands too; no sampler of the posterior",
    "RePaint": "inpainting with exact pixels: repeats remove the bias of replacement, at their cost",
    "CCDF": "a good first image and few evaluations",
    "MCG": "to compare with the paper; signals in [-1, 1]",
    "DampedMCG": "exact linear measurements, with the gradient as well",
    "HybridReg": "as REDdiff, with points that differ from seed to seed",
    "REDdiff": "a fast point estimate with any differentiable operator",
    "DMPlug": "a point estimate on the range of a few-step sampler; nonlinear operators",
    "DFlow": "point estimates with flow priors, where memory and time allow",
    "FlowPriors": "to compare with the paper",
    "DampedFlowPriors": "one image near the mode with flow priors, in any units",
    "OTODE": "to compare with the paper; a start for each task",
    "AdaptiveOTODE": "linear operators with flow priors, deterministic steps",
    "FlowDPS": "to compare with the paper; latents of Stable Diffusion 3",
    "DampedFlowDPS": "latent flow models",
    "FlowChef": "to compare with the paper; 100 steps, signals in [-1, 1]",
    "DampedFlowChef": "a fast point estimate with flow priors, no network gradient",
    "PnPFlow": "to compare with the paper; an exponent for each task",
    "DampedPnPFlow": "a fast point estimate with flow priors, no network gradient",
    "Flower": "to compare with the paper; gamma=1 to draw samples with flow priors, no network gradient",
    "CM4IR": "to compare with the paper; a restoration in 4 evaluations of a consistency function",
    "LATINO": "to compare with the paper; latent consistency models, no gradient of the decoder",
    "LATINOPRO": "to compare with the paper; a consistency function whose condition may be wrong",
    "AdaptiveLATINO": "samples in 1 to 8 evaluations of a consistency function, over pixels or codes",
    "LinearisedLATINO": "samples in 1 to 8 evaluations of a consistency function over pixels, with its gradient",
    "CSGM": "GANs and VAEs: the best-fitting code, with restarts",
    "PULSE": "GANs whose codes must stay on the sphere",
    "PSLD": "latent diffusion with an encoder and a linear operator; DampedDPS on the latent is its base",
    "ReSample": "to compare with the paper; 500 steps",
    "InvariantReSample": "latent diffusion with an encoder, when the data must be met closely",
    "EnKG": "a point estimate for black-box operators; to compare with the paper",
    "RegressionEnKG": "black-box operators with Gaussian noise and moderate dimension",
    "EKI": "black-box operators and nearly Gaussian posteriors, very few steps",
    "SCG": "black-box losses, rules and any noise",
    "DPG": "to compare with the paper; 1000 steps, a scale for each problem",
    "DampedDPG": "black-box losses when many evaluations of the operator are cheap",
    "SDEdit": "making a sketch or a first reconstruction plausible; no sampler of the posterior",
    "BlendedDiffusion": "editing a part of an image by a measurement or a loss",
    "Ancestral": "samples of the prior, stochastic",
    "DDIM": "samples of the prior, deterministic given the start",
    "MultistepConsistency": "samples of a consistency function, in one evaluation or a few",
    "DPMSolver": "samples of the prior with the fewest evaluations",
    "Heun": "samples of the prior, the most exact of the flow",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the page, or writes it."""
    parser = argparse.ArgumentParser(prog="invgen bench study sampler-page", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--store", type=Path, default=exact_full.RESULTS, help="the CSV file of the runs")
    parser.add_argument("--out", type=Path, help="docs/samplers.md")
    args = parser.parse_args(argv)
    page = markdown(exact_full.load(args.store))
    if args.out is None:
        print(page)
    else:
        write_text(args.out, page)
