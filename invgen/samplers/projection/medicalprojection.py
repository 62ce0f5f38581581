"""Song, Shen, Xing & Ermon, "Solving inverse problems in medical imaging with score-based generative models" (ICLR 2022),
Algorithm 1 with the predictor-corrector of its experiments."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from invgen.diffusion import step
from invgen.errors import OptionError
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.samplers.projection.base import Projection, ProjectionSampler, Rule
from invgen.validation.hints import Fraction, Index, Positive

_TASKS = {"lidc": (0.246, 0.841), "ldct": (0.4, 0.72), "brats": (0.517, 1.0)}  # snr, lambda


@dataclass(frozen=True)
class MedicalProjection(ProjectionSampler):
    """Before every update, part lam of the state's measured part is replaced by the noised measurement.

    Linear operators, Gaussian noise of one level (then with an SVD) or none. The paper writes A = P(Lambda) T with an
    invertible T (the Fourier transform for MRI, a discretised Radon transform for CT) and mixes in the space of T; for a
    unitary T, and in the singular vectors of any A, this is x + lam A^+ (y_s - A x). Ends with a projection of weight 1.
    Biased as ScoreSDE is; lam < 1 moreover mixes two independent noises, which leaves the measured part with the variance
    (1 - lam)^2 + lam^2 of the level.

    Args:
        lam: the paper's lambda, 0 (the prior) to 1 (replacement). Tuned there on a validation set, see `paper`.
        snr, corrector_steps, rule: of the corrector, see `Projection.corrector`.
    """

    lam: Fraction = 1.0
    corrector_steps: Index = 1
    snr: Positive = 0.16
    rule: Rule = "level"

    @classmethod
    def paper(cls, task: str = "lidc") -> "MedicalProjection":
        """Returns the released settings, 1000 levels evenly spaced in log sigma, for "lidc" and "ldct" (CT) and "brats"
        (MRI)."""
        if task not in _TASKS:
            raise OptionError(f"there are published settings of MedicalProjection for {', '.join(_TASKS)}, got {task!r}")
        snr, lam = _TASKS[task]
        return cls(steps=1000, schedule="log", lam=lam, snr=snr, rule="norm")

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, project = post.prior, Projection(post, randn)
        for s, s_next in self.levels(prior):
            for _ in range(self.corrector_steps):
                x = project.corrector(project(x, s, self.lam), s, self.snr, self.rule)
            x = project(x, s, self.lam)
            x = step(x, prior(x, s), s, s_next, 1.0, randn)
            yield project(x, 0.0) if s_next == 0 else x
