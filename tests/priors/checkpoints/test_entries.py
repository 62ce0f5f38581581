"""Which weights of a checkpoint are taken: the averaged ones, wherever a framework puts them, and never in silence.

The names are those that the libraries write (torch.optim.swa_utils, ema-pytorch, torch-ema, diffusers, Lightning, CompVis,
BasicSR, k-diffusion); what is right is known, since the trained weights are the averaged ones plus one.
"""

import pytest
import torch
from torch import nn

import invgen
from invgen import priors
from invgen.priors.checkpoints import entries
from tests.priors.checkpoints import original


class Net(nn.Module):
    """A network with batch norms, a table that is no weight, and layers of equal shapes."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.second, self.last = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 1, 1)
        self.register_buffer("freqs", torch.arange(4.0))


torch.manual_seed(0)
NET = Net()
AVERAGE = {n: t.clone() for n, t in NET.state_dict().items()}
TRAINED = {n: t + 1 for n, t in AVERAGE.items()}
SHADOW = [AVERAGE[n] for n, _ in NET.named_parameters()]


def behind(prefix, tensors, **more):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()} | more


def undotted(tensors):
    names = [n for n, _ in NET.named_parameters()]
    table = {"model_ema.diffusion_model" + n.replace(".", ""): tensors[n] for n in names}
    return table | {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(3)}


BESIDE = ("params_ema", "ema_params", "EMA", "ema_state", "model_ema", "ema", "netEMA", "state_dict_ema", "avg_model")
BOTH = {entry: {"model": TRAINED, entry: AVERAGE, "step": 3} for entry in BESIDE} | {
    "edm": {"net": TRAINED, "params_ema": AVERAGE},
    "basicsr": {"params": TRAINED, "params_ema": AVERAGE},
    "swa_utils": {"model": TRAINED, "second": behind("module.", AVERAGE, n_averaged=torch.tensor(3))},
    "ema_pytorch": behind("online_model.", TRAINED) | behind("ema_model.", AVERAGE, initted=torch.tensor(True)),
    "ema_pytorch in a trainer": {
        "model": TRAINED,
        "ema": behind("online_model.", TRAINED) | behind("ema_model.", AVERAGE, step=torch.tensor([3])),
    },
    "torch_ema": {"model": TRAINED, "ema": {"decay": 0.9, "shadow_params": SHADOW, "collected_params": None}},
    "diffusers": {"unet": TRAINED, "ema_unet": {"decay": 0.9, "shadow_params": SHADOW, "power": 2 / 3}},
    "lightning": {"state_dict": behind("net.", TRAINED, betas=torch.rand(5)) | behind("net_ema.", AVERAGE), "epoch": 1},
    "lightning 2.6": {"state_dict": behind("net.", AVERAGE), "current_model_state": behind("net.", TRAINED)},
    "compvis": {
        "state_dict": behind("model.diffusion_model.", TRAINED, betas=torch.rand(5))
        | undotted(AVERAGE)
        | {"first_stage_model.first.weight": torch.zeros(2)}
    },
    "compiled": {"model": behind("_orig_mod.", TRAINED), "ema": behind("_orig_mod.module.", AVERAGE)},
    "optimizer beside": {
        "ema": AVERAGE,
        "net": TRAINED,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "ema": AVERAGE},
    },
}
ALONE = {
    "data parallel": behind("module.", AVERAGE),
    "compiled": behind("_orig_mod.", AVERAGE),
    "averaged": behind("module.", AVERAGE, n_averaged=torch.tensor(3)),
    "lightning": {"state_dict": behind("model.", AVERAGE, betas=torch.rand(5), alphas_cumprod=torch.rand(5))},
    "before torch 0.4.1": {n: t for n, t in AVERAGE.items() if not n.endswith("num_batches_tracked")},
    "deep": {"trainer": {"agents": {"a": {"policy": behind("core.net.", AVERAGE)}}}},
}


def same(found, expected, names=None):
    return all(torch.equal(found[n], expected[n]) for n in names or expected)


@pytest.mark.parametrize("kind", BOTH)
def test_the_average_is_taken_and_said(kind, tmp_path):
    torch.save(BOTH[kind], tmp_path / "net.pt")
    averages = [n for n, _ in NET.named_parameters()]  # some libraries average no buffers
    found = priors.read_weights(tmp_path / "net.pt", Net())
    assert same(found, AVERAGE, averages) and found.averaged and "averaged weights" in repr(found)
    last = priors.read_weights(tmp_path / "net.pt", Net(), ema=False)
    assert same(last, TRAINED) and not last.averaged and "averaged" not in repr(last)
    Net().load_state_dict(found)  # with all that it needs


@pytest.mark.parametrize("kind", ALONE)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_one_network_behind_any_prefix(kind, form, tmp_path):
    torch.save(ALONE[kind], tmp_path / "net.pt", _use_new_zipfile_serialization=form == "zip")
    found = priors.read_weights(tmp_path / "net.pt", Net())
    missing = [n for n in AVERAGE if n.endswith("num_batches_tracked")]
    assert same(found, AVERAGE, [n for n in AVERAGE if n not in missing])
    assert found["norm.num_batches_tracked"] == 0  # nothing but training reads it
    assert found.averaged == (kind == "averaged")


def test_a_list_of_averages_alone_takes_its_names_from_the_network(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    torch.save({"decay": 0.9, "shadow_params": [p.detach() for p in net.parameters()]}, tmp_path / "ema.pt")
    assert same(priors.read_weights(tmp_path / "ema.pt", net), net.state_dict())
    with pytest.raises(invgen.WeightsError, match=r"without names, 'shadow_params', 6 tensors .* pass net="):
        priors.read_weights(tmp_path / "ema.pt")


def test_what_cannot_be_decided_is_an_error(tmp_path):
    path = tmp_path / "net.pt"
    torch.save({"ema_0.99": AVERAGE, "ema_0.9999": TRAINED}, path)
    with pytest.raises(invgen.WeightsError, match=r"holds 2 networks that it may be, 'ema_0.99', 'ema_0.9999': pass key="):
        priors.read_weights(path, Net())
    assert same(priors.read_weights(path, Net(), key="ema_0.9999"), TRAINED)
    torch.save({"generator": TRAINED, "teacher": AVERAGE}, path)
    with pytest.raises(invgen.WeightsError, match="'generator', 'teacher'"):
        priors.read_weights(path)
    torch.save({"model": TRAINED, "ema": {"shadow_params": [torch.zeros(3)]}}, path)
    with pytest.raises(invgen.WeightsError, match=r"'ema.shadow_params', 1 tensors that fit no network .* ema=False"):
        priors.read_weights(path, Net())
    assert same(priors.read_weights(path, Net(), ema=False), TRAINED)
    pair = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])  # one average for two layers of one shape
    torch.save({"model": pair.state_dict(), "ema": {"shadow_params": [torch.zeros(2, 2), torch.zeros(2)]}}, path)
    with pytest.raises(invgen.WeightsError, match="fit no network"):
        priors.read_weights(path, pair)
    torch.save({"model_ema": AVERAGE}, path)
    with pytest.raises(invgen.WeightsError, match=r"averaged weights alone \('model_ema'\): leave out ema=False"):
        priors.read_weights(path, Net(), ema=False)
    torch.save({"net": TRAINED, "lr": 3}, path)
    with pytest.raises(invgen.WeightsError, match="no tensors by name under 'lr'"):
        priors.read_weights(path, key="lr")
    with pytest.raises(invgen.WeightsError, match="has no entry 'ema2'; it has 'net', 'lr'"):
        priors.read_weights(path, key="ema2")
    torch.save([1, 2], path)
    with pytest.raises(invgen.WeightsError, match="holds a list; expected a state dict"):
        priors.read_weights(path)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(invgen.WeightsError, match="do not fit the network"):
        priors.read_weights(path, Net())
    with pytest.raises(invgen.OptionError, match="net of read_weights must be a Module or None, got 'ema'"):
        priors.read_weights(path, "ema")


def test_without_a_network_names_stay_but_for_wrappers(tmp_path):
    path = tmp_path / "net.pt"
    torch.save({"state_dict": behind("module.model.", AVERAGE), "step": torch.tensor(4)}, path)
    assert list(priors.read_weights(path)) == [f"model.{n}" for n in AVERAGE]
    assert same(priors.read_weights(path, prefix="module.model."), AVERAGE)
    torch.save({"net.a.w": torch.zeros(1), "ema.a.w": torch.ones(1), "step": torch.tensor(4)}, path)
    assert priors.read_weights(path) == {"a.w": torch.ones(1)}
    assert priors.read_weights(path, ema=False) == {"net.a.w": torch.zeros(1)}


@pytest.mark.parametrize(
    ("place", "averaged"),
    [("model_ema", True), ("EMA", True), ("G_ema.module", True), ("netEMA", True), ("ema.online_model", False),
     ("swa_model", True), ("schema", False), ("model", False), ("decoder", False), ("ema_0.9999", True)],
)  # fmt: skip
def test_words_that_say_averaged(place, averaged):
    assert entries.is_averaged(place) is averaged


LOADERS = {
    "edm_ddpmpp": lambda path, about, **o: priors.from_edm(path, preconditioning="edm", **o),
    "edm_adm": lambda path, about, **o: priors.from_inverse_bench(path, **o),
    "k_image_v1": lambda path, about, **o: priors.from_k_diffusion(path, config=about["config"], **o),
    "sde_vp_ddpm": lambda path, about, **o: priors.from_score_sde(path, (3, 8, 8), sde="vp", continuous=False, **o),
    "adm_legacy": lambda path, about, **o: priors.from_guided_diffusion(path, (3, 8, 8), **about["options"], **o),
    "adm_new_order": lambda path, about, **o: priors.from_flow_matching(path, (3, 8, 8), **about["options"], **o),
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", LOADERS)
def test_every_loader_takes_the_average_and_prints_it(variant, tmp_path):
    path = tmp_path / "net.pt"
    state, _, about = original.load(variant)
    shown = {k: 2 * v if v.is_floating_point() else v for k, v in state.items()}
    torch.save({"net": shown, "params_ema": behind("module.", state)}, path)
    average, last = (LOADERS[variant](path, about, ema=ema) for ema in (True, False))
    torch.save({"state_dict": behind("network.", state, betas=torch.ones(3))}, path)
    alone = LOADERS[variant](path, about)
    x = torch.zeros(1, *average.shape)
    assert torch.equal(average(x, 1.0), alone(x, 1.0)) and not torch.equal(average(x, 1.0), last(x, 1.0))
    assert "averaged weights 'params_ema.module" in repr(average) and "read_from=\"weights 'net" in repr(last)


@pytest.mark.data
@pytest.mark.parametrize("name", ["ddpm_mnist", "dncnn_25", "hayato_conditional_wgan", "vae_mnist"])
def test_published_files_are_read_as_torch_reads_them(name, field_data):
    path = field_data(f"checkpoints/{name}.pth")
    expected = torch.load(path, "cpu", weights_only=True)
    found = priors.read_weights(path)
    assert same(found, expected) and found.keys() == expected.keys()
