"""What rows 9 and 13 stand on: sentences that no caption has, and garments that take vectors."""

import re

import pytest
import torch

from invgen.benchmarks.gallery.pictures.worded import SENTENCES, garments
from invgen.priors import load
from invgen.priors.data.captioned import NAMES, OBJECTS


def test_no_sentence_has_a_name_of_a_caption():
    names = [name for part in (*NAMES, ", ".join(OBJECTS)) for name in part.split(", ")]
    assert len(SENTENCES) == len(NAMES) == len(OBJECTS)
    for sentence in ", ".join(SENTENCES).split(", "):
        assert not [name for name in names if re.search(rf"\b{re.escape(name)}s?\b", sentence, re.IGNORECASE)], sentence


@pytest.mark.slow
def test_garments_with_vectors_are_those_with_classes():
    told, known = garments(noise=0.0), load("clothing")
    x = 3.0 * torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    # one sum in another order: single precision of values of order one
    torch.testing.assert_close(told.prior(x, 3.0), known(x, 3.0), rtol=0, atol=2e-5)
    for k in (0, 9):
        torch.testing.assert_close(
            told.prior.condition(told.vectors[k])(x, 3.0), known.condition(k)(x, 3.0), rtol=0, atol=2e-5
        )
    assert told.accuracy > 0.5  # of samples of ten classes, of which four kinds of top are hard to tell apart
