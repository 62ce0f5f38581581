"""The denoisers of deepinv (Tachella et al.) as priors, and priors as denoisers for its algorithms."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from invgen.conditional import ConditionalDenoiser
from invgen.diffusion import Denoiser, Sigma
from invgen.errors import MissingExtraError, OptionError
from invgen.priors.wrappers.from_network import network_dtype, of_one_shape, takes_data
from invgen.validation.arguments import checked

# the levels, for images in [0, 1], at which deepinv's diffusion networks were trained (their own schedules, halved)
LEVELS = {"DiffUNet": (0.005, 78.7), "NCSNpp": (0.001, 40.0), "ADMUNet": (0.001, 40.0)}


class DeepinvDenoiser(ConditionalDenoiser):
    """f(x, sigma) of deepinv: x in [0, 1], sigma the standard deviation of the noise in the same units.

    The network is called as deepinv calls it, with one sigma a sample, in its own precision, and does what it does:
    DRUNet's noise map, DiffUNet's and the diffusers wrapper's nearest timestep (an error of up to 2.5e-3 that
    `priors.from_diffusers` does not make), denoisers that ignore sigma.

    Args:
        denoiser: a deepinv.models.Denoiser, or any module f(x, sigma).
        shape: of one signal.
        sigma_min, sigma_max: its levels in training, in units of [0, 1]; known for the diffusion networks of deepinv.
        label: the name of the keyword that takes a condition (`class_labels` in deepinv's class-conditional networks).
        facts: value_range ((0, 1) by default), data_mean, data_std.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        shape: int | Sequence[int],
        *,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        label: str = "class_labels",
        **facts: Any,
    ) -> None:
        known = [LEVELS[c.__name__] for c in type(denoiser).__mro__ if c.__name__ in LEVELS]
        if known:
            low, high = known[0]
        elif sigma_max is not None:
            low, high = min(0.001, 0.01 * sigma_max), sigma_max
        else:
            raise OptionError(
                f"give sigma_max=, the largest noise level that {type(denoiser).__name__} was trained for, in units of "
                "images in [0, 1] (about 0.2 for DRUNet)"
            )
        facts = {"value_range": (0.0, 1.0), "data_mean": 0.5, "data_std": 0.25, **facts}
        super().__init__(
            shape,
            sigma_min=low if sigma_min is None else sigma_min,
            sigma_max=high if sigma_max is None else sigma_max,
            **facts,
        )
        self.denoiser, self.label = denoiser, label

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if network_dtype(self.denoiser) == torch.float64 else torch.float32

    def forward(self, x: Tensor, sigma: Sigma, condition: Any = None) -> Tensor:
        dtype = network_dtype(self.denoiser) or x.dtype
        level = torch.as_tensor(sigma, dtype=dtype, device=x.device).expand(len(x))
        given = {} if condition is None else {self.label: condition}
        out = self.denoiser(x.to(dtype), level, **given)
        return of_one_shape(out, x).to(x.dtype)


@takes_data
@checked
def from_deepinv(denoiser: nn.Module, shape: int | Sequence[int], **options: Any) -> DeepinvDenoiser:
    """Returns a denoiser of deepinv as a prior over images in [0, 1]: see `DeepinvDenoiser`; `rescaled` gives other units.

        prior = priors.from_deepinv(deepinv.models.DRUNet(), (3, 256, 256), sigma_max=0.2)

    The module is put into eval mode and its weights lose their gradients.

    data: clean signals, which check it and set what the facts leave open; see `from_network`.
    """
    if not isinstance(denoiser, nn.Module):
        raise OptionError(
            f"expected a denoiser of deepinv, got {type(denoiser).__name__}; for f(x, sigma) use from_denoiser"
        )
    return DeepinvDenoiser(denoiser.eval().requires_grad_(False), shape, **options)


@checked
def to_deepinv(prior: Denoiser) -> nn.Module:
    """Returns a prior as a deepinv.models.Denoiser, for its plug-and-play and diffusion algorithms.

    deepinv's algorithms hold images in [0, 1]; the prior must be in these units.

    Raises:
        OptionError: not a Denoiser, or one in other units; the sentence says by how much to rescale.
        MissingExtraError: deepinv cannot be imported.
    """
    if not isinstance(prior, Denoiser):
        raise OptionError(f"expected an invgen Denoiser, got {type(prior).__name__}")
    low, high = prior.value_range
    if abs(low) > 1e-6 or abs(high - 1) > 1e-6:
        scale = 1 / (high - low)
        raise OptionError(
            f"deepinv works on images in [0, 1] and the prior is over [{low:g}, {high:g}]: pass "
            f"prior.rescaled({scale:g}, {-low * scale:g}), or state value_range=(0, 1) if that is what its values mean"
        )
    try:
        from deepinv.models import Denoiser as Base  # pyright: ignore[reportMissingImports]  (an extra of its own)
    except Exception as error:  # a torchvision that does not fit torch fails with errors of several kinds
        raise MissingExtraError.of_broken("deepinv", "deepinv", error) from error

    class FromInvgen(Base):
        """E[x_0 | x_sigma] of an invgen prior."""

        def __init__(self) -> None:
            super().__init__()
            self.prior = prior

        def forward(self, x: Tensor, sigma: float | Tensor, *args: Any, **kwargs: Any) -> Tensor:
            level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1)
            return self.prior(x, level.expand(len(x)) if len(level) == 1 else level)

    return FromInvgen()
