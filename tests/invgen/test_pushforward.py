"""Pushforward priors x = g(z): the probability-flow ODE as a generator, operators after a decoder, the posterior over z."""

import pytest
import torch
from torch import Tensor

from invgen import Gaussian, OptionError, Posterior, UnsupportedError, samplers
from invgen.diffusion import Denoiser
from invgen.forward import Operator, has_gradient
from invgen.operators import Matrix
from invgen.priors import GaussianMixture, GaussianPrior
from invgen.pushforward import Decoded, Flow, Generator, StandardNormal
from invgen.sampler import Cost

F64 = torch.float64
SHAPE, N = (2, 3), 6


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def correlated(mean: float = 1.5) -> GaussianPrior:
    root = normal(N, N, seed=1)
    covariance = root @ root.T / N + 0.2 * torch.eye(N, dtype=F64)
    return GaussianPrior(SHAPE, mean + normal(*SHAPE, seed=2), covariance=covariance)


def mixture() -> GaussianMixture:
    return GaussianMixture(normal(3, *SHAPE, seed=3), [0.2, 0.3, 0.5], var=0.4)


class Bent(Generator):
    """A nonlinear decoder of 2 numbers without an encoder."""

    def __init__(self, dtype: torch.dtype = F64) -> None:
        super().__init__(SHAPE, (2,), data_std=1.0)
        self.register_buffer("W", normal(2, N, seed=4).to(dtype))
        self.latent.to(dtype)
        self.calls = 0

    def forward(self, z: Tensor) -> Tensor:
        self.calls += 1
        return (torch.tanh(z) @ self.W).reshape(len(z), *SHAPE)


def test_standard_normal_knows_its_denoiser_and_density():
    p, x = StandardNormal((4,), F64), normal(5, 4)
    torch.testing.assert_close(p.log_prob(x), (-0.5 * x**2 - 0.9189385332046727).sum(1))  # log sqrt(2 pi)
    for s in (0.3, 2.0):
        # E[x0 | x] by the conditioning of Gaussians, and Tweedie's formula with the density of x_sigma
        torch.testing.assert_close(p(x, s), x / (1 + s**2))
        u = x.clone().requires_grad_()
        (score,) = torch.autograd.grad(p.log_prob(u, s).sum(), u)
        torch.testing.assert_close(p.score(x, s), score)
    torch.testing.assert_close(p(x, torch.full((5,), 0.3, dtype=F64)), p(x, 0.3))


def exact_map(prior: GaussianPrior, z: Tensor) -> Tensor:
    """The probability-flow ODE of a Gaussian from infinite noise to none: mean + C^(1/2) z."""
    l, Q = torch.linalg.eigh(prior.covariance)
    return prior.mean + (z.flatten(1) @ (Q * l.sqrt() @ Q.T)).reshape(z.shape)


# errors fall by 2 and 4 as the steps double, to within the next order. The midpoint rule does better: for a Gaussian of the
# variance data_std^2 the path is nearly symmetric in its time, and what is left of third order dominates
@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "schedule", "steps", "order"),
    [
        ("euler", "edm", 40, 1),
        ("euler", "flow", 40, 1),
        ("midpoint", "flow", 10, 2),
        ("midpoint", "edm", 40, 2),
        ("heun", "edm", 80, 2),
    ],
)
def test_flow_of_a_gaussian_approaches_the_exact_map_at_the_order_of_its_method(method, schedule, steps, order):
    prior, z = correlated(), normal(50, *SHAPE, seed=5)
    errors = []
    for k in (steps, 2 * steps, 4 * steps):
        gap = Flow(prior, k, schedule, method)(z) - exact_map(prior, z)
        errors.append(gap.square().mean().sqrt().item())
    assert errors[2] < {1: 0.02, 2: 0.003}[order], errors
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert 0.8 * 2**order < coarse / fine < (12 if method == "midpoint" else 1.3 * 2**order), errors


def test_flow_counts_of_network_evaluations():
    prior = mixture()
    calls = []
    prior.register_forward_hook(lambda module, args, out: calls.append(len(out)))
    z = normal(3, *SHAPE)
    for method, count in (("euler", 7), ("midpoint", 14), ("heun", 13)):
        calls.clear()
        x = Flow(prior, 7, method=method)(z)
        assert calls == [3] * count
    calls.clear()
    Flow(prior, 7).encode(x)
    assert calls == [3] * 6


def test_encoding_inverts_the_flow_as_steps_grow():
    # both ways have an error of first order, which halves
    prior, z = mixture(), normal(100, *SHAPE, seed=6)
    errors = []
    for steps in (20, 40, 80):
        flow = Flow(prior, steps, method="midpoint")
        errors.append((flow.encode(flow(z)) - z).square().mean().sqrt().item())
    assert errors[2] < 0.03 and all(1.6 < a / b < 2.4 for a, b in zip(errors, errors[1:], strict=False)), errors


def test_flow_is_differentiable_and_keeps_precision_units_and_attributes():
    prior, z = correlated(), normal(4, *SHAPE)
    flow = Flow(prior, 5)
    assert (flow.shape, flow.latent_shape, flow.dtype) == (prior.shape, prior.shape, F64)
    assert (flow.data_std, flow.data_mean, flow.value_range) == (prior.data_std, prior.data_mean, prior.value_range)
    # affine: the Jacobian is the same everywhere and its product with z is the map
    J = torch.autograd.functional.jacobian(lambda u: flow(u[None])[0], z[0]).reshape(N, N)
    at_zero = flow(torch.zeros_like(z))
    torch.testing.assert_close(flow(z).flatten(1), at_zero.flatten(1) + z.flatten(1) @ J.T)
    # in other units, the same map in those
    torch.testing.assert_close(Flow(prior.rescaled(7.0, 3.0), 5)(z), 7 * flow(z) + 3)
    single = Flow(GaussianPrior(SHAPE, 0.0, 1.0), 5)
    assert single(z.float()).dtype == torch.float32 and single.dtype == torch.float32


def test_decoded_operators_take_any_batch_axes_and_stay_in_double():
    g = Bent()
    A = Decoded(Matrix(normal(4, N, seed=7), SHAPE), g)
    z = normal(5, 3, 2)
    x = g(z.reshape(15, 2))
    wanted = A.A(x).reshape(5, 3, 4)
    assert (A.in_shape, A.out_shape) == ((2,), (4,)) and A(z).dtype == F64
    torch.testing.assert_close(A(z), wanted)
    torch.testing.assert_close(A(z[0, 0]), wanted[0, 0])
    assert A(z[:0]).shape == (0, 3, 4)
    assert Bent(torch.float32)(z[0].float()).dtype == torch.float32


def test_posterior_over_codes():
    g, A = Bent(), Matrix(normal(4, N, seed=7), SHAPE)
    post = Posterior(g, A, Gaussian(0.3), normal(2, 4, seed=8))
    codes, z = post.latent(), normal(2, 2, seed=9)
    assert codes.prior is g.latent and codes.batch == (2,)
    torch.testing.assert_close(codes.log_likelihood(z), post.log_likelihood(g(z)))
    u = z.clone().requires_grad_()
    (score,) = torch.autograd.grad(post.log_likelihood(g(u)).sum(), u)
    torch.testing.assert_close(codes.likelihood_score(z), score)
    with pytest.raises(UnsupportedError, match="only a Generator prior has latent codes, got GaussianMixture"):
        Posterior(mixture(), A, 0.3, post.y).latent()


def test_samplers_of_signals_run_on_codes_and_decode_the_last():
    post = Posterior(Bent(), Matrix(normal(4, N, seed=7), SHAPE), Gaussian(0.3), normal(2, 4, seed=8))
    seen, cost = [], Cost()
    x = samplers.DPS(steps=5)(post, 3, callback=lambda k, z: seen.append(z), cost=cost)
    assert x.shape == (3, 2, *SHAPE) and all(z.shape == (6, 2) for z in seen)
    torch.testing.assert_close(x.reshape(6, *SHAPE), post.prior(seen[-1]))
    assert cost.nfe == round(cost.nfe) >= 6  # the decoder's; the closed form of a standard normal is not a network
    torch.testing.assert_close(samplers.DPS(steps=5)(post, 3, max_batch=4), x, rtol=1e-10, atol=1e-10)


class BlackBox(Operator):
    differentiable = False

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).round()


def test_what_cannot_be_done_is_said_in_a_sentence():
    with pytest.raises(OptionError, match="unknown method 'rk4' of the flow; there are 'euler', 'heun' and 'midpoint'"):
        Flow(mixture(), method="rk4")
    with pytest.raises(UnsupportedError, match="Bent has no encoder"):
        Bent().encode(torch.zeros(1, *SHAPE))
    assert Flow(mixture()).has_encoder and not Bent().has_encoder
    assert not has_gradient(Decoded(BlackBox(SHAPE), Bent()))
    post = Posterior(Bent(), BlackBox(SHAPE), Gaussian(0.3), torch.zeros(6, dtype=F64))
    with pytest.raises(UnsupportedError, match="DPS needs the gradient of the operator"):
        samplers.DPS(steps=3)(post)


def test_a_generator_without_encoder_is_refused_before_the_first_step():
    g = Bent()
    post = Posterior(g, Matrix(normal(4, N, seed=7), SHAPE), Gaussian(0.3), normal(4, seed=8))
    with pytest.raises(
        UnsupportedError, match="PSLD needs a generator with an encoder, and Bent has none; samplers that fit"
    ):
        samplers.PSLD(steps=3)(post)
    assert g.calls == 0
    assert samplers.ReSample(steps=3).refuses(post) is None  # which has a way without
    with pytest.raises(UnsupportedError, match="CSGM needs a Generator prior, got GaussianMixture"):
        samplers.CSGM(steps=3)(Posterior(mixture(), post.A, 0.3, post.y))


class OtherCodes(Denoiser):
    def forward(self, x: Tensor, sigma: float) -> Tensor:
        return x / (1 + sigma**2)


def test_searches_say_what_they_need_of_the_codes():
    class Plain(Generator):
        def forward(self, z: Tensor) -> Tensor:
            return z

    post = Posterior(Plain((3,), OtherCodes((3,))), Matrix(torch.eye(3)), Gaussian(0.3), torch.zeros(3))
    with pytest.raises(UnsupportedError, match="CSGM needs a latent prior with a method log_prob, got OtherCodes"):
        samplers.CSGM(steps=3)(post)
    with pytest.raises(UnsupportedError, match="PULSE needs a generator with standard normal codes, got OtherCodes"):
        samplers.PULSE(steps=3)(post)
