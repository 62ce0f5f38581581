"""`from_diffusers`: a UNet or an autoencoder with a UNet in a folder of diffusers, as a prior."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from invgen.errors import OptionError, UnsupportedError, WeightsError
from invgen.priors.checkpoints.diffusers import (
    AUTOENCODERS,
    NETWORKS,
    DiffusersDenoiser,
    described,
    descriptions,
    first,
    read_json,
    read_network,
    reading,
)
from invgen.priors.wrappers.from_network import takes_data
from invgen.validation.arguments import checked

if TYPE_CHECKING:
    from invgen.priors.wrappers.latent import LatentDiffusion


@takes_data
@checked
def from_diffusers(
    model: str | Path,
    shape: Sequence[int] | None = None,
    *,
    scheduler: Any = None,
    subfolder: str | None = None,
    variant: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> "DiffusersDenoiser | LatentDiffusion":
    """Returns the prior in a folder that diffusers wrote, or in a model of the Hugging Face hub.

    Read are pipelines of a network in pixel space and a scheduler (DDPM, DDIM, consistency models, ...), with subfolders
    unet/ or transformer/ and scheduler/, or all in one folder as the old google/ddpm-* models are. Weights in .safetensors,
    or in .bin through torch.load(weights_only=True): nothing in the files is run. A pipeline with an autoencoder goes to
    `from_pipeline`, which takes further options.

    Args:
        model: the folder, or a name such as "google/ddpm-cat-256".
        shape: (C, *sizes) if not what the network's configuration says.
        scheduler: a scheduler of diffusers in place of the folder's, or where it has none.
        subfolder: of the network, if not unet/ or transformer/: "unet_ema" for instance.
        variant: of the files, such as "fp16".
        revision: of the model on the hub, a commit; without it the latest is taken, with a warning that says which it is.
            `prior.read_from` keeps it.
        dtype: the precision of the network, float32 by default whatever the files hold.
        options: null_label, mu and further options and facts of a `DiffusersDenoiser`.
        data: clean signals, which check it and set what the facts leave open, the range of sigma first; see `from_network`.

    Raises:
        WeightsError: there is no such model, or its files are damaged or do not fit each other.
        UnsupportedError: it is a model of another kind.
    """
    import diffusers

    with reading(model):
        files, revision = descriptions(model, revision)
        index = read_json(files / "model_index.json") or {}
        found = sorted(set(AUTOENCODERS) & {key for key, value in index.items() if value not in (None, [None, None])})
        if found:  # its network denoises codes
            if subfolder is not None:
                raise OptionError(
                    f"{model} is a latent pipeline (it has a {found[0]}), all of which is read: leave out subfolder"
                )
            from invgen.priors.checkpoints.pipelines import from_pipeline

            which = {"scheduler": scheduler, "variant": variant, "revision": revision, "dtype": dtype}
            return from_pipeline(model, shape, **which, **options)
        folders = ["unet", "transformer", None] if subfolder is None else [subfolder]
        config, folder = first(files, "config.json", folders)
        if config is None:
            raise OSError("there is no config.json of a network")
        kind = config.get("_class_name")
        if kind not in NETWORKS:
            raise UnsupportedError(
                f"the network in {model} is a {kind}; from_diffusers reads {', '.join(NETWORKS)}, and priors.from_pipeline "
                "latent models with their autoencoder"
            )
        which = {"variant": variant, "revision": revision, "torch_dtype": dtype}
        net = read_network(getattr(diffusers, kind), model, folder, **which)
        if scheduler is None:
            config, _ = first(files, "scheduler_config.json", ["scheduler", None])
            if config is None:
                raise WeightsError(
                    f"{model} holds a network but no scheduler, so that its noise schedule is unknown; pass the one it was "
                    "trained with, such as scheduler=diffusers.DDPMScheduler()"
                )
            maker = getattr(diffusers, str(config.get("_class_name")), None)
            if maker is None or not hasattr(maker, "set_timesteps"):
                raise UnsupportedError(f"diffusers {diffusers.__version__} has no scheduler {config.get('_class_name')!r}")
            scheduler = maker.from_config(config)
    prior = DiffusersDenoiser(net.eval().requires_grad_(False), scheduler, shape, **options)
    prior.read_from = described(model, revision)
    return prior
