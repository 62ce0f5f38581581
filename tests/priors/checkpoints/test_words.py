"""Words as measurements, and conditions that are found for a picture."""

import pytest
import torch

import invgen
from invgen import operators, priors
from invgen.errors import OptionError, ShapeError
from invgen.priors.checkpoints import picture_text
from invgen.priors.checkpoints.networks.unet import UNet, VectorDenoiser


def captions():
    """Two classes, three wordings each: unit vectors near two directions."""
    generator = torch.Generator().manual_seed(0)
    base = torch.eye(384)[:2, None] + 0.01 * torch.randn(2, 3, 384, generator=generator)
    return torch.nn.functional.normalize(base, dim=-1)


def pictures(count=256):
    """Bright on the left is class 0, on the right class 1."""
    labels = torch.arange(count) % 2
    x = torch.zeros(count, 1, 8, 8)
    x[labels == 0, :, :, :4] = 1
    x[labels == 1, :, :, 4:] = 1
    return x, labels


@pytest.mark.slow
def test_an_encoder_says_of_a_picture_what_its_captions_say(monkeypatch):
    x, labels = pictures()
    encoder = priors.PictureEncoder.trained(x, labels, captions(), passes=10, width=8)
    said = encoder(x[:8]) @ captions().mean(1).T
    assert (said.argmax(1) == labels[:8]).all()
    torch.testing.assert_close(encoder(x).norm(dim=1), torch.ones(len(x)))
    monkeypatch.setattr(picture_text, "sentence_encoder", lambda: lambda text: captions()[1, 0])
    y, A, noise = priors.Text("on the right", encoder, kappa=40.0)
    assert noise.log_prob(y[None], A(x[1:2])) > noise.log_prob(y[None], A(x[:1]))
    prior = priors.GaussianMixture(torch.stack([x[0], x[1]]), var=0.05)
    both = invgen.join((torch.tensor([0.5]), operators.Matrix(torch.ones(1, 64) / 64, (1, 8, 8)), 0.1), (y, A, noise))
    found = invgen.solve(*both[:2], prior, both[2], invgen.samplers.DampedDPS(steps=20), num_samples=6, seed=0).samples
    assert ((encoder(found) @ captions().mean(1).T).argmax(1) == 1).all()  # 40 nats say right, none says left
    with pytest.raises(OptionError, match="vectors of 384 values"):
        priors.Text("a cat", operators.Identity((4,)))
    with pytest.raises(OptionError, match="a label each, from 0 to 1"):
        priors.PictureEncoder.trained(x, labels[:3], captions())


@pytest.mark.slow
def test_a_condition_is_found_and_a_copy_is_tuned():
    net = UNet(1, widths=(4,), blocks=1, unshuffle=1, embedding=8, vector=5)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.4)
    prior = VectorDenoiser(net.requires_grad_(False), (1, 8, 8), sigma_min=0.01, sigma_max=50.0)
    x, start = torch.ones(1, 8, 8), torch.eye(5)[0]

    def error(p, c):
        noise = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(9))
        return (p(x + noise, 1.0, c) - x).square().mean().item()

    found = priors.invert_condition(prior, x, start, steps=40, rate=0.1)
    assert found.norm().item() == pytest.approx(1, abs=1e-5) and error(prior, found) < 0.9 * error(prior, start)
    before = [p.clone() for p in prior.parameters()]
    tuned = priors.fine_tuned(prior, x, found, steps=20, rate=1e-2)
    assert error(tuned, found) < 0.7 * error(prior, found)
    assert all(torch.equal(a, b) for a, b in zip(before, prior.parameters(), strict=True))
    with pytest.raises(ShapeError, match="the picture has shape"):
        priors.invert_condition(prior, x[0], start)
    with pytest.raises(OptionError, match="one vector"):
        priors.invert_condition(prior, x, start[None])
