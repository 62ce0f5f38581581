import math

import numpy as np
import pytest
import torch

from invgen.errors import OptionError
from invgen.priors.checkpoints.networks import digits as networks
from invgen.priors.load import load, metadata
from invgen.priors.training import digits_family, log
from invgen.priors.wrappers.generators import VAE, Decoder
from invgen.priors.wrappers.normalising_flows import NormalisingFlow


@pytest.fixture
def digits(tmp_path):
    """Pictures of one bright square each, its place the label."""
    rng = np.random.default_rng(0)
    images = np.zeros((60, 28, 28), np.uint8)
    labels = np.arange(60) % 10
    for image, k in zip(images, labels, strict=True):
        image[2 * k : 2 * k + 8, 4 + k : 12 + k] = rng.integers(180, 255)
    np.savez(tmp_path / "d.npz", train_images=images, train_labels=labels, test_images=images[:20], test_labels=labels[:20])
    return tmp_path


def run(name, out, digits, **options):
    return digits_family.train(name, out, digits, batch=4, progress=False, checkpoint_minutes=0, **options)


@pytest.mark.slow
# the prior of sounds has a test of its own, test_wavenet.py
@pytest.mark.parametrize("name", [n for n, recipe in digits_family.FAMILY.items() if recipe.data == "digits"])
def test_a_small_model_is_trained_stored_and_loaded(name, tmp_path, digits, monkeypatch):
    if name == "digits-ar":  # 1024 evaluations a sample
        monkeypatch.setattr(log, "draw_samples", lambda prior, count, seed: torch.zeros(count, *prior.shape))
    path = run(name, tmp_path / "run", digits, steps=3)
    about, prior = metadata(path), load(path)
    assert prior.shape == (1, 32, 32) and prior.value_range == (-1.0, 1.0)
    assert about["training"]["steps"] == 3 and about["training"]["sources"][0]["count"] == 60
    kind = {"VAE": VAE, "GAN": Decoder, "Flow": NormalisingFlow}.get(about["network"])
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    if kind is None:
        assert prior.log_prob(x).shape == (2,)
    else:
        assert isinstance(prior, kind)
        z = torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(1))
        assert prior(z).shape == (2, 1, 32, 32)
        assert not any(p.requires_grad for p in prior.parameters())
    if prior.__class__ is VAE:
        assert prior.encode(x).shape == (2, 12)
        assert len(list(prior.encoder.parameters())) > 0  # goes along to another device
    with pytest.raises(OptionError, match=r"shape \(1, 32, 32\) alone"):
        load(path, shape=(1, 64, 64))
    assert (tmp_path / "run" / "log.csv").read_text().startswith("step,minutes,loss,rate,held_out_loss")


@pytest.mark.slow
def test_a_resumed_training_ends_with_the_same_weights(tmp_path, digits, monkeypatch):
    whole = load(run("digits-gan", tmp_path / "whole", digits, steps=4))
    batch, calls = digits_family.LabelledViews.batch, []

    def interrupted(self, count, generator):
        calls.append(count)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return batch(self, count, generator)

    monkeypatch.setattr(digits_family.LabelledViews, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("digits-gan", tmp_path / "parts", digits, steps=4)
    monkeypatch.undo()
    parts = load(run("digits-gan", tmp_path / "parts", digits, steps=4))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


def test_bad_input(tmp_path, digits):
    with pytest.raises(OptionError, match="there are: digits-vae, digits-gan"):
        digits_family.train("digits-vq", tmp_path / "run", digits)
    run("digits-vae", tmp_path / "run", digits, steps=1)
    assert (tmp_path / "run" / "samples.png").is_file()
    with pytest.raises(OptionError, match="another network"):
        run("digits-ar", tmp_path / "run", digits, steps=2)


def random_flow():
    net = networks.FlowNetwork().double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return net


def test_the_flow_is_invertible_with_the_right_volume():
    net = random_flow()
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 1.8 - 0.9
    z, log_det = net.inverse_and_log_det(x)
    back, other = net.forward_and_log_det(z)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(other, -log_det, rtol=1e-9, atol=1e-7)
    # The network is convolutional: on a picture of 8 x 8 the whole Jacobian is at hand.
    x = x[:1, :, :8, :8]
    jacobian = torch.autograd.functional.jacobian(lambda v: net.inverse_and_log_det(v)[0].ravel(), x)
    value = torch.linalg.slogdet(jacobian.reshape(64, 64))[1].item()
    assert value == pytest.approx(net.inverse_and_log_det(x)[1].item(), rel=1e-9)


def test_the_pixelcnn_sees_only_what_came_before():
    net = networks.PixelCNN(8, (1, 2)).eval()
    x = torch.zeros(1, 1, 12, 12, requires_grad=True)
    net(x)[0, :, 0, 5, 6].sum().backward()
    seen = x.grad[0, 0].abs() > 0
    assert not seen[5, 6:].any() and not seen[6:].any()
    assert seen[5, 5] and seen[4, 7]


def test_the_vae_bound_is_below_the_likelihood_of_a_linear_one():
    # With a decoder that ignores its code the bound is exact: log N(x; constant, variance).
    net = networks.VAENetworks(2)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    x = torch.full((3, 1, 32, 32), 0.3)
    exact = -0.5 * 1024 * (0.3**2 / 0.2 + math.log(2 * math.pi * 0.2))
    assert net.elbo(x, torch.zeros(3, 2), 0.2).tolist() == pytest.approx([exact] * 3, rel=1e-5)
    (objective,) = net.objectives(x, torch.Generator().manual_seed(0))
    assert objective.item() == pytest.approx(0.5 * math.log(0.3**2), rel=1e-4)


def test_grey_levels_of_the_pixelcnn_keep_their_mean():
    # Dithering is unbiased: each value becomes one of its two neighbouring levels.
    x = torch.full((1, 1, 100, 100), 0.1)
    token = ((x + 1) * 1.5 + torch.rand(x.shape, generator=torch.Generator().manual_seed(0))).floor()
    assert set(token.unique().tolist()) == {1.0, 2.0}
    assert (token / 1.5 - 1).mean().item() == pytest.approx(0.1, abs=0.02)
