"""A published network (field data) through the front doors: what a researcher brings, with a right answer for each."""

import warnings

import pytest
import torch

import invgen
from invgen import DivergedError, operators, priors
from invgen.files import pickles
from invgen.metrics import psnr
from invgen.priors import PriorWarning, check_prior, from_network
from tests.priors.checkpoints.published import ConditionalWGAN, digits, mnist_ddpm, mnist_vae

pytestmark = [pytest.mark.data, pytest.mark.slow]
SHAPE = (1, 28, 28)


@pytest.fixture
def declared(field_data):
    """The network with its schedule, as a function of further declarations, and clean digits that trained nothing."""
    net, schedule = mnist_ddpm(field_data("checkpoints/ddpm_mnist.pth"))
    clean = digits(field_data("digits/digits.npz"), 16, "train")
    return lambda **facts: from_network(net, SHAPE, prediction="epsilon", schedule=schedule, **facts), clean


def inpainting(file, number=8):
    x = digits(file, number)
    A = operators.Mask.random(SHAPE, keep=0.3)
    return A, x, A(x) + 0.05 * torch.randn(number, *A.out_shape, generator=torch.Generator().manual_seed(0))


def test_the_range_of_the_mnist_network(declared):
    network, clean = declared
    with pytest.warns(PriorWarning, match=r"good from sigma = 0\.011 to \d.*of 0\.011 to 158 .*constant mean errs by 0\.3"):
        report = check_prior(network(), clean)
    # measured: PiGDM holds below 9 and breaks above; a share of 15 per cent of the variance is made up at 5.7
    assert 4 < report.trusted[1] < 8 and report.trusted[0] == pytest.approx(0.01095, rel=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prior = network(data=clean)
    assert (prior.sigma_min, prior.sigma_max) == report.trusted and prior.value_range == (-0.5, 0.5)
    assert prior.data_mean == pytest.approx(-0.374, abs=0.01) and prior.data_std == pytest.approx(0.302, abs=0.01)


def test_auto_on_the_mnist_network(declared, field_data):
    network, clean = declared
    A, x, y = inpainting(field_data("digits/digits.npz"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = invgen.solve(y, A, network(data=clean), 0.05, "auto", num_samples=2)
    # 19.4 dB for the mean of two samples and 18.9 for one sample; a constant image has 10.2
    assert psnr(told.mean, x, data_range=1.0).mean() > 19 and psnr(told.samples[0], x, data_range=1.0).mean() > 18
    assert told.residual.mean() < 1.2 and told.samples.abs().max() < 0.7
    with pytest.warns(PriorWarning, match=r"pass sigma_max=[345][\d.]* to the prior, or clean signals as data="):
        plain = invgen.solve(y, A, network(value_range=(-0.5, 0.5)), 0.05, "auto")
    assert "noise levels above" in plain.reason and psnr(plain.samples[0], x, data_range=1.0).mean() > 18


@pytest.mark.parametrize(
    "sampler", ["PiGDM(steps=20)", "AdaptivePiGDM(steps=30, schedule='vp')", "AdaptivePiGDM(steps=60)"]
)
def test_a_named_sampler_over_the_whole_range_is_an_error_that_says_which_to_pass(declared, field_data, sampler):
    network, _ = declared
    A, _, y = inpainting(field_data("digits/digits.npz"), 2)
    with pytest.warns(PriorWarning), pytest.raises(DivergedError, match=r"pass sigma_max=[345][\d.]*"):
        invgen.solve(y, A, network(value_range=(-0.5, 0.5)), 0.05, sampler)


def test_samples_of_the_mnist_network(declared):
    network, clean = declared
    x = invgen.sample(network(data=clean), 8, sampler="Heun(steps=16)")
    # the law of the digits, in mean and deviation: chance over eight digits is 0.02
    assert x.mean().item() == pytest.approx(clean.mean().item(), abs=0.06)
    assert x.std().item() == pytest.approx(clean.std().item(), abs=0.06)


def test_published_decoders_say_their_range(field_data):
    vae = priors.from_vae(mnist_vae(field_data("checkpoints/vae_mnist.pth")), latent_shape=(20,))
    assert vae.value_range == (0.0, 1.0)  # ends in a sigmoid; digits in [0, 1] have mean 0.13 and deviation 0.31
    assert vae.data_mean == pytest.approx(0.13, abs=0.03) and vae.data_std == pytest.approx(0.29, abs=0.04)
    net = ConditionalWGAN()
    net.load_state_dict(pickles.read(field_data("checkpoints/hayato_conditional_wgan.pth")))
    gan = priors.from_generator(net, (10,), condition=3)
    assert gan.value_range == (-1.0, 1.0) and gan.data_mean == pytest.approx(-0.72, abs=0.1)
