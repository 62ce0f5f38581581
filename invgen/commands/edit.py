"""The job of `invgen edit`: a picture with strokes, a mask or words in, samples over a strength and their curve out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from invgen import __version__
from invgen.conditional import ClassifierFree, Conditional
from invgen.diffusion import Denoiser
from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.inference.simulation import sample
from invgen.noise import Gaussian, Noiseless
from invgen.posterior import Posterior
from invgen.trust import narrowed
from invgen.validation.arguments import checked, mask
from invgen.validation.hints import Count, NonNegative, Seed

STRENGTHS = (0.3, 0.6, 1.2, 2.5, 5.0)
KNOWN = 0.02  # the noise on what is kept, in units of data_std, while the rest is drawn; the end is exact


@dataclass(frozen=True)
class Edit:
    """An edit at several strengths.

    Attributes:
        strengths: noise levels in units of the prior's data_std.
        samples: (strengths, num_samples, *shape).
        faithfulness: root mean square distance of the samples to the painting where they may change, for each strength.
        realism: mean distance of the samples to the nearest real picture, root mean square over values.
        real: that distance of real pictures to the nearest of others: the level to reach.
        chosen: the number of the strength that is taken.
    """

    strengths: tuple[float, ...]
    samples: Tensor
    faithfulness: tuple[float, ...]
    realism: tuple[float, ...]
    real: float
    chosen: int

    @property
    def result(self) -> Tensor:
        """The samples at the chosen strength, (num_samples, *shape)."""
        return self.samples[self.chosen]

    def text(self) -> str:
        """Returns the curve as a table, a line for each strength."""
        lines = [f"strength  to the painting  to the nearest real picture (real ones: {self.real:.3f})"]
        for k, s in enumerate(self.strengths):
            end = "  <- taken" if k == self.chosen else ""
            lines.append(f"{s:<8g}  {self.faithfulness[k]:<15.3f}  {self.realism[k]:.3f}{end}")
        return "\n".join(lines)


@checked
def edit(
    painting: Tensor,
    prior: Denoiser,
    *,
    keep: Tensor | None = None,
    condition: Any = None,
    guidance: NonNegative = 2.0,
    strength: Literal["auto"] | float | Sequence[float] = "auto",
    real: Tensor | None = None,
    num_samples: Count = 4,
    steps: Count = 30,
    seed: Seed = 0,
) -> Edit:
    """Returns a picture that was painted on, made plausible: the more strength, the less of the painting is left.

    The whole picture: SDEdit (Meng et al., ICLR 2022). With `keep`, what is kept is a measurement of the picture, and the
    rest is drawn given it (PiGDM), from the painting with noise as a warm start: no seam is left where the two meet, and
    what is kept is the painting's to the last bit. With a condition the prior is that of a class, a text or a vector, by
    classifier-free guidance.

    Args:
        painting: the picture with its strokes, (*shape), in the units of the prior.
        prior: a Denoiser.
        keep: (*shape) or broadcastable, true, 1 or 255 where the picture stays as it is.
        condition: what `prior.condition` takes.
        guidance: the scale of classifier-free guidance; 1 is none.
        strength: the noise put on the painting, in units of the prior's data_std; several for a strip; "auto" tries 0.3,
            0.6, 1.2, 2.5 and 5, and takes the least at which samples are as near to real pictures as real ones are to each
            other, or the nearest.
        real: real pictures, (N, *shape), N at least 4, for that; samples of the prior if left out.
        num_samples: for each strength.
        steps: of each run.
        seed: of the samples.

    Raises:
        ShapeError: a picture of another shape than the prior's.
        OptionError: no pixel is left to change, or a strength beyond the prior's range.
        UnsupportedError: a condition for a prior that takes none.
    """
    from invgen import operators, samplers

    if painting.shape != prior.shape:
        raise ShapeError(f"the picture has shape {tuple(painting.shape)}, the prior's are {tuple(prior.shape)}")
    p: Denoiser = prior
    if condition is not None:
        if not isinstance(prior, Conditional):
            raise UnsupportedError(f"this {type(prior).__name__} knows no conditions; leave the text or the class out")
        p = ClassifierFree.of(prior, condition, scale=guidance)
    kept = torch.zeros(prior.shape, dtype=torch.bool) if keep is None else mask("keep", keep).expand(prior.shape)
    if kept.all():
        raise OptionError("the mask keeps every pixel: there is nothing left to edit")
    every = isinstance(strength, str)
    levels = STRENGTHS if every else (strength,) if isinstance(strength, float | int) else tuple(strength)
    if not levels or not all(0 < level < float("inf") for level in levels):
        raise OptionError(f"strengths are positive numbers, one or more, got {strength!r}")
    found = []
    for level in levels:
        if kept.any():
            A, noise = operators.Mask(prior.shape, kept), Gaussian(KNOWN * prior.data_std)
            start = narrowed(p, min(level * prior.data_std, p.sigma_max))
            post = Posterior(start, A, noise, A(painting[None])[0], painting)
            found.append(torch.where(kept, painting, samplers.PiGDM(steps=steps)(post, num_samples, seed)))
        else:
            A, sampler = operators.Identity(p.shape), samplers.SDEdit(steps=steps, sigma0=level)
            found.append(sampler(Posterior(p, A, Noiseless(), painting), num_samples, seed))
    samples = torch.stack(found)
    real = sample(prior, 32, seed, sampler=samplers.DPMSolver(steps=15)) if real is None else real
    if len(real) < 4 or real.shape[1:] != prior.shape:
        raise ShapeError(f"real pictures are (N, *{tuple(prior.shape)}), N at least 4, got {tuple(real.shape)}")
    others, level_of_real = real[::2], float(nearest(real[1::2], real[::2]).mean())
    realism = tuple(float(nearest(s, others).mean()) for s in samples)
    change = [(s - painting)[:, ~kept].square().mean().sqrt().item() for s in samples]
    reached = [k for k, r in enumerate(realism) if r <= level_of_real]
    chosen = reached[0] if reached else min(range(len(levels)), key=realism.__getitem__)
    return Edit(tuple(levels), samples, tuple(change), realism, level_of_real, chosen)


def nearest(x: Tensor, others: Tensor) -> Tensor:
    """Returns the distance of each picture to the nearest of others, root mean square over values, (N,)."""
    return torch.cdist(x.flatten(1), others.flatten(1)).amin(1) / x[0].numel() ** 0.5


def run(
    file: str | Path,
    *,
    prior: str,
    strokes: str | Path | None = None,
    keep: str | Path | None = None,
    condition: str | None = None,
    guidance: float = 2.0,
    strength: str = "auto",
    real: str | Path | None = None,
    num_samples: int = 4,
    steps: int = 30,
    seed: int = 0,
    out: str | Path = "out",
) -> str:
    """Edits a picture and writes, all or nothing, into `out`: strip.png, a row of samples for each strength; curve.png;
    edit_000.png ... at the strength that is taken; samples.npy, summary.json.

    Args:
        file: the picture.
        prior: its name with options.
        strokes: a picture whose opaque pixels lie over it; the picture itself is the painting if left out.
        keep: a picture, white where the picture stays; where the strokes are not, if strokes are given.
        condition: a class or a text.
        guidance, num_samples, steps, seed: as for `invgen.edit`.
        strength: "auto", a number, or several with commas.
        real: a folder of real pictures, for "auto".
        out: the folder.

    Returns:
        The curve, as text.

    Raises:
        InvgenError: one sentence about what does not fit.
    """
    import numpy as np

    from invgen.files.writing import atomic_folder
    from invgen.names.prepare import prepared
    from invgen.plots import save_picture, show_samples

    p = prepared(prior, None, (1.0, 0.0), "cpu")
    if not isinstance(p, Denoiser) or len(p.shape) != 3:
        raise UnsupportedError(f"edits need a prior of pictures with a denoiser, and {prior!r} is a {type(p).__name__}")
    painting, kept = _painted(file, strokes, keep, p)
    given: Any = int(condition) if condition is not None and condition.isdecimal() else condition
    levels = strength if strength == "auto" else tuple(_number(part) for part in strength.split(","))
    known = None if real is None else _folder(real, p)
    with atomic_folder(out) as folder:
        done = edit(
            painting, p, keep=kept, condition=given, guidance=guidance, strength=levels, real=known,
            num_samples=num_samples, steps=steps, seed=seed,
        )  # fmt: skip
        rows = torch.cat([painting.expand(1, num_samples, *p.shape), done.samples])
        names = ["painting", *(f"strength {s:g}" for s in done.strengths)]
        titles = [name if k == 0 else "" for name in names for k in range(num_samples)]
        show_samples(rows.flatten(0, 1), p.value_range, folder / "strip.png", columns=num_samples, titles=titles)
        _curve(done, folder / "curve.png")
        for k, one in enumerate(done.result):
            save_picture(one, p.value_range, folder / f"edit_{k:03d}.png")
        np.save(folder / "samples.npy", done.result.numpy())
        facts = {"file": str(file), "prior": prior, "condition": condition, "guidance": guidance, "seed": seed}
        facts |= {"strengths": done.strengths, "faithfulness": done.faithfulness, "realism": done.realism}
        facts |= {"real": done.real, "chosen": done.strengths[done.chosen], "invgen": __version__}
        (folder / "summary.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return done.text()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OptionError(f'a strength is "auto", a number, or several with commas, got {text!r}') from None


def _painted(
    file: str | Path, strokes: str | Path | None, keep: str | Path | None, prior: Denoiser
) -> tuple[Tensor, Tensor | None]:
    """Returns the painting in the prior's units and what is kept of it."""
    import numpy as np
    from PIL import Image

    from invgen.files import reader

    size = (prior.shape[2], prior.shape[1])
    painting, kept = reader.fit(reader.read(file), prior)[0], None
    if strokes is not None:
        layer = np.asarray(Image.open(strokes).convert("RGBA").resize(size, Image.Resampling.NEAREST))
        opaque = torch.from_numpy(layer[..., 3] > 127)
        painting, kept = torch.where(opaque, in_units(layer[..., :3], prior), painting), ~opaque
    if keep is not None:
        white = np.asarray(Image.open(keep).convert("L").resize(size, Image.Resampling.NEAREST))
        kept = torch.from_numpy(white > 127)
    return painting, None if kept is None else kept.expand(prior.shape)


def in_units(picture: Any, prior: Denoiser) -> Tensor:
    """Returns RGB of 0 to 255, (H, W, 3), in the units of a prior of grey or colour pictures."""
    x = torch.from_numpy(picture.copy()).float().permute(2, 0, 1) / 255
    x = x.mean(0, keepdim=True) if prior.shape[0] == 1 else x
    low, high = prior.value_range
    return low + (high - low) * x


def _folder(folder: str | Path, prior: Denoiser) -> Tensor:
    from invgen.commands.score import _signals

    return _signals(folder, prior)[1]


def _curve(done: Edit, path: Path) -> None:
    """Draws realism over faithfulness, a point for each strength."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3.5), layout="constrained")
    ax = figure.subplots()
    ax.plot(done.faithfulness, done.realism, "o-")
    ax.axhline(done.real, color="grey", ls=":", label="real pictures")
    for s, x, y in zip(done.strengths, done.faithfulness, done.realism, strict=True):
        ax.annotate(f"{s:g}", (x, y), textcoords="offset points", xytext=(4, 4), fontsize=8)
    ax.set(xlabel="distance to the painting", ylabel="distance to the nearest real picture")
    ax.legend(fontsize=8)
    figure.savefig(path, dpi=90)
