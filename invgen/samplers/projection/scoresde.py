"""Song, Sohl-Dickstein, Kingma, Kumar, Ermon & Poole, "Score-based generative modeling through stochastic differential
equations" (ICLR 2021), Appendix I.2 and I.3 (imputation and colourisation) with the predictor-corrector of Appendix G."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from invgen.diffusion import step
from invgen.numerics.random import Streams
from invgen.posterior import LinearGaussian
from invgen.samplers.projection.base import Projection, ProjectionSampler, Rule
from invgen.validation.hints import Fraction, Index, Positive


@dataclass(frozen=True)
class ScoreSDE(ProjectionSampler):
    """The measured part is replaced by its noised copy after every step of a predictor-corrector sampler.

    Linear operators, Gaussian noise of one level (then with an SVD) or none. Biased: what was not measured is moved by the
    prior's score at a measured part with fresh noise, not by the conditional score; more steps alone do not help, corrector
    steps do. The released code puts in the level before the step, one too noisy, here it is the level after it. Noise in y
    counts once, see `Projection`.

    Args:
        eta: of the predictor; 1 is the ancestral step.
        corrector_steps: Langevin steps at each level, one network evaluation each (1).
        snr: their size, see `Projection.corrector` (0.16).
        rule: "level", or "norm" as in the paper.
    """

    eta: Fraction = 1.0
    corrector_steps: Index = 1
    snr: Positive = 0.16
    rule: Rule = "level"

    @classmethod
    def paper(cls) -> "ScoreSDE":
        """Returns the published budget of the VE model: 1000 levels, evenly spaced in log sigma, a corrector step at
        each."""
        return cls(steps=1000, schedule="log", rule="norm")

    def run(self, post: LinearGaussian, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        prior, levels, project = post.prior, self.levels(post.prior), Projection(post, randn)
        x = project(x, levels[0][0])
        for s, s_next in levels:
            for _ in range(self.corrector_steps):
                x = project(project.corrector(x, s, self.snr, self.rule), s)
            x = project(step(x, prior(x, s), s, s_next, self.eta, randn), s_next)
            yield x
