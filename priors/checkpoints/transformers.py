"""Causal language models of the package transformers as priors."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from invgen.errors import MissingExtraError, OptionError, WeightsError
from invgen.priors.wrappers.language import LanguageModel, sized
from invgen.validation.arguments import checked


class Causal(nn.Module):
    """A causal model of transformers with its cache as tensors with a row a signal: keys and values of each layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, memory: list[Tensor]) -> Tensor:
        """Returns logits of each next token, (B, m) -> (B, m, V)."""
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        for k in range(len(memory) // 2):
            cache.update(memory[2 * k], memory[2 * k + 1], k)
        out: Any = self.model(input_ids=tokens, past_key_values=cache, use_cache=True)
        layers = getattr(cache, "layers", None)  # from 4.54 on; before, two lists
        older = () if layers else zip(cache.key_cache, cache.value_cache, strict=True)
        pairs = [(layer.keys, layer.values) for layer in layers or ()] + [*older]
        memory[:] = [t for pair in pairs for t in pair]
        return out.logits


class Plain:
    """A tokenizer of transformers without the tokens that it adds by itself."""

    def __init__(self, tokenizer: Any) -> None:
        self.inner = tokenizer

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text."""
        return self.inner.encode(text, add_special_tokens=False)

    def decode(self, tokens: list[int]) -> str:
        """Returns the text of tokens."""
        return self.inner.decode(tokens)


@checked
def from_transformers(
    model: nn.Module | str | Path, length: int | str, *, tokenizer: Any = None, end: bool = False
) -> LanguageModel:
    """Returns the prior of a causal language model of transformers, such as GPT-2's.

    Args:
        model: an AutoModelForCausalLM, or the folder or the repository that it is loaded from.
        length: of a signal in tokens, or a text of that length, whose gaps ___ are one token each.
        tokenizer: of the model; that of its folder where a name is given.
        end: whether the model's end-of-text token ends a signal.

    Raises:
        MissingExtraError: transformers is not installed.
        WeightsError: there is no such model.
        OptionError: a model was given without its tokenizer, or has no token to begin with.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise MissingExtraError("language models need transformers: pip install 'invgen-solvers[text]'") from error
    read_from, found = None, model
    if not isinstance(model, nn.Module):
        read_from = str(model)
        try:
            tokenizer = AutoTokenizer.from_pretrained(read_from) if tokenizer is None else tokenizer
            found = AutoModelForCausalLM.from_pretrained(read_from)
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise WeightsError(f"no causal language model can be loaded from {read_from!r} ({reason:.200})") from error
    if tokenizer is None:
        raise OptionError("a model needs its tokenizer: pass tokenizer=, such as AutoTokenizer.from_pretrained(...)")
    net: Any = found
    plain, config = Plain(tokenizer), net.config
    begin = config.bos_token_id if config.bos_token_id is not None else config.eos_token_id
    if begin is None:
        raise OptionError("the model has no token that begins a text: its config has neither bos_token_id nor eos_token_id")
    last = config.eos_token_id if end else None
    prior = LanguageModel(Causal(net.float()), sized(length, plain), config.vocab_size, begin, plain, last)
    prior.read_from = read_from
    return prior
