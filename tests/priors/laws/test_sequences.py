"""Counted laws of sequences and programs: sums to one, shares as counted, every draw a program that runs."""

import itertools

import pytest
import torch

from invgen import OptionError
from invgen.priors import NGram
from invgen.priors.laws.programs import TOKENS, Programs, all_programs, execute


def test_shares_are_witten_and_bells():
    text = torch.tensor([0, 1, 0, 1, 0, 2])
    law = NGram([text], 3, [0.0, 1.0, 2.0], 1)
    first = (torch.tensor([3.0, 2.0, 1.0]) + 3 / 3) / 9  # 6 tokens, 3 kinds, the rest uniform
    torch.testing.assert_close(law(torch.empty(1, 0, dtype=torch.int64)).exp()[0], first.double())
    after = (torch.tensor([0.0, 2.0, 1.0]) + 2 * first) / 5  # after 0: 1 twice, 2 once
    torch.testing.assert_close(law(torch.tensor([[0]])).exp()[0], after.double())
    every = law.decode(torch.tensor(list(itertools.product(range(3), repeat=3))))
    assert law.log_prob(every).exp().sum().item() == pytest.approx(1, abs=1e-6)
    begun = NGram([text, text], 3, [0.0, 1.0, 2.0], 1, start=[2])
    assert begun(torch.empty(1, 0, dtype=torch.int64)).argmax() == 0  # both texts begin with it
    with pytest.raises(OptionError, match="texts must hold tokens, 0 to 2"):
        NGram([torch.tensor([3])], 3, [0.0, 1.0, 2.0])


def test_programs_are_valid_and_compute():
    prior = Programs(5)
    every = all_programs(prior)
    assert len(every) == 9868
    assert prior.log_prob(every).exp().sum().item() == pytest.approx(1, abs=1e-5)
    x = torch.tensor([-7.0, 3.0])
    for text, wanted in {
        "x x * 10 min": [10, 9], "x abs 1 +": [8, 4], "x 10 %": [3, 3], "x 2 //": [-4, 1], "x neg 1 -": [6, -4],
        "x 1 1 - //": [1000, 1000],
    }.items():  # fmt: skip
        tokens = [TOKENS.index(word) for word in text.split()]
        row = torch.tensor([tokens + [0] * (5 - len(tokens))]).float()
        assert execute(row, x)[0].tolist() == wanted, text
        assert prior.text(row) == [text]
    drawn = prior.sample(200, seed=1)
    assert torch.isin((drawn.long() * 16 ** torch.arange(5)).sum(1), (every.long() * 16 ** torch.arange(5)).sum(1)).all()
