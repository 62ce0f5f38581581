"""Autoencoders of diffusers as decoders of latent priors: units, gradients, precision, and samplers on them."""

import pytest
import torch

import invgen
from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.operators import Mask
from invgen.priors.laws.exact import GaussianPrior
from invgen.priors.wrappers.latent import Autoencoder, LatentDiffusion
from invgen.pushforward import StandardNormal
from invgen.samplers import DAPS, DPS, PSLD, ReSample
from tests.priors.checkpoints import tiny_pipelines

pytestmark = pytest.mark.slow  # the import of diffusers alone takes seconds

MEAN, STD = [0.1, -0.2, 0.3, 0.0], [1.0, 2.0, 0.5, 1.5]
AUTOENCODERS = {
    "kl, Stable Diffusion 1": lambda: tiny_pipelines.kl(),
    "kl, shift (SD3, Flux)": lambda: tiny_pipelines.kl(scaling_factor=1.5305, shift_factor=0.0609),
    "kl, mean and std (SDXL, Playground)": lambda: tiny_pipelines.kl(
        scaling_factor=0.5, latents_mean=MEAN, latents_std=STD
    ),
    "tiny": lambda: tiny_pipelines.tiny(),
    "dc (Sana)": lambda: tiny_pipelines.dc(scaling_factor=0.41407),
    "vq": lambda: tiny_pipelines.vq(),
    "vq, scale 1 (DM4CT)": lambda: tiny_pipelines.vq(1, in_channels=1, out_channels=1, scaling_factor=1),
}


def reference(network, z):
    """decode as the pipelines of diffusers write it."""
    config = network.config
    scale = config.get("scaling_factor") or 1.0
    if config.get("latents_mean") is not None:
        mean, std = (torch.tensor(v, dtype=z.dtype).view(1, 4, 1, 1) for v in (config.latents_mean, config.latents_std))
        return network.decode(z * std / scale + mean).sample
    return network.decode(z / scale + (config.get("shift_factor") or 0.0)).sample


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_decode_and_encode_equal_the_library(name):
    network = AUTOENCODERS[name]().double()
    coder = Autoencoder(network)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2, coder.channels, 6, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        x = coder.decode(z)
        torch.testing.assert_close(x, reference(network, z), atol=1e-10, rtol=1e-10)
        assert x.shape[2:] == (6 * coder.stride, 8 * coder.stride)
        out = network.encode(x)
        code = out.latent_dist.mean if hasattr(out, "latent_dist") else out[0]
        code = reference_code(network.config, code)
        torch.testing.assert_close(coder.encode(x), code, atol=1e-10, rtol=1e-10)


def reference_code(config, code):
    scale = config.get("scaling_factor") or 1.0
    if config.get("latents_mean") is not None:
        mean, std = (torch.tensor(v, dtype=code.dtype).view(1, 4, 1, 1) for v in (config.latents_mean, config.latents_std))
        return (code - mean) * scale / std
    return (code - (config.get("shift_factor") or 0.0)) * scale


# AutoencoderDC has an attention that is float32 whatever its weights are: no differences of it to 1e-6
@pytest.mark.parametrize("name", ["kl, shift (SD3, Flux)", "kl, mean and std (SDXL, Playground)", "tiny"])
def test_the_gradient_of_decode_is_its_derivative(name):
    coder = Autoencoder(AUTOENCODERS[name]().double().requires_grad_(False))
    generator = torch.Generator().manual_seed(2)
    z, dz = (torch.randn(1, coder.channels, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    v = torch.randn(1, 3, 8, 8, generator=generator, dtype=torch.float64)
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(coder.decode(z), z, v)
    h = 1e-6
    with torch.no_grad():
        change = (coder.decode(z + h * dz) - coder.decode(z - h * dz)) / (2 * h)
    torch.testing.assert_close((gradient * dz).sum(), (change * v).sum(), atol=1e-7, rtol=1e-6)


def test_codewords_pass_gradients_straight_through():
    network = tiny_pipelines.vq(scaling_factor=1.0).double().requires_grad_(False)
    coder, plain = Autoencoder(network), Autoencoder(network, quantize=False)
    z = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    words = network.quantize(z)[0]
    x = coder.decode(z.requires_grad_())
    torch.testing.assert_close(x, plain.decode(words))
    assert (x - plain.decode(z)).abs().max() > 1e-3  # quantisation matters
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    (through,) = torch.autograd.grad(x, z, v)
    words.requires_grad_()
    (at_words,) = torch.autograd.grad(plain.decode(words), words, v)
    torch.testing.assert_close(through, at_words)
    assert through.abs().max() > 0


def test_an_autoencoder_keeps_its_precision_and_x_its_own():
    prior = LatentDiffusion(tiny_pipelines.kl().bfloat16(), StandardNormal((4, 4, 4)))
    z = torch.randn(2, 4, 4, 4)
    x = prior(z)
    assert x.dtype == torch.float32 and prior.encode(x).dtype == torch.float32
    full = LatentDiffusion(tiny_pipelines.kl(), StandardNormal((4, 4, 4)))(z)
    assert 0 < (x - full).abs().max() < 0.1


def test_shapes_and_facts():
    prior = LatentDiffusion(tiny_pipelines.kl(), StandardNormal((4, 5, 7)), data_std=0.3, value_range=(0, 2))
    assert prior.shape == (3, 10, 14) and prior.latent_shape == (4, 5, 7) and prior.has_encoder
    other = prior.over(GaussianPrior((4, 5, 7)))
    assert (other.data_std, other.value_range, other.autoencoder) == (0.3, (0.0, 2.0), prior.autoencoder)


def test_measured_sizes():
    prior = LatentDiffusion(tiny_pipelines.vq(scaling_factor=1), StandardNormal((3, 4, 4)))
    x0 = 0.3 * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(6)) + 0.5
    assert prior.measure(x0) is prior
    code = prior.encode(x0)
    sizes = (prior.data_mean, prior.data_std, prior.latent.data_mean, prior.latent.data_std)
    assert sizes == pytest.approx((x0.mean().item(), x0.std().item(), code.mean().item(), code.std().item()))


def test_errors():
    with pytest.raises(ShapeError, match=r"codes are \(4, height, width\)"):
        LatentDiffusion(tiny_pipelines.kl(), StandardNormal((3, 5, 7)))
    with pytest.raises(UnsupportedError, match="expected an autoencoder of diffusers"):
        Autoencoder(torch.nn.Conv2d(3, 4, 3))
    with pytest.raises(OptionError, match="has no codebook"):
        Autoencoder(tiny_pipelines.kl(), quantize=False)
    with pytest.raises(UnsupportedError, match="takes no condition"):
        LatentDiffusion(tiny_pipelines.kl(), StandardNormal((4, 5, 7))).guided("a cat")


@pytest.mark.parametrize(
    "sampler",
    [DPS(steps=6), PSLD(steps=6), ReSample(steps=6, corrections=2, inner_steps=3), DAPS(steps=2, langevin_steps=5)],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize("name", ["kl, shift (SD3, Flux)", "vq, scale 1 (DM4CT)"])
# in six steps
@pytest.mark.filterwarnings("ignore:the .* cannot make what was measured")
def test_samplers_run(name, sampler):
    network = AUTOENCODERS[name]().requires_grad_(False)
    prior = LatentDiffusion(network, StandardNormal((Autoencoder(network).channels, 4, 4)))
    clean = prior(torch.randn(1, *prior.latent_shape, generator=torch.Generator().manual_seed(5))).detach()
    A = Mask.random(prior.shape, 0.5)
    result = invgen.solve(A(clean)[0], A, prior, 0.1, sampler, num_samples=2)
    assert result.samples.shape == (2, *prior.shape) and torch.isfinite(result.samples).all()
    assert not torch.equal(result.samples[0], result.samples[1])
