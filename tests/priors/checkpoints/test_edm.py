"""EDM, EDM2 and InverseBench checkpoints against the outputs of the original code (see original.py).

NVlabs/edm 008a4e5316 and NVlabs/edm2 4bf8162f60, their preconditioned networks on random weights; InverseBench (b113d67b62)
runs the same networks. The pickles are made here in the form of NVlabs's, with code that must not run in place of theirs.
"""

import pickle
import sys
import types

import pytest
import torch

import invgen
from invgen import priors
from invgen.priors.checkpoints.edm import from_inverse_bench, one_hot
from tests.priors.checkpoints import original

VARIANTS = [
    "edm_ddpmpp", "edm_ddpmpp_classes", "edm_ncsnpp", "edm_skip", "edm_adm", "edm_adm_classes", "vp_ddpmpp", "ve_ncsnpp",
    "iddpm_adm", "edm2", "edm2_classes",
]  # fmt: skip
NAMES = {"EDMPrecond": "edm", "Precond": "edm", "VPPrecond": "vp", "VEPrecond": "ve", "iDDPMPrecond": "iddpm"}


def saved(tmp_path, variant):
    state, tensors, about = original.load(variant)
    torch.save({"ema": state, "net": {k: torch.zeros_like(v) for k, v in state.items()}, "step": 3}, tmp_path / "net.pt")
    options = {"preconditioning": NAMES[about["preconditioning"]], "sigma_data": about["sigma_data"]}
    return tmp_path / "net.pt", tensors, options


def agree(prior, tensors):
    """The largest deviation of the network and of the denoiser, the latter per unit of input."""
    label = tensors.get("label")
    given = None if label is None else one_hot(label, prior.net.label_dim, tensors["x"])
    network = (prior.net(tensors["x"], tensors["t"], given) - tensors["out"]).abs().max().item()
    size = 1 + tensors["sigma"].reshape(-1, 1, 1, 1)
    D = (prior(tensors["xs"], tensors["sigma"], label) - tensors["D"]).abs().div(size).max().item()
    plain = (prior(tensors["xs"], tensors["sigma"]) - tensors["D_plain"]).abs().div(size).max().item()
    return network, D, plain


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_original(variant, tmp_path):
    path, tensors, options = saved(tmp_path, variant)
    prior = priors.from_edm(path, **options)
    assert prior.shape == tensors["x"].shape[1:]
    assert max(agree(prior, tensors)) < 1e-5


class Persistent:
    """Pickled as StyleGAN's persistence does: a function, given the source and the state."""

    def __init__(self, name, state):
        self.meta = {"type": "class", "version": 6, "class_name": name, "state": state, "module_src": "open('ran', 'w')"}

    def __reduce__(self):
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


def nvidia_pickle(state, name, **attributes):
    """A pickle in the form of NVlabs/edm: nested persistent modules, with a loss and options beside them."""

    def module(tensors, kind, **more):
        children = sorted({key.split(".")[0] for key in tensors if "." in key})
        inner = {c: {k[len(c) + 1 :]: v for k, v in tensors.items() if k.startswith(c + ".")} for c in children}
        own = {k: v for k, v in tensors.items() if "." not in k}
        weights = {k: torch.nn.Parameter(v) for k, v in own.items() if k in ("weight", "bias", "emb_gain", "out_gain")}
        buffers = {k: v for k, v in own.items() if k not in weights} | {"resample_filter_unused": None}
        modules = {c: module(t, "Block") for c, t in inner.items()} | {"skip_unused": None}
        return Persistent(
            kind, {"_parameters": weights, "_buffers": buffers, "_modules": modules, "training": False, **more}
        )

    fake = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the reader called a function of the pickle")

    _reconstruct_persistent_obj.__module__ = fake.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    fake._reconstruct_persistent_obj = _reconstruct_persistent_obj
    sys.modules["torch_utils"], sys.modules["torch_utils.persistence"] = types.ModuleType("torch_utils"), fake
    try:
        loss = Persistent("EDMLoss", {"P_mean": -1.2})
        return pickle.dumps({"ema": module(state, name, **attributes), "loss_fn": loss, "dataset_kwargs": {"path": "x"}})
    finally:
        del sys.modules["torch_utils"], sys.modules["torch_utils.persistence"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["edm_ddpmpp_classes", "vp_ddpmpp", "ve_ncsnpp", "iddpm_adm", "edm2_classes"])
def test_pickles_of_nvidia_are_read_without_running_them(variant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state, tensors, about = original.load(variant)
    numbers = {} if about["sigma_data"] is None else {"sigma_data": about["sigma_data"]}
    (tmp_path / "net.pkl").write_bytes(nvidia_pickle(state, about["preconditioning"], **numbers))
    assert max(agree(priors.from_edm(tmp_path / "net.pkl"), tensors)) < 1e-5
    assert not (tmp_path / "ran").exists()


def test_a_network_already_loaded():
    state, tensors, about = original.load("edm_ncsnpp")

    class Net(torch.nn.Module):
        img_resolution, img_channels, label_dim, sigma_min, sigma_max = 8, 3, 3, 0, float("inf")

        def forward(self, x, sigma, labels=None):
            assert x.dtype == sigma.dtype == torch.float32 and sigma.shape == (len(x),)
            return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2) + (0 if labels is None else labels.sum())

    prior = priors.from_edm(Net(), sigma_max=50.0)
    assert prior.shape == (3, 8, 8) and (prior.sigma_min, prior.sigma_max) == (0.002, 50.0)
    x = tensors["x"].double()
    torch.testing.assert_close(prior(x, 2.0), (x / 5).float().double())
    torch.testing.assert_close(prior.condition(1)(x, 2.0), (x / 5 + len(x)).float().double())
    with pytest.raises(invgen.OptionError, match=r"pass shape=\(C, H, W\)"):
        priors.from_edm(lambda x, sigma, labels: x)
    with pytest.raises(invgen.OptionError, match="source of from_edm must be a string, a Path or a function, got 3"):
        priors.from_edm(3)


@pytest.mark.slow
def test_inverse_bench_tells_the_preconditioning_by_the_network(tmp_path):
    for variant in ("vp_ddpmpp", "edm_adm"):
        path, tensors, _ = saved(tmp_path, variant)
        assert max(agree(from_inverse_bench(path), tensors)) < 1e-5


@pytest.mark.slow
def test_labels(tmp_path):
    path, tensors, options = saved(tmp_path, "edm_ncsnpp")
    prior, x = priors.from_edm(path, **options), tensors["xs"]
    by_class = prior.condition(2)(x, 1.0)
    torch.testing.assert_close(by_class, prior.condition(torch.tensor([0.0, 0.0, 1.0]))(x, 1.0))
    torch.testing.assert_close(by_class, prior(x, 1.0, torch.tensor([2, 2, 2])))
    with pytest.raises(invgen.OptionError, match="knows the classes 0 to 2, got 3"):
        prior.condition(3)(x, 1.0)
    path, tensors, options = saved(tmp_path, "edm_adm")
    with pytest.raises(invgen.UnsupportedError, match="knows no labels"):
        priors.from_edm(path, **options).condition(0)(tensors["xs"], 1.0)


@pytest.mark.slow
def test_gradients_and_other_sizes(tmp_path):
    for variant in ("edm_skip", "edm_adm", "edm2"):
        path, tensors, options = saved(tmp_path, variant)
        prior = priors.from_edm(path, **options)
        x0, pullback = prior.vjp(tensors["xs"], 1.0)
        assert pullback(x0).abs().sum() > 0
        wide = torch.randn(1, prior.shape[0], 9, 14)
        assert prior(wide, 1.0).shape == wide.shape


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["edm_ncsnpp", "edm_adm", "edm2"])
def test_half_precision_keeps_the_noise_level(variant, tmp_path):
    path, tensors, options = saved(tmp_path, variant)
    prior = priors.from_edm(path, **options).bfloat16()
    D, size = prior(tensors["xs"], tensors["sigma"]), tensors["D_plain"].abs().max()
    assert D.dtype == torch.float32 and (D - tensors["D_plain"]).abs().max() < 0.03 * size


def test_posterior_samples(tmp_path):
    from invgen.operators import Mask

    path, _, options = saved(tmp_path, "edm_ddpmpp")
    prior = priors.from_edm(path, **options)
    A = Mask.random(prior.shape, 0.5)
    result = invgen.solve(torch.zeros(A.out_shape), A, prior, 0.1, "ddrm", num_samples=2)
    assert result.samples.shape == (2, 3, 8, 8)


@pytest.mark.slow
def test_bad_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, _, options = saved(tmp_path, "edm_adm")
    with pytest.raises(invgen.OptionError, match="must be one of 'edm', 'vp', 've', 'iddpm', got None"):
        priors.from_edm(path)
    with pytest.raises(invgen.OptionError, match="got 'ddpm'"):
        priors.from_edm(path, preconditioning="ddpm")
    with pytest.raises(invgen.WeightsError, match="has no entry 'ema2'"):
        priors.from_edm(path, key="ema2", **options)
    state = original.load("edm_adm")[0]
    changes = {
        "no enc": lambda k: not k.startswith("model.enc"),
        "no conv0": lambda k: not k.endswith("block0.conv0.weight"),
        "no norm": lambda k: k != "model.out_norm.bias",
        "no block": lambda k: ".8x8_block0." not in k or ".enc" not in k,
        "other": lambda k: False,
    }
    for keep in changes.values():
        torch.save({k: v for k, v in state.items() if keep(k)} or {"a": torch.zeros(2)}, path)
        with pytest.raises(invgen.WeightsError) as error:
            priors.from_edm(path, **options)
        assert "\n" not in str(error.value)
    torch.save({**state, "model.enc.4x4_blob": torch.zeros(1)}, path)
    with pytest.raises(invgen.WeightsError, match="'enc.4x4_blob' is no part of such a network"):
        priors.from_edm(path, **options)
    (tmp_path / "net.pkl").write_bytes(nvidia_pickle(state, "Generator"))
    with pytest.raises(invgen.WeightsError, match="holds a Generator; expected one of EDM or EDM2"):
        priors.from_edm(tmp_path / "net.pkl")
    whole = nvidia_pickle(state, "EDMPrecond")
    (tmp_path / "net.pkl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(invgen.WeightsError, match="not a whole checkpoint"):
        priors.from_edm(tmp_path / "net.pkl")
    # the name of the function replaced by one that would run
    evil = whole.replace(b"torch_utils.persistence", b"x" * 23)
    (tmp_path / "net.pkl").write_bytes(evil)
    with pytest.raises(invgen.WeightsError, match="could run code"):
        priors.from_edm(tmp_path / "net.pkl")
    assert not (tmp_path / "ran").exists()
