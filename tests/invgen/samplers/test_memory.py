"""`max_batch` bounds what a network holds at once, its graphs too, and is chosen by memory where it is not given.

test_contract.py counts the rows of each call.
"""

import gc
import weakref

import pytest
import torch
from torch import Tensor

import invgen
from invgen import Gaussian, OptionError, Posterior, sampler
from invgen.diffusion import Denoiser, Sigma, per_sample_sigma
from invgen.numerics import memory
from invgen.operators import Downsample, Matrix
from invgen.priors import GaussianPrior
from invgen.samplers import DPS, TDS, AdaptiveDAPS, LinearisedTDS
from invgen.trust import asked


class Watched(Denoiser):
    """A Gaussian prior that counts the rows whose graphs are alive."""

    def __init__(self) -> None:
        super().__init__((2, 3))
        self.inner = GaussianPrior((2, 3))
        self.alive = self.most = 0

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        out = self.inner(x, sigma)
        if out.requires_grad:
            self.alive += len(x)
            self.most = max(self.most, self.alive)
            weakref.finalize(out, self._freed, len(x))  # the graph lives as long as its end
        return out

    def _freed(self, rows: int) -> None:
        self.alive -= rows


@pytest.mark.slow
@pytest.mark.parametrize("twist", ["covariance", "local", None])
@pytest.mark.parametrize("max_batch", [4, 16, 64])
def test_twisted_smc_holds_the_graph_of_one_part_of_its_particles(twist, max_batch):
    gc.disable()  # freed at once, not when the collector happens to run
    try:
        prior = Watched()
        A = Matrix(torch.randn(2, 6, generator=torch.Generator().manual_seed(0)), prior.shape)
        sampler = TDS(steps=3, particles=64) if twist is None else LinearisedTDS(steps=3, particles=64, twist=twist)
        sampler(Posterior(prior, A, Gaussian(0.3), torch.zeros(2)), 1, max_batch=max_batch)
        assert prior.most == max_batch and prior.alive == 0
    finally:
        gc.enable()


ROWS: list[int] = []


class Convolutional(Denoiser):
    """A small network, and notes how many signals it sees."""

    def __init__(self) -> None:
        super().__init__((1, 16, 16), sigma_min=0.01, sigma_max=5.0)
        self.weight = torch.randn(64, 1, 3, 3, generator=torch.Generator().manual_seed(0)) / 9

    def forward(self, x: Tensor, sigma: Sigma) -> Tensor:
        ROWS.append(len(x))
        wide = torch.conv2d(x, self.weight.to(x.dtype), padding=1).tanh()
        s = per_sample_sigma(sigma, x)
        return (x + torch.conv_transpose2d(wide, self.weight.to(x.dtype), padding=1) / 64) / (1 + s**2)


@pytest.mark.parametrize("method", [DPS(steps=3), AdaptiveDAPS(steps=2), TDS(steps=2, particles=4)])
def test_as_many_signals_at_once_as_fit_into_half_of_the_free_memory(method, monkeypatch):
    monkeypatch.setattr(sampler, "SMALL", 0)
    prior, A = Convolutional(), Downsample((1, 16, 16), 4)
    given = Posterior(prior, A, 0.5, torch.zeros(A.out_shape)), 16
    whole = method(*given)
    left = memory.peak(lambda: method(*given)) // 2
    monkeypatch.setattr(memory, "free", lambda device: left)
    ROWS.clear()
    result = invgen.solve(given[0].y, A, prior, 0.5, method, num_samples=16)
    rows = 16 * method.rows_a_draw
    assert result.cost.max_batch in (2, 4, 8, 16) and max(ROWS) <= result.cost.max_batch < rows
    assert result.split.startswith(f"{result.cost.max_batch} of {rows} signals at once") and result.split in repr(result)
    assert memory.peak(lambda: method(*given)) < left
    # sums of a convolution in another batch: float32 rounding, amplified by the steps
    torch.testing.assert_close(result.samples, whole, rtol=1e-4, atol=1e-4)


def test_a_small_run_a_given_number_and_enough_memory_are_left_alone(monkeypatch):
    prior, A = Convolutional(), Downsample((1, 16, 16), 4)
    post = Posterior(prior, A, 0.5, torch.zeros(A.out_shape))
    asked(prior)  # its range is tried once
    for small, number, extra in ((2**18, None, 0), (0, 2, 0), (0, None, 1)):  # the last is tried with one signal
        monkeypatch.setattr(sampler, "SMALL", small)
        ROWS.clear()
        cost = invgen.sampler.Cost()
        DPS(steps=2)(post, 4, max_batch=number, cost=cost)
        assert (cost.max_batch, cost.split, cost.nfe) == (None, "", 2)
        assert sum(ROWS) == 8 + extra and max(ROWS) == (number or 4)


def test_the_peak_of_a_call_is_that_of_its_tensors():
    def call() -> None:
        x = torch.zeros(1000)
        y = x + 1
        del x
        z = y[:10] * torch.ones(1000, 1)  # a view takes nothing
        del y, z

    # y, the ones, and 1000 x 10 values
    assert memory.peak(call) == 4 * (1000 + 1000 + 10_000)
    left = memory.free(torch.device("cpu"))
    assert left is None or 2**20 < left < 2**50


def test_a_sampler_without_states_is_told_so():
    class Idle(DPS):
        def run(self, post, x, randn):
            yield from ()

    prior = GaussianPrior((1, 4, 4))
    with pytest.raises(OptionError, match="yielded no state"):
        Idle(steps=1)(Posterior(prior, Downsample(prior.shape, 2), 0.1, torch.zeros(1, 2, 2)), 1)
