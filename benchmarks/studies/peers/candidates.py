"""The samplers that are compared: ours as they come, those of peers with the best of a few settings."""

from collections.abc import Mapping
from itertools import product

BUDGETS = (5, 10, 15, 25, 50, 100)  # evaluations a sample
TUNED_AT = (10, 25)  # evaluations at which settings are tried: the first holds up to 15, the second from 25 on
OURS = ("MMPS", "MMPS(order=1)", "MMPS(iterations=1)", "AdaptivePiGDM", "DiffPIR")

# the settings of each peer that are tried, all combinations; azula's TMPD is not among them: it diverges (suite `peers`)
GRIDS: dict[str, Mapping[str, tuple]] = {
    "AzulaMMPS": {"stepper": ("ddpm", "xeab"), "process": ("vp", "ve")},
    "AzulaPiGDM": {"eta": (0.5, 1.0), "process": ("vp", "ve")},
    "AzulaDPS": {"zeta": (0.3, 1.0, 3.0)},
    "AzulaDiffPIR": {"lmbda": (0.3, 1.0, 3.0), "iterations": (1, 8)},
    "DeepinvDPS": {"weight": (30.0, 100.0, 300.0, 1000.0)},
    "DeepinvPiGDM": {"process": ("vp", "ve"), "weight": (1.0, 2.0)},
    "DeepinvMomentMatching": {"process": ("vp", "ve")},
    "DeepinvDDRM": {"levels": ("linear", "log"), "eta": (0.5, 0.85)},
    "DeepinvDiffPIR": {"zeta": (0.1, 0.5, 1.0), "lambda_": (1.0, 3.0, 7.0)},
}
# beyond the grid: more iterations of the inner solve, another guidance with a weight of its own
MORE = {
    "AzulaMMPS": ("process='ve', iterations=3",),
    "AzulaDiffPIR": ("stepper='xeab', lmbda=1.0, iterations=8",),
    "DeepinvDPS": ("weight=1.0, guidance='annealed'", "weight=3.0, guidance='annealed'"),
}
# of all samplers of azula: its own default, whose samples keep less noise than the lowest level of the priors
AZULA = ", sigma_min=0.001"
# what a problem leaves out, and why
LEFT_OUT = {
    ("ct", "AzulaPiGDM"): "its pseudo-inverse of 23 views takes hundreds of iterations at each step",
    ("ct", "DeepinvDDRM"): "needs a singular value decomposition",
}


def settings(name: str) -> list[str]:
    """Returns the settings of a peer that are tried, such as "DeepinvDPS(weight=30.0)"."""
    grid = GRIDS[name]
    made = [", ".join(f"{k}={v!r}" for k, v in zip(grid, chosen, strict=True)) for chosen in product(*grid.values())]
    return [f"{name}({options}{AZULA * (package(name) == 'azula')})" for options in (*made, *MORE.get(name, ()))]


def package(spec: str) -> str:
    """Returns whose sampler it is: "invgen", "azula" or "deepinv"."""
    name = spec.partition("(")[0]
    return next((of for of in ("azula", "deepinv") if name.lower().startswith(of)), "invgen")


def with_evaluations(spec: str, evaluations: int) -> str:
    """Returns a sampler with as many steps as make a number of network evaluations a sample.

    deepinv's solvers of an SDE count the ends of steps, one more than steps; under "ve" they denoise once more at the end.
    """
    name, _, options = spec.rstrip(")").partition("(")
    ends = name in ("DeepinvDPS", "DeepinvPiGDM", "DeepinvMomentMatching") and "process='ve'" not in options
    return f"{name}({', '.join(filter(None, (f'steps={evaluations + ends}', options)))})"
