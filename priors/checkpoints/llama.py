"""Language models in GGUF files of the llama architecture, in plain torch, with keys and values kept."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invgen.errors import FileError, MissingExtraError, UnsupportedError, WeightsError
from invgen.priors.wrappers.language import LanguageModel, sized
from invgen.validation.arguments import checked


class Llama(nn.Module):
    """Decoder of the llama architecture (Touvron et al., 2023): RMS norms, rotary positions, grouped heads, SwiGLU.

    Args:
        tensors: by their names in GGUF.
        layers, heads, groups: of attention; `groups` keys serve all heads.
        eps: of the norms.
        base: of the rotary frequencies.
    """

    def __init__(self, tensors: dict[str, Tensor], layers: int, heads: int, groups: int, eps: float, base: float) -> None:
        super().__init__()
        self.layers, self.heads, self.groups, self.eps, self.base = layers, heads, groups, eps, base
        self.weights = nn.ParameterDict({k.replace(".", "/"): nn.Parameter(v, False) for k, v in tensors.items()})

    def forward(self, tokens: Tensor, memory: list[Tensor]) -> Tensor:
        """Returns logits of each next token, (B, m) -> (B, m, V); memory holds keys and values, (B, layers, 2, ...)."""
        table = self._get("token_embd.weight")
        x, kept = table[tokens], []
        known = memory[0].unbind(1) if memory else [None] * self.layers
        for k, past in enumerate(known):
            x, now = self._block(x, f"blk.{k}.", past)
            kept.append(now)
        memory[:] = [torch.stack(kept, 1)]
        last = self._get("output.weight") if "output/weight" in self.weights else table
        return F.linear(self._norm(x, "output_norm"), last)

    def _get(self, name: str) -> Tensor:
        return self.weights[name.replace(".", "/")]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self._get(f"{name}.weight")

    def _block(self, x: Tensor, p: str, past: Tensor | None) -> tuple[Tensor, Tensor]:
        h = self._norm(x, p + "attn_norm")
        q, k, v = (
            F.linear(h, self._get(f"{p}attn_{name}.weight")).unflatten(-1, (count, -1)).transpose(1, 2)
            for name, count in (("q", self.heads), ("k", self.groups), ("v", self.groups))
        )
        begin = 0 if past is None else past.shape[3]
        q, k = self._rotated(q, begin), self._rotated(k, begin)
        now = torch.stack([k, v], 1)
        now = now if past is None else torch.cat([past, now], 3)
        k, v = (u.repeat_interleave(self.heads // self.groups, 1) for u in now.unbind(1))
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device).tril(begin)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2)
        x = x + F.linear(attended, self._get(p + "attn_output.weight"))
        h = self._norm(x, p + "ffn_norm")
        inner = F.silu(F.linear(h, self._get(p + "ffn_gate.weight"))) * F.linear(h, self._get(p + "ffn_up.weight"))
        return x + F.linear(inner, self._get(p + "ffn_down.weight")), now

    def _rotated(self, x: Tensor, begin: int) -> Tensor:
        """Turns neighbouring pairs of values by angles that grow with the position: the order of pairs is GGUF's."""
        n, width = x.shape[-2:]
        frequencies = self.base ** (-torch.arange(0, width, 2, device=x.device) / width)
        angle = (begin + torch.arange(n, device=x.device))[:, None] * frequencies
        even, odd = x[..., ::2], x[..., 1::2]
        turned = (even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos())
        return torch.stack(turned, -1).flatten(-2).to(x.dtype)


class BytePairs:
    """The tokenizer that a GGUF file describes: byte-level pair encoding.

    Args:
        words: of the vocabulary.
        merges: pairs of pieces, "a b", the first the most frequent.
    """

    def __init__(self, words: list[str], merges: list[str]) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        pairs = [(a, b) for a, b in (m.split(" ") for m in merges)]
        self.inner = Tokenizer(models.BPE(vocab={w: k for k, w in enumerate(words)}, merges=pairs))
        digits, bytes_ = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.inner.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
        self.inner.decoder = decoders.ByteLevel()

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text."""
        return self.inner.encode(text).ids

    def decode(self, tokens: list[int]) -> str:
        """Returns the text of tokens."""
        return self.inner.decode(tokens)


@checked
def from_gguf(path: str | Path, length: int | str, *, end: bool = False) -> LanguageModel:
    """Returns the prior of a causal language model in a GGUF file, of the llama architecture, quantised or not.

        text = "He opened the window because ___ ___ was very hot."
        prior = priors.from_gguf("SmolLM2-135M-Instruct.Q4_1.gguf", text)
        y, noise = prior.tokens(text), invgen.Erasure(prior.levels, 0.5, blank=-1)
        result = invgen.solve(y, operators.Identity(prior.shape), prior, noise, num_samples=4)
        prior.text(result.samples)

    Weights become float32. `invgen data smollm2` fetches a model of 135M parameters (Apache-2.0).

    Args:
        path: of the file.
        length: of a signal in tokens, or a text of that length, whose gaps ___ are one token each.
        end: whether the model's end-of-text token ends a signal.

    Raises:
        FileError: there is no such file.
        MissingExtraError: the packages gguf and tokenizers are not installed.
        WeightsError: it is no GGUF file, or is damaged.
        UnsupportedError: another architecture or tokenizer.
    """
    if not Path(path).is_file():
        raise FileError(f"there is no file {path}; `invgen data smollm2` fetches a small language model")
    try:
        import gguf
        import tokenizers  # noqa: F401  (asked for here, so that the sentence below names both)
    except ImportError as error:
        raise MissingExtraError("reading GGUF needs gguf and tokenizers: pip install 'invgen-solvers[text]'") from error
    try:
        reader = gguf.GGUFReader(str(path))

        def value(name: str) -> Any:
            return reader.fields[name].contents()

        kind, words = value("general.architecture"), value("tokenizer.ggml.model")
        if kind != "llama" or words != "gpt2":
            raise UnsupportedError(
                f"{path} is a {kind} with tokens of {words}, expected the llama architecture with byte pairs (gpt2); load "
                "the model with priors.from_transformers"
            )
        tensors = {
            t.name: torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type), dtype=np.float32))
            for t in reader.tensors
        }
        vocabulary = value("tokenizer.ggml.tokens")
        tokenizer = BytePairs(vocabulary, value("tokenizer.ggml.merges"))
        heads = value("llama.attention.head_count")
        net = Llama(
            tensors,
            value("llama.block_count"),
            heads,
            value("llama.attention.head_count_kv"),
            value("llama.attention.layer_norm_rms_epsilon"),
            value("llama.rope.freq_base"),
        )
        begin, last = (value(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos"))
    except (ValueError, KeyError, IndexError, OSError) as error:
        if isinstance(error, UnsupportedError):
            raise
        raise WeightsError(f"{path} is no GGUF file, or is damaged ({error!s:.200}): fetch it again") from error
    prior = LanguageModel(net, sized(length, tokenizer), len(vocabulary), begin, tokenizer, last if end else None)
    prior.read_from = str(path)
    return prior
