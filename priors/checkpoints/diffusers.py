"""Priors from pixel-space models of the diffusers library: a network and the scheduler it was trained with."""

import functools
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invgen.conditional import Conditioned
from invgen.diffusion import Sigma
from invgen.errors import InvgenError, OptionError, ShapeError, UnsupportedError, WeightsError
from invgen.messages import warn
from invgen.priors.wrappers.from_network import Call, NetworkDenoiser, call_network
from invgen.priors.wrappers.schedules import Schedule

NETWORKS = ("UNet2DModel", "UNet1DModel", "DiTTransformer2DModel", "Transformer2DModel")
AUTOENCODERS = ("vae", "vqvae", "vqgan", "movq")  # components of a pipeline that diffuses codes
PREDICTIONS = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v"}


class DiffusersDenoiser(NetworkDenoiser):
    """A network of the diffusers library and its scheduler as a denoiser in x_sigma = x_0 + sigma eps.

    Of the scheduler only what the network was trained on enters: its noise levels, what is predicted, and the
    preconditioning. Its options of sampling do not: spacing and number of steps, Karras levels, offsets, thresholds, and
    clipping (`clip_sample`, which DDPMScheduler has on, is off here: a clamped D has no gradient).

    Args:
        net: UNet2DModel, UNet1DModel or DiTTransformer2DModel, or any network with their `config` that `call` can call.
        scheduler: DDPM, DDIM, PNDM, DPMSolver, UniPC, DEIS, Euler, Heun, LMS (all of one kind: betas), EDM, FlowMatch,
            ScoreSdeVe, IPNDM or CMStochasticIterative; its prediction_type may be epsilon, sample, v_prediction or
            flow_prediction.
        shape: (C, *sizes); by default what the network's configuration says. Sizes that the network cannot halve as often
            as it wants are padded by reflection and cropped.
        null_label: the label that means "no class" in a class-conditional network trained for classifier-free guidance;
            DiT has its own.
        mu: the dynamic shift of a flow-matching scheduler with `use_dynamic_shifting`; it moves only the range of sigma.
        options: call, stride, sigma_data, value_range, data_mean, data_std, sigma_min, sigma_max as for `NetworkDenoiser`.
    """

    def __init__(
        self,
        net: nn.Module,
        scheduler: Any,
        shape: Sequence[int] | None = None,
        *,
        null_label: int | None = None,
        mu: float | None = None,
        **options: Any,
    ) -> None:
        config: Any = net.config  # of which torch knows nothing
        options = parametrisation(scheduler, options.pop("call", call_diffusers), mu) | options
        options.setdefault("stride", network_stride(config))
        super().__init__(net, network_shape(config, shape), options.pop("prediction"), options.pop("schedule"), **options)
        self.num_classes = config.get("num_class_embeds")
        self.null_label = null_label
        if "num_embeds_ada_norm" in config:
            self.num_classes = config.num_embeds_ada_norm
            self.null_label = config.num_embeds_ada_norm if null_label is None else null_label
        self.takes_classes = self.num_classes is not None or config.get("class_embed_type") is not None

    def condition(self, condition: Any) -> Conditioned:
        """Returns p(x | class): a label 0, 1, ..., or what the network's class_embed_type asks for (a number, an
        embedding)."""
        if not self.takes_classes:
            raise UnsupportedError("this network knows no classes; use the prior itself, without condition()")
        if isinstance(condition, int) and self.num_classes is not None and not 0 <= condition < self.num_classes:
            raise OptionError(f"there is no class {condition}; the network knows labels 0 to {self.num_classes - 1}")
        return Conditioned(self, torch.as_tensor(condition, device=self.device))

    def forward(self, x: Tensor, sigma: Sigma, condition: Any = None) -> Tensor:
        """Returns E[x_0 | x_0 + sigma eps = x, class], (B, *shape); sigma: a number or (B,); condition: None, a label or
        (B,)."""
        if condition is None and self.takes_classes:
            if self.null_label is None:
                raise UnsupportedError(
                    "the network is class-conditional and has no label for 'no class': use prior.condition(label), or "
                    "pass null_label= if it was trained with one"
                )
            condition = self.null_label
        if condition is not None:
            condition = torch.as_tensor(condition, device=x.device)
            condition = condition.expand(len(x)) if condition.ndim == 0 else condition
        return super().forward(x, sigma, condition)


def call_diffusers(net: Any, x: Tensor, t: Tensor, condition: Any) -> Tensor:
    """Returns the raw output of a UNet or a DiT `net` of diffusers at x and times t; the condition is a class or None."""
    if net.config.get("time_embedding_type") == "learned":  # a table of times knows only whole ones
        t = t.round().long()
    if hasattr(net, "pos_embed") and x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"the transformers of diffusers take square images only, got {tuple(x.shape)}")
    # by name: the second argument of a Transformer2DModel is another
    return (net(x, timestep=t) if condition is None else net(x, timestep=t, class_labels=condition)).sample


def parametrisation(scheduler: Any, call: Call = call_network, mu: float | None = None) -> dict[str, Any]:
    """Returns the arguments of `NetworkDenoiser` that a scheduler tells: prediction, schedule, call, facts."""
    config, kind = scheduler.config, type(scheduler).__name__
    given = config.get("prediction_type", "epsilon")
    schedule = Schedule.from_scheduler(scheduler, mu)
    options: dict[str, Any] = {"schedule": schedule, "call": call}
    if kind.startswith("EDM") and given in ("epsilon", "v_prediction"):
        if given == "v_prediction":
            options["call"] = functools.partial(_negated, call)
        return options | {"prediction": "edm", "sigma_data": config.sigma_data, "data_std": config.sigma_data}
    if kind.startswith("CMStochasticIterative"):
        return options | {"prediction": "consistency", "sigma_data": config.sigma_data, "data_std": config.sigma_data}
    if kind.startswith("ScoreSdeVe"):  # the published NCSN++ models see images in [0, 1]
        return options | {"prediction": "score", "value_range": (0.0, 1.0), "data_mean": 0.5, "data_std": 0.25}
    if kind == "IPNDMScheduler":
        return options | {"prediction": "v"}
    if "FlowMatch" in kind or (config.get("use_flow_sigmas") and given == "flow_prediction"):
        return options | {"prediction": "velocity"}
    if given not in PREDICTIONS or (config.get("use_flow_sigmas") and given == "v_prediction"):
        raise UnsupportedError(
            f"{kind} predicts {given!r}; expected 'epsilon', 'sample' or 'v_prediction', or 'flow_prediction' with "
            "use_flow_sigmas=True"
        )
    if given == "epsilon" and config.get("rescale_betas_zero_snr"):
        warn(
            "the noise schedule ends at pure noise (zero terminal SNR), where a network that predicts epsilon says nothing "
            f"of the signal: noise levels above {schedule.sigma_max:.4g} are left out; such schedules are made for "
            "v_prediction or sample",
        )
    return options | {"prediction": PREDICTIONS[given]}


def _negated(call: Call, net: nn.Module, x: Tensor, t: Tensor, condition: Any) -> Tensor:
    """Minus the network: EDM schedulers with v_prediction, whose c_out is negative."""
    return -call(net, x, t, condition)


def network_shape(config: Any, shape: Sequence[int] | None) -> tuple[int, ...]:
    """Returns the shape of one signal, (C, *sizes), checked against the network's channels."""
    channels = config.in_channels
    out = config.get("out_channels") or channels
    if out not in (channels, 2 * channels):
        raise UnsupportedError(f"the network turns {channels} channels into {out}; expected as many or twice as many")
    sizes = "L" if "extra_in_channels" in config else "H, W"  # UNet1DModel alone has the key
    rank = 2 if sizes == "L" else 3
    if shape is None:
        size = config.sample_size
        if size is None:
            raise OptionError(f"the network does not say the size of its signals; pass shape=({channels}, {sizes})")
        shape = (channels, *(size if isinstance(size, list | tuple) else [size] * (rank - 1)))
    if len(shape) != rank or shape[0] != channels:
        raise ShapeError(
            f"the network takes {channels} channels, so that shape must be ({channels}, {sizes}), got {tuple(shape)}"
        )
    return tuple(shape)


def network_stride(config: Any) -> int:
    """Returns the number that sizes of signals must be divisible by: the patch of a transformer, the halvings of a UNet."""
    if "block_out_channels" not in config:
        return config.get("patch_size") or 1
    blocks = config.get("down_block_types", config.block_out_channels)
    if "extra_in_channels" not in config:
        return 2 ** (len(blocks) - 1)
    halvings = sum(b in ("DownBlock1D", "AttnDownBlock1D") for b in blocks) + (config.mid_block_type == "UNetMidBlock1D")
    halvings += sum(b == "DownResnetBlock1D" for b in (blocks if config.downsample_each_block else blocks[:-1]))
    return 2**halvings


def read_network(kind: Any, model: str | Path, folder: str | None, **options: Any) -> nn.Module:
    """Returns the network with every weight from its file: what is missing diffusers would leave random."""
    options |= {"subfolder": folder, "output_loading_info": True}
    try:
        net, info = kind.from_pretrained(str(model), use_safetensors=True, **options)
    except OSError as error:
        try:
            net, info = kind.from_pretrained(str(model), use_safetensors=False, **options)
        except OSError as other:
            raise error if "no file named" in str(other) else other from None
    wrong = [*info.get("missing_keys", []), *info.get("unexpected_keys", []), *map(str, info.get("mismatched_keys", []))]
    if wrong:
        raise WeightsError(
            f"the weights in {model} do not fit its configuration: {len(wrong)} tensors are missing, extra or of another "
            f"shape, {sorted(wrong)[0]!r} first"
        )
    bad = next((name for name, p in net.named_parameters() if not p.isfinite().all()), None)
    if bad is not None:
        raise WeightsError(f"the weights in {model} are not finite ({bad!r}): the training diverged or the file is damaged")
    return net


def descriptions(model: str | Path, revision: str | None) -> tuple[Path, str | None]:
    """Returns the folder with the JSON files, and the commit that they are of: the model's own folder, or one of the
    hub's cache.

    Warns where a model of the hub was asked for without its commit: it is another one when its owners change it.
    """
    if Path(model).is_dir():
        return Path(model), revision
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(str(model), revision=revision, allow_patterns=["*.json"]))
    except Exception as error:  # no such name, no such revision, no network and nothing in the cache
        raise WeightsError(
            f"{model} is no folder, and the Hugging Face hub does not give it ({_reason(error)}): check the name, or "
            "download it where there is a network and pass the folder"
        ) from error
    commit = folder.name  # the cache has a folder for each commit; the weights are then asked for by it
    if not revision or not commit.startswith(revision):
        warn(
            f"{model} may change: {revision or 'the latest'} is commit {commit} now; pass revision={commit!r} to read the "
            "same weights again",
        )
    return folder, commit


def described(model: str | Path, commit: str | None) -> str:
    """Returns the source of a prior in words, for `prior.read_from`."""
    return f"{model}, commit {commit}" if commit and not Path(model).is_dir() else str(model)


def first(files: Path, name: str, folders: Sequence[str | None]) -> tuple[dict[str, Any] | None, str | None]:
    """Returns the first of the JSON files that is there, and its folder."""
    for folder in folders:
        if (config := read_json(files / (folder or "") / name)) is not None:
            return config, folder
    return None, None


def read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _reason(error: BaseException) -> str:
    """Returns the message of an error on one line, at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


@contextmanager
def reading(model: str | Path) -> Iterator[None]:
    """Quiet, and with one clear sentence for whatever goes wrong in the files."""
    from diffusers.utils import logging as messages

    verbosity = messages.get_verbosity()
    messages.set_verbosity(logging.CRITICAL)
    try:
        yield
    except InvgenError:
        raise
    except Exception as error:  # the library raises whatever a damaged file leads it to
        raise WeightsError(
            f"no diffusers model could be read from {model} ({_reason(error)}); expected a folder with unet/ or "
            "transformer/ (.safetensors, or .bin that holds nothing but tensors) and scheduler/"
        ) from error
    finally:
        messages.set_verbosity(verbosity)
