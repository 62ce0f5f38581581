"""Normalising flows against the log-densities and samples of their own libraries, to 1e-5 in double precision."""

import math

import pytest
import torch
from torch import Tensor, nn

from invgen import OptionError, Posterior, ShapeError, UnsupportedError, priors, samplers
from invgen.operators import Matrix
from invgen.priors.wrappers.normalising_flows import NormalisingFlow

F64 = torch.float64
N = 4


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def shaken(flow: nn.Module) -> nn.Module:
    """Weights away from their start, where many flows are the identity."""
    g = torch.Generator().manual_seed(1)
    flow = flow.double()
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.2 * torch.randn(p.shape, dtype=F64, generator=g))
    return flow


def agrees(prior: NormalisingFlow, x: Tensor, log_prob: Tensor, atol: float = 1e-5) -> float:
    """The largest deviation from the library's log p(x), after the round trips of codes and signals."""
    assert prior.log_prob(x).dtype == F64 and prior.latent.dtype == F64
    z = prior.encode(x)
    assert torch.allclose(prior(z), x, atol=atol) and torch.allclose(prior.encode(prior(z)), z, atol=atol)
    deviation = (prior.log_prob(x) - log_prob).abs().max().item()
    assert deviation < 1e-5, deviation
    return deviation


def density_of_a_jacobian(prior: NormalisingFlow, z: Tensor) -> None:
    """log p(f(z)) against the dense Jacobian of the decoder, which knows nothing of a library."""
    for code in z:
        J = torch.autograd.functional.jacobian(lambda c: prior(c[None]).flatten(), code)
        want = prior.latent.log_prob(code[None]) - torch.linalg.slogdet(J).logabsdet
        assert torch.allclose(prior.log_prob(prior(code[None])), want, atol=1e-5)


ZUKO = ["NICE", "RealNVP", "MAF", "NSF", "NCSF", "SOSPF", "BPF", "NAF", "UNAF", "GF", "CNF"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ZUKO)
def test_zuko(name):
    zuko = pytest.importorskip("zuko")
    torch.manual_seed(0)
    options = {} if name == "GF" else {"hidden_features": (16,)}
    flow = getattr(zuko.flows, name)(N, **options).double()
    prior = priors.from_flow(flow, (1, 2, 2))
    loose = name in ("GF", "CNF")  # which zuko inverts by bisection and by an ODE solver, to tolerances of their own
    torch.manual_seed(7)
    x = normal(6, N, seed=7) if loose else flow().sample((6,))
    agrees(prior, x.reshape(-1, 1, 2, 2), flow().log_prob(x), 1e-3 if loose else 1e-5)
    # a sample of ours is its transform of a draw of its base
    z = prior.latent.sample(5, seed=3)
    base = flow().base
    u = math.pi * (2 * torch.special.ndtr(z) - 1) if name == "NCSF" else z
    assert base.log_prob(u).isfinite().all()
    assert torch.allclose(prior.sample(5, seed=3).flatten(1), flow().transform.inv(u), atol=1e-5)


def test_zuko_under_a_condition():
    zuko = pytest.importorskip("zuko")
    flow = shaken(zuko.flows.NSF(N, context=3, hidden_features=(16,)))
    c = normal(3, seed=4)
    prior = priors.from_flow(flow, condition=c)
    x = flow(c).sample((6,))
    agrees(prior, x, flow(c).log_prob(x))
    other = prior.condition(normal(3, seed=5))
    assert (other.log_prob(x) - flow(normal(3, seed=5)).log_prob(x)).abs().max() < 1e-5
    density_of_a_jacobian(prior, normal(2, N, seed=6))


def layers(nf, kind: str) -> list[nn.Module]:
    def mlp(*sizes: int) -> nn.Module:
        return nf.nets.MLP(list(sizes), init_zeros=False)

    if kind == "affine coupling":
        return [
            f for _ in range(2) for f in (nf.flows.AffineCouplingBlock(mlp(2, 16, 4)), nf.flows.Permute(N, mode="swap"))
        ]
    if kind == "masked affine":
        b = torch.tensor([1.0, 0, 1, 0])
        return [nf.flows.MaskedAffineFlow(m, mlp(N, 8, N), mlp(N, 8, N)) for m in (b, 1 - b)]
    if kind == "spline":
        return [nf.flows.AutoregressiveRationalQuadraticSpline(N, 1, 16), nf.flows.LULinearPermute(N)]
    if kind == "masked autoregressive":
        return [nf.flows.MaskedAffineAutoregressive(N, 16)]
    return [nf.flows.ActNorm(N), nf.flows.AffineCouplingBlock(mlp(2, 16, 4))]


@pytest.mark.slow
@pytest.mark.parametrize("base", ["DiagGaussian", "fixed", "Uniform"])
@pytest.mark.parametrize("kind", ["affine coupling", "masked affine", "spline", "masked autoregressive"])
def test_normflows(kind, base):
    nf = pytest.importorskip("normflows")
    if base == "Uniform":
        q0 = nf.distributions.base.Uniform(N, torch.tensor(-2.0, dtype=F64), torch.tensor(3.0, dtype=F64))
    else:
        q0 = nf.distributions.base.DiagGaussian(N, trainable=base == "DiagGaussian")
    torch.manual_seed(0)
    flow = shaken(nf.NormalizingFlow(q0, layers(nf, kind)))
    prior = priors.from_flow(flow, (2, 2))
    torch.manual_seed(3)
    x, log_prob = flow.sample(6)
    agrees(prior, x.reshape(-1, 2, 2), flow.log_prob(x))
    assert (flow.log_prob(x) - log_prob).abs().max() < 1e-4
    z = prior.latent.sample(5, seed=3)
    u = 5 * torch.special.ndtr(z) - 2 if base == "Uniform" else q0.loc + q0.log_scale.exp() * z
    assert torch.allclose(prior.sample(5, seed=3).flatten(1), flow(u), atol=1e-8)
    density_of_a_jacobian(prior, normal(2, N, seed=6))


def glow(nf, classes: int | None = None) -> nn.Module:
    """A multiscale flow of two levels on (2, 4, 4)."""
    q0 = [nf.distributions.base.GlowBase((16, 1, 1), classes), nf.distributions.base.GlowBase((4, 2, 2), classes)]
    flows = [
        [nf.flows.GlowBlock(16, 8, split_mode="channel"), nf.flows.Squeeze()],
        [nf.flows.GlowBlock(8, 8, split_mode="channel"), nf.flows.Squeeze()],
    ]
    return nf.MultiscaleFlow(q0, flows, [nf.flows.Merge()], class_cond=classes is not None)


@pytest.mark.parametrize("classes", [None, 3])
def test_a_multiscale_flow(classes):
    nf = pytest.importorskip("normflows")
    torch.manual_seed(0)
    flow = glow(nf, classes).double()
    label = None if classes is None else torch.full((20,), 2)
    flow.log_prob(normal(20, 2, 4, 4, seed=1), label)  # the first batch initialises ActNorm
    flow = shaken(flow)
    prior = priors.from_flow(flow, condition=None if classes is None else 2)
    assert prior.shape == (2, 4, 4) and prior.latent_shape == (32,)
    x = normal(20, 2, 4, 4, seed=2)
    agrees(prior, x, flow.log_prob(x, label))
    if classes:
        assert (prior.condition(1).log_prob(x) - flow.log_prob(x, label - 1)).abs().max() < 1e-5
    density_of_a_jacobian(prior, normal(1, 32, seed=6))


def test_a_conditional_flow():
    nf = pytest.importorskip("normflows")
    q0 = nf.distributions.base.ConditionalDiagGaussian(N, nn.Linear(3, 2 * N))
    flow = shaken(nf.ConditionalNormalizingFlow(q0, [nf.flows.MaskedAffineAutoregressive(N, 16, context_features=3)]))
    c, x = normal(3, seed=4), normal(6, N, seed=5)
    agrees(priors.from_flow(flow, condition=c), x, flow.log_prob(x, context=c.expand(6, -1)))


def test_a_class_conditional_flow():
    nf = pytest.importorskip("normflows")
    flow = nf.ClassCondFlow(nf.distributions.base.ClassCondDiagGaussian(N, 3), layers(nf, "affine coupling"))
    flow, x = shaken(flow), normal(6, N, seed=5)
    agrees(priors.from_flow(flow, condition=1), x, flow.log_prob(x, torch.full((6,), 1)))
    with pytest.raises(OptionError, match="a label from 0 to 2"):
        priors.from_flow(flow)


class Affine(nn.Module):
    """A flow of one's own: x = L z + b."""

    def __init__(self) -> None:
        super().__init__()
        self.L, self.b = nn.Parameter((normal(N, N) + 3 * torch.eye(N)).tril()), nn.Parameter(normal(N, seed=1))

    def forward_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z @ self.L.T + self.b, self.L.diagonal().abs().log().sum().expand(len(z))

    def inverse_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.linalg.solve_triangular(self.L, (x - self.b).T, upper=False).T
        return z, -self.L.diagonal().abs().log().sum().expand(len(x))


@pytest.mark.slow
def test_a_flow_of_ones_own_and_its_posterior():
    prior = priors.from_flow(Affine(), (N,))
    L, b = prior.flow.L, prior.flow.b
    law = torch.distributions.MultivariateNormal(b, scale_tril=L * L.diagonal().sign())
    x = normal(6, N, seed=2)
    agrees(prior, x, law.log_prob(x))
    unit = prior.rescaled(2.0, 1.0)
    assert torch.allclose(unit.log_prob(2 * x + 1), prior.log_prob(x) - N * math.log(2))
    assert torch.allclose(unit.encode(2 * x + 1), prior.encode(x))
    A = Matrix(normal(2, N, seed=3))
    y = A(prior.sample(1, seed=4))[0]
    post = priors.GaussianPrior((N,), b, covariance=L @ L.T).posterior(A, 0.5, y)
    samples = samplers.HMC(steps=60)(Posterior(prior, A, 0.5, y), num_samples=300, seed=0)
    assert ((samples.mean(0) - post.mean).abs() < 0.3 * post.var.sqrt()).all()
    assert (samples.var(0) / post.var).log().abs().max() < 0.4


def test_float32_flows_keep_their_precision():
    nf = pytest.importorskip("normflows")
    flow = nf.NormalizingFlow(nf.distributions.base.DiagGaussian(N), layers(nf, "affine coupling"))
    prior = priors.from_flow(flow)
    x = prior.sample(4)
    assert prior.dtype == torch.float32 and x.dtype == torch.float32
    assert torch.allclose(prior.log_prob(x), flow.log_prob(x), atol=1e-4)


def test_what_is_no_flow_is_refused():
    nf = pytest.importorskip("normflows")
    with pytest.raises(OptionError, match="Linear is not a normalising flow"):
        priors.from_flow(nn.Linear(2, 2))
    plain = nf.NormalizingFlow(nf.distributions.base.DiagGaussian(N), layers(nf, "affine coupling"))
    with pytest.raises(ShapeError, match=r"have 4 values, which cannot be a signal of shape \(3,\)"):
        priors.from_flow(plain, (3,))
    with pytest.raises(UnsupportedError, match="base is a GaussianMixture"):
        priors.from_flow(
            nf.NormalizingFlow(nf.distributions.base.GaussianMixture(2, N), layers(nf, "affine coupling")), (N,)
        )
    with pytest.raises(OptionError, match="1 ActNorm layers of the flow have not been initialised"):
        priors.from_flow(nf.NormalizingFlow(nf.distributions.base.DiagGaussian(N), layers(nf, "norm")))
    with pytest.raises(OptionError, match="without a base q0 needs shape="):
        priors.from_flow(Affine())


def test_zuko_of_another_size_is_refused():
    zuko = pytest.importorskip("zuko")
    with pytest.raises(ShapeError, match=r"the flow is over \(4,\), which cannot be a signal of shape \(5,\)"):
        priors.from_flow(zuko.flows.MAF(N), 5)
