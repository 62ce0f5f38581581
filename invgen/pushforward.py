"""Pushforward priors: x = g(z), z from a prior of its own.

A GAN, a VAE, a latent diffusion model, a renderer, and a diffusion model read as the map from noise to signal, all are such
a prior. The posterior over z has the operator A after g, so every sampler that takes a nonlinear operator runs on them: the
base of samplers pulls the problem back to z, draws there, and decodes.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from invgen.diffusion import Denoiser, Prior, Sigma, flow_time, noise_levels, per_sample_sigma
from invgen.errors import InvgenError, OptionError, UnsupportedError
from invgen.forward import Operator
from invgen.numerics.gradients import running
from invgen.numerics.random import Streams
from invgen.validation.hints import check
from invgen.validation.signals import RAW, explain


class StandardNormal(Denoiser):
    """N(0, I) over z of one shape, with its exact denoiser."""

    zero: Tensor

    def __init__(self, shape: int | Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        super().__init__(shape, sigma_min=1e-3, sigma_max=100.0, value_range=(-3.0, 3.0), data_std=1.0)
        self.register_buffer("zero", torch.zeros((), dtype=dtype))  # carries device and precision

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        return x / (1 + per_sample_sigma(sigma, x) ** 2)

    def log_prob(self, x: Tensor, sigma: Sigma = 0.0) -> Tensor:
        """Returns log N(x; 0, (1 + sigma^2) I), the log-density of x_sigma, (B,)."""
        var = 1 + torch.as_tensor(per_sample_sigma(sigma, x), dtype=x.dtype, device=x.device) ** 2
        return -0.5 * (x.square() / var + (2 * math.pi * var).log()).flatten(1).sum(1)

    def sample(self, num_samples: int = 1, seed: int = 0) -> Tensor:
        """Returns standard normals, (num_samples, *shape); sample i depends on the seed and on i only."""
        return Streams(seed, range(num_samples))(self.zero.new_empty(num_samples, *self.shape, dtype=self.dtype))


class Generator(Prior):
    """x = forward(z), z ~ latent. A subclass writes `forward`, and `encode` where it has one.

    Args:
        shape: of one signal.
        latent: the prior over z; a shape means N(0, I) over it.
    """

    network: bool = True  # whether forward is a network of its own, whose evaluations count
    measured: tuple[str, ...] = ()  # the facts that its loader measured on samples

    def __init__(self, shape: int | Sequence[int], latent: Denoiser | Sequence[int], **kwargs: Any) -> None:
        super().__init__(shape, **kwargs)
        latent = check("the latent prior", latent, Annotated[Denoiser | tuple[int, ...], "give a Denoiser, or a shape"])
        self.latent = latent if isinstance(latent, Denoiser) else StandardNormal(latent)

    def extra_repr(self) -> str:
        found = f" (measured on its samples: {', '.join(self.measured)})" if self.measured else ""
        return super().extra_repr() + found

    def _facts(self) -> dict[str, Any]:
        latent = f"{type(self.latent).__name__} of shape {tuple(self.latent_shape)}"
        return super()._facts() | {"latent": latent, "measured on its samples": ", ".join(self.measured) or None}

    @property
    def latent_shape(self) -> torch.Size:
        """The shape of one z."""
        return self.latent.shape

    def forward(self, z: Tensor) -> Tensor:
        """Returns the signal of a latent code: (B, *latent_shape) -> (B, *shape)."""
        raise UnsupportedError(f"{type(self).__name__} must define forward(self, z)")

    def __call__(self, z: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        try:
            return super().__call__(z, *args, **kwargs)
        except InvgenError:
            raise
        except RAW:
            explain(self, "", z, self.latent_shape)
            raise

    def encode(self, x: Tensor) -> Tensor:
        """Returns a latent code whose signal is near x: (B, *shape) -> (B, *latent_shape).

        Raises:
            UnsupportedError: this prior has no encoder.
        """
        raise UnsupportedError(
            f"{type(self).__name__} has no encoder; a sampler that needs none is DampedDPS or AdaptiveDAPS"
        )

    @property
    def has_encoder(self) -> bool:
        """Whether `encode` is defined."""
        return type(self).encode is not Generator.encode

    def sample(self, num_samples: int = 1, seed: int = 0, *, max_batch: int | None = None) -> Tensor:
        """Returns samples of the prior, (num_samples, *shape); sample i depends on the seed and on i only.

        Args:
            max_batch: how many codes to decode at once.

        Raises:
            UnsupportedError: the latent prior has no method `sample`.
        """
        draw = getattr(self.latent, "sample", None)
        if draw is None:
            raise UnsupportedError(
                f"the latent prior {type(self.latent).__name__} has no method sample; draw codes with a sampler such as "
                "samplers.Heun and decode them"
            )
        with running(self):
            codes = draw(num_samples, seed)
            return torch.cat([self(z) for z in codes.split(max_batch or max(num_samples, 1))])

    def rescaled(self, scale: float, shift: float = 0.0) -> "RescaledGenerator":
        """Returns the same prior for scale * x + shift, over the same codes."""
        return RescaledGenerator(self, scale, shift)


class RescaledGenerator(Generator):
    """`generator` in other units: signals are scale * x + shift, for a positive scale. Codes are the same."""

    network = False  # the generator within counts

    def __init__(self, generator: Generator, scale: float, shift: float = 0.0) -> None:
        if not (scale > 0 and math.isfinite(scale) and math.isfinite(shift)):
            raise OptionError(f"a prior is rescaled by a positive scale and a finite shift, got {scale!r} and {shift!r}")
        low, high = generator.value_range
        super().__init__(
            generator.shape,
            generator.latent,
            value_range=(scale * low + shift, scale * high + shift),
            data_mean=scale * generator.data_mean + shift,
            data_std=scale * generator.data_std,
            sampling_rate=generator.sampling_rate,
        )
        self.generator, self.scale, self.shift = generator, float(scale), float(shift)

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z) * self.scale + self.shift

    def encode(self, x: Tensor) -> Tensor:
        return self.generator.encode((x - self.shift) / self.scale)

    @property
    def has_encoder(self) -> bool:
        return self.generator.has_encoder

    def log_prob(self, x: Tensor) -> Tensor:
        """Returns log p(x), (B,), where the generator has a density (a normalising flow)."""
        if not hasattr(self.generator, "log_prob"):
            raise UnsupportedError(f"{type(self.generator).__name__} has no density, so that there is no log_prob")
        return self.generator.log_prob((x - self.shift) / self.scale) - x[0].numel() * math.log(self.scale)


class Flow(Generator):
    """A diffusion or flow prior as a generator: z -> x along the probability-flow ODE, differentiable.

    Args:
        prior: the denoiser.
        steps: of the method.
        schedule: as in `noise_levels`.
        method: "euler" (DDIM with eta = 0, the same in any parametrisation of the diffusion), one network evaluation a
            step; "midpoint" in the time of flow matching, two, right to 1 per cent for a Gaussian from 3 steps on, where 40
            of Euler's still lack 3 per cent of its width; "heun" in sigma (Karras et al., 2022), two but in the last, which
            overshoots with fewer than about 20 steps.
    """

    network = False  # its denoiser counts

    def __init__(
        self,
        prior: Denoiser,
        steps: int = 10,
        schedule: str | Sequence[float] = "flow",
        method: str = "euler",
    ) -> None:
        if method not in ("euler", "heun", "midpoint"):
            raise OptionError(f"unknown method {method!r} of the flow; there are 'euler', 'heun' and 'midpoint'")
        prior.require_levels("the probability-flow ODE")
        super().__init__(
            prior.shape,
            StandardNormal(prior.shape, prior.dtype).to(prior.device),
            value_range=prior.value_range,
            data_mean=prior.data_mean,
            data_std=prior.data_std,
            sampling_rate=prior.sampling_rate,
        )
        self.prior, self.method = prior, method
        self.levels = noise_levels(steps, prior.sigma_min, prior.sigma_max, schedule, prior.data_std)

    def forward(self, z: Tensor) -> Tensor:
        x = self.prior.start(z, self.levels[0][0])
        for s, s_next in self.levels:
            if self.method == "midpoint":
                x = self._midpoint(x, s, s_next)
                continue
            slope = (x - self.prior(x, s)) / s
            if self.method == "heun" and s_next > 0:
                euler = x + (s_next - s) * slope
                slope = 0.5 * (slope + (euler - self.prior(euler, s_next)) / s_next)
            x = x + (s_next - s) * slope
        return x

    def _midpoint(self, x: Tensor, s: float, s_next: float) -> Tensor:
        """Returns one step of x_t = (1 - t) x_0 + t data_std eps, whose velocity is data_std eps - x_0."""
        size = self.prior.data_std
        t, t_next = flow_time(s, size), flow_time(s_next, size)
        middle = size * (t + t_next) / (2 - t - t_next)
        x_middle = x + (middle - s) * (x - self.prior(x, s)) / s
        clean = self.prior(x_middle, middle)
        velocity = size * (x_middle - clean) / middle - clean
        return ((1 - t) * x + (t_next - t) * velocity) / (1 - t_next)

    def encode(self, x: Tensor) -> Tensor:
        """Returns the z from which the flow leads near x: the ODE backwards, by Euler's steps (DDIM inversion), (B,
        *shape).

        x stands for the state at the lowest level. Its error falls with the number of steps, and is one of the order of
        that of Euler's method where the flow itself takes Heun's.
        """
        for s, s_before in [(low, high) for high, low in self.levels[:-1]][::-1]:
            x = x + (s_before - s) * (x - self.prior(x, s)) / s
        s = self.levels[0][0]
        size = (s**2 + self.prior.data_std**2) ** 0.5
        z = torch.zeros_like(x)
        for _ in range(4):  # start is nearly z -> data_mean + size z, so that this converges at once
            z = z + (x - self.prior.start(z, s)) / size
        return z


class Decoded(Operator):
    """A after the decoder of a pushforward prior: z -> A(g(z))."""

    def __init__(self, A: Operator, generator: Generator) -> None:
        super().__init__(generator.latent_shape)
        self.A, self.generator = A, generator
        self.out_shape = A.out_shape

    def forward(self, z: Tensor) -> Tensor:
        return self.A(self.generator(z))
