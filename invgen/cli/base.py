"""The application, and the options that several of its commands take."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="invgen",
    help="Samples of the posterior p(x | y), for measurements y = A(x) + noise and a learned generative prior.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: it starts in half the time, and no terminal cuts it off
    context_settings={"help_option_names": ["-h", "--help"]},
)

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
