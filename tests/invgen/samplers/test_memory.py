"""`max_batch` bounds what a network holds at once: here its graphs; test_contract.py counts the rows of each call."""

import gc
import weakref

import pytest
import torch
from torch import Tensor

from invgen import Gaussian, Posterior
from invgen.diffusion import Denoiser, Sigma
from invgen.operators import Matrix
from invgen.priors import GaussianPrior
from invgen.samplers import TDS, LinearisedTDS


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
