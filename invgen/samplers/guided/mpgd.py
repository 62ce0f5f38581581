"""He, Murata, Lai, Takida, Uesaka, Kim, Liao, Mitsufuji, Kolter, Salakhutdinov & Ermon, "Manifold preserving guided
diffusion" (ICLR 2024), Algorithms 1 (MPGD) and 2 and 3 (with an autoencoder)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invgen.data_term import line_search, local_fit, paper_misfit
from invgen.diffusion import step
from invgen.errors import OptionError
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.pushforward import Decoded, Generator
from invgen.samplers.guided.base import GuidedSampler
from invgen.validation.hints import NonNegative


@dataclass(frozen=True)
class MPGD(GuidedSampler):
    """Guides the denoised signal itself, by one gradient step of the data: no backpropagation through the network.

    Any differentiable operator, any noise with a density, any loss. Then DDIM, with the noise that the network has seen.
    The bias is that of an isotropic C in the step, as in DiffPIR, and grows with the correlations of the signal.

    form="score" (default): the step goes along the likelihood's gradient as far as its curvature and the error
    `prior.variance(sigma)` of the denoiser say, in any units, for any number of steps.
    form="paper": x0 - zeta sqrt(1 + sigma_next^2) grad |y - A(x0)|, for data in [-1, 1] and DDPM's schedule: `MPGD.paper`.

    Args:
        autoencoder: a generator with an encoder, whose image is the manifold to stay on; None for none.
        projection: with an autoencoder, "code", the step is taken in its latent space and decoded (MPGD-LDM's sibling, "Z"
            in the paper), or "gradient", through decode(encode(x0)) ("AE").
        between: noise levels, in units of data_std, between which to project: the released 0.3 to 0.5 of the steps.
    """

    form: Literal["score", "paper"] = "score"
    zeta: NonNegative = 1.0
    autoencoder: Generator | None = None
    projection: Literal["code", "gradient"] = "code"
    between: tuple[float, float] = (2.5, 7.0)

    backprop: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.autoencoder is not None and not getattr(self.autoencoder, "has_encoder", False):
            raise OptionError(f"MPGD projects with a Generator that has an encoder, got {type(self.autoencoder).__name__}")

    @classmethod
    def paper(cls, steps: Literal[20, 50, 100] = 100, zeta: float | None = None) -> "MPGD":
        """The published algorithm for super-resolution: zeta = 17.5, 7.5, 4 for 20, 50, 100 steps (released scripts)."""
        known = {20: 17.5, 50: 7.5, 100: 4.0}
        if zeta is None and steps not in known:
            raise OptionError(f"MPGD's zeta was published for 20, 50 and 100 steps, not {steps!r}; give zeta")
        return cls(steps=steps, schedule="vp", eta=0.5, form="paper", zeta=known[steps] if zeta is None else zeta)

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and self.autoencoder is not None and self.autoencoder.shape != post.prior.shape:
            why = f"needs an autoencoder over {tuple(post.prior.shape)}, got one over {tuple(self.autoencoder.shape)}"
        return why

    def run(self, post: Posterior, x: Tensor, randn: Streams) -> Iterator[Tensor]:
        d = post.prior.data_std
        for s, s_next in self.levels(post.prior):
            x0 = post.prior(x, s)
            project = self.autoencoder is not None and self.between[0] * d <= s <= self.between[1] * d
            guided = (self.descend_on_manifold if project else self.descend)(post, x0, s, s_next)
            x = step(x, guided, s, s_next, self.eta, randn, eps=(x - x0) / s)
            yield x

    def descend(self, post: Posterior, x0: Tensor, s: float, s_next: float, var: float | None = None) -> Tensor:
        """One step of the data from x0."""
        if self.form == "paper":
            with differentiating():
                u = leaf(x0)
                (grad,) = torch.autograd.grad(paper_misfit(post, u).sum(), u)
            return x0 - self.zeta * math.sqrt(1 + s_next**2) * grad
        var = post.prior.variance(s) if var is None else var
        pull, bend = local_fit(post, x0, math.sqrt(var))
        return x0 + self.zeta * line_search(pull, var * pull, bend) * var * pull

    def descend_on_manifold(self, post: Posterior, x0: Tensor, s: float, s_next: float) -> Tensor:
        """One step of the data from x0, along the manifold of the autoencoder."""
        auto = self.autoencoder
        if self.projection == "gradient":
            return self.descend(Posterior(post.prior, _Autoencoded(post, auto), post.noise, post.y), x0, s, s_next)
        z = auto.encode(x0)
        inner = Posterior(auto.latent, Decoded(post.A, auto), post.noise, post.y)
        # the error of the denoiser as a share of the data's, carried over to codes
        share = post.prior.variance(s) / post.prior.data_std**2
        z_new = self.descend(inner, z, s, s_next, var=share * auto.latent.data_std**2)
        return auto(z_new) + (x0 - auto(z))  # what the autoencoder loses is kept


class _Autoencoded(Decoded):
    """A after decode(encode(.)): x -> A(g(e(x)))."""

    def __init__(self, post: Posterior, auto: Generator) -> None:
        super().__init__(post.A, auto)
        self.in_shape = auto.shape

    def forward(self, x: Tensor) -> Tensor:
        return self.A(self.generator(self.generator.encode(x)))
