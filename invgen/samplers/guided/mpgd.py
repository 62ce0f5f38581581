"""He, Murata, Lai, Takida, Uesaka, Kim, Liao, Mitsufuji, Kolter, Salakhutdinov & Ermon, "Manifold preserving guided
diffusion" (ICLR 2024), Algorithms 1 (MPGD) and 2 and 3 (with an autoencoder)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, step
from invgen.errors import OptionError
from invgen.numerics.gradients import differentiating, leaf
from invgen.numerics.random import Streams
from invgen.posterior import Posterior
from invgen.pushforward import Decoded, Generator
from invgen.samplers.data_term import paper_misfit
from invgen.samplers.guided._pieces import Autoencoded
from invgen.samplers.guided.base import GradientGuided
from invgen.validation.hints import Fraction, NonNegative


@dataclass(frozen=True)
class MPGD(GradientGuided):
    """Guides the denoised signal itself, by one gradient step of the data: no backpropagation through the network.

    Any differentiable operator, any noise with a density, any loss. x0 - zeta sqrt(1 + sigma_next^2) grad |y - A(x0)|, one
    norm a sample, for signals in [-1, 1] and DDPM's schedule; then DDIM, with the noise that the network has seen.
    `DampedMPGD` depends on neither units nor the number of steps.

    Args:
        eta: fraction of fresh noise, 1 for DDPM, 0 for DDIM.
        zeta: length of the step; the released scripts have 17.5 for 20 steps, 7.5 for 50 and 4 for 100 (super-resolution).
        autoencoder: a generator with an encoder, whose image is the manifold to stay on; None for none.
        projection: with an autoencoder, "code", the step is taken in its latent space and decoded (MPGD-LDM's sibling, "Z"
            in the paper), or "gradient", through decode(encode(x0)) ("AE").
        between: noise levels, in units of data_std, between which to project: the released 0.3 to 0.5 of the steps.
    """

    schedule: str | Sequence[float] = "vp"
    eta: Fraction = 0.5
    zeta: NonNegative = 4.0
    autoencoder: Generator | None = None
    projection: Literal["code", "gradient"] = "code"
    between: tuple[NonNegative, NonNegative] = (2.5, 7.0)

    counts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.autoencoder is not None and not getattr(self.autoencoder, "has_encoder", False):
            raise OptionError(f"MPGD projects with a Generator that has an encoder, got {type(self.autoencoder).__name__}")

    def refuses(self, post: Posterior) -> str | None:
        why = super().refuses(post)
        if why is None and self.autoencoder is not None and self.autoencoder.shape != post.prior.shape:
            why = f"needs an autoencoder over {tuple(post.prior.shape)}, got one over {tuple(self.autoencoder.shape)}"
        return why

    def run(self, post: Posterior[Denoiser], x: Tensor, randn: Streams) -> Iterator[Tensor]:
        d = post.prior.data_std
        for s, s_next in self.levels(post.prior):
            x0 = post.prior(x, s)
            project = self.autoencoder is not None and self.between[0] * d <= s <= self.between[1] * d
            guided = (self.descend_on_manifold if project else self.descend)(post, x0, s, s_next)
            guided = x0 + self.within(post.prior, x, s, guided - x0) if self.subspace < 1 else guided
            x = step(x, guided, s, s_next, self.eta, randn, eps=(x - x0) / s)
            yield x

    def descend(self, post: Posterior[Denoiser], x0: Tensor, s: float, s_next: float, var: float | None = None) -> Tensor:
        """Returns x0 after one step of the data; `var` is the variance of its error, the prior's where it is None."""
        with differentiating():
            u = leaf(x0)
            (grad,) = torch.autograd.grad(paper_misfit(post, u).sum(), u)
        return x0 - self.zeta * math.sqrt(1 + s_next**2) * grad

    def descend_on_manifold(self, post: Posterior[Denoiser], x0: Tensor, s: float, s_next: float) -> Tensor:
        """Returns x0 after one step of the data along the manifold of the autoencoder."""
        auto = self.autoencoder
        assert auto is not None  # `run` comes here with one only
        if self.projection == "gradient":
            return self.descend(Posterior(post.prior, Autoencoded(post, auto), post.noise, post.y), x0, s, s_next)
        z = auto.encode(x0)
        inner = Posterior(auto.latent, Decoded(post.A, auto), post.noise, post.y)
        # the error of the denoiser as a fraction of the data's, carried over to codes
        fraction = post.prior.variance(s) / post.prior.data_std**2
        z_new = self.descend(inner, z, s, s_next, var=fraction * auto.latent.data_std**2)
        return auto(z_new) + (x0 - auto(z))  # what the autoencoder loses is kept
