"""What a run takes is foretold: the counts are those of the run itself."""

import pytest
import torch

import invgen
from invgen import operators, priors, samplers
from invgen.cost import Cost
from invgen.inference import counting
from invgen.messages import duration

SHAPE = (1, 12, 12)
GUIDED = ["DPS", "PiGDM", "MMPS", "DiffPIR", "TMPD", "MPGD"]
STEPPED = [*GUIDED, "DDRM", "DDNM", "REDdiff", "PnPDM", "WidenedALD", "ULA", "DAPS"]


def problem(kind="mask", batch=()):
    prior = priors.GaussianPrior(SHAPE)
    make = {
        "mask": lambda: operators.Mask.random(SHAPE, keep=0.5),
        "blur": lambda: operators.Blur(SHAPE, kernel=operators.gaussian_kernel(std=1.0), boundary="reflect"),
        "nonlinear": lambda: operators.from_function(lambda x: x.sigmoid(), SHAPE),
    }
    A = make[kind]()
    clean = A(prior.sample(1, seed=1)[0]).expand(*batch, *A.out_shape)
    return invgen.Posterior(prior, A, 0.1, clean)


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPPED)
def test_counts_are_those_of_the_run(name):
    post, sampler = problem(), getattr(samplers, name)(steps=25)
    expected, cost = invgen.forecast(sampler, post, 2), Cost()
    sampler(post, 2, cost=cost)
    assert (expected.nfe, expected.vjps) == (cost.nfe, cost.vjps)
    # what an exact solve or a projection does with the operator is its own affair
    assert expected.operator_calls <= cost.operator_calls <= expected.operator_calls + 2 * expected.solves
    assert expected.seconds > 0 and expected.samples == 2


def test_iterations_that_stop_by_themselves_are_bounded():
    post, sampler = problem("blur"), samplers.DDS(steps=10)
    expected, cost = invgen.forecast(sampler, post), Cost()
    sampler(post, cost=cost)
    assert cost.nfe == expected.nfe and cost.operator_calls <= expected.operator_calls


def test_a_nonlinear_operator_and_a_batch():
    post, sampler = problem("nonlinear", batch=(3,)), samplers.DPS(steps=12)
    expected, cost = invgen.forecast(sampler, post, 2), Cost()
    sampler(post, 2, cost=cost)
    assert (expected.nfe, expected.vjps, expected.operator_calls) == (cost.nfe, cost.vjps, cost.operator_calls)
    assert expected.samples == 6


def test_many_steps_are_extrapolated_where_the_small_problem_is_slow(monkeypatch):
    post, sampler = problem(), samplers.PnPDM(steps=60)
    whole = invgen.forecast(sampler, post)
    monkeypatch.setattr(counting, "PATIENCE", 0.0)
    assert invgen.forecast(sampler, post).nfe == pytest.approx(whole.nfe, rel=0.05)


def test_classifier_free_guidance_counts_twice():
    """Its two evaluations go through one network: nfe is in rows of the network, as in `Cost`."""
    prior = priors.load("digits").condition(3)
    guided = invgen.ClassifierFree.of(priors.load("digits"), 3, scale=2.0)
    A = operators.Mask.random(prior.shape, keep=0.5)
    y = torch.zeros(A.out_shape)
    once, twice = (invgen.forecast(samplers.DPS(steps=5), invgen.Posterior(p, A, 0.1, y)).nfe for p in (prior, guided))
    assert (once, twice) == (5, 10)


def test_solve_says_it_on_stderr_and_the_result_what_ran_inside(capsys):
    post = problem("blur")
    result = invgen.solve(post.y, post.A, post.prior, 0.1, samplers.PiGDM(steps=10), num_samples=2, progress=True)
    assert "PiGDM: 10 network evaluations" in capsys.readouterr().err
    assert result.inner.startswith("10 ") and "solve" in result.inner and result.inner in repr(result)
    mmps = invgen.solve(post.y, post.A, post.prior, 0.1, samplers.MMPS(steps=10))
    assert mmps.inner.endswith("10 solves by GMRES in 3 iterations") and "30 solves" in mmps.inner


# weights of 0.1 ask for signals of 10
@pytest.mark.filterwarnings("ignore:.* samples of .* are saturated")
def test_iterative_solves_are_counted():
    weights = torch.linspace(0.1, 2, 144).reshape(SHAPE)
    A = operators.from_function(lambda x: weights * x, SHAPE, linear=True)
    post = problem()
    cost = Cost()
    samplers.DiffPIR(steps=5)(invgen.Posterior(post.prior, A, 0.1, post.y.new_ones(A.out_shape)), cost=cost)
    assert cost.exact_solves == 0 and len(cost.iterations["CG"]) == 5 and max(cost.iterations["CG"]) > 3
    assert cost.inner.startswith("5 solves by CG in ")


def test_what_has_no_stand_in_has_no_forecast():
    post = problem()
    prior = priors.from_generator(torch.nn.Identity(), SHAPE)
    assert invgen.forecast(samplers.CSGM(), invgen.Posterior(prior, post.A, 0.1, post.y)) is None


@pytest.mark.parametrize("seconds, text", [(12, "12 s"), (150, "2.5 min"), (9000, "2.5 h"), (200000, "2.3 days")])
def test_durations(seconds, text):
    assert duration(seconds) == text
