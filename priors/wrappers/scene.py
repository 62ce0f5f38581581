"""Scenes: named parameters with laws of torch.distributions, and a renderer that makes a signal of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributions as laws

from invgen.errors import OptionError, ShapeError
from invgen.pushforward import Generator
from invgen.validation.arguments import checked

Renderer = Callable[..., Tensor]


@dataclass(frozen=True)
class Parameter:
    """Posterior samples of one named parameter of a scene.

    Attributes:
        samples: (num_samples, *batch, *shape of the parameter); whole numbers for a discrete one.
        kinds: how many values a discrete parameter has, 0 for a continuous one.
    """

    samples: Tensor
    kinds: int = 0

    @property
    def mean(self) -> Tensor:
        """The posterior mean, (*batch, *shape)."""
        return self.samples.double().mean(0).to(self.samples.dtype if not self.kinds else torch.float32)

    @property
    def std(self) -> Tensor:
        """The posterior standard deviation, (*batch, *shape)."""
        return self.samples.double().std(0).to(self.samples.dtype if not self.kinds else torch.float32)

    @property
    def probabilities(self) -> Tensor:
        """The posterior probability of each value of a discrete parameter, (*batch, *shape, kinds)."""
        if not self.kinds:
            raise OptionError("a continuous parameter has no probabilities; take its mean, std or interval")
        return torch.nn.functional.one_hot(self.samples, self.kinds).float().mean(0)

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Returns the ends of the central credible interval, (*batch, *shape) each."""
        ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64, device=self.samples.device)
        low, high = self.samples.double().quantile(ends, 0).to(torch.float32 if self.kinds else self.samples.dtype)
        return low, high


def from_normal(law: laws.Distribution, z: Tensor) -> Tensor:
    """Returns a draw of a law from standard normals, (B, *shape of the law), by its quantile function; differentiable in z.

    Raises:
        OptionError: the law has no quantile function in torch.distributions.
    """
    if isinstance(law, laws.Independent):
        return from_normal(law.base_dist, z)
    if isinstance(law, laws.Normal):
        return law.loc + law.scale * z
    if isinstance(law, laws.MultivariateNormal):
        return law.loc + (law.scale_tril @ z.unsqueeze(-1)).squeeze(-1)
    if isinstance(law, laws.TransformedDistribution):
        x: Any = from_normal(law.base_dist, z)
        for transform in law.transforms:
            x = transform(x)
        return x
    u = torch.special.ndtr(z).clamp(torch.finfo(z.dtype).eps, 1 - torch.finfo(z.dtype).eps)
    if isinstance(law, laws.Categorical):
        return (u.unsqueeze(-1) > law.probs.cumsum(-1)[..., :-1]).sum(-1)
    if isinstance(law, laws.Bernoulli):
        return (u > 1 - law.probs).long()
    try:
        return law.icdf(u)
    except NotImplementedError:
        raise OptionError(
            f"{type(law).__name__} has no quantile function in torch.distributions; take Normal, LogNormal, Uniform, "
            "HalfNormal, Laplace, Exponential, Categorical or another law with `icdf`"
        ) from None


class Scene(Generator):
    """x = render(name=value, ...) of named parameters, each with a law of torch.distributions.

        disc = priors.Scene(render, radius=LogNormal(3.0, 0.3), x=Normal(32.0, 5.0), kind=Categorical(torch.ones(3)))
        result = invgen.solve(y, A, disc, invgen.InferredLevel(0.1), "TemperedSMC", num_samples=100)
        result.scene["radius"].interval(0.9), result.scene["kind"].probabilities

    Codes are standard normals, one for each value of a parameter, mapped by quantile functions. HMC wants a renderer that
    is differentiable, and stays in the kind that it starts in; TemperedSMC and PCN want no gradient and move between kinds.

    Args:
        render: keyword arguments, one tensor (B, *shape of the law) for each parameter, whole numbers for Categorical and
            Bernoulli, to signals (B, *shape).
        value_range: of the signals.
        data_std: of their values.
        parameters: name=law.
    """

    network = False

    @checked
    def __init__(
        self,
        render: Renderer,
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
        data_std: float = 0.25,
        **parameters: Any,
    ) -> None:
        wrong = [n for n, law in parameters.items() if not isinstance(law, laws.Distribution)]
        if wrong or not parameters:
            got = f"{wrong[0]}={parameters[wrong[0]]!r}" if wrong else "none"
            raise OptionError(f"parameters of a scene are name=law, a law of torch.distributions each, got {got}")
        self.fixed: dict[str, Any] = {}
        self.laws, self.render = parameters, render
        self.sizes = {n: law.batch_shape + law.event_shape for n, law in parameters.items()}
        count = sum(math.prod(size) for size in self.sizes.values())
        picture = render(**self.values(torch.zeros(2, count)))
        if not isinstance(picture, Tensor) or picture.ndim < 2 or len(picture) != 2:
            got = tuple(picture.shape) if isinstance(picture, Tensor) else type(picture).__name__
            raise ShapeError(f"the renderer must give signals (B, *shape), here of B = 2 scenes, got {got}")
        middle = sum(value_range) / 2
        super().__init__(picture.shape[1:], (count,), value_range=value_range, data_mean=middle, data_std=data_std)

    def values(self, z: Tensor) -> dict[str, Tensor]:
        """Returns the parameters of codes (B, n), name -> (B, *shape of the parameter)."""
        parts = z.split([math.prod(size) for size in self.sizes.values()], -1)
        found = {
            name: from_normal(law, part.reshape(*z.shape[:-1], *self.sizes[name]))
            for part, (name, law) in zip(parts, self.laws.items(), strict=True)
        }
        return found | {name: value.expand(*z.shape[:-1], *value.shape) for name, value in self.fixed.items()}

    def forward(self, z: Tensor) -> Tensor:
        return self.render(**self.values(z))

    def scene(self, codes: Tensor) -> dict[str, Parameter]:
        """Returns the parameters of codes (num_samples, *batch, n), by name."""
        kinds = {name: _kinds(law) for name, law in self.laws.items()}
        return {name: Parameter(value, kinds.get(name, 0)) for name, value in self.values(codes).items()}

    def given(self, **fixed: float | Tensor) -> "Scene":
        """Returns the scene with some parameters known, as for the evidence of each kind: scene.given(kind=0).

        Raises:
            OptionError: a name that the scene does not have.
        """
        unknown = [name for name in fixed if name not in self.laws]
        if unknown:
            raise OptionError(f"the scene has no parameter {unknown[0]!r}; there are {', '.join(map(repr, self.laws))}")
        left = {name: law for name, law in self.laws.items() if name not in fixed}
        known = self.fixed | {name: torch.as_tensor(value) for name, value in fixed.items()}

        def render(**values: Tensor) -> Tensor:
            count = len(next(iter(values.values())))
            return self.render(**values, **{n: v.expand(count, *v.shape) for n, v in known.items() if n not in values})

        scene = Scene(render, value_range=self.value_range, data_std=self.data_std, **left)
        scene.fixed = known
        return scene


def _kinds(law: laws.Distribution) -> int:
    """Returns how many values a discrete law has, 0 for a continuous one."""
    if isinstance(law, laws.Independent):
        return _kinds(law.base_dist)
    return law.probs.shape[-1] if isinstance(law, laws.Categorical) else 2 * isinstance(law, laws.Bernoulli)
