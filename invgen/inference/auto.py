"""Which sampler to take: what a problem has, against what docs/samplers.md has measured."""

from dataclasses import replace

from invgen.autoregressive import Autoregressive
from invgen.consistency import needs_consistency
from invgen.diffusion import Denoiser
from invgen.errors import UnsupportedError
from invgen.forward import LinearOperator, has_gradient, has_svd
from invgen.inference.counting import at_evaluations
from invgen.noise import Energy, Gaussian, TransmissionPoisson
from invgen.posterior import Posterior
from invgen.pushforward import Generator
from invgen.sampler import Sampler
from invgen.trust import ceiling, narrowed, warn_untrusted

FEW = 16  # measured values up to which a chain of particles keeps even weights, see LinearisedTDS
PARTICLES = 64  # of a chain where the evaluations are not counted
FEWEST_PARTICLES, FEWEST_STEPS = 32, 10  # of a chain where they are
FEW_AT_ONCE = 8  # as FEW, of a chain that gives all of its particles as samples
COARSE = 20  # evaluations below which MCGDiff is ahead of LinearisedTDS


def recommend(post: Posterior, evaluations: int | None = None, num_samples: int = 1) -> tuple[Sampler, str]:
    """Returns a sampler for a problem, and one sentence that says why.

    The rules follow the tables of docs/samplers.md: with few measured values a chain of particles is nearest to the exact
    posterior; with many, where the weights of particles collapse, the guided denoiser that takes the most of the problem's
    structure; what has no gradient is left to ensembles.

    Args:
        post: the problem.
        evaluations: network evaluations that a sample may take; by default as many as the sampler's own steps take.
        num_samples: how many there will be: with few evaluations a chain of particles pays only if all of them are used.

    Raises:
        UnsupportedError: the posterior is of no kind that a sampler takes, or the evaluations are too few.
    """
    if evaluations is None:
        return _best(post, PARTICLES, 1, FEW)
    if evaluations >= PARTICLES * FEWEST_STEPS:
        sampler, reason = _best(post, PARTICLES, 1, FEW)
    elif num_samples >= FEWEST_PARTICLES and not isinstance(post.prior, Generator):
        sampler, reason = _best(post, num_samples, num_samples, FEW_AT_ONCE, coarse=evaluations < COARSE)
    else:
        sampler, reason = _best(post, FEWEST_PARTICLES, num_samples, 0)
    return at_evaluations(sampler, post, evaluations), reason


def _best(post: Posterior, particles: int, draws: int, most: int, coarse: bool = False) -> tuple[Sampler, str]:
    """Returns what `recommend` does, with default steps.

    Args:
        post: the problem.
        particles, draws: of a chain.
        most: measured values up to which a chain is taken.
        coarse: whether steps are so few that particles are better drawn without a guess of what lies ahead.
    """
    from invgen import samplers

    counts = post.noise if isinstance(post.noise, TransmissionPoisson) else None
    post = post.reduced()
    A, noise, prior = post.A, post.noise, post.prior
    linear, gaussian = isinstance(A, LinearOperator), isinstance(noise, Gaussian)
    exact = isinstance(noise, Gaussian) and not hasattr(noise.sigma, "shape") and noise.sigma == 0
    values = A.out_shape.numel() * (2 if A.out_dtype.is_complex else 1)
    through = " through its decoder" if isinstance(prior, Generator) else ""

    if isinstance(prior, Denoiser) and prior.one_level:
        if linear and gaussian:
            return samplers.PnPADMM(), (
                "the denoiser knows one noise level: plug-and-play finds one image, without an uncertainty"
            )
        return samplers.ULA(warm=0, steps=1000), (
            "the denoiser knows one noise level: a Langevin chain with its score, which takes many steps"
        )

    if isinstance(prior, Autoregressive):
        if samplers.ForwardBackward().refuses(post) is None:
            return samplers.ForwardBackward(), (
                "a Markov chain and a likelihood of each site: the forward-backward algorithm is exact"
            )
        return samplers.AutoregressiveSMC(particles=particles, draws=draws), (
            "an autoregressive prior: particles are prefixes, which grow site by site"
        )

    count = f"{values} measured value{'' if values == 1 else 's'}"

    if not has_gradient(A):
        if exact:
            raise UnsupportedError(
                f"no sampler takes exact measurements of {_name(A)}, which has no gradient; state a small noise level"
            )
        if gaussian:
            return samplers.RegressionEnKG(particles=particles, draws=min(draws, particles)), (
                f"{_name(A)} has no gradient, and an ensemble replaces it by a regression"
            )
        return samplers.SCG(), f"{_name(A)} has no gradient, and SCG chooses among candidates by the likelihood alone"
    encoded = not isinstance(prior, Generator) or prior.has_encoder
    if needs_consistency(prior) is None and linear and gaussian and encoded:
        if through or exact:
            return samplers.AdaptiveLATINO(), (
                f"a consistency function{through}: a few jumps, each followed by a proximal step on the data"
            )
        return samplers.LinearisedLATINO(steps=8), (
            "a consistency function, a linear operator and Gaussian noise: a few jumps, each corrected by its Jacobian"
        )
    if exact and linear and has_svd(A) and not through:
        if values <= most:
            return samplers.MCGDiff(particles=particles, draws=draws), (
                f"{count}, exact, by a linear operator with an SVD: particles in its coordinates come nearest"
            )
        return samplers.DDNM(travel_length=5, travel_repeat=3), (
            "an exact measurement by a linear operator with an SVD: the null space from the prior, with time travel"
        )
    if values <= most and coarse and linear and gaussian and has_svd(A) and not through:
        return samplers.MCGDiff(particles=particles, draws=draws), (
            f"{count} of a linear operator with an SVD and few steps: particles in its coordinates come nearest"
        )
    if values <= most and not exact:
        return samplers.LinearisedTDS(particles=particles, draws=draws), (
            f"{count}: a chain of particles{through} is nearest to the exact posterior"
        )
    if linear and counts and not through:
        return samplers.MMPS(), (
            f"{count} that are photon counts behind a linear operator: guidance that solves the linear system with the "
            "network's own covariance, with the Gaussian law that stands for the counts found anew at each step"
        )
    if linear and gaussian and not exact and not through:
        return samplers.MMPS(), (
            f"{count} of a linear operator with Gaussian noise: guidance that solves the linear system with the network's "
            "own covariance"
        )
    if linear and gaussian and not through:
        return samplers.AdaptivePiGDM(), f"{count} of a linear operator, exact: guidance that solves the linear system"
    if isinstance(noise, Energy) or exact or through:
        what = "a loss in place of a noise law" if isinstance(noise, Energy) else f"{_name(A)}{through}"
        return samplers.DampedDPS(), f"{what}: the gradient of the likelihood guides, which asks for nothing more"
    return (
        samplers.AdaptiveDAPS(),
        f"{_name(A)} with {type(noise).__name__} noise: Langevin steps inside follow its curvature",
    )


def within_trust(post: Posterior) -> tuple[Posterior, str]:
    """Returns the problem at noise levels that its network can be trusted at, and what was left out, as the end of a
    sentence.

    Networks that err more than a constant at high noise, as many published ones do, break what differentiates them there.
    """
    prior = post.prior
    top = ceiling(prior) if isinstance(prior, Denoiser) else None
    if not isinstance(prior, Denoiser) or top is None:
        return post, ""
    warn_untrusted(prior)
    out = f"; noise levels above {top:.2g} are left out, where the network errs more than a constant would"
    return replace(post, prior=narrowed(prior, top)), out


def _name(A: object) -> str:
    return type(A).__name__
