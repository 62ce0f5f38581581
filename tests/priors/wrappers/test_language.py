"""Language models: the reader of GGUF's architecture against transformers', their memories, gaps in real texts."""

import pytest
import torch
from torch import Tensor, nn

import invgen
from invgen import OptionError, ShapeError, WeightsError, operators, priors, samplers
from invgen.priors.checkpoints.llama import BytePairs, Llama
from invgen.priors.wrappers.language import LanguageModel, sized

WORDS = ["<s>", "a", "b", "Ġ", "Ġa", "Ġb", "c", "Ġc"]
MERGES = ["Ġ a", "Ġ b", "Ġ c"]
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 8}


def llama() -> tuple[nn.Module, Llama]:
    """A random small model of transformers, and the same weights in GGUF's order of the rotary pairs."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, bos_token_id=0, eos_token_id=1, **SIZES)).eval()
    tensors, state = {}, model.state_dict()
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    names |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    names |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for key, value in state.items():
        part = key.split(".")[-2]
        if part in names:
            if part in ("q_proj", "k_proj"):  # halves there, neighbours here
                value = value.reshape(-1, 2, 2, 16).transpose(1, 2).reshape(value.shape)
            tensors[f"blk.{key.split('.')[2]}.{names[part]}.weight"] = value
    tensors["token_embd.weight"] = state["model.embed_tokens.weight"]
    tensors["output.weight"], tensors["output_norm.weight"] = state["lm_head.weight"], state["model.norm.weight"]
    return model, Llama(tensors, 2, 4, 2, 1e-6, 10000.0)


@pytest.mark.slow
def test_the_llama_here_is_that_of_transformers_with_and_without_memory():
    model, net = llama()
    tokens = torch.randint(0, 8, (3, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, memory = model(tokens).logits, []
        torch.testing.assert_close(net(tokens, []), wanted, rtol=1e-4, atol=1e-5)
        pieces = torch.cat([net(part, memory) for part in tokens.split([1, 3, 1, 2], 1)], 1)
    torch.testing.assert_close(pieces, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_transformers_models_are_priors_with_a_memory():
    model, net = llama()
    words = BytePairs(WORDS, MERGES)

    class Words:
        encode = staticmethod(lambda text, add_special_tokens: words.encode(text))
        decode = staticmethod(words.decode)

    prior = priors.from_transformers(model, 5, tokenizer=Words())
    other = LanguageModel(net, 5, 8, 0, words)
    x = prior.sample(20, seed=3)
    assert torch.equal(x, other.sample(20, seed=3))
    torch.testing.assert_close(prior.log_prob(x), other.log_prob(x), rtol=1e-4, atol=1e-4)
    by_sites = torch.stack([prior(prior.encode(x)[:, :i]) for i in range(5)], 1)
    torch.testing.assert_close(by_sites, prior.logits(prior.encode(x)), rtol=1e-4, atol=1e-5)
    with pytest.raises(OptionError, match="a model needs its tokenizer"):
        priors.from_transformers(model, 5)


def test_gaps_of_a_text_are_filled_and_the_rest_is_kept():
    words = BytePairs(WORDS, MERGES)
    text = "a b ___ ___ c a"

    def net(tokens: Tensor, memory: list[Tensor]) -> Tensor:  # "c" follows "b", " a" anything else
        out = torch.full((*tokens.shape, 8), -30.0)
        return out.scatter(2, torch.where(tokens == 5, 7, 4)[..., None], 0.0)

    prior = LanguageModel(net, sized(text, words), 8, 0, words)
    y = prior.tokens(text)
    assert y.tolist() == [1, 5, -1, -1, 7, 4] and prior.text(y) == [text]
    A, noise = operators.Identity(prior.shape), invgen.Erasure(prior.levels, 0.5, blank=-1)
    result = invgen.solve(y, A, prior, noise, samplers.AutoregressiveSMC(particles=8, steps=6), num_samples=3)
    assert prior.text(result.samples) == ["a b c a c a"] * 3
    with pytest.raises(ShapeError, match="the text has 2 tokens, the prior is over 6"):
        prior.tokens("a b")


def test_files_that_are_no_models_say_so(tmp_path):
    with pytest.raises(invgen.FileError, match="invgen data smollm2"):
        priors.from_gguf(tmp_path / "none.gguf", 3)
    pytest.importorskip("gguf")
    (tmp_path / "bad.gguf").write_bytes(b"no model, but as long as the head of one has to be")
    with pytest.raises(WeightsError, match="is no GGUF file, or is damaged"):
        priors.from_gguf(tmp_path / "bad.gguf", 3)


@pytest.mark.slow
def test_a_gguf_file_is_read(tmp_path):
    gguf = pytest.importorskip("gguf")
    _, net = llama()
    writer = gguf.GGUFWriter(str(tmp_path / "small.gguf"), "llama")
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, value in net.weights.items():
        writer.add_tensor(name.replace("/", "."), value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    prior = priors.from_gguf(tmp_path / "small.gguf", "a b ___")
    assert prior.sites == 3 and prior.read_from.endswith("small.gguf")
    other = LanguageModel(net, 3, 8, 0, BytePairs(WORDS, MERGES))
    assert torch.equal(prior.sample(10, seed=1), other.sample(10, seed=1))
