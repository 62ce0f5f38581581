"""The speed table's machinery: that it replays what a sampler asked of the network. Times are not asserted."""

import torch

from invgen.benchmarks import speed
from invgen.forward import LinearOperator
from invgen.posterior import Posterior
from invgen.priors import GaussianPrior
from invgen.samplers import MMPS, PiGDM


class Half(LinearOperator):
    def forward(self, x):
        return x[:, :2]


def test_recorded_counts_evaluations_and_products():
    recorded = speed.Recorded(GaussianPrior((4,)))
    PiGDM(steps=3)(Posterior(recorded, Half((4,)), 0.1, torch.zeros(2)), 5)
    # one evaluation a step, with the two products of the local width
    calls = recorded.tape.calls
    assert [(tuple(c.x.shape), c.products) for c in calls] == [((5, 4), 2)] * 3
    recorded.tape.replay()
    assert len(calls) == 3


def test_recorded_counts_a_product_for_each_iteration_of_gmres():
    recorded = speed.Recorded(GaussianPrior((4,)))
    MMPS(steps=2, iterations=2)(Posterior(recorded, Half((4,)), 0.1, torch.zeros(2)), 1)
    assert [c.products for c in recorded.tape.calls] == [2, 2]  # none for the guidance: it is a combination of them


def test_ratio_is_the_median_of_the_pairs():
    assert speed.ratio([2.0, 9.0, 3.0], [1.0, 3.0, 3.0]) == 2.0
