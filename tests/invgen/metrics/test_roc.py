"""The area under the curve against scikit-learn's, and how often its interval covers."""

import math

import pytest
import torch

from invgen import ShapeError
from invgen.metrics import auroc

F64 = torch.float64


@pytest.mark.slow
def test_it_is_scikit_learns_ties_counted_as_half():
    from sklearn.metrics import roc_auc_score

    g = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 6, (40,), generator=g).double(), torch.randint(2, 8, (25,), generator=g).double()
    assert auroc(a, b).value == pytest.approx(roc_auc_score([0] * 40 + [1] * 25, torch.cat([a, b]).numpy()), abs=1e-12)
    assert auroc(b, a).value == pytest.approx(1 - auroc(a, b).value, abs=1e-12)


def test_its_interval_covers_as_often_as_it_says():
    g, truth, hits = torch.Generator().manual_seed(1), 0.5 * (1 + math.erf(1.5 / 2)), 0  # N(0, 1) against N(1.5, 1)
    for _ in range(400):
        area = auroc(torch.randn(40, generator=g, dtype=F64), 1.5 + torch.randn(40, generator=g, dtype=F64))
        hits += area.low <= truth <= area.high
    assert 0.92 <= hits / 400 <= 0.98  # 0.95, four standard errors of 400 trials are 0.044


def test_sets_that_are_apart_have_an_interval_too():
    area = auroc(torch.arange(30.0), torch.arange(30.0) + 100)
    assert (area.value, area.high) == (1.0, 1.0)
    assert area.low == pytest.approx(0.05 ** (1 / 30))  # the rule of three: about 1 - 3 / 30
    assert str(area) == "1.000 (0.905 to 1.000)"
    with pytest.raises(ShapeError, match="auroc: inside must be a vector of numbers"):
        auroc(torch.tensor([math.nan]), torch.zeros(3))
