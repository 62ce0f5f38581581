"""Models of the diffusers library: the denoiser against the library's own pred_original_sample, for each prediction."""

import pytest
import torch

import invgen
from invgen.priors.diffusers import DiffusersDenoiser, from_diffusers

pytestmark = pytest.mark.slow  # the import of the library alone takes seconds


def tiny(out_channels=1, **config):
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=out_channels,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    )
    return unet.eval().requires_grad_(False), DDPMScheduler(clip_sample=False, **config)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_equals_the_library(prediction, schedule):
    unet, scheduler = tiny(prediction_type=prediction, beta_schedule=schedule)
    D = DiffusersDenoiser(unet, scheduler)
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    for t in (0, 10, 400, 900):
        theirs = scheduler.step(unet(x, t).sample, t, x).pred_original_sample
        # the level of time t in double precision: in float32 that of t = 0 is off by 3e-4, a thousandth of a time step
        alpha_bar = (1 - scheduler.betas.double()).cumprod(0)[t]
        sigma = ((1 - alpha_bar) / alpha_bar).sqrt().item()
        ours = D(x * (1 + sigma**2) ** 0.5, sigma)
        # x is scaled back and forth in float32, and diffusers' own tables are float32
        assert (ours - theirs).abs().max() < 1e-5 * (1 + sigma) * theirs.abs().max().clamp(min=1), t


def test_one_level_per_sample_equals_one_by_one():
    D = DiffusersDenoiser(*tiny())
    x = torch.randn(2, 1, 16, 16)
    both = D(x, torch.tensor([0.5, 7.0]))
    torch.testing.assert_close(both, torch.cat([D(x[:1], 0.5), D(x[1:], 7.0)]), atol=1e-5, rtol=1e-5)


def test_learned_variance_takes_the_first_half():
    unet, scheduler = tiny(out_channels=2, variance_type="learned_range")
    x = torch.randn(1, 1, 16, 16)
    D = DiffusersDenoiser(unet, scheduler)
    t = D._time(torch.tensor([2.0], dtype=torch.float64)).float()
    expected = x - 2.0 * unet(x / 5**0.5, t).sample[:, :1]
    torch.testing.assert_close(D(x, 2.0), expected)


def test_zero_terminal_snr_ends_at_a_finite_level():
    D = DiffusersDenoiser(*tiny(rescale_betas_zero_snr=True, prediction_type="v_prediction"))
    assert 0 < D.sigma_min < D.sigma_max < float("inf")
    assert torch.isfinite(D(torch.randn(1, 1, 16, 16), D.sigma_max)).all()


def test_folder_round_trip_and_posterior_samples(tmp_path):
    unet, scheduler = tiny()
    unet.save_pretrained(tmp_path / "unet")
    scheduler.save_pretrained(tmp_path / "scheduler")
    prior = from_diffusers(tmp_path)
    x = torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(prior(x, 1.0), DiffusersDenoiser(unet, scheduler)(x, 1.0))
    from invgen.operators import Mask

    A = Mask.random((1, 16, 16), 0.5)
    result = invgen.solve(torch.zeros(A.out_shape), A, prior, 0.1, "ddrm", num_samples=2)
    assert result.samples.shape == (2, 1, 16, 16) and result.nfe == 20


def test_errors_are_one_sentence(tmp_path):
    with pytest.raises(invgen.WeightsError, match="expected a folder with unet/"):
        from_diffusers(tmp_path)
    unet, scheduler = tiny()
    with pytest.raises(invgen.ShapeError, match=r"takes 1 channels"):
        DiffusersDenoiser(unet, scheduler, shape=(3, 16, 16))
    scheduler.register_to_config(prediction_type="flow_prediction")
    with pytest.raises(invgen.UnsupportedError, match="flow_prediction"):
        DiffusersDenoiser(unet, scheduler)
