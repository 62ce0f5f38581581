"""Autoregressive networks as priors: causal sequence models (GPT-shaped) and causal image models (PixelCNN-shaped)."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from invgen.autoregressive import Autoregressive
from invgen.errors import OptionError, ShapeError
from invgen.priors.wrappers.generators import frozen
from invgen.validation.arguments import checked


class CausalNetwork(Autoregressive):
    """A network that gives the logits of all sites in one pass, those of a site from the tokens before it.

    Args:
        net: layout "tokens": (B, n) integers -> (B, n, V); layout "image": values (B, *shape) -> (B, V, *shape), as
            PixelCNN's (van den Oord et al., ICML 2016), with the sites in raster order unless `order` says otherwise.
        shape, levels, order: as for an `Autoregressive`.
        layout: what the network takes and gives.
        start: the token that begins a sequence, for a network whose logits at place i are of the token at place i + 1, as
            GPT's; layout "tokens". Without it the logits at place i are of the token at place i.
        condition: what the network gets beside the tokens, without batch axis: a label, an embedding.
        facts: value_range, data_mean, data_std.

    Raises:
        OptionError: the network is not causal: logits depend on tokens that are not before them.
        ShapeError: it gives another shape.
    """

    given: Tensor | None

    def __init__(
        self,
        net: Callable[..., Tensor],
        shape: int | Sequence[int],
        levels: Tensor | Sequence[float],
        *,
        order: Tensor | Sequence[int] | None = None,
        layout: Literal["tokens", "image"] = "tokens",
        start: int | None = None,
        condition: Tensor | int | None = None,
        **facts: Any,
    ) -> None:
        if layout not in ("tokens", "image") or (start is not None and layout == "image"):
            raise OptionError(f"layout is 'tokens', which may have start=, or 'image', got {layout!r} with start={start!r}")
        table = next(net.parameters(), None) if isinstance(net, nn.Module) else None
        double = table is not None and table.dtype == torch.float64
        super().__init__(shape, levels, order=order, dtype=torch.float64 if double else torch.float32, **facts)
        self.net, self.begin = net, start
        self.layout: Literal["tokens", "image"] = layout
        self.register_buffer("given", None if condition is None else torch.as_tensor(condition))
        if table is not None:
            self.to(table.device)
        self._check()

    def _check(self) -> None:
        """Whether the logits have the right shape and look at the tokens before them alone: one pass for three changes."""
        v, n = len(self.levels), self.sites
        changes = sorted({0, n // 2, n - 1})
        tokens = (torch.arange(n, device=self.device) % v).repeat(1 + len(changes), 1)
        for row, i in enumerate(changes, 1):
            tokens[row, i:] = (tokens[row, i:] + 1) % v
        with torch.no_grad():
            logits = self.logits(tokens)
        for row, i in enumerate(changes, 1):
            change = (logits[row, : i + 1] - logits[0, : i + 1]).abs().max().item()
            if change > 1e-4 * logits.abs().max().item():
                raise OptionError(
                    f"the network is not causal in this order: logits of site {i} or before change by {change:.2g} with "
                    f"the tokens from site {i} on; give start= if its logits are of the next token, or another order"
                )

    def logits(self, tokens: Tensor) -> Tensor:
        """Returns all logits in one pass: (B, sites) -> (B, sites, V)."""
        if self.layout == "image":
            return self._image(tokens)
        if self.begin is None:
            return self._sequence(tokens)
        return self._sequence(_begun(self.begin, tokens[:, :-1]))

    def next_logits(self, prefix: Tensor) -> Tensor:
        """Returns logits of the token at site i given those before it, (B, i) -> (B, V). Later sites, where the network
        needs them,
        hold token 0."""
        i = prefix.shape[1]
        if self.layout == "tokens" and self.begin is not None:
            return self._sequence(_begun(self.begin, prefix))[:, -1]
        rest = prefix.new_zeros(len(prefix), self.sites - i)
        return self.logits(torch.cat([prefix, rest], 1))[:, i]

    def _call(self, x: Tensor) -> Tensor:
        return self.net(x) if self.given is None else self.net(x, self.given.expand(len(x), *self.given.shape))

    def _sequence(self, tokens: Tensor) -> Tensor:
        out = self._call(tokens)
        return self._checked(out, (*tokens.shape, len(self.levels)))

    def _image(self, tokens: Tensor) -> Tensor:
        out = self._call(self.decode(tokens))
        out = self._checked(out, (len(tokens), len(self.levels), *self.shape))
        return out.flatten(2)[..., self.order].movedim(1, 2)

    def _checked(self, out: Tensor, wanted: tuple[int, ...]) -> Tensor:
        if not isinstance(out, Tensor) or out.shape != wanted:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ShapeError(f"the network gives {got}, expected logits of shape {wanted} for {len(self.levels)} levels")
        return out

    def condition(self, condition: Tensor | int) -> "CausalNetwork":
        """Returns p(x | condition): the same network under another condition, given without batch axis."""
        other = CausalNetwork(
            self.net,
            self.shape,
            self.levels,
            order=self.order,
            layout=self.layout,
            start=self.begin,
            condition=condition,
            value_range=self.value_range,
            data_mean=self.data_mean,
            data_std=self.data_std,
            sampling_rate=self.sampling_rate,
        )
        other.mean, other.root = self.mean, self.root
        return other


def _begun(begin: int, tokens: Tensor) -> Tensor:
    return torch.cat([tokens.new_full((len(tokens), 1), begin), tokens], 1)


@checked
def from_autoregressive(
    net: Callable[..., Tensor], shape: int | Sequence[int], levels: Tensor | Sequence[float], **options: Any
) -> CausalNetwork:
    """Returns the prior of a causal network with finitely many levels a value: see `CausalNetwork`.

        prior = priors.from_autoregressive(pixelcnn, (1, 28, 28), torch.linspace(0, 1, 16), layout="image")

    options: order, layout, start, condition, and the facts of a prior. A module is put into eval mode and its weights lose
    their gradients. `prior.measure_moments(x)` on training signals gives samplers something to look ahead with.
    """
    return CausalNetwork(frozen(net), shape, levels, **options)
