"""Recipes of training: those of the shipped priors, and those for a folder of a user's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from invgen.errors import OptionError


@dataclass(frozen=True)
class Recipe:
    """One training. ln sigma ~ N(log_sigma_mean, log_sigma_std^2), one in ten uniform over the range.

    Attributes:
        shape: of a view, (C, H, W) or (C, L).
        widths, blocks, unshuffle, embedding: of the network, as in `priors/checkpoints/networks/unet.py`.
        units: what a value means, for people.
        data: how the training data is read: "photo", "ct", "mr", "labelled", "captioned", "speech", "spoken"; "images",
            "volumes" and "waves" for folders of a user's own.
        sampling_rate: values a second, of recordings.
        crop: side of the views of training where it is larger than that of `shape`: wide networks learn their surroundings.
        classes: how many labels; vector: how many values of a vector, such as the embedding of a caption; drop_label: how
            often training leaves the label out, and by itself the vector.
        learning_rate: the highest. At 1.5e-3 two trainings of five (mr with 20,000 steps, photo) ended with a network that
            is unstable where a state has less noise than its level; `tests/priors/test_weights.py` looks at that.
        average: exponent of the power-law average (Karras et al., 2024, EDM2, section 3.1); 17 means the last 5 % of steps.
    """

    name: str
    shape: tuple[int, ...]
    widths: tuple[int, ...]
    blocks: int
    unshuffle: int
    units: str
    learning_rate: float = 8e-4
    batch: int = 8
    steps: int = 20_000
    warmup: int = 200
    log_sigma_mean: float = -1.2
    log_sigma_std: float = 1.4
    sigma_min: float = 0.005
    sigma_max: float = 80.0
    average: float = 17.0
    clip: float = 1.0
    data: str = "photo"
    embedding: int = 128
    classes: int = 0
    drop_label: float = 0.15
    warp: float = 0.0
    crop: int | None = None
    value_range: tuple[float, float] = (-1.0, 1.0)
    sampling_rate: float | None = None
    vector: int = 0


def network_for(shape: Sequence[int], value_range: tuple[float, float] = (-1.0, 1.0)) -> Recipe:
    """Returns a recipe by the shape of signals, (C, H, W) or (C, L).

    Raises:
        OptionError: another number of axes, or sides that the network cannot halve as often as it does.
    """
    side = max(shape[1:], default=0)
    small = side <= (32 if len(shape) == 3 else 512)
    widths, blocks, fold = ((48, 64, 88), 1, 2) if small else ((64, 96, 128), 2, 2) if side <= 64 else ((64, 96, 160), 2, 4)
    if len(shape) == 2 and not small:
        widths, blocks, fold = (64, 88, 112, 128), 1, 8
    step = fold * 2 ** (len(widths) - 1)
    if len(shape) not in (2, 3) or any(n % step for n in shape[1:]):
        raise OptionError(
            f"a network takes signals (C, H, W) or (C, L) with sides in multiples of {step}, got {tuple(shape)}"
        )
    levels: dict[str, Any] = {"log_sigma_mean": -0.6, "log_sigma_std": 1.6, "embedding": 64, "value_range": value_range}
    return Recipe("own", tuple(shape), widths, blocks, fold, "of the measured signals", batch=32, **levels)


@dataclass(frozen=True)
class Distillation(Recipe):
    """One distillation of a shipped denoiser, the teacher, into a consistency function. Other fields as in `Recipe`.

    Attributes:
        teacher: the name of the denoiser, whose weights are also where the training starts.
        levels: the number of noise levels at its begin and at its end.
    """

    teacher: str = ""
    levels: tuple[float, float] = (10.0, 40.0)


GREY = "grey level in [-1, 1], -1 is black"
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "photo", (3, 64, 64), (64, 96, 128, 192), 2, 2, "RGB in [-1, 1]: value = grey level of 0 to 255 / 127.5 - 1",
            steps=60_000, batch=16, crop=96,
        ),
        Recipe(
            "ct", (1, 128, 128), (64, 96, 160), 2, 4, "Hounsfield units / 1000, clipped to [-1, 1]", data="ct",
            steps=11_000, learning_rate=1.5e-3,
        ),
        Recipe(
            "digits", (1, 32, 32), (48, 64, 88), 1, 2, GREY, batch=32, steps=3000, data="labelled", embedding=64,
            classes=10, warp=0.7, log_sigma_mean=0.0, log_sigma_std=1.6, learning_rate=1.5e-3,
        ),
        Recipe(
            "clothing", (1, 32, 32), (48, 64, 88), 1, 2, GREY, batch=32, steps=3000, data="labelled", embedding=64,
            classes=10, log_sigma_mean=0.0, log_sigma_std=1.6, learning_rate=1.5e-3,
        ),
        Recipe(  # six hours of one core with AMX in bfloat16: 105 to 120 views a second, 45 epochs
            "cifar", (3, 32, 32), (96, 160, 224), 2, 2, "RGB in [-1, 1]: value = grey level of 0 to 255 / 127.5 - 1",
            data="captioned", batch=32, steps=70_000, warmup=1000, learning_rate=6e-4, log_sigma_mean=-0.8, classes=10,
            vector=384, drop_label=0.4,
        ),
        Recipe(
            "spoken-digits", (1, 64, 64), (48, 64, 88), 1, 2, "(ln(0.01 + |STFT| in 64 mel bands of 8 kHz) + 0.2) / 4.4",
            data="spoken", batch=32, steps=12_000, embedding=64, log_sigma_mean=-0.8, log_sigma_std=1.6, classes=10,
            vector=6, drop_label=0.3, learning_rate=1.2e-3,
        ),
        Recipe(
            "speech", (1, 8192), (64, 88, 112, 128), 1, 8, "waveform of 16 kHz, full scale is 1", batch=6, steps=8400,
            data="speech", embedding=64, log_sigma_mean=-3.2, log_sigma_std=1.7, sigma_min=3e-4, sigma_max=10.0,
            learning_rate=1.5e-3, sampling_rate=16_000.0,
        ),
        Recipe(
            "mr", (1, 128, 128), (32, 48, 64, 96), 1, 2, "intensity / 99.5th percentile of the head, 0 is no signal",
            data="mr", batch=4, steps=9000, value_range=(0.0, 1.0), log_sigma_mean=-1.9, sigma_min=0.0025, sigma_max=40.0,
        ),
    )
}  # fmt: skip
DISTILLED = {
    recipe.name: recipe
    for recipe in (
        Distillation(
            "digits-consistency", (1, 32, 32), (48, 64, 88), 1, 2, GREY, batch=48, steps=6000, data="labelled",
            embedding=64, classes=10, warp=0.7, log_sigma_mean=0.0, log_sigma_std=1.6, sigma_max=40.0, learning_rate=4e-4,
            teacher="digits",
        ),
    )
}  # fmt: skip

Kind = TypeVar("Kind")


def chosen(recipe: str | Kind, known: Mapping[str, Kind]) -> Kind:
    """Returns a recipe by its name among those known; one that is no name unchanged.

    Raises:
        OptionError: there is none of that name.
    """
    if not isinstance(recipe, str):
        return recipe
    if recipe not in known:
        raise OptionError(f"unknown recipe '{recipe}'; there are: {', '.join(known)}")
    return known[recipe]
