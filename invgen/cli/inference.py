"""Commands that draw signals, and that judge samplers and signals."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from invgen.cli.base import Device, MaxBatch, Noise, Operator, Out, Prior, Rescale, Sampler, Size, app


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
