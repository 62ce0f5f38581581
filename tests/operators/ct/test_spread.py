"""A volume on several machines: two processes of a Dask cluster give the samples of one, bit for bit."""

import pytest
import torch

from invgen import samplers, solve
from invgen.errors import UnsupportedError
from invgen.operators import ConeBeamCT
from invgen.priors import Slices, Spread, from_denoiser


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def net(x, sigma):
    """Of one slice: shrinks its values, not linearly, and smooths them."""
    s = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
    return 0.5 * torch.nn.functional.avg_pool2d((x / (0.25 + s**2).sqrt()).tanh(), 3, 1, 1) / (1 + s)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*do not explain the measurement")  # three steps are few
def test_views_and_slabs_of_one_volume_give_the_samples_of_one_machine(client):
    A = ConeBeamCT((1, 9, 16, 16), 11, source_origin=40.0, origin_det=20.0)
    prior = from_denoiser(net, (1, 16, 16), sigma_min=0.01, sigma_max=10.0)
    g = torch.Generator().manual_seed(0)
    y = A(torch.rand(A.in_shape, generator=g))
    B = A.spread(client, parts=3)
    assert torch.equal(B(torch.ones(A.in_shape)), A(torch.ones(A.in_shape))) and torch.equal(B.adjoint(y), A.adjoint(y))
    one = Slices(prior, 9, coupling="ar", scale=0.3, max_batch=4)
    many = Slices(Spread(prior, client, max_batch=4), 9, coupling="ar", scale=0.3, max_batch=None)
    for sampler in (samplers.DDS(steps=3), samplers.AdaptivePiGDM(steps=3)):  # the second differentiates the network
        a, b = (solve(y, *parts, noise=0.05, sampler=sampler, num_samples=2, seed=0) for parts in ((A, one), (B, many)))
        assert torch.equal(a.samples, b.samples) and a.nfe == b.nfe == 9 * 3


def test_a_gpus_kernels_are_not_shared():
    A = ConeBeamCT((2, 4, 4), 3, source_origin=40.0, origin_det=20.0, backend="astra")
    with pytest.raises(UnsupportedError, match="backend='auto'"):
        A.spread(None)
