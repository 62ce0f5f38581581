"""A table of translations: counts by hand, its learning, and samples of its posterior against enumeration."""

import itertools

import pytest
import torch

from invgen import OptionError, Poisson, Posterior, samplers
from invgen.operators import TranslationTable
from invgen.operators.translation import learnt_table
from invgen.priors import MarkovChain

F64 = torch.float64


def test_counts_are_sums_of_rows_and_a_table_is_learnt_back():
    g = torch.Generator().manual_seed(0)
    table = torch.rand(4, 6, dtype=F64, generator=g)
    A = TranslationTable(3, [0.0, 1.0, 2.0, 3.0], table)
    torch.testing.assert_close(A(torch.tensor([[1.0, 1.0, 3.0]], dtype=F64))[0], 2 * table[1] + table[3])
    texts = [torch.randint(0, 4, (3,), generator=g) for _ in range(4000)]
    counts = torch.poisson(torch.stack([table[t].sum(0) for t in texts]), generator=g)
    # 4000 texts have 3000 uses of a token: errors of 0.03, four of which
    torch.testing.assert_close(learnt_table(texts, counts, 4, rounds=300), table, rtol=0, atol=0.15)
    with pytest.raises(OptionError, match="table must hold counts for 4 tokens"):
        TranslationTable(3, [0.0, 1.0, 2.0, 3.0], table[:3])


def test_a_word_seen_once_is_drawn_to_the_average():
    texts, counts = [torch.tensor([0]), torch.tensor([1]), torch.tensor([1])], torch.tensor([[2.0, 0], [0, 1], [0, 3]])
    # one of three words a text: 2 / 3 of the first symbol and 4 / 3 of the second are the average token's
    table = learnt_table(texts, counts, 3, weight=1.0)
    torch.testing.assert_close(table, torch.tensor([[4 / 3, 2 / 3], [2 / 9, 16 / 9], [2 / 3, 4 / 3]], dtype=F64))


@pytest.mark.parametrize("lookahead", ["counts", "none"])
def test_particles_follow_the_enumerated_posterior(lookahead):
    g = torch.Generator().manual_seed(1)
    table = 0.8 * torch.rand(4, 5, dtype=F64, generator=g)
    table[0] = 0.01  # the end
    prior = MarkovChain(4, [0.0, 1.0, 2.0, 3.0], torch.randn(4, 4, dtype=F64, generator=g), [1], end=0, dtype=F64)
    A = TranslationTable(4, prior.levels, table)
    post = Posterior(prior, A, Poisson(), torch.tensor([2.0, 0, 1, 0, 1], dtype=F64))
    x = prior.decode(torch.tensor(list(itertools.product(range(4), repeat=4))))
    log = prior.log_prob(x) + post.rows(torch.zeros(len(x), dtype=torch.int64)).log_likelihood(x)
    w = samplers.AutoregressiveSMC(particles=512, lookahead=lookahead).weighted(post, chains=20, seed=2)
    place = (prior.encode(w.samples.reshape(-1, 4)) * 4 ** torch.arange(3, -1, -1)).sum(1)
    law = torch.zeros(len(x), dtype=F64).index_add_(0, place, w.log_weights.exp().flatten() / 20)
    assert (law - log.softmax(0)).abs().sum().item() / 2 < 0.05  # 10 000 particles of even weight would have 0.02
    assert w.log_evidence.exp().mean().log().item() == pytest.approx(log.logsumexp(0).item(), abs=0.05)
