"""Models of the diffusers library: D against the library's own x_0 in every variant, folders, sizes, classes, bad files."""

import json
import os
import warnings

import pytest
import torch

import invgen
from invgen import priors
from invgen.conditional import ClassifierFree
from invgen.priors.checkpoints.diffusers import DiffusersDenoiser, network_stride
from invgen.priors.checkpoints.from_diffusers import from_diffusers
from tests.priors.checkpoints.tiny_diffusers import (
    ADM,
    DANCE,
    DM4CT,
    HOPPER,
    NCSNPP,
    VARIANTS,
    deviation,
    dit,
    unet,
    unet1d,
)

# the import of the library alone takes seconds
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*(copy|deprecated).*")]


def scheduler(name="DDPM", **config):
    import diffusers

    return getattr(diffusers, name + "Scheduler")(**config)


def saved(folder, net=None, part="unet", **config):
    """A folder as save_pretrained writes it, and the prior of the same network without a detour."""
    net = unet() if net is None else net
    net.save_pretrained(folder / part)
    scheduler(**config).save_pretrained(folder / "scheduler")
    return DiffusersDenoiser(net, scheduler(**config))


@pytest.mark.parametrize("title", VARIANTS)
def test_equals_the_library(title):
    assert deviation(VARIANTS[title]) < 1e-6


@pytest.mark.parametrize("net", [unet, lambda: unet(ADM, 3), lambda: unet1d(HOPPER), lambda: unet(DM4CT)])
def test_the_tiny_networks_feel_the_time(net):
    """Else a wrong time would pass: a hundredth of a step shows well above what the variants are allowed."""
    net = net().double()
    x = torch.randn(2, net.config.in_channels, *[32] * (2 - ("extra_in_channels" in net.config)), dtype=torch.float64)
    for t in (10.0, 400.0):
        before, after = net(x, torch.tensor(t).double()).sample, net(x, torch.tensor(t + 0.01).double()).sample
        assert (before - after).abs().max() > 3e-6 * before.abs().max(), t


def test_single_precision_equals_the_library():
    net, ddpm = unet(), scheduler(clip_sample=False)
    D = DiffusersDenoiser(net, ddpm)
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    for t in (0, 10, 400, 900):
        theirs = ddpm.step(net(x, t).sample, t, x).pred_original_sample
        alpha_bar = (1 - ddpm.betas.double()).cumprod(0)[t]
        sigma = ((1 - alpha_bar) / alpha_bar).sqrt().item()
        # x is scaled back and forth in float32, and diffusers' own tables are float32
        assert (D(x * (1 + sigma**2) ** 0.5, sigma) - theirs).abs().max() < 1e-5 * (1 + sigma) * theirs.abs().max().clamp(1)


def test_one_level_per_sample_equals_one_by_one():
    D = DiffusersDenoiser(unet().double(), scheduler())
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    both = D(x, torch.tensor([0.5, 7.0]))
    torch.testing.assert_close(both, torch.cat([D(x[:1], 0.5), D(x[1:], 7.0)]))


# its network is random
@pytest.mark.filterwarnings("ignore:of pure noise")
def test_published_ct_prior_loads_unchanged(tmp_path):
    from diffusers import DDPMPipeline

    net = unet(DM4CT)
    DDPMPipeline(net, scheduler(num_train_timesteps=1000)).save_pretrained(tmp_path)
    prior = from_diffusers(tmp_path)
    x = torch.randn(1, 1, 64, 64)
    torch.testing.assert_close(prior(x, 1.0), DiffusersDenoiser(net, scheduler())(x, 1.0))
    assert prior.shape == (1, 64, 64) and prior.stride == 32 and prior.sigma_max == pytest.approx(157.4, abs=0.1)
    prior.value_range = (-1e4, 1e4)  # of a network that was never trained
    A = invgen.operators.Mask.random((1, 64, 64), 0.5)
    result = invgen.solve(torch.zeros(A.out_shape), A, prior, 0.1, "ddrm", num_samples=1)
    assert result.samples.shape == (1, 1, 64, 64) and result.samples.isfinite().all()


def test_folders_of_every_layout(tmp_path):
    import diffusers

    x = torch.randn(1, 1, 16, 16)
    net = unet()
    net.save_pretrained(tmp_path / "flat")  # the old google/ddpm-*: everything in one folder
    scheduler("DDIM").save_pretrained(tmp_path / "flat")
    index = {
        "_class_name": "DDPMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    (tmp_path / "flat" / "model_index.json").write_text(json.dumps(index))
    diffusers.DDIMPipeline(net, scheduler("DDIM")).save_pretrained(tmp_path / "ddim")
    expected = DiffusersDenoiser(net, scheduler("DDIM"))(x, 1.0)
    for folder in ("flat", "ddim"):
        torch.testing.assert_close(from_diffusers(tmp_path / folder)(x, 1.0), expected)
    net.save_pretrained(tmp_path / "ddim" / "unet_ema")
    torch.testing.assert_close(from_diffusers(tmp_path / "ddim", subfolder="unet_ema")(x, 1.0), expected)

    consistency = unet(ADM, 3, num_class_embeds=10)
    cm = scheduler("CMStochasticIterative")
    diffusers.ConsistencyModelPipeline(consistency, cm).save_pretrained(tmp_path / "cm")
    prior = from_diffusers(tmp_path / "cm")
    assert prior.prediction == "consistency" and (prior.sigma_min, prior.sigma_max) == (0.002, 80.0)
    x3 = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(prior.condition(2)(x3, 0.002), x3)  # the boundary condition

    saved(tmp_path / "dit", dit(), "transformer")
    assert from_diffusers(tmp_path / "dit").shape == (3, 8, 8)
    saved(tmp_path / "audio", unet1d(), name="IPNDM")
    audio = from_diffusers(tmp_path / "audio")
    assert audio.shape == (2, 64) and audio.prediction == "v" and audio(torch.randn(1, 2, 64), 1.0).shape == (1, 2, 64)
    saved(tmp_path / "flow", name="FlowMatchEulerDiscrete", use_dynamic_shifting=True)
    assert from_diffusers(tmp_path / "flow", mu=1.0).sigma_max == pytest.approx(2.71828 * 999, rel=1e-4)


@pytest.mark.parametrize(
    ("net", "size"),
    [(unet, (15, 17)), (unet1d, (61,)), (lambda: unet1d(HOPPER), (13,)), (lambda: unet(DM4CT), (40, 70))],
)
def test_sizes_that_the_stride_does_not_divide_are_padded(net, size):
    net = net()
    D = DiffusersDenoiser(net, scheduler())
    stride = network_stride(net.config)
    x = torch.randn(1, D.shape[0], *size)
    out = D(x, 0.5)
    assert out.shape == x.shape
    padded = torch.nn.functional.pad(x, [n for s in reversed(size) for n in (0, -s % stride)], mode="reflect")
    torch.testing.assert_close(out, D(padded, 0.5)[(..., *(slice(s) for s in size))])


@pytest.mark.parametrize(("net", "stride"), [(unet, 2), (lambda: unet1d(DANCE), 8), (lambda: unet1d(HOPPER), 2), (dit, 2)])
def test_the_stride_is_the_least(net, stride):
    net = net()
    assert network_stride(net.config) == stride
    if stride > 2:
        with pytest.raises(RuntimeError):
            net(torch.randn(1, 2, 8 * stride + stride // 2), 1.0)


def test_classes_and_guidance():
    prior = DiffusersDenoiser(dit(), scheduler())
    x = torch.randn(2, 3, 8, 8)
    conditional, plain = prior.condition(3)(x, 1.0), prior(x, 1.0)
    assert not torch.allclose(conditional, plain)
    torch.testing.assert_close(plain, prior(x, 1.0, torch.tensor([10, 10])))  # DiT's own label for no class
    guided = ClassifierFree.of(prior, 3, scale=2.0)(x, 1.0)
    torch.testing.assert_close(guided, plain + 2 * (conditional - plain))
    mixed = prior(x, 1.0, torch.tensor([3, 4]))
    torch.testing.assert_close(mixed[:1], conditional[:1])

    labelled = unet(num_class_embeds=10)
    prior = DiffusersDenoiser(labelled, scheduler())
    x = torch.randn(2, 1, 16, 16)
    with pytest.raises(invgen.UnsupportedError, match=r"has no label for 'no class': use prior.condition\(label\)"):
        prior(x, 1.0)
    with pytest.raises(invgen.OptionError, match="no class 10; the network knows labels 0 to 9"):
        prior.condition(10)
    with_null = DiffusersDenoiser(labelled, scheduler(), null_label=9)
    torch.testing.assert_close(with_null(x, 1.0), prior.condition(9)(x, 1.0))
    with pytest.raises(invgen.UnsupportedError, match="knows no classes"):
        DiffusersDenoiser(unet(), scheduler()).condition(1)


@pytest.mark.parametrize(
    "make", [lambda: DiffusersDenoiser(dit(), scheduler()), lambda: DiffusersDenoiser(unet(), scheduler())]
)
def test_everything_moves_with_the_prior(make):
    """On the device without memory: what is left on the CPU raises, as it would on CUDA."""
    prior = make().to("meta")
    x = torch.empty(2, *prior.shape, device="meta")
    assert prior(x, 1.0).device.type == "meta"
    if prior.takes_classes:
        assert prior.condition(3)(x, torch.empty(2, device="meta")).device.type == "meta"
        assert prior(x, 1.0, 3).device.type == "meta"


def test_half_precision_keeps_the_tables(tmp_path):
    saved(tmp_path)
    x = torch.randn(1, 1, 16, 16)
    exact = from_diffusers(tmp_path)(x, 0.5)
    for dtype, tolerance in ((torch.bfloat16, 0.02), (torch.float16, 0.002)):
        prior = from_diffusers(tmp_path, dtype=dtype)
        assert prior.net.dtype == dtype and prior.dtype == torch.float32 and prior(x, 0.5).dtype == torch.float32
        assert (prior(x, 0.5) - exact).abs().max() < tolerance
        cast = from_diffusers(tmp_path).to(dtype)
        assert cast.schedule.times.dtype == torch.float64
        torch.testing.assert_close(cast(x, 0.5), prior(x, 0.5))
    double = from_diffusers(tmp_path).double()
    assert double.dtype == torch.float64 and (double(x.double(), 0.5) - exact).abs().max() < 1e-5


def test_compiles():
    prior = DiffusersDenoiser(unet(), scheduler())
    x = torch.randn(1, 1, 15, 16)
    expected = prior(x, 0.5)
    torch.testing.assert_close(torch.compile(prior, backend="eager")(x, 0.5), expected)
    prior.net = torch.compile(prior.net, backend="eager")
    torch.testing.assert_close(prior(x, 0.5), expected)
    assert prior.dtype == torch.float32


def test_zero_terminal_snr_ends_at_a_finite_level():
    config = {"rescale_betas_zero_snr": True, "clip_sample": False}
    D = DiffusersDenoiser(unet(), scheduler(**config, prediction_type="v_prediction"))
    assert 0 < D.sigma_min < D.sigma_max < float("inf")
    assert torch.isfinite(D(torch.randn(1, 1, 16, 16), D.sigma_max)).all()
    with pytest.warns(UserWarning, match="ends at pure noise"):
        DiffusersDenoiser(unet(), scheduler(**config))


def test_damaged_and_mismatched_files(tmp_path):
    from safetensors.torch import load_file, save_file

    prior = saved(tmp_path)
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    first = sorted(weights)[0]
    for change, words in (
        ({k: v for k, v in weights.items() if k != first}, f"1 tensors are missing, extra or of another shape, '{first}'"),
        (weights | {"more": torch.zeros(2)}, "'more'"),
        (weights | {first: torch.zeros(99)}, r"shape.*\[99\]"),
        (weights | {first: weights[first] * float("nan")}, "not finite"),
    ):
        save_file(change, file)
        with pytest.raises(invgen.WeightsError, match=words):
            from_diffusers(tmp_path)
    save_file(weights, file)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(invgen.WeightsError, match="Unable to load weights"):
        from_diffusers(tmp_path)
    file.unlink()
    with pytest.raises(invgen.WeightsError, match="no file named"):
        from_diffusers(tmp_path)
    torch.save(weights, file.with_suffix(".bin"))  # tensors alone, as old models have them
    x = torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(from_diffusers(tmp_path)(x, 1.0), prior(x, 1.0))
    (tmp_path / "unet" / "config.json").write_text("{")
    with pytest.raises(invgen.WeightsError, match="no diffusers model could be read"):
        from_diffusers(tmp_path)


class Malicious:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_pickles_are_not_run(tmp_path):
    saved(tmp_path)
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    file.unlink()
    torch.save({"conv_in.weight": Malicious(tmp_path / "ran")}, file.with_suffix(".bin"))
    with pytest.raises(invgen.WeightsError, match=r"Unable to load weights.*\.bin that holds nothing but tensors"):
        from_diffusers(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_models_of_other_kinds_are_refused(tmp_path, monkeypatch):
    with pytest.raises(invgen.WeightsError, match="expected a folder with unet/"):
        from_diffusers(tmp_path)
    saved(tmp_path)
    index = {"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"], "unet": ["diffusers", "UNet2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(invgen.WeightsError, match=r"lacks vqvae/config\.json"):
        from_diffusers(tmp_path)
    (tmp_path / "model_index.json").unlink()
    (tmp_path / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(invgen.WeightsError, match=r"no scheduler.*scheduler=diffusers\.DDPMScheduler\(\)"):
        from_diffusers(tmp_path)
    assert from_diffusers(tmp_path, scheduler=scheduler()).shape == (1, 16, 16)
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(invgen.UnsupportedError, match="is a UNet2DConditionModel"):
        from_diffusers(tmp_path)

    import huggingface_hub

    def offline(*args, **kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network,\nno cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(invgen.WeightsError, match=r"some/model is no folder.*no network, no cache.*pass the folder"):
        from_diffusers("some/model")


def test_schedulers_and_shapes_that_do_not_fit():
    with pytest.raises(invgen.ShapeError, match=r"takes 1 channels, so that shape must be \(1, H, W\)"):
        DiffusersDenoiser(unet(), scheduler(), shape=(3, 16, 16))
    with pytest.raises(invgen.ShapeError, match=r"shape must be \(2, L\)"):
        DiffusersDenoiser(unet1d(), scheduler(), shape=(2, 8, 8))
    with pytest.raises(invgen.OptionError, match=r"pass shape=\(1, H, W\)"):
        DiffusersDenoiser(unet(sample_size=None), scheduler())
    with pytest.raises(invgen.UnsupportedError, match="turns 1 channels into 3"):
        DiffusersDenoiser(unet(out_channels=3), scheduler())
    with pytest.raises(invgen.ShapeError, match=r"denoises \(B, 1, 16, 16\), got \(1, 3, 16, 16\)"):
        DiffusersDenoiser(unet(), scheduler())(torch.randn(1, 3, 16, 16), 1.0)
    with pytest.raises(invgen.ShapeError, match="square images only"):
        DiffusersDenoiser(dit(), scheduler())(torch.randn(1, 3, 4, 16), 1.0)
    with pytest.raises(invgen.UnsupportedError, match="predicts 'flow_prediction'"):
        ddpm = scheduler()
        ddpm.register_to_config(prediction_type="flow_prediction")
        DiffusersDenoiser(unet(), ddpm)
    with pytest.raises(invgen.UnsupportedError, match="VQDiffusionScheduler has no noise schedule"):
        DiffusersDenoiser(unet(), scheduler("VQDiffusion", num_vec_classes=4))


def test_published_ve_models_have_their_range():
    prior = DiffusersDenoiser(unet(NCSNPP, 3), scheduler("ScoreSdeVe"))
    assert prior.value_range == (0.0, 1.0) and (prior.data_mean, prior.data_std) == (0.5, 0.25)
    assert priors.DiffusersDenoiser is DiffusersDenoiser


def test_the_commit_of_a_model_of_the_hub_is_said_and_kept(tmp_path, monkeypatch):
    """A name of the hub is another model when its owners change it."""
    import huggingface_hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    saved(tmp_path / commit)
    asked = []

    def snapshot(name, revision=None, **options):
        asked.append(revision)
        return str(tmp_path / commit)

    def network(kind, model, folder, **options):
        asked.append(options["revision"])
        return unet()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr("invgen.priors.checkpoints.from_diffusers.read_network", network)
    with pytest.warns(
        UserWarning, match=f"some/model may change: the latest is commit {commit} now; pass revision='{commit}'"
    ):
        prior = from_diffusers("some/model")
    assert prior.read_from == f"some/model, commit {commit}" and prior.read_from in repr(prior)
    assert asked == [None, commit]  # the weights are those of the description, whatever is pushed in between
    with pytest.warns(UserWarning, match="main is commit"):
        from_diffusers("some/model", revision="main")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_diffusers("some/model", revision=commit).read_from == f"some/model, commit {commit}"
        assert from_diffusers(tmp_path / commit, revision=None).read_from == str(tmp_path / commit)
