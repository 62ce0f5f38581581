"""The denoisers of azula (Rozet, 2024) as priors, and priors as denoisers for its samplers."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from invgen.conditional import ConditionalDenoiser
from invgen.diffusion import Denoiser, Sigma, per_sample_sigma
from invgen.errors import MissingExtraError, OptionError, UnsupportedError
from invgen.priors.wrappers.from_network import network_dtype, of_one_shape, takes_data
from invgen.validation.arguments import checked

POINTS = 2**14  # of the table of log sigma(t): interpolated, off by about 1e-8


class AzulaDenoiser(ConditionalDenoiser):
    """D(x_t, t) of azula, x_t = alpha_t x + sigma_t eps, at the noise level sigma = sigma_t / alpha_t.

    The time of a level is interpolated in log sigma on a table of the denoiser's own schedule; its x_t is alpha_t x_sigma.

    Args:
        denoiser: an azula.denoise.Denoiser: denoiser(x_t, t) has a `mean`, `schedule(t)` gives (alpha_t, sigma_t).
        shape: of one signal.
        label: the name of the keyword that takes a condition; a dict as condition gives several.
        facts: value_range, data_mean, data_std, and sigma_min, sigma_max if not the whole range of the schedule.
    """

    def __init__(self, denoiser: nn.Module, shape: int | Sequence[int], *, label: str = "label", **facts: Any) -> None:
        t = torch.linspace(0, 1, POINTS, dtype=torch.float64)
        schedule: Any = denoiser.schedule  # a function, which torch does not know
        alpha, noise = schedule(t)
        log_sigma, log_alpha = (noise / alpha).double().log(), alpha.double().log()
        inside = torch.isfinite(log_sigma)
        if inside.sum() < 2 or not (log_sigma[inside].diff() > 0).all():
            raise OptionError(
                "the schedule of the denoiser does not have a noise level sigma_t / alpha_t that grows with t"
            )
        low, high = log_sigma[inside][0].exp().item(), log_sigma[inside][-1].exp().item()
        super().__init__(shape, **{"sigma_min": low, "sigma_max": high, **facts})
        self.denoiser, self.label = denoiser, label
        self._tables = (log_sigma[inside], t[inside], log_alpha[inside])

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if network_dtype(self.denoiser) == torch.float64 else torch.float32

    def time(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Returns t and alpha_t of noise levels, (B,) each, in double precision."""
        table, t, log_alpha = (values.to(sigma.device) for values in self._tables)
        log = sigma.double().log()
        k = torch.searchsorted(table, log).clamp(1, len(table) - 1)
        weight = ((log - table[k - 1]) / (table[k] - table[k - 1])).clamp(0, 1)
        return torch.lerp(t[k - 1], t[k], weight), torch.lerp(log_alpha[k - 1], log_alpha[k], weight).exp()

    def forward(self, x: Tensor, sigma: Sigma, condition: Any = None) -> Tensor:
        level = torch.as_tensor(sigma, dtype=torch.float64, device=x.device).expand(len(x))
        t, alpha = self.time(level)
        dtype = torch.promote_types(x.dtype, torch.float32)
        given = {} if condition is None else condition if isinstance(condition, dict) else {self.label: condition}
        x_t = x.to(dtype) * per_sample_sigma(alpha.to(dtype), x.to(dtype))
        out = self.denoiser(x_t, t.to(dtype), **given).mean
        return of_one_shape(out, x).to(x.dtype)


@takes_data
@checked
def from_azula(denoiser: nn.Module, shape: int | Sequence[int], **options: Any) -> AzulaDenoiser:
    """Returns a denoiser of azula as a prior, in its own units: see `AzulaDenoiser`.

        denoiser = azula.plugins.adm.load_model("imagenet_256x256")
        prior = priors.from_azula(denoiser, (3, 256, 256))

    The module is put into eval mode and its weights lose their gradients.

    data: clean signals, which check it and set what the facts leave open; see `from_network`.
    """
    if not isinstance(denoiser, nn.Module) or not callable(getattr(denoiser, "schedule", None)):
        raise OptionError(f"expected a denoiser of azula, with a schedule, got {type(denoiser).__name__}")
    return AzulaDenoiser(denoiser.eval().requires_grad_(False), shape, **options)


@checked
def to_azula(prior: Denoiser, schedule: Any = None) -> nn.Module:
    """Returns a prior as an azula.denoise.Denoiser, for its samplers and its guidance.

    Args:
        schedule: of azula; by default VESchedule between the prior's noise levels. Any may be given: the prior sees
            x_t / alpha_t at the level sigma_t / alpha_t.

    Raises:
        MissingExtraError: azula cannot be imported.
    """
    if not isinstance(prior, Denoiser):
        raise OptionError(f"expected an invgen Denoiser, got {type(prior).__name__}")
    try:
        # azula is an extra of its own
        from azula.denoise import Denoiser as Base  # pyright: ignore[reportMissingImports]
        from azula.denoise import DiracPosterior  # pyright: ignore[reportMissingImports]
        from azula.noise import VESchedule  # pyright: ignore[reportMissingImports]
    except Exception as error:
        raise MissingExtraError.of_broken("azula", "azula", error) from error

    class FromInvgen(Base):
        """E[x_0 | x_t] of an invgen prior, under a schedule."""

        def __init__(self) -> None:
            super().__init__()
            self.prior = prior
            self.schedule = schedule or VESchedule(prior.sigma_min, prior.sigma_max)

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> Any:
            if kwargs:
                raise UnsupportedError(f"the prior takes no {', '.join(kwargs)}; condition it before to_azula")
            alpha, sigma = self.schedule(t)
            level = (sigma / alpha).reshape(-1).to(x_t.dtype).expand(math.prod(x_t.shape[:1]))
            scale = per_sample_sigma(alpha.reshape(-1).to(x_t.dtype).expand(len(x_t)), x_t)
            return DiracPosterior(mean=self.prior(x_t / scale, level))

    return FromInvgen()
