"""Folders of latent pipelines: what is read of them, texts and embeddings, samplers on them, damage."""

import copy as copy_module
import json
import pickle
import shutil

import pytest
import torch

import invgen
from invgen.conditional import ClassifierFree
from invgen.errors import MissingExtraError, OptionError, ShapeError, UnsupportedError, WeightsError
from invgen.operators import Mask
from invgen.priors.checkpoints.pipelines import from_pipeline
from invgen.priors.checkpoints.text import TextEmbedding
from tests.priors.checkpoints import tiny_pipelines
from tests.priors.checkpoints.pipeline_steps import CLOSE, MARKS, codes, deviation, euler, flow

pytestmark = MARKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole Stable Diffusion with text encoder, saved."""
    pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("sd")
    tiny_pipelines.stable_diffusion(euler(), text=True).save_pretrained(path)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "sd")


@pytest.fixture(scope="module")
def wordless(tmp_path_factory):
    """A Stable Diffusion without index and text encoders, which needs no transformers."""
    path = tmp_path_factory.mktemp("wordless")
    parts = {"unet": tiny_pipelines.text_unet(), "vae": tiny_pipelines.kl(), "scheduler": euler()}
    for name, part in parts.items():
        part.save_pretrained(path / name)
    return path


def test_a_folder_equals_the_pipeline(folder):
    built = from_pipeline(tiny_pipelines.stable_diffusion(euler(), text=True)).guided("a cat", scale=7.5)
    read = from_pipeline(folder)
    assert read.latent.prompts.known == {} and isinstance(read.latent.prompts.source, str)  # nothing encoded yet
    read = read.guided("a cat", scale=7.5)
    z = codes(2, 4, 8, 8)
    torch.testing.assert_close(read.latent(z, 2.0), built.latent(z, 2.0))
    torch.testing.assert_close(read(z), built(z))


@pytest.mark.parametrize("build", ["xl", "sd3", "flux", "pixart"])
def test_text_encoders_of_a_folder_equal_the_pipelines(build, tmp_path):
    pytest.importorskip("transformers")
    pipeline = getattr(tiny_pipelines, build)(flow() if build in ("sd3", "flux") else euler())
    pipeline.save_pretrained(tmp_path)
    z = codes(2, 4, 8, 8)
    built, read = (from_pipeline(source, shape=(3, 16, 16)).condition("a cat") for source in (pipeline, tmp_path))
    torch.testing.assert_close(read.latent(z, 2.0), built.latent(z, 2.0))


def test_parts_that_do_not_matter_are_not_read(copy):
    """A safety checker and the like that the index names, but that need not be there."""
    index = json.loads((copy / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    index["requires_safety_checker"] = True
    (copy / "model_index.json").write_text(json.dumps(index))
    assert from_pipeline(copy).condition("a cat").latent(codes(1, 4, 8, 8), 1.0).isfinite().all()


def test_a_copy_gives_the_same(folder):
    prior = from_pipeline(folder).guided("a cat")
    other, z = pickle.loads(pickle.dumps(copy_module.deepcopy(prior))), codes(1, 4, 8, 8)
    torch.testing.assert_close(other.latent(z, 1.0), prior.latent(z, 1.0))


def test_the_prompt_matters(folder):
    prior, z = from_pipeline(folder), codes(2, 4, 8, 8)
    D = [p.latent(z, 2.0) for p in (prior, prior.condition("a cat"), prior.condition("ugly"), prior.guided("a cat", 7.5))]
    for k in range(4):
        for j in range(k):
            assert deviation(D[k], D[j]) > 1e-3
    torch.testing.assert_close(D[0], prior.condition("").latent(z, 2.0))
    torch.testing.assert_close(D[3], ClassifierFree.of(prior.latent, "a cat", scale=7.5)(z, 2.0))


def test_embeddings_take_the_place_of_text_encoders(wordless):
    prior = from_pipeline(wordless)
    z, embeds = codes(2, 4, 8, 8), codes(5, 12, seed=1)
    net, scheduler = tiny_pipelines.text_unet(), euler()
    scheduler.set_timesteps(timesteps=[400])
    sigma = scheduler.sigmas[0].item()
    out = net(scheduler.scale_model_input(z, 400), 400, encoder_hidden_states=embeds.expand(2, -1, -1)).sample
    theirs = scheduler.step(out, scheduler.timesteps[0], z).pred_original_sample
    scheduler.set_timesteps(timesteps=[400])
    for text in (embeds, embeds[None], TextEmbedding(embeds)):
        assert deviation(prior.condition(text).latent(z, sigma), theirs) < CLOSE
    null = torch.zeros(5, 12)
    guided = from_pipeline(wordless, empty=null).guided(embeds, 3.0)
    U, C = (prior.condition(t).latent(z, sigma) for t in (null, embeds))
    torch.testing.assert_close(guided.latent(z, sigma), U + 3 * (C - U))


@pytest.mark.parametrize("family", ["xl", "sd3", "flux"])
def test_folders_without_text_encoders(family, tmp_path):
    """The larger families under embeddings, against their network called by hand and the scheduler's step down to 0."""
    network = {
        "xl": tiny_pipelines.xl_unet,
        "sd3": tiny_pipelines.sd3_transformer,
        "flux": tiny_pipelines.flux_transformer,
    }[family]()
    scheduler = euler() if family == "xl" else flow()
    parts = {"unet" if family == "xl" else "transformer": network, "vae": tiny_pipelines.kl(), "scheduler": scheduler}
    for name, part in parts.items():
        part.save_pretrained(tmp_path / name)
    prior = from_pipeline(tmp_path, shape=(3, 16, 24))
    embeds, pooled = codes(1, 5, 12, seed=1), codes(1, prior.latent.pooled, seed=2)
    z, texts, vectors = codes(2, 4, 8, 12), embeds.expand(2, -1, -1), pooled.expand(2, -1)
    scheduler.set_timesteps(**{"timesteps": [400]} if family == "xl" else {"sigmas": [0.4]})
    t, sigma = scheduler.timesteps[0], scheduler.sigmas[0].item()
    if family == "xl":
        sizes = torch.tensor([[16.0, 24.0, 0.0, 0.0, 16.0, 24.0]]).expand(2, -1)
        added = {"text_embeds": vectors, "time_ids": sizes}
        out = network(scheduler.scale_model_input(z, t), t, encoder_hidden_states=texts, added_cond_kwargs=added).sample
        x = z
    else:
        call = {"timestep": t.expand(2), "encoder_hidden_states": texts, "pooled_projections": vectors}
        if family == "flux":
            patches = z.unfold(2, 2, 2).unfold(3, 2, 2)  # (2, 4, rows, columns, 2, 2)
            tokens = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
            places = torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(6.0))
            call |= {"timestep": t.expand(2) / 1000, "guidance": torch.full((2,), 3.5), "img_ids": places}
            out = network(tokens, txt_ids=torch.zeros(5, 3), **call).sample
            out = torch.nn.functional.fold(out.unflatten(2, (4, 4)).permute(0, 2, 3, 1).flatten(1, 2), (8, 12), 2, stride=2)
        else:
            out = network(z, **call).sample
        x, sigma = z / (1 - sigma), sigma / (1 - sigma)
    theirs = scheduler.step(out, t, z).prev_sample
    assert deviation(prior.condition(TextEmbedding(embeds, pooled)).latent(x, sigma), theirs) < CLOSE


# an untrained network, in three steps
@pytest.mark.filterwarnings("ignore:the .* cannot make what was measured")
@pytest.mark.filterwarnings("ignore:.* samples of .* are saturated")
@pytest.mark.filterwarnings("ignore:of pure noise at sigma")
def test_samplers_run_under_a_prompt(folder):
    prior = from_pipeline(folder).guided("a cat", scale=3.0)
    A = Mask.random(prior.shape, 0.5)
    for sampler in (invgen.samplers.DPS(steps=3), invgen.samplers.ReSample(steps=3, corrections=1, inner_steps=2)):
        result = invgen.solve(torch.zeros(A.out_shape), A, prior, 0.1, sampler, num_samples=2)
        assert torch.isfinite(result.samples).all()
        assert result.samples.shape == (2, *prior.shape)


def test_from_diffusers_gives_it_too(wordless, tmp_path):
    from diffusers import DDPMScheduler

    from invgen.priors import LatentDiffusion, from_diffusers

    tiny_pipelines.ldm(DDPMScheduler()).save_pretrained(tmp_path)
    prior = from_diffusers(tmp_path, (3, 32, 16), data_std=0.3)
    assert isinstance(prior, LatentDiffusion) and prior.shape == (3, 32, 16) and prior.data_std == 0.3


def test_half_precision_keeps_the_autoencoder_that_asks_for_it(wordless):
    prior = from_pipeline(wordless, dtype=torch.bfloat16)
    assert prior.autoencoder.dtype == torch.float32 and prior.latent.net.dtype == torch.bfloat16
    z = codes(2, 4, 8, 8)
    D = prior.condition(codes(5, 12)).latent(z, 0.5)
    assert D.dtype == torch.float32
    assert deviation(D, from_pipeline(wordless).condition(codes(5, 12)).latent(z, 0.5)) < 0.05


def test_damaged_and_incomplete_folders(copy):
    index = json.loads((copy / "model_index.json").read_text())
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    with pytest.raises(WeightsError, match="no diffusers model could be read"):
        from_pipeline(copy)
    weights.unlink()
    with pytest.raises(WeightsError, match=r"\.safetensors"):
        from_pipeline(copy)
    weights.write_bytes(whole)
    config = copy / "vae" / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"AutoencoderKL"', '"AutoencoderOfNoName"'))
    with pytest.raises(UnsupportedError, match="AutoencoderOfNoName"):
        from_pipeline(copy)
    config.unlink()
    with pytest.raises(WeightsError, match=r"lacks vae/config\.json"):
        from_pipeline(copy)
    config.write_text(text)
    (copy / "model_index.json").write_text(json.dumps({k: v for k, v in index.items() if k != "vae"}))
    with pytest.raises(WeightsError, match="has no vae or vqvae"):
        from_pipeline(copy)
    with pytest.raises(WeightsError, match="nowhere"):
        from_pipeline(copy / "nowhere")
    (copy / "model_index.json").write_text(json.dumps(index))
    assert from_pipeline(copy).shape == (3, 16, 16)


def test_text_encoders_are_read_from_safetensors_only(copy):
    weights = next((copy / "text_encoder").glob("*.safetensors"))
    from safetensors.torch import load_file

    torch.save(load_file(weights), copy / "text_encoder" / "pytorch_model.bin")
    weights.unlink()
    prior = from_pipeline(copy)  # nothing of the text is read yet
    with pytest.raises(WeightsError, match="text encoders .* could not be read"):
        prior.condition("a cat")


def test_without_transformers(folder, monkeypatch):
    import sys

    prior = from_pipeline(folder)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"invgen-solvers\[text\]"):
        prior.condition("a cat")
    assert torch.isfinite(prior.condition(codes(8, 12)).latent(codes(1, 4, 8, 8), 1.0)).all()


def test_errors(wordless):
    prior, z = from_pipeline(wordless), codes(1, 4, 8, 8)
    with pytest.raises(ShapeError, match="multiples of 2"):
        from_pipeline(wordless, shape=(3, 17, 16))
    with pytest.raises(ShapeError, match=r"\(3, H, W\)"):
        from_pipeline(wordless, shape=(1, 16, 16))
    with pytest.raises(UnsupportedError, match="no text encoders"):
        prior.condition("a cat")
    with pytest.raises(OptionError, match="empty="):
        prior.latent(z, 1.0)
    with pytest.raises(ShapeError, match="width 12"):
        prior.condition(codes(5, 11))
    with pytest.raises(ShapeError, match="2 axes"):
        prior.condition(codes(2, 5, 12))
    with pytest.raises(OptionError, match="a prompt, a TextEmbedding"):
        prior.condition(3)
    with pytest.raises(OptionError, match="no guidance scale"):
        from_pipeline(wordless, guidance=3.0)
    with pytest.raises(UnsupportedError, match="given one already"):
        prior.condition(codes(5, 12)).condition(codes(5, 12))
