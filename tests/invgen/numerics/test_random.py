"""Noise streams: normal, independent, and decided by seed, index and draw alone."""

import math

import pytest
import torch

from invgen import Posterior
from invgen.numerics import random
from invgen.numerics.random import Streams
from invgen.operators import Identity
from invgen.priors import GaussianPrior
from invgen.samplers import PiGDM

GOLDEN = 0x9E3779B97F4A7C15


def splitmix(z):
    """The reference implementation, in whole numbers of Python."""
    mask = 2**64 - 1
    z &= mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def row_key(seed, index):
    return splitmix(splitmix(seed + GOLDEN) + index)


def test_normal_with_independent_rows_and_draws():
    rows, count = 40, 5000
    streams = Streams(0, range(rows))
    like = torch.empty(rows, count, dtype=torch.float64)
    first, second = streams(like), streams(like)
    both = torch.cat([first, second])
    n = both.numel()
    # four standard errors of the moments of 400000 standard normals
    assert abs(both.mean().item()) < 4 / math.sqrt(n)
    assert abs(both.var().item() - 1) < 4 * math.sqrt(2 / n)
    assert abs((both**3).mean().item()) < 4 * math.sqrt(15 / n)
    assert abs((both**4).mean().item() - 3) < 4 * math.sqrt(96 / n)
    # the correlations of 80 rows, 3160 of them, each with standard deviation 1/sqrt(count): the largest is near 3.6 of them
    correlation = torch.corrcoef(both)
    off = correlation[~torch.eye(2 * rows, dtype=torch.bool)]
    assert off.abs().max() < 5 / math.sqrt(count)
    # ... and of neighbouring values, and of the two halves that Box and Muller's transform makes from one pair
    for a, b in [(both[:, 1:], both[:, :-1]), (both[:, : count // 2], both[:, count // 2 :])]:
        assert abs((a * b).mean().item()) < 4 / math.sqrt(a.numel())
        assert abs(((a**2 - 1) * (b**2 - 1)).mean().item()) < 4 * 2 / math.sqrt(a.numel())


@pytest.mark.parametrize("rows", [1, 400])  # of 200000 values, and short ones of 500
def test_the_law_is_normal_to_the_tails(rows):
    from scipy.stats import kstest

    z = Streams(3, range(rows))(torch.empty(rows, 200000 // rows, dtype=torch.float64)).flatten()
    assert kstest(z.numpy(), "norm").pvalue > 1e-3
    assert 4 < z.abs().max() < 6


def test_uniform():
    from scipy.stats import kstest

    u = Streams(0, [0, 1]).uniform(torch.empty(2, 50001))
    assert u.shape == (2, 50001)
    assert u.min() > 0
    assert u.max() < 1
    assert kstest(u.flatten().double().numpy(), "uniform").pvalue > 1e-3


def test_uniform_stays_below_one(monkeypatch):
    streams = Streams(0, [0])
    monkeypatch.setattr(random, "_mix_", lambda z: torch.full_like(z, -1))  # every bit set
    u = streams.uniform(torch.empty(1, 4))
    assert (u < 1).all()
    assert torch.isfinite(torch.log1p(-u)).all()
    assert torch.isfinite(streams(torch.empty(1, 4))).all()


LONG = random._LONG


@pytest.mark.parametrize("size", [5, LONG // 3, LONG])
def test_a_sample_does_not_depend_on_its_batch(size):
    like = torch.empty(6, 3, size)  # short rows, then rows from generators of their own
    whole = Streams(5, range(6))
    a, b = whole(like), whole(like)
    part = Streams(5, [4, 1])
    assert torch.equal(part(like[:2]), a[[4, 1]])
    assert torch.equal(part(like[:2]), b[[4, 1]])


def test_the_size_of_a_block_does_not_matter(monkeypatch):
    like = torch.empty(3, 7, 5)
    whole = Streams(5, range(3))(like)
    monkeypatch.setattr(random, "_BLOCK", 12)
    assert torch.equal(Streams(5, range(3))(like), whole)


@pytest.mark.parametrize("size", [LONG - 1, LONG])
def test_the_number_of_threads_does_not_matter(size):
    like, threads = torch.empty(300, size), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = Streams(5, range(300))(like)
        torch.set_num_threads(3)
        assert torch.equal(Streams(5, range(300))(like), one)
    finally:
        torch.set_num_threads(threads)


def test_every_draw_of_a_long_row_has_a_seed_of_its_own():
    """The seed is SplitMix64's output of the row's key at the number of the draw; the values are torch's."""
    streams = Streams(12, [34])
    for draw in (1, 2):
        z = streams(torch.empty(1, LONG))
        generator = torch.Generator().manual_seed(splitmix(row_key(12, 34) + draw * GOLDEN))
        assert torch.equal(z[0], torch.randn(LONG, generator=generator))


def test_uniform_numbers_of_long_rows_lie_inside_of_the_interval(monkeypatch):
    ends = lambda self, like, uniform: torch.tensor([0.0, 1.0]).repeat(1, LONG)  # noqa: E731
    monkeypatch.setattr(Streams, "_by_rows", ends)
    u = Streams(0, [0]).uniform(torch.empty(1, 2 * LONG))
    assert u.min() > 0 and u.max() < 1


def test_index_of_pairs():
    pairs = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    z = Streams(0, pairs)(torch.empty(4, 8))
    assert len({tuple(row.tolist()) for row in z}) == 4
    assert torch.equal(Streams(0, pairs[[2]])(torch.empty(1, 8)), z[[2]])


def test_a_shorter_signal_does_not_share_the_stream_of_a_longer_one_by_accident():
    """Rows and draws are keyed, so that the second draw never repeats the end of the first."""
    streams = Streams(0, [0])
    first, second = streams(torch.empty(1, 64)), streams(torch.empty(1, 64))
    assert not set(first.flatten().tolist()) & set(second.flatten().tolist())


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63, 2**64 - 1, -(2**63)])
def test_any_seed(seed):
    z = Streams(seed, [0])(torch.empty(1, 1000))
    assert abs(z.mean().item()) < 4 / math.sqrt(1000)
    assert torch.equal(z, Streams(seed, [0])(torch.empty(1, 1000)))


def test_seeds_differ():
    draws = [Streams(seed, [0])(torch.empty(1, 4)) for seed in range(50)]
    assert len({tuple(d.flatten().tolist()) for d in draws}) == 50


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [7, LONG])
def test_dtypes_see_the_same_numbers(dtype, size):
    reference = Streams(0, [0, 1])(torch.empty(2, size, dtype=torch.float64))
    z = Streams(0, [0, 1])(torch.empty(2, size, dtype=dtype))
    assert z.dtype == dtype
    torch.testing.assert_close(z.double(), reference, rtol=4 * torch.finfo(dtype).eps, atol=1e-6)


def test_complex_parts_are_standard_normals():
    z = Streams(0, [0])(torch.empty(1, 20000, dtype=torch.complex64))
    assert z.dtype == torch.complex64
    for part in (z.real, z.imag):
        assert abs(part.var().item() - 1) < 4 * math.sqrt(2 / 20000)
    assert abs((z.real * z.imag).mean().item()) < 4 / math.sqrt(20000)


def test_shapes():
    assert Streams(0, range(3))(torch.empty(3)).shape == (3,)
    assert Streams(0, range(3))(torch.empty(3, 2, 1, 5)).shape == (3, 2, 1, 5)
    assert Streams(0, [])(torch.empty(0, 4)).shape == (0, 4)


def test_the_global_state_is_left_alone():
    state = torch.get_rng_state()
    streams = Streams(0, [0])
    streams(torch.empty(1, 9))
    streams.uniform(torch.empty(1, 9))
    assert torch.equal(state, torch.get_rng_state())


def test_the_numbers_are_those_of_splitmix64():
    """The bits of short rows must not change between versions or machines."""
    seed, index, draw, count = 12, 34, 1, 6
    key = splitmix(row_key(seed, index) ^ splitmix(draw * GOLDEN))
    words = [splitmix(key + k * GOLDEN) for k in range(1, count // 2 + 1)]
    u, v = ([((w >> shift & 0xFFFFFFFF) // 256 + 0.5) / 2**24 for w in words] for shift in (32, 0))
    want = [
        math.sqrt(-2 * math.log(a)) * f(2 * math.pi * b) for f in (math.cos, math.sin) for a, b in zip(u, v, strict=True)
    ]
    got = Streams(seed, [index])(torch.empty(1, count, dtype=torch.float64))
    torch.testing.assert_close(got.flatten(), torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=1e-14)


def test_the_position_of_a_measurement_counts_unless_each_has_a_seed():
    """With one seed, a permuted batch gets other samples; with a list of seeds they move with their measurements."""
    prior = GaussianPrior((2,))
    A, sampler, order = Identity((2,)), PiGDM(steps=5), [2, 0, 1]
    y = torch.arange(6.0).reshape(3, 2)
    one = [sampler(Posterior(prior, A, 0.5, v), 4, 7) for v in (y, y[order])]
    # row by row another draw of noise of size 1: equal to 1e-3 by chance once in a thousand values
    assert ((one[0][:, order] - one[1]).abs() > 1e-3).all()
    seeds = [5, 6, 7]
    each = [sampler(Posterior(prior, A, 0.5, y[k]), 4, [seeds[i] for i in k]) for k in ([0, 1, 2], order)]
    assert torch.equal(each[0][:, order], each[1])
