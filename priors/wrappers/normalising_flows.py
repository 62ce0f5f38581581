"""Normalising flows as priors: x = f(z), z ~ N(0, I), with exact log p(x), exact samples and the exact code of a signal.

From zuko (Rozet et al.), normflows (Stimper et al., JOSS 2023), or any module with `forward_and_log_det` and
`inverse_and_log_det`. A pushforward prior: samplers that take a nonlinear operator run on its codes.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from invgen.diffusion import as_size
from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.priors.wrappers.generators import frozen, measure_facts, standard_codes
from invgen.pushforward import Generator
from invgen.validation.arguments import checked


class NormalisingFlow(Generator):
    """x = f(z) for an invertible f. A subclass writes `forward` and `inverse`."""

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns z = f^-1(x), (B, *latent_shape), and log |det dz/dx|, (B,)."""
        raise TypeError(f"{type(self).__name__} must define inverse(self, x)")

    def encode(self, x: Tensor) -> Tensor:
        """Returns the code of a signal, exactly: (B, *shape) -> (B, *latent_shape)."""
        return self.inverse(x)[0]

    def log_prob(self, x: Tensor) -> Tensor:
        """Returns log p(x), (B,), differentiable: the density of the code and the change of volume."""
        z, log_det = self.inverse(x)
        return self.latent.log_prob(z) + log_det


class Standardised(NormalisingFlow):
    """A flow whose base is normal or uniform, its codes made standard normal: u = loc + scale z or loc + scale Phi(z).

    Args:
        network: the flow of another library.
        size: values of a code.
        shape: of one signal.
        base: the law of u.
        facts: of `Prior`.
    """

    flow: Any  # torch knows nothing of the methods that flows have
    loc: Tensor
    scale: Tensor
    given: Tensor | None  # a context or a label

    def __init__(self, network: nn.Module, size: int, shape: int | Sequence[int], base: "Base", **facts: Any) -> None:
        super().__init__(shape, standard_codes(size, network), **facts)
        self.flow, self.uniform = network, base.uniform
        self.register_buffer("loc", base.loc)
        self.register_buffer("scale", base.scale)

    def _to_base(self, z: Tensor) -> Tensor:
        return self.loc + self.scale * (torch.special.ndtr(z) if self.uniform else z)

    def _from_base(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the standard normal of a value of the base, and the log-determinant, (B,)."""
        z = (u - self.loc) / self.scale
        log_det = -self.scale.abs().log().expand_as(z)
        if self.uniform:
            inside = (z >= 0) & (z <= 1)
            tiny = torch.finfo(z.dtype).eps
            z = torch.special.ndtri(z.clamp(tiny, 1 - tiny))
            log_det = torch.where(inside, log_det + 0.5 * z.square() + 0.5 * math.log(2 * math.pi), -torch.inf)
        return z, log_det.sum(1)


class Base:
    """The law of a flow's own codes, flattened: loc + scale z, or uniform in [loc, loc + scale]. Tensors (n,) or (1,)."""

    def __init__(self, loc: Tensor, scale: Tensor, uniform: bool = False) -> None:
        self.loc, self.scale, self.uniform = loc.detach().clone(), scale.detach().clone(), uniform


class ZukoFlow(Standardised):
    """A zuko.flows.Flow. Its transform goes from x to z.

    Importing zuko switches off the argument checks of torch.distributions for the whole process.
    """

    def __init__(
        self, flow: nn.Module, shape: int | Sequence[int] | None = None, *, condition: Tensor | None = None, **facts: Any
    ) -> None:
        law = flow() if condition is None else flow(condition)
        event = law.event_shape
        size = math.prod(event)
        shape = tuple(event if shape is None else as_size(shape))
        if math.prod(shape) != size:
            raise ShapeError(f"the flow is over {tuple(event)}, which cannot be a signal of shape {shape}")
        super().__init__(flow, size, shape, _base_of_distribution(law.base, size), **facts)
        self.event = event
        self.register_buffer("given", condition)

    def _transform(self) -> Any:
        return (self.flow() if self.given is None else self.flow(self.given)).transform

    def forward(self, z: Tensor) -> Tensor:
        u = self._to_base(z).reshape(-1, *self.event)
        return self._transform().inv(u).reshape(-1, *self.shape)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u, log_det = self._transform().call_and_ladj(x.reshape(-1, *self.event))
        z, more = self._from_base(u.flatten(1))
        return z, log_det.reshape(len(x), -1).sum(1) + more

    def condition(self, condition: Tensor) -> "ZukoFlow":
        """Returns p(x | condition), the flow's context, without batch axis."""
        return ZukoFlow(self.flow, self.shape, condition=condition, **_facts(self))


class InvertibleNetwork(Standardised):
    """A flow of normflows, or any module with `forward_and_log_det(z)` and `inverse_and_log_det(x)`.

    z of a multiscale flow is a list of tensors there, one vector here. A module without a base `q0` has N(0, I).
    The log-determinant of a plain flow is summed here, in the precision of x: normflows' own `inverse_and_log_det` adds up
    in single precision whatever that of x (1.7), unlike its `log_prob`.

    Args:
        flow: the network.
        shape: of one signal; by default that of the base.
        condition: context of a ConditionalNormalizingFlow, or label of a class-conditional flow, without batch axis.
    """

    def __init__(
        self,
        flow: nn.Module,
        shape: int | Sequence[int] | None = None,
        *,
        condition: Tensor | int | None = None,
        **facts: Any,
    ) -> None:
        waiting = [m for m in flow.modules() if not bool(getattr(m, "data_dep_init_done", torch.ones(())))]
        if waiting:
            raise OptionError(
                f"{len(waiting)} ActNorm layers of the flow have not been initialised, and would take the first batch they "
                "see for data; load trained weights, or pass a batch of data through the flow first"
            )
        given = None if condition is None else torch.as_tensor(condition)
        base = getattr(flow, "q0", None)
        bases: list[Any] = list(base) if isinstance(base, nn.ModuleList) else [base]
        if base is not None:
            sizes = [_size(b) for b in bases]
        elif shape is not None:
            sizes = [tuple(as_size(shape))]
        else:
            raise OptionError("a flow without a base q0 needs shape=, the shape of one signal")
        total = sum(map(math.prod, sizes))
        if shape is None and len(sizes) > 1:
            with torch.no_grad():
                like = next(flow.parameters())
                decode: Any = flow.forward_and_log_det
                shape = decode([like.new_zeros(1, *s) for s in sizes])[0].shape[1:]
        shape = sizes[0] if shape is None else tuple(as_size(shape))
        if math.prod(shape) != total:
            raise ShapeError(f"the flow's codes have {total} values, which cannot be a signal of shape {shape}")
        parts = [_base_of_normflows(b, given) for b in bases]
        if len({p.uniform for p in parts}) > 1:
            raise UnsupportedError("a multiscale flow with normal and uniform bases is not supported; expected one kind")
        loc, scale = (
            torch.cat([getattr(p, k).expand(math.prod(s)) for p, s in zip(parts, sizes, strict=True)]) for k in _TABLES
        )
        super().__init__(flow, total, shape, Base(loc, scale, parts[0].uniform), **facts)
        self.sizes = sizes
        self.register_buffer("given", given)

    def _context(self, rows: int) -> dict[str, Tensor]:
        """Returns the context of the layers of a ConditionalNormalizingFlow; a class label acts on the base alone."""
        if self.given is None or not _takes_context(self.flow):
            return {}
        return {"context": self.given.expand(rows, *self.given.shape)}

    def forward(self, z: Tensor) -> Tensor:
        parts = self._to_base(z).split([math.prod(s) for s in self.sizes], 1)
        codes = [p.reshape(-1, *s) for p, s in zip(parts, self.sizes, strict=True)]
        if not _plain(self.flow):
            x = self.flow.forward_and_log_det(codes if len(codes) > 1 or _multiscale(self.flow) else codes[0])[0]
            return x.reshape(-1, *self.shape)
        x, context = codes[0], self._context(len(z))
        for layer in self.flow.flows:
            x = layer(x, **context)[0]
        return x.reshape(-1, *self.shape)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if _plain(self.flow):
            u, log_det, context = x.reshape(-1, *self.sizes[0]), 0.0, self._context(len(x))
            for layer in reversed(self.flow.flows):
                u, more = layer.inverse(u, **context)
                log_det = log_det + more
        else:
            u, log_det = self.flow.inverse_and_log_det(x)
        parts = u if isinstance(u, list | tuple) else [u]
        z, more = self._from_base(torch.cat([p.flatten(1) for p in parts], 1))
        return z, log_det + more

    def condition(self, condition: Tensor | int) -> "InvertibleNetwork":
        """Returns p(x | condition): a context or a label, without batch axis."""
        return InvertibleNetwork(self.flow, self.shape, condition=condition, **_facts(self))


_TABLES = ("loc", "scale")


def _size(base: nn.Module) -> tuple[int, ...]:
    """Returns the shape of a base of normflows."""
    shape = getattr(base, "shape", None) or getattr(base, "dim", None)
    if shape is None:
        raise _unknown(base)
    return tuple(shape) if isinstance(shape, Sequence) else (int(shape),)


def _unknown(base: nn.Module) -> UnsupportedError:
    return UnsupportedError(
        f"the flow's base is a {type(base).__name__}; expected DiagGaussian, GlowBase, Uniform, or a conditional one with "
        "condition="
    )


def _multiscale(flow: nn.Module) -> bool:
    return isinstance(getattr(flow, "q0", None), nn.ModuleList)


def _plain(flow: nn.Module) -> bool:
    """Tells whether a flow is one list of layers, each with an inverse."""
    return isinstance(getattr(flow, "flows", None), nn.ModuleList) and hasattr(flow, "q0") and not _multiscale(flow)


def _takes_context(flow: nn.Module) -> bool:
    return any(c.__name__ == "ConditionalNormalizingFlow" for c in type(flow).__mro__)


def _base_of_distribution(base: Any, size: int) -> Base:
    inner = base
    while isinstance(inner, torch.distributions.Independent):
        inner = inner.base_dist
    if isinstance(inner, torch.distributions.Normal):
        return Base(inner.loc.reshape(-1), inner.scale.reshape(-1))
    if isinstance(inner, torch.distributions.Uniform):
        return Base(inner.low.reshape(-1), (inner.high - inner.low).reshape(-1), uniform=True)
    raise UnsupportedError(f"the flow's base is a {type(inner).__name__}; expected independent normal or uniform values")


def _base_of_normflows(base: Any, given: Tensor | None) -> Base:
    """Returns the parameters of a base of normflows, N(0, I) for none."""
    if base is None:
        return Base(torch.zeros(1), torch.ones(1))
    name, size = type(base).__name__, math.prod(_size(base))
    if name == "DiagGaussian":
        loc, log_scale = base.loc, base.log_scale
    elif name == "ConditionalDiagGaussian" and given is not None:
        with torch.no_grad():
            loc, log_scale = base.context_encoder(given[None]).chunk(2, -1)
    elif name in ("GlowBase", "ClassCondDiagGaussian"):
        loc, log_scale = _class_base(base, given)
    elif name == "Uniform":
        low, high = (torch.as_tensor(v).reshape(-1) for v in (base.low, base.high))
        return Base(low.expand(size), (high - low).expand(size), uniform=True)
    else:
        raise _unknown(base)
    if getattr(base, "temperature", None) is not None:
        log_scale = log_scale + math.log(base.temperature)
    return Base(loc.expand(1, *_size(base)).reshape(-1), log_scale.exp().expand(1, *_size(base)).reshape(-1))


def _class_base(base: Any, given: Tensor | None) -> tuple[Tensor, Tensor]:
    if type(base).__name__ == "ClassCondDiagGaussian":
        k = _label(given, base.num_classes)
        return base.loc[..., k][None], base.log_scale[..., k][None]
    factor = base.logscale_factor
    loc, log_scale = base.loc * (base.loc_logs * factor).exp(), base.log_scale * (base.log_scale_logs * factor).exp()
    if base.class_cond:
        k, ones = _label(given, base.num_classes), [1] * (len(base.shape) - 1)
        loc, log_scale = loc + base.loc_cc[k].reshape(1, -1, *ones), log_scale + base.log_scale_cc[k].reshape(1, -1, *ones)
    return loc, log_scale


def _label(given: Tensor | None, classes: int) -> int:
    if given is None or given.numel() != 1 or not 0 <= int(given) < classes:
        raise OptionError(f"the flow is conditional on a class: give condition= a label from 0 to {classes - 1}")
    return int(given)


def _facts(prior: Generator) -> dict[str, Any]:
    return {"value_range": prior.value_range, "data_mean": prior.data_mean, "data_std": prior.data_std}


@checked
def from_flow(flow: nn.Module, shape: int | Sequence[int] | None = None, **options: Any) -> NormalisingFlow:
    """Returns the prior of a normalising flow, with exact `log_prob`: a `ZukoFlow` or an `InvertibleNetwork`.

        prior = priors.from_flow(zuko.flows.NSF(features=64), (1, 8, 8))
        prior = priors.from_flow(normflows.NormalizingFlow(base, layers), (1, 8, 8))

    Args:
        flow: of zuko or normflows, or a module with `forward_and_log_det(z)` and `inverse_and_log_det(x)` over N(0, I). It
            is put into eval mode and its weights lose their gradients.
        shape: of one signal, of as many values as the flow has; by default the flow's own.
        options: condition (a context or label, without batch axis), value_range, data_mean, data_std; of those three
            what is not given is measured on 64 samples.

    Raises:
        OptionError, UnsupportedError: not a flow, or one whose base is neither normal nor uniform.
        ShapeError: the shape has another number of values than the flow.
    """
    if isinstance(flow, nn.Module) and any(c.__module__ == "zuko.lazy" for c in type(flow).__mro__):
        return measure_facts(ZukoFlow(frozen(flow), shape, **options), options)
    if isinstance(flow, nn.Module) and (
        _plain(flow) or (hasattr(flow, "forward_and_log_det") and hasattr(flow, "inverse_and_log_det"))
    ):
        return measure_facts(InvertibleNetwork(frozen(flow), shape, **options), options)
    raise OptionError(
        f"{type(flow).__name__} is not a normalising flow that is known here: expected one of zuko or normflows, or a "
        "module with forward_and_log_det(z) and inverse_and_log_det(x)"
    )
