"""The speed table's machinery: that it notes what a sampler asked of the network. Times are not asserted."""

import torch

from invgen.benchmarks.studies import loop_speed, speed
from invgen.forward import LinearOperator
from invgen.numerics.memory import peak
from invgen.posterior import Posterior
from invgen.priors import GaussianMixture, GaussianPrior
from invgen.samplers import DPS, MMPS, AdaptivePiGDM, DampedFlowPriors


class Half(LinearOperator):
    def forward(self, x):
        return x[:, :2]


def test_recorded_counts_evaluations_and_products():
    recorded = speed.Recorded(GaussianPrior((4,)))
    AdaptivePiGDM(steps=3)(Posterior(recorded, Half((4,)), 0.1, torch.zeros(2)), 5)
    # one evaluation a step, with the two products of the local width
    calls = recorded.tape.calls
    assert [(c.rows, c.products) for c in calls] == [(5, 2)] * 3


def test_recorded_counts_a_product_for_each_iteration_of_gmres():
    recorded = speed.Recorded(GaussianPrior((4,)))
    MMPS(steps=2, iterations=2, precondition=False)(Posterior(recorded, Half((4,)), 0.1, torch.zeros(2)), 1)
    assert [c.products for c in recorded.tape.calls] == [2, 2]  # none for the guidance: it is a combination of them


def test_ratio_is_the_median_of_the_pairs():
    assert speed.ratio([2.0, 9.0, 3.0], [1.0, 3.0, 3.0]) == 2.0


def test_overhead_counts_the_way_back_through_an_operator_and_products_of_products():
    tape = speed.Tape()
    recorded = speed.Recorded(GaussianMixture(torch.eye(4)[:2]), tape)
    post = Posterior(recorded, tape.time(Half((4,))), 0.1, torch.zeros(2))
    DPS(steps=2)(post, 1)
    assert tape.operator > 0
    assert [(c.products, c.second) for c in tape.calls] == [(1, 0)] * 2
    tape.clear()
    DampedFlowPriors(steps=1)(post, 1)
    assert [(c.products, c.second) for c in tape.calls] == [(1, 1), (0, 0)]


def test_a_step_takes_no_more_operations_than_were_counted():
    post = loop_speed.problem(loop_speed.SIZES[0])
    for name, most in (("DPS", 28), ("PnPDM", 43), ("DAPS", 1170)):
        run = loop_speed.ours(name, post, 1)
        one, two = (loop_speed.operations(lambda n=n, run=run: run(n)) for n in (2, 4))
        assert (two - one) / 2 <= most + 3  # as printed by the study; the levels of the first steps cost some


def test_a_step_holds_no_more_signals_than_were_counted():
    post = loop_speed.problem(loop_speed.SIZES[0])
    size = 4 * post.y.numel()
    # with the measurement twice, the result's rows and the denoiser's output among them; deepinv's DDRM held 11.7, by the
    # ratio that was measured before
    for name, most in (("DPS", 9.1), ("PiGDM", 8.1), ("DDRM", 11.6), ("DiffPIR", 9.5)):
        run = loop_speed.ours(name, post, 1)
        run(2)  # what is kept from run to run
        assert peak(lambda run=run: run(2)) / size < most, name
