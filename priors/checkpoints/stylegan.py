"""Generators of StyleGAN's shape: codes z, styles w = mapping(z), noise inputs, and x = synthesis(w, noise).

Karras, Laine & Aila (CVPR 2019); Karras et al. (CVPR 2020). The prior over styles is the Gaussian fit of PULSE (Menon et
al., CVPR 2020, the released code): the mapping ends in LeakyReLU with slope 0.2, and v = LeakyReLU_5(w), which undoes it,
is nearly Gaussian.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from invgen.errors import OptionError, ShapeError
from invgen.numerics.random import Streams
from invgen.priors.wrappers.generators import Network, evaluate, frozen, output_shape, standard_codes
from invgen.pushforward import Generator
from invgen.validation.arguments import checked

SLOPE = 0.2  # of the mapping's last LeakyReLU
BATCH = 1024  # codes that are mapped at once for the fit

Synthesis = Callable[..., Tensor]


class StyleGAN(Generator):
    """x = synthesis(w) or synthesis(w, noise), with codes of one of three kinds, standard normal each.

        "z"   w = mapping(z), the generator as trained.
        "w"   w = LeakyReLU_0.2(mean + C u) for one u, with mean and C C^T fitted to v = LeakyReLU_5(mapping(z)).
        "w+"  the same with a u of its own for each of the `num_ws` styles (PULSE has 18).

    Args:
        mapping: (B, z_dim) -> (B, w_dim), or (B, num_ws, w_dim) with equal rows, as NVIDIA's code gives.
        synthesis: takes what mapping gives, and (B, num_ws, w_dim) with space "w+"; with `noise_shapes` also a list of
            tensors (B, *noise_shape).
        z_dim: of one z.
        space: "z", "w" or "w+".
        covariance: "diagonal", as PULSE whitens, or "full" (Wulff & Torralba, 2020).
        num_ws: for "w+", where the mapping gives one style.
        noise_shapes: of the noise inputs, without batch axis; none by default (noise within the network, or none).
        noise: "fixed" draws them once, from `seed`; "latent" makes them the last entries of the code, then a vector.
        fit_samples: for the fit of the styles (PULSE: a million).
        shape, facts: as for `from_generator`.
    """

    fixed_noise: Tensor | None
    style_mean: Tensor  # these two with space "w" and "w+"
    style_root: Tensor

    def __init__(
        self,
        mapping: Network,
        synthesis: Synthesis,
        z_dim: int,
        *,
        space: Literal["z", "w", "w+"] = "w",
        covariance: Literal["diagonal", "full"] = "diagonal",
        num_ws: int | None = None,
        noise_shapes: Sequence[Sequence[int]] = (),
        noise: Literal["fixed", "latent"] = "fixed",
        fit_samples: int = 10_000,
        seed: int = 0,
        shape: int | Sequence[int] | None = None,
        **facts: Any,
    ) -> None:
        if space not in ("z", "w", "w+") or covariance not in ("diagonal", "full") or noise not in ("fixed", "latent"):
            raise OptionError(
                "space is 'z', 'w' or 'w+', covariance 'diagonal' or 'full' and noise 'fixed' or 'latent', got "
                f"{space!r}, {covariance!r} and {noise!r}"
            )
        codes = standard_codes(z_dim, mapping)
        styles = output_shape(lambda z: evaluate(mapping, z), codes, None)
        if len(styles) not in (1, 2) or (space == "w+" and len(styles) == 1 and not num_ws):
            raise ShapeError(
                f"the mapping gives styles of shape {tuple(styles)}; expected (w_dim,) or (num_ws, w_dim), and num_ws= for "
                "space 'w+' where it gives one style"
            )
        sizes = [torch.Size(s) for s in noise_shapes]
        code = {"z": (z_dim,), "w": styles[-1:], "w+": (num_ws or styles[0], styles[-1])}[space]
        total = math.prod(code) + sum(map(math.prod, sizes))
        latent = standard_codes((total,) if noise == "latent" and sizes else code, mapping)
        super().__init__(shape or (1,), latent, **facts)
        self.mapping, self.synthesis, self.space = mapping, synthesis, space
        self.code_shape, self.style_shape = torch.Size(code), styles
        self.noise_shapes, self.noise_kind = sizes, noise
        randn = Streams(seed, [0])
        drawn = [randn(codes.zero.new_empty(1, *s, dtype=codes.dtype))[0] for s in sizes]
        self.register_buffer("fixed_noise", torch.cat([n.flatten() for n in drawn]) if sizes else None)
        mean, root = _fit(mapping, codes, fit_samples, seed, covariance) if space != "z" else (None, None)
        self.register_buffer("style_mean", mean)
        self.register_buffer("style_root", root)
        self.shape = output_shape(self, latent, shape)

    def style(self, u: Tensor) -> Tensor:
        """Returns the style of the first part of a code: (B, *code_shape) -> what synthesis takes."""
        if self.space == "z":
            return evaluate(self.mapping, u)
        v = u * self.style_root if self.style_root.ndim == 1 else u @ self.style_root.T
        w = F.leaky_relu(self.style_mean + v, SLOPE)
        return w[:, None].expand(-1, *self.style_shape) if w.ndim == 2 and len(self.style_shape) == 2 else w

    def forward(self, z: Tensor) -> Tensor:
        """Returns the image of a code: (B, *latent_shape) -> (B, *shape)."""
        style, noise = z, self.fixed_noise
        if noise is not None and self.noise_kind == "latent":
            style, noise = z.split([math.prod(self.code_shape), noise.numel()], 1)
        w = self.style(style.reshape(-1, *self.code_shape))
        if noise is None:
            return evaluate(self.synthesis, w)
        noise = noise.expand(len(z), -1).split([math.prod(s) for s in self.noise_shapes], 1)
        inputs = [n.reshape(-1, *s) for n, s in zip(noise, self.noise_shapes, strict=True)]
        return evaluate(lambda w: self.synthesis(w, inputs), w)


def _fit(mapping: Network, codes: Any, count: int, seed: int, covariance: str) -> tuple[Tensor, Tensor]:
    """Returns the mean of v = LeakyReLU_5(mapping(z)), and its standard deviations (w_dim,) or a root of its covariance,
    square."""
    if not isinstance(count, int) or count < 2:
        raise OptionError(f"the fit of the styles needs at least 2 samples, got fit_samples={count!r}")
    with torch.no_grad():
        w = torch.cat([evaluate(mapping, z) for z in codes.sample(count, seed).split(BATCH)]).double()
    v = F.leaky_relu(w if w.ndim == 2 else w[:, 0], 1 / SLOPE)
    mean = v.mean(0)
    if covariance == "diagonal":
        return mean.to(codes.dtype), v.std(0).to(codes.dtype)
    values, vectors = torch.linalg.eigh(torch.cov(v.T).reshape(len(mean), len(mean)))
    # the symmetric root, the one that does not depend on which eigenvectors a processor finds
    return mean.to(codes.dtype), (vectors * values.clamp(min=0).sqrt() @ vectors.mT).to(codes.dtype)


@checked
def from_stylegan(mapping: Network, synthesis: Synthesis, z_dim: int, **options: Any) -> StyleGAN:
    """Returns the prior of a generator of StyleGAN's shape: see `StyleGAN`.

        G = ...                                           # NVIDIA's StyleGAN2: mapping(z, c), synthesis(ws, noise_mode=)
        prior = priors.from_stylegan(lambda z: G.mapping(z, None), lambda w: G.synthesis(w, noise_mode="const"), G.z_dim)

    Modules are put into eval mode and their weights lose their gradients; functions are taken as they are.
    """
    return StyleGAN(frozen(mapping), frozen(synthesis), z_dim, **options)
