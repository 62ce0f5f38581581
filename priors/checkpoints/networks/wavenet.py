"""Sound sample by sample: WaveNet on mu-law levels; what it has computed is kept, so that a sample costs a small pass."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from invgen.autoregressive import Autoregressive

LEVELS, MU = 256, 255.0


def mu_law(x: Tensor) -> Tensor:
    """Returns the numbers of the levels, 0 to 255, of values in [-1, 1] (ITU-T G.711, continuous form)."""
    loud = torch.log1p(MU * x.abs().clamp(max=1)) / torch.log1p(torch.tensor(MU))
    return ((x.sign() * loud + 1) / 2 * (LEVELS - 1)).round().long()


def mu_law_levels() -> Tensor:
    """Returns the values of the 256 levels, (256,), from -1 to 1."""
    u = 2 * torch.arange(LEVELS) / (LEVELS - 1) - 1
    return u.sign() * ((1 + MU) ** u.abs() - 1) / MU


class WaveNet(nn.Module):
    """Van den Oord et al., "WaveNet: a generative model for raw audio" (2016), equations 1 and 2, without a condition.

    Gated convolutions of two taps, dilated by 1, 2, 4, ..., 512 and again; residuals and skips.

    Args:
        width: channels.
        layers: convolutions; ten see 1024 samples, 64 ms at 16 kHz.
        length: of the signals of its prior, in samples.
    """

    def __init__(self, width: int = 48, layers: int = 10, length: int = 4096) -> None:
        super().__init__()
        self.options = {"width": width, "layers": layers, "length": length}
        self.length, self.spans = length, [2 ** (k % 10) for k in range(layers)]
        # drawn as nn.Embedding draws it, without its way on the meta device
        self.embed = nn.Parameter(torch.randn(LEVELS, width))
        self.gates = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=d) for d in self.spans)
        self.joins = nn.ModuleList(nn.Conv1d(width, 2 * width, 1) for _ in self.spans)
        self.last = nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, LEVELS, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns logits of each sample given those before it: (B, n) -> (B, n, 256)."""
        before = torch.cat([torch.full_like(tokens[:, :1], LEVELS // 2), tokens[:, :-1]], 1)
        h = self.embed[before].movedim(2, 1)
        return self._logits(h, [h.new_zeros(len(h), h.shape[1], d) for d in self.spans])

    def step(self, last: Tensor, memory: list[Tensor]) -> Tensor:
        """Returns logits of the next sample, (B, 256), from the last, (B, 1) or (B, 0); memory: inputs of each layer."""
        token = last if last.shape[1] else torch.full((len(last), 1), LEVELS // 2, device=last.device)
        h = self.embed[token].movedim(2, 1)
        memory[:] = memory or [h.new_zeros(len(h), h.shape[1], d) for d in self.spans]
        return self._logits(h, memory)[:, -1]

    def _logits(self, h: Tensor, memory: list[Tensor]) -> Tensor:
        """Returns logits (B, n, 256) of inputs (B, width, n); memory holds what came before them and then their ends."""
        skips = torch.zeros_like(h)
        for k, (d, gate, join) in enumerate(zip(self.spans, self.gates, self.joins, strict=True)):
            seen = torch.cat([memory[k], h], 2)
            memory[k] = seen[..., -d:]
            a, b = gate(seen).chunk(2, 1)
            more, skip = join(a.tanh() * b.sigmoid()).chunk(2, 1)
            h, skips = h + more, skips + skip
        return self.last(skips).movedim(1, 2)

    def groups(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]

    def objectives(self, x: Tensor, generator: Generator) -> Iterator[Tensor]:
        tokens = mu_law(x[:, 0])
        yield F.cross_entropy(self(tokens).flatten(0, 1), tokens.flatten())

    def prior(self, **facts: Any) -> "WaveNetPrior":
        return WaveNetPrior(self, **facts)


class WaveNetPrior(Autoregressive):
    """p(sound) of a WaveNet over 256 mu-law levels: signals (1, length). facts: value_range, data_mean, data_std, ..."""

    def __init__(self, net: WaveNet, **facts: Any) -> None:
        super().__init__((1, net.length), mu_law_levels(), **facts)
        self.net = net.eval().requires_grad_(False)

    def step(self, last: Tensor, memory: list[Tensor]) -> Tensor:
        return self.net.step(last, memory)

    def next_logits(self, prefix: Tensor) -> Tensor:
        return self.net(torch.cat([prefix, prefix.new_zeros(len(prefix), 1)], 1))[:, -1]

    def logits(self, tokens: Tensor) -> Tensor:
        """Returns logits of all samples in one pass: (B, n) -> (B, n, 256)."""
        return self.net(tokens)
