"""Decoders as priors: each equals its network called by hand, and the samplers that are made for decoders run on it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invgen import OptionError, Posterior, ShapeError, UnsupportedError, priors, samplers, solve
from invgen.diffusion import Denoiser
from invgen.operators import Mask, Matrix
from invgen.pushforward import StandardNormal
from invgen.sampler import Cost

F64 = torch.float64


class DCGAN(nn.Module):
    """A small generator of the usual kind, batch normalisation included."""

    def __init__(self, codes: int = 8, labels: bool = False) -> None:
        super().__init__()
        self.label = nn.Embedding(3, codes) if labels else None
        self.net = nn.Sequential(
            nn.Unflatten(1, (codes, 1, 1)),
            nn.ConvTranspose2d(codes, 6, 4),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 1, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        return self.net(z if label is None else z * self.label(label))


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def gan() -> DCGAN:
    torch.manual_seed(0)
    net = DCGAN().double()
    net.net[2].running_mean.normal_()
    return net


def test_a_generator_is_its_network(gan):
    prior = priors.from_generator(gan, (8,), (1, 8, 8), value_range=(-1, 1), data_std=0.4)
    z = normal(5, 8)
    want = gan(z)  # in eval mode by now
    assert torch.equal(prior(z), want) and prior.dtype == F64 and prior.data_std == 0.4
    assert torch.allclose(prior(z[:1]), want[:1], atol=1e-12)  # rows do not meet
    assert not any(p.requires_grad for p in prior.parameters())
    assert not prior.has_encoder and priors.from_generator(gan, 8).shape == (1, 8, 8)
    (grad,) = torch.autograd.grad(prior(z.requires_grad_()).sum(), z)
    assert grad.abs().sum() > 0


def test_samples_and_other_units(gan):
    prior = priors.from_generator(gan, (8,), value_range=(-1, 1), data_mean=0.0)
    x = prior.sample(6, seed=3)
    assert torch.equal(x, gan(prior.latent.sample(6, seed=3))) and torch.equal(prior.sample(2, seed=3), x[:2])
    assert torch.allclose(prior.sample(6, seed=3, max_batch=4), x, atol=1e-12)
    unit = prior.rescaled(0.5, 0.5)
    assert unit.value_range == (0, 1) and unit.data_mean == 0.5 and unit.data_std == 0.5 * prior.data_std
    assert torch.allclose(unit.sample(6, seed=3), 0.5 * x + 0.5)
    with pytest.raises(UnsupportedError, match="no density"):
        unit.log_prob(x)
    with pytest.raises(OptionError, match="positive scale"):
        prior.rescaled(-1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network_runs_in_its_own_precision(gan, dtype):
    prior = priors.from_generator(gan.to(dtype), (8,))
    z = normal(2, 8, dtype=torch.float32)
    assert prior.dtype == torch.float32 and prior(z).dtype == torch.float32
    assert torch.equal(prior(z), gan(z.to(dtype)).float())


def test_codes_on_a_sphere(gan):
    prior = priors.from_generator(gan, (8,), sphere=True)
    z = normal(4, 8)
    assert torch.allclose(prior(z), gan(math.sqrt(8) * z / z.norm(dim=1, keepdim=True)), atol=1e-12)
    assert torch.allclose(prior(7 * z), prior(z), atol=1e-12)


def test_classes():
    net = DCGAN(labels=True).double()
    prior = priors.from_generator(net, (8,), condition=2)
    z = normal(4, 8)
    assert torch.allclose(prior(z), net(z, torch.full((4,), 2)))
    assert torch.allclose(prior.condition(1)(z), net(z, torch.full((4,), 1))) and prior.condition(1).dtype == F64


def test_a_function_and_a_latent_prior_of_its_own():
    latent = priors.GaussianPrior((3,), 1.0, 4.0)
    prior = priors.from_generator(lambda z: z.cumsum(1), latent, (3,))
    assert isinstance(prior.latent, Denoiser) and torch.equal(prior.sample(2, seed=1), latent.sample(2, seed=1).cumsum(1))


def encoders() -> dict[str, nn.Module]:
    class Pair(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return tuple(super().forward(x).chunk(2, 1))

    class Law(Pair):
        def forward(self, x: Tensor) -> torch.distributions.Distribution:
            mean, log_var = super().forward(x)
            return torch.distributions.Normal(mean, (0.5 * log_var).exp())

    torch.manual_seed(1)
    return {"mean": nn.Linear(6, 3).double(), "pair": Pair(6, 6).double(), "law": Law(6, 6).double()}


@pytest.mark.parametrize("kind", ["mean", "pair", "law"])
def test_a_vae_is_its_networks(kind):
    decoder, encoder = nn.Linear(3, 6).double(), encoders()[kind]
    prior = priors.from_vae(decoder, encoder, latent_shape=3)
    x, out = normal(4, 6), encoder(normal(4, 6))
    want = out if kind == "mean" else out[0] if kind == "pair" else out.mean
    assert prior.has_encoder and torch.equal(prior.encode(x), want) and torch.equal(prior(x[:, :3]), decoder(x[:, :3]))
    assert torch.allclose(prior.rescaled(2.0, 1.0).encode(2 * x + 1), want) and prior.rescaled(2.0).has_encoder
    assert not priors.from_vae(decoder, latent_shape=3).has_encoder


@pytest.mark.slow
def test_an_exact_posterior_through_a_decoder():
    # a linear decoder makes a Gaussian prior, so that latent samplers can be compared with it
    decoder = nn.Linear(3, 6).double()
    prior = priors.from_vae(decoder, latent_shape=3)
    W, b = decoder.weight.detach(), decoder.bias.detach()
    exact = priors.GaussianPrior((6,), b, covariance=W @ W.T + 1e-9 * torch.eye(6, dtype=F64))
    A = Matrix(normal(2, 6, seed=1))
    y = A(prior.sample(1, seed=4))[0]
    post = exact.posterior(A, 0.1, y)
    x = samplers.HMC(steps=60)(Posterior(prior, A, 0.1, y), num_samples=300, seed=0)
    assert (x.mean(0) - post.mean).abs().max() < 0.2 * post.var.sqrt().max()
    assert ((x.var(0) / post.var).log().abs()).max() < 0.4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps"), [("csgm", 30), ("pulse", 50), ("dampeddps", 50), ("daps", 8), ("hmc", 20), ("pcn", 200)]
)
def test_samplers_of_decoders_run_and_follow_the_measurement(gan, name, steps):
    prior = priors.from_generator(gan, (8,), data_std=0.5)
    A = Mask(prior.shape, (normal(1, 8, 8, seed=2) > 0).double())
    truth = prior.sample(1, seed=11)[0]
    y = A(truth) + 0.05 * normal(*A(truth).shape, seed=5)
    cost = Cost()
    sampler = samplers.get(name)(steps=steps)
    x = sampler(Posterior(prior, A, 0.05, y), num_samples=2, seed=0, cost=cost)
    start = (A(prior.sample(8, seed=3)) - y).square().mean()
    assert x.shape == (2, 1, 8, 8) and (A(x) - y).square().mean() < 0.5 * start and cost.nfe > 0
    unit = 0.5 * y + 0.5 * A(torch.ones_like(truth))  # the same problem for an image in [0, 1]
    other = solve(unit, A, prior.rescaled(0.5, 0.5), 0.025, sampler, num_samples=2, seed=0).samples
    assert (A(other) - unit).square().mean() < 0.5 * start / 4


# -- StyleGAN's shape ------------------------------------------------------------------------------------------------------


class Mapping(nn.Module):
    """Normalise, two layers, LeakyReLU 0.2 last; `rows` styles as NVIDIA's code repeats them."""

    def __init__(self, size: int = 6, rows: int = 0) -> None:
        super().__init__()
        self.layers, self.rows = nn.ModuleList([nn.Linear(size, size), nn.Linear(size, size)]), rows

    def forward(self, z: Tensor) -> Tensor:
        w = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.layers:
            w = F.leaky_relu(layer(w), 0.2)
        return w[:, None].repeat(1, self.rows, 1) if self.rows else w


class Synthesis(nn.Module):
    """A constant, then a modulated convolution with noise input and a colour output at 4 x 4 and 8 x 8 pixels."""

    def __init__(self, size: int = 6, channels: int = 5) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.randn(1, channels, 4, 4))
        self.affine = nn.ModuleList([nn.Linear(size, channels) for _ in range(2)])
        self.weight = nn.ParameterList([torch.randn(channels, channels, 3, 3) / 6 for _ in range(2)])
        self.strength = nn.Parameter(torch.tensor([0.3, 0.2]))
        self.colour = nn.ModuleList([nn.Conv2d(channels, 3, 1) for _ in range(2)])

    def forward(self, w: Tensor, noise: list[Tensor] | None = None) -> Tensor:
        x, image = self.constant.expand(len(w), -1, -1, -1), 0.0
        for k in range(2):
            if k:
                x, image = F.interpolate(x, scale_factor=2), F.interpolate(image, scale_factor=2)
            style = self.affine[k](w[:, k] if w.ndim == 3 else w) + 1
            kernel = self.weight[k] * style[:, None, :, None, None]
            kernel = kernel * (kernel.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
            b, c, h, side = x.shape
            y = F.conv2d(x.reshape(1, b * c, h, side), kernel.flatten(0, 1), padding=1, groups=b).reshape(b, c, h, side)
            x = F.leaky_relu(y if noise is None else y + self.strength[k] * noise[k], 0.2)
            image = image + self.colour[k](x)
        return image


NOISE = [(1, 4, 4), (1, 8, 8)]


@pytest.fixture
def parts() -> tuple[Mapping, Synthesis]:
    torch.manual_seed(0)
    return Mapping().double(), Synthesis().double()


def test_stylegan_in_z_is_its_networks(parts):
    mapping, synthesis = parts
    prior = priors.from_stylegan(mapping, synthesis, 6, space="z", shape=(3, 8, 8), data_std=0.7)
    z = normal(4, 6)
    assert torch.allclose(prior(z), synthesis(mapping(z)), atol=1e-12) and prior.data_std == 0.7
    rows = Mapping(rows=2).double()
    prior = priors.from_stylegan(rows, synthesis, 6, space="z")
    assert prior.shape == (3, 8, 8) and torch.allclose(prior(z), synthesis(rows(z)), atol=1e-12)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
@pytest.mark.parametrize("rows", [0, 2])
def test_styles_have_the_law_that_was_fitted(parts, rows, covariance):
    synthesis, mapping = parts[1], Mapping(rows=rows).double()
    prior = priors.from_stylegan(mapping, synthesis, 6, space="w", covariance=covariance, fit_samples=4000, seed=5)
    z = prior.latent.sample(4000, seed=5)  # those of the fit
    v = F.leaky_relu(mapping(z)[:, 0] if rows else mapping(z), 5.0)
    w = prior.style(prior.latent.sample(20_000, seed=6))
    assert w.shape[1:] == ((2, 6) if rows else (6,))
    got = F.leaky_relu(w[:, 0] if rows else w, 5.0)
    assert (got.mean(0) - v.mean(0)).abs().max() < 0.05 * v.std()
    want = v.T.cov() if covariance == "full" else v.var(0).diag()
    assert (got.T.cov() - want).abs().max() < 0.05 * want.max()
    if covariance == "diagonal":  # the formula itself
        u = normal(3, 6)
        by_hand = F.leaky_relu(v.mean(0) + v.std(0) * u, 0.2)
        want = synthesis(by_hand[:, None].repeat(1, 2, 1) if rows else by_hand)
        assert torch.allclose(prior(u), want, atol=1e-9)


def test_extended_styles(parts):
    mapping, synthesis = parts
    prior = priors.from_stylegan(mapping, synthesis, 6, space="w+", num_ws=2, fit_samples=500)
    one = priors.from_stylegan(mapping, synthesis, 6, space="w", fit_samples=500)
    u = normal(3, 2, 6)
    assert prior.latent_shape == (2, 6)
    want = synthesis(torch.stack([one.style(u[:, 0]), one.style(u[:, 1])], 1))
    assert torch.allclose(prior(u), want, atol=1e-12)
    with pytest.raises(ShapeError, match="num_ws= for"):
        priors.from_stylegan(mapping, synthesis, 6, space="w+")


def test_noise_inputs(parts):
    mapping, synthesis = parts
    options = {"space": "w", "noise_shapes": NOISE, "fit_samples": 500}
    fixed = priors.from_stylegan(mapping, synthesis, 6, **options)
    u = normal(3, 6)
    noise = [n.reshape(1, *s) for n, s in zip(fixed.fixed_noise.split([16, 64]), NOISE, strict=True)]
    assert torch.allclose(fixed(u), synthesis(fixed.style(u), noise), atol=1e-12)
    assert not torch.allclose(priors.from_stylegan(mapping, synthesis, 6, seed=1, **options)(u), fixed(u))
    free = priors.from_stylegan(mapping, synthesis, 6, noise="latent", **options)
    code = normal(3, 6 + 16 + 64, seed=4)
    inputs = [code[:, 6:22].reshape(-1, *NOISE[0]), code[:, 22:].reshape(-1, *NOISE[1])]
    assert free.latent_shape == (86,)
    assert torch.allclose(free(code), synthesis(free.style(code[:, :6]), inputs), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["csgm", "pulse", "dps"])
@pytest.mark.parametrize(
    "options", [{"space": "w"}, {"space": "w+", "num_ws": 2, "noise_shapes": NOISE, "noise": "latent"}]
)
def test_pulse_and_others_on_stylegan(parts, name, options):
    prior = priors.from_stylegan(*parts, 6, fit_samples=500, **options)
    A = Mask(prior.shape, (normal(3, 8, 8, seed=2) > 0).double())
    y = A(prior.sample(1, seed=11)[0])
    x = samplers.get(name)(steps=50)(Posterior(prior, A, 0.02, y), num_samples=2, seed=0)
    assert (A(x) - y).square().mean() < 0.5 * (A(prior.sample(8, seed=3)) - y).square().mean()


# -- bad input -------------------------------------------------------------------------------------------------------------


def test_networks_that_do_not_fit_are_named(gan):
    with pytest.raises(ShapeError, match=r"fails on two codes, a tensor of shape \(2, 9\)"):
        priors.from_generator(gan, (9,))
    with pytest.raises(ShapeError, match=r"turns two codes into \(2, 1, 8, 8\), expected \(2, 3, 8, 8\)"):
        priors.from_generator(gan, (8,), (3, 8, 8))
    with pytest.raises(OptionError, match="gives a tuple"):
        priors.from_generator(lambda z: (z, z), (8,))
    with pytest.raises(OptionError, match="g of from_generator must be a function"):
        priors.from_generator("stylegan.pkl", (8,))
    with pytest.raises(ShapeError, match=r"the encoder turns \(2, 6\) into \(2, 4\), expected \(2, 3\)"):
        priors.from_vae(nn.Linear(3, 6), nn.Linear(6, 4), latent_shape=3)
    with pytest.raises(OptionError, match="the encoder gives a dict"):
        priors.from_vae(nn.Linear(3, 6), lambda x: {"z": x}, latent_shape=3)
    with pytest.raises(OptionError, match="space of StyleGAN must be one of 'z', 'w'"):
        priors.from_stylegan(Mapping(), Synthesis(), 6, space="v")
    with pytest.raises(OptionError, match="at least 2 samples"):
        priors.from_stylegan(Mapping(), Synthesis(), 6, fit_samples=1)
    with pytest.raises(UnsupportedError, match="no method sample"):
        priors.from_generator(nn.Linear(3, 4), Opaque((3,))).sample()


class Opaque(StandardNormal):
    sample = property()  # as a denoiser that cannot be drawn from
