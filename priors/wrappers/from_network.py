"""Priors from any network: epsilon, v, sample, score, velocity or EDM ones with a schedule, and functions."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invgen.conditional import ConditionalDenoiser
from invgen.diffusion import Denoiser, Sigma
from invgen.errors import OptionError, ShapeError
from invgen.numerics.gradients import running, unit_cotangents
from invgen.priors.wrappers.schedules import Schedule
from invgen.pushforward import Generator
from invgen.validation.arguments import checked

PREDICTIONS = ("epsilon", "v", "sample", "score", "velocity", "edm", "consistency")
Call = Callable[[Any, Tensor, Tensor, Any], Tensor]  # of a network, whatever its class
Loader = TypeVar("Loader", bound=Callable[..., Any])


class NetworkDenoiser(ConditionalDenoiser):
    """A network of any of the field's parametrisations as a denoiser in x_sigma = x_0 + sigma eps.

    With x_t = alpha x and s = sigma, and o = net(x_t, time(sigma)), D is

        "epsilon"      x - s o                                (DDPM: Ho et al., 2020)
        "v"            (x - s o / alpha) / (1 + s^2)          (o = alpha eps - sigma_t x_0: Salimans & Ho, 2022)
        "sample"       o
        "score"        x + alpha s^2 o                        (of x_t: Song et al., 2021)
        "velocity"     (x - s o) / (1 + s)                    (o = eps - x_0 by a time from data to noise, minus that
                                                               by a reverse one: Lipman et al., 2023)
        "edm"          c_skip x + c_out net(c_in x, time)     (Karras et al., 2022, Table 1)
        "consistency"  the same with c_skip and c_out that make D = x at sigma_min (Song et al., 2023, Appendix C)

    The network runs in the dtype of its weights, on times in float32 or better; the combination is done in the dtype of x,
    in float32 at least. An epsilon network in half precision is off by sigma times its rounding: keep it in float32 where
    sigma is large (at sigma = 150, 0.1 in float16 and 1 in bfloat16). D is not clamped. A consistency model jumps to the
    end of its ODE, so that its D is a sample rather than the mean, the blurrier the better it denoises: samplers that take
    Tweedie's formula at its word are biased with it.

    Args:
        net: called as net(x, t), or net(x, t, condition) under a condition, x (B, *shape) and t (B,). An output of twice as
            many channels is a prediction and a learned variance: the first half is taken.
        shape: of one signal; x may have other sizes after the first axis if the network takes them.
        prediction: what the network predicts, one of the names above.
        schedule: which x_t and t the network was trained on.
        call: call(net, x, t, condition) -> Tensor, for a network that is called in another way.
        stride: sizes after the first axis are padded to a multiple of it for the network, by reflection, and cropped after.
        sigma_data: the constant of "edm" and "consistency", by default data_std.
        facts: value_range, data_mean, data_std, and sigma_min, sigma_max if not the whole range of the schedule.
    """

    def __init__(
        self,
        net: nn.Module,
        shape: int | Sequence[int],
        prediction: str,
        schedule: Schedule,
        *,
        call: Call | None = None,
        stride: int = 1,
        sigma_data: float | None = None,
        **facts: Any,
    ) -> None:
        if prediction not in PREDICTIONS:
            raise OptionError(f"unknown prediction {prediction!r}; there are {', '.join(map(repr, PREDICTIONS))}")
        if not isinstance(schedule, Schedule):
            raise OptionError(f"schedule must be a Schedule such as Schedule.linear(), got {type(schedule).__name__}")
        super().__init__(shape, **{"sigma_min": schedule.sigma_min, "sigma_max": schedule.sigma_max, **facts})
        self.net, self.prediction, self.schedule = net, prediction, schedule
        self.consistency = prediction == "consistency"
        self.call, self.stride = call or call_network, int(stride)
        self.sigma_data = self.data_std if sigma_data is None else float(sigma_data)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if network_dtype(self.net) == torch.float64 else torch.float32

    def forward(self, x: Tensor, sigma: Sigma, condition: Any = None) -> Tensor:
        """Returns E[x_0 | x_0 + sigma eps = x, condition], (B, *shape), in the dtype of x; sigma: a number or (B,)."""
        if x.ndim != len(self.shape) + 1 or x.shape[1] != self.shape[0]:
            raise ShapeError(f"the prior denoises (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        level = torch.as_tensor(sigma, dtype=torch.float64, device=x.device).expand(len(x))
        dtype = torch.promote_types(x.dtype, torch.float32)
        z, s = x.to(dtype), level.to(dtype).reshape(-1, *[1] * (x.ndim - 1))
        preconditioned = self.prediction in ("edm", "consistency")
        scale = (s**2 + self.sigma_data**2).rsqrt() if preconditioned else self.schedule.alpha(s)
        scaled = scale * z
        o = self._network(scaled, self.schedule.time(level), condition).to(dtype)
        if in_half(self.net):
            unit_cotangents(scaled, o)
        return self._combine(z, s, scale, o).to(x.dtype)

    def _combine(self, x: Tensor, s: Tensor, scale: Tensor, o: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return x - s * o
        if self.prediction == "v":
            return (x - s / scale * o) / (1 + s**2)
        if self.prediction == "sample":
            return o
        if self.prediction == "score":
            return x + scale * s**2 * o
        if self.prediction == "velocity":
            return (x - self.schedule.direction * s * o) / (1 + s)
        above = s - self.schedule.sigma_min if self.prediction == "consistency" else s
        return self.sigma_data**2 / (above**2 + self.sigma_data**2) * x + above * self.sigma_data * scale * o

    def _network(self, x: Tensor, time: Tensor, condition: Any) -> Tensor:
        """Returns the network's prediction at x_t, (B, *shape)."""
        dtype = network_dtype(self.net) or x.dtype
        padded = pad_to_multiple(x, self.stride).to(dtype)
        out = self.call(self.net, padded, time.to(torch.promote_types(dtype, torch.float32)), condition)
        channels = x.shape[1]
        if out.shape[1] == 2 * channels:
            out = out[:, :channels]
        if out.shape != padded.shape:
            raise ShapeError(
                f"the network turned {tuple(padded.shape)} into {tuple(out.shape)}; expected the same shape, or twice as "
                "many channels (a learned variance)"
            )
        return out[(..., *(slice(n) for n in x.shape[2:]))]


def call_network(net: nn.Module, x: Tensor, t: Tensor, condition: Any) -> Tensor:
    """Returns net(x, t) or net(x, t, condition): its tensor, or the `sample` or first entry of what it returns."""
    out = net(x, t) if condition is None else net(x, t, condition)
    if isinstance(out, Tensor):
        return out
    return out.sample if hasattr(out, "sample") else out[0]


def of_one_shape(x0: Tensor, x: Tensor) -> Tensor:
    """Returns what a denoiser made of x; ShapeError where it has another shape."""
    if x0.shape != x.shape:
        raise ShapeError(f"the denoiser turned {tuple(x.shape)} into {tuple(x0.shape)}; expected the same shape")
    return x0


def network_dtype(net: nn.Module) -> torch.dtype | None:
    """Returns the dtype of the floating-point weights, None for a network without any."""
    return next((p.dtype for p in net.parameters() if p.is_floating_point()), None)


def in_half(net: nn.Module) -> bool:
    """Tells whether a network runs in half precision, in which gradients overflow above 65504 (or lose all but 8 bits)."""
    return network_dtype(net) in (torch.float16, torch.bfloat16)


def pad_to_multiple(x: Tensor, stride: int) -> Tensor:
    """Returns (B, C, *sizes) padded at the ends to multiples of stride: by reflection, by repetition if too small for
    that."""
    pads = [-n % stride for n in x.shape[2:]]
    if not any(pads):
        return x
    mode = "reflect" if all(p < n for p, n in zip(pads, x.shape[2:], strict=True)) else "replicate"
    return F.pad(x, [n for p in reversed(pads) for n in (0, p)], mode=mode)


def takes_data(loader: Loader) -> Loader:
    """Gives a loader the argument `data`, clean signals, (B, *shape), that set what its options leave open.

    That is sigma_min and sigma_max, between which the network can be trusted, data_mean, data_std, value_range and the
    table `mmse`; of a latent pipeline, for its codes. Ten signals or more, that the network did not see in training.
    """

    @functools.wraps(loader)
    def wrapped(*args: Any, data: Tensor | None = None, **options: Any) -> Any:
        from invgen.priors.wrappers.check import declare

        prior = loader(*args, **options)
        if data is None:
            return prior
        if isinstance(prior, Generator):  # a network over codes
            with running(prior):
                declare(prior.latent, prior.encode(data.to(prior.device, prior.dtype)), options.get("latent") or {})
        else:
            declare(prior, data, options)
        return prior

    signature = inspect.signature(loader)
    new = inspect.Parameter("data", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="Tensor | None")
    given = list(signature.parameters.values())
    last = len(given) - (given[-1].kind is inspect.Parameter.VAR_KEYWORD)
    wrapped.__signature__ = signature.replace(parameters=[*given[:last], new, *given[last:]])  # type: ignore[attr-defined]
    return wrapped  # type: ignore[return-value]


@takes_data
@checked
def from_network(
    net: nn.Module,
    shape: int | Sequence[int],
    *,
    prediction: str,
    schedule: Schedule,
    **options: Any,
) -> NetworkDenoiser:
    """Returns the prior of a network that predicts epsilon, v, the sample, the score or a velocity: see `NetworkDenoiser`.

        prior = priors.from_network(net, (1, 128, 128), prediction="epsilon", schedule=priors.Schedule.linear())

    data: clean signals, (B, *shape), ten or more, that the network did not see in training. They check the declaration, and
        set what it leaves open: sigma_min and sigma_max, between which the network can be trusted, data_mean, data_std,
        value_range and the table `mmse`; see `check_prior`, which warns if the declaration does not fit.
    options: call, stride, sigma_data and the facts of a `NetworkDenoiser`. The network is put into eval mode.

    Raises:
        ShapeError: the network does not take signals of that shape, or gives others.
    """
    prior = NetworkDenoiser(net.eval(), shape, prediction, schedule, **options)
    try_out(prior)
    return prior


def try_out(prior: Denoiser) -> None:
    """Denoises one signal of zeros, so that a wrong shape is an error where it was declared.

    Raises:
        ShapeError: the network cannot take it (what torch raises is a RuntimeError). Other failures, such as that of a
            network that wants a condition, are left to the run.
    """
    x = torch.zeros(1, *prior.shape, dtype=prior.dtype, device=prior.device)
    try:
        with running(prior):
            prior(x, prior.data_std)
    except ShapeError:
        raise
    except RuntimeError as error:
        raise ShapeError(
            f"the network fails on a signal of the declared shape {tuple(prior.shape)} ({first_line(error)}); declare the "
            "shape that it was made for, channels first"
        ) from error
    except Exception:
        return


def first_line(error: Exception) -> str:
    """Returns the message of another library's error in one line of at most 160 characters."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:160]}"


class FunctionDenoiser(ConditionalDenoiser):
    """A denoiser E[x_0 | x_0 + sigma eps = x] that is a function, as a prior.

    f(x, sigma), f(x) for one that knows a single level or finds the level itself; with the condition last under one.

    Args:
        f: a function or nn.Module; gets sigma as it comes, a number or one per sample, (B,).
        shape: of one signal.
        per_sample: always give f a tensor (B,), which most networks expect.
        level: the one noise level that f(x) was made for, in units of x. Samplers that need many levels refuse it.
        blind: f(x) is not told the level; `sigma_min` and `sigma_max` say between which levels it was trained.
        facts: sigma_min, sigma_max, value_range, data_mean, data_std.

    Raises:
        OptionError: level, blind and the levels contradict each other; or the denoiser is called at another level than
            its only one.
    """

    def __init__(
        self,
        f: Callable[..., Tensor],
        shape: int | Sequence[int],
        *,
        per_sample: bool = False,
        level: float | None = None,
        blind: bool = False,
        **facts: Any,
    ) -> None:
        if level is not None:
            if blind or per_sample or "sigma_min" in facts or "sigma_max" in facts:
                raise OptionError(
                    "a denoiser of one level= is told no other and takes x alone; give level=, or sigma_min= and sigma_max="
                )
            facts = {"sigma_min": level, "sigma_max": level, **facts}
        elif blind and (per_sample or not {"sigma_min", "sigma_max"} <= set(facts)):
            raise OptionError(
                "a blind denoiser takes x alone: give sigma_min= and sigma_max=, the noise levels it was trained for, and "
                "not per_sample"
            )
        super().__init__(shape, **facts)
        self.f, self.per_sample, self.told = f, per_sample, level is None and not blind
        if self.told and not _takes_two(f):
            raise OptionError(
                "the denoiser takes x alone, expected f(x, sigma); pass level= if it was trained for one noise level, or "
                "blind=True with sigma_min= and sigma_max="
            )

    def forward(self, x: Tensor, sigma: Sigma, condition: Any = None) -> Tensor:
        if self.one_level:
            self._require_its_level(sigma)
        if self.per_sample:
            sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        args = (x, sigma) if self.told else (x,)
        x0 = self.f(*args) if condition is None else self.f(*args, condition)
        return of_one_shape(x0, x)

    def _require_its_level(self, sigma: Sigma) -> None:
        level = torch.as_tensor(sigma)
        if ((level / self.sigma_min - 1).abs() > 0.01).any():
            raise OptionError(
                f"this denoiser knows the noise level {self.sigma_min:.4g} alone and was asked for {level.max():.4g}: take "
                "a sampler of one level (PnPADMM, RED), or a denoiser of many levels"
            )


def _takes_two(f: Callable[..., Tensor]) -> bool:
    """Tells whether f can be called as f(x, sigma), as far as its signature says."""
    try:
        inspect.signature(f.forward if isinstance(f, nn.Module) else f).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a function of C has none
        pass
    return True


@takes_data
@checked
def from_denoiser(f: Callable[..., Tensor], shape: int | Sequence[int], **options: Any) -> FunctionDenoiser:
    """Returns the prior of a denoiser in the units of its signals, a function or nn.Module: see `FunctionDenoiser`.

    priors.from_denoiser(drunet, (3, 256, 256), sigma_min=0.01, sigma_max=0.2)              # f(x, sigma)
    priors.from_denoiser(dncnn, (1, 180, 180), level=25 / 255, value_range=(0, 1))          # f(x), of one level
    priors.from_denoiser(dncnn_b, (1, 180, 180), blind=True, sigma_min=0.01, sigma_max=0.2)  # f(x), of any of these

    data: clean signals, which check it and set what the options leave open; see `from_network`.
    """
    return FunctionDenoiser(f.eval() if isinstance(f, nn.Module) else f, shape, **options)
