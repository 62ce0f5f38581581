"""Noise schedules: how the state that a network was trained on meets the one noise coordinate.

A network sees x_t = alpha_t x_0 + sigma_t eps and a time t. Divided by alpha_t that is x_sigma = x_0 + sigma eps with
sigma = sigma_t / alpha_t, so that two functions of sigma say all: the time, and alpha. A `Schedule` has both.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from invgen.errors import OptionError, UnsupportedError
from invgen.validation.arguments import checked
from invgen.validation.hints import Count, NonNegative, Positive


class Schedule(nn.Module):
    """x_t = alpha_t x_0 + sigma_t eps at noise level sigma = sigma_t / alpha_t: `time(sigma)` and `alpha(sigma)`.

    Levels outside [sigma_min, sigma_max], which training did not see, get the time of the nearest one that it saw. Tables
    are float64 and stay so whatever the network is cast to: in float32 the first level of DDPM is off by 3e-4.

    Attributes:
        sigma_min, sigma_max: the noise levels that the network was trained on; always finite.
        direction: 1 where the time runs from data to noise, -1 where it runs from noise to data (the sign of a velocity).
    """

    direction: float = 1.0

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        super().__init__()
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise OptionError(
                f"a schedule needs noise levels 0 < sigma_min < sigma_max, got {sigma_min!r} and {sigma_max!r}"
            )

    def time(self, sigma: float | Tensor) -> Tensor:
        """Returns the time that the network is given at each noise level, float64, in the shape of sigma."""
        device = sigma.device if isinstance(sigma, Tensor) else next((b.device for b in self.buffers()), None)
        sigma = torch.as_tensor(sigma, dtype=torch.float64, device=device)
        return self._time(sigma.clamp(self.sigma_min, self.sigma_max))

    def alpha(self, sigma: Tensor) -> Tensor:
        """Returns the factor of the signal in x_t = alpha x_sigma, in the shape and dtype of sigma."""
        raise TypeError(f"{type(self).__name__} must define alpha(self, sigma)")

    def _time(self, sigma: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define _time(self, sigma)")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Schedule":
        for name, table in self.named_buffers(recurse=False):  # `prior.bfloat16()` moves the tables but must not round them
            self._buffers[name] = table.to(fn(table).device)
        return self

    def extra_repr(self) -> str:
        return f"sigma_min={self.sigma_min:.4g}, sigma_max={self.sigma_max:.4g}"

    @staticmethod
    @checked
    def from_betas(betas: Sequence[float] | Tensor, times: Sequence[float] | Tensor | None = None) -> "Schedule":
        """Returns the variance-preserving (DDPM; Ho et al., 2020): alpha_t^2 = prod (1 - beta), alpha_t^2 + sigma_t^2 = 1.

        betas: (T,), each in (0, 1]; levels from the first beta of 1 on, which are pure noise (zero terminal SNR), are
        dropped. times: (T,), what the network is given at each level, by default 0, 1, ..., T - 1. Between them the time is
        linear in log sigma, as in Karras samplers.
        """
        betas = torch.as_tensor(betas).detach().cpu().double()
        if betas.ndim != 1 or len(betas) < 2 or not ((betas > 0) & (betas <= 1)).all():
            raise OptionError("betas must be a sequence of at least two numbers in (0, 1]")
        alpha_bar = torch.cumprod(1 - betas, 0)
        sigmas = ((1 - alpha_bar) / alpha_bar).sqrt()
        times = torch.arange(len(betas)) if times is None else torch.as_tensor(times)
        if len(times) != len(betas):
            raise OptionError(f"a schedule needs one time for each beta, got {len(times)} for {len(betas)}")
        finite = torch.isfinite(sigmas)
        return _Table(sigmas[finite], times.detach().cpu()[finite])

    @staticmethod
    @checked
    def from_sigmas(sigmas: Sequence[float] | Tensor, times: Sequence[float] | Tensor | None = None) -> "Schedule":
        """Variance-exploding, x_t = x_0 + sigma_t eps, by its levels (T,) in either order; times: see `from_betas`."""
        sigmas = torch.as_tensor(sigmas).detach().cpu().double()
        times = torch.arange(len(sigmas)) if times is None else torch.as_tensor(times).detach().cpu()
        if len(times) != len(sigmas):
            raise OptionError(f"a schedule needs one time for each noise level, got {len(times)} for {len(sigmas)}")
        order = sigmas.argsort()
        return _Table(sigmas[order], times[order], preserving=False)

    @staticmethod
    @checked
    def linear(steps: Count = 1000, start: Positive = 1e-4, end: float = 0.02) -> "Schedule":
        """Returns DDPM's betas, evenly spaced (Ho et al., 2020); ADM and improved diffusion scale them by 1000 / steps."""
        return Schedule.from_betas(torch.linspace(start, end, steps, dtype=torch.float64))

    @staticmethod
    @checked
    def scaled_linear(steps: Count = 1000, start: Positive = 0.00085, end: float = 0.012) -> "Schedule":
        """Returns the latent diffusion's betas, whose square roots are evenly spaced (Rombach et al., 2022, code)."""
        return Schedule.from_betas(torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2)

    @staticmethod
    @checked
    def cosine(steps: Count = 1000, offset: float = 0.008, max_beta: float = 0.999) -> "Schedule":
        """Returns the improved diffusion's cosine (Nichol & Dhariwal, ICML 2021, equation 17), beta at most max_beta."""
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        alpha_bar = ((t + offset) / (1 + offset) * math.pi / 2).cos() ** 2
        return Schedule.from_betas((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta))

    @staticmethod
    @checked
    def sigmoid(steps: Count = 1000, start: Positive = 1e-4, end: float = 0.02) -> "Schedule":
        """Returns GeoDiff's betas, a sigmoid from -6 to 6 (Xu et al., ICLR 2022, code)."""
        rise = torch.linspace(-6, 6, steps, dtype=torch.float64).sigmoid()
        return Schedule.from_betas(rise * (end - start) + start)

    @staticmethod
    @checked
    def zero_terminal_snr(betas: Sequence[float] | Tensor) -> "Schedule":
        """Returns betas rescaled so that the last level is pure noise (Lin et al., WACV 2024, Algorithm 1); it is
        dropped here."""
        root = torch.cumprod(1 - torch.as_tensor(betas).detach().cpu().double(), 0).sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        alpha_bar = root**2
        return Schedule.from_betas(1 - torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]]))

    @staticmethod
    @checked
    def vp(
        beta_min: NonNegative = 0.1, beta_max: Positive = 20.0, time_scale: float = 999.0, t_min: Positive = 1e-3
    ) -> "Schedule":
        """Returns the schedule of the continuous VP SDE (Song et al., ICLR 2021, equation 32).

        Args:
            beta_min, beta_max: the rate of noise at time 0 and 1.
            time_scale: the network's time is t in [t_min, 1] times this.
            t_min: the least time.
        """
        if beta_max < beta_min:
            raise OptionError(f"the rate of noise grows with time, got beta_min={beta_min:g} above beta_max={beta_max:g}")
        return _VP(beta_min, beta_max, time_scale, t_min)

    @staticmethod
    @checked
    def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> "Schedule":
        """Returns the variance-exploding, x_t = x_0 + sigma eps, with sigma itself as time (Song et al., ICLR 2021;
        continuous)."""
        return _VE(sigma_min, sigma_max)

    @staticmethod
    @checked
    def edm(sigma_min: float = 0.002, sigma_max: float = 80.0, time_scale: float = 1.0) -> "Schedule":
        """Returns x_0 + sigma eps with the time ln(sigma) / 4 (Karras et al., NeurIPS 2022, Table 1), times time_scale."""
        return _EDM(sigma_min, sigma_max, time_scale)

    @staticmethod
    @checked
    def angle(time_scale: float = 1.0, t_min: float = 1e-3) -> "Schedule":
        """Returns x_t = cos(pi t / 2) x_0 + sin(pi t / 2) eps, t in [t_min, 1 - t_min] (v-diffusion, Dance Diffusion)."""
        return _Angle(time_scale, t_min)

    @staticmethod
    @checked
    def flow(shift: float = 1.0, time_scale: float = 1000.0, *, reverse: bool = False, steps: Count = 1000) -> "Schedule":
        """Returns the flow matching on straight paths, x_t = (1 - t) x_0 + t eps; the network is given time_scale t.

        Args:
            shift: the resolution shift of Stable Diffusion 3 (Esser et al., ICML 2024, equation 23). It moves no time, only
                the range: t = shift u / (1 + (shift - 1) u) for u in [1 / steps, 1 - 1 / steps], so that all levels are
                `shift` times as high. A dynamic shift mu is shift = exp(mu).
            time_scale: 1000 for models of diffusers, 1 for most others.
            reverse: the network's time is 1 - t, data at 1, and its velocity x_0 - eps (Lipman et al.; torchcfm).
        """
        return _Flow(shift, time_scale, reverse, steps)

    @staticmethod
    @checked
    def from_scheduler(scheduler: Any, mu: float | None = None) -> "Schedule":
        """Returns the schedule of a scheduler of diffusers, without its options of sampling (spacing, offsets, clipping).

        mu: the dynamic shift, for a flow-matching scheduler that asks for one.

        Raises:
            UnsupportedError: a scheduler of another kind.
        """
        config, kind = scheduler.config, type(scheduler).__name__
        if "FlowMatch" in kind or config.get("use_flow_sigmas"):
            shift = config.get("shift", config.get("flow_shift", 1.0))
            if config.get("use_dynamic_shifting"):  # in place of the constant one
                shift = 1.0 if mu is None else mu if config.get("time_shift_type") == "linear" else math.exp(mu)
            steps = config.num_train_timesteps
            return Schedule.flow(shift, steps, reverse=bool(config.get("invert_sigmas")), steps=steps)
        if kind.startswith("EDM"):
            return Schedule.edm(config.sigma_min, config.sigma_max)
        if kind.startswith("CMStochasticIterative"):
            return Schedule.edm(config.sigma_min, config.sigma_max, time_scale=1000)
        if kind.startswith("ScoreSdeVe"):
            return Schedule.ve(config.sigma_min, config.sigma_max)
        if kind == "IPNDMScheduler":
            return Schedule.angle()
        betas = getattr(scheduler, "betas", None)
        if betas is None or "prediction_type" not in config or "snr_shift_scale" in config:
            raise UnsupportedError(
                f"{kind} has no noise schedule that invgen knows; expected one with betas (DDPM, DDIM, PNDM, DPMSolver, "
                "UniPC, Euler, Heun, LMS), EDM, FlowMatch, ScoreSdeVe, IPNDM or CMStochasticIterative"
            )
        table = Schedule.from_betas(betas)
        if config.get("timestep_type") == "continuous" and config.prediction_type == "v_prediction":
            low, high = config.get("sigma_min") or table.sigma_min, config.get("sigma_max") or table.sigma_max
            return _EDM(low, high, 1.0, preserving=True)
        return table


class _Table(Schedule):
    """The levels of a discrete schedule; the time is linear in log sigma between them."""

    log_sigmas: Tensor
    times: Tensor

    def __init__(self, sigmas: Tensor, times: Tensor, preserving: bool = True) -> None:
        if len(sigmas) < 2 or not (sigmas.diff() > 0).all() or not sigmas[0] > 0:
            raise OptionError("a schedule needs at least two noise levels, different and above 0")
        super().__init__(sigmas[0].item(), sigmas[-1].item())
        self.preserving = preserving
        self.register_buffer("log_sigmas", sigmas.double().log(), persistent=False)
        self.register_buffer("times", times.double(), persistent=False)

    def _time(self, sigma: Tensor) -> Tensor:
        log = sigma.log()
        k = torch.searchsorted(self.log_sigmas, log).clamp(1, len(self.log_sigmas) - 1)
        low, high = self.log_sigmas[k - 1], self.log_sigmas[k]
        return torch.lerp(self.times[k - 1], self.times[k], (log - low) / (high - low))

    def alpha(self, sigma: Tensor) -> Tensor:
        return (1 + sigma**2).rsqrt() if self.preserving else torch.ones_like(sigma)


class _VP(Schedule):
    def __init__(self, beta_min: float, beta_max: float, time_scale: float, t_min: float) -> None:
        self.slope, self.beta_min, self.time_scale = beta_max - beta_min, beta_min, time_scale
        first, last = (math.sqrt(math.expm1(t * beta_min + t**2 * self.slope / 2)) for t in (t_min, 1.0))
        super().__init__(first, last)

    def _time(self, sigma: Tensor) -> Tensor:
        t = ((self.beta_min**2 + 2 * self.slope * (sigma**2).log1p()).sqrt() - self.beta_min) / self.slope
        return self.time_scale * t

    def alpha(self, sigma: Tensor) -> Tensor:
        return (1 + sigma**2).rsqrt()


class _VE(Schedule):
    def _time(self, sigma: Tensor) -> Tensor:
        return sigma

    def alpha(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)


class _Angle(Schedule):
    def __init__(self, time_scale: float, t_min: float) -> None:
        super().__init__(math.tan(math.pi / 2 * t_min), 1 / math.tan(math.pi / 2 * t_min))
        self.time_scale = time_scale

    def _time(self, sigma: Tensor) -> Tensor:
        return sigma.atan() * (self.time_scale * 2 / math.pi)

    def alpha(self, sigma: Tensor) -> Tensor:
        return (1 + sigma**2).rsqrt()


class _EDM(Schedule):
    def __init__(self, sigma_min: float, sigma_max: float, time_scale: float, preserving: bool = False) -> None:
        super().__init__(sigma_min, sigma_max)
        self.time_scale, self.preserving = time_scale, preserving

    def _time(self, sigma: Tensor) -> Tensor:
        return sigma.log() * (self.time_scale / 4)

    def alpha(self, sigma: Tensor) -> Tensor:
        return (1 + sigma**2).rsqrt() if self.preserving else torch.ones_like(sigma)


class _Flow(Schedule):
    def __init__(self, shift: float, time_scale: float, reverse: bool, steps: int) -> None:
        if not shift > 0 or steps < 3:
            raise OptionError(f"a flow schedule needs a shift above 0 and at least 3 steps, got {shift!r} and {steps!r}")
        super().__init__(shift / (steps - 1), shift * (steps - 1))
        self.time_scale, self.direction = time_scale, -1.0 if reverse else 1.0

    def _time(self, sigma: Tensor) -> Tensor:
        return self.time_scale * (sigma if self.direction > 0 else torch.ones_like(sigma)) / (1 + sigma)

    def alpha(self, sigma: Tensor) -> Tensor:
        return 1 / (1 + sigma)
