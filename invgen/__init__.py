"""invgen: samples from p(x | y), for measurements y = A(x) + noise and a learned generative prior p(x).

Names load on first use, so that `import invgen` costs nothing and the command line answers at once.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "Operator": "forward",
    "LinearOperator": "forward",
    "SVDOperator": "forward",
    "Noise": "noise",
    "Gaussian": "noise",
    "Noiseless": "noise",
    "Poisson": "noise",
    "Energy": "noise",
    "Equality": "noise",
    "Substitution": "noise",
    "Erasure": "noise",
    "Confusion": "noise",
    "TransmissionPoisson": "noise",
    "StudentT": "noise",
    "InferredLevel": "noise",
    "VonMisesFisher": "noise",
    "log_transform": "noise",
    "Prior": "diffusion",
    "Denoiser": "diffusion",
    "Generator": "pushforward",
    "Flow": "pushforward",
    "Conditional": "conditional",
    "ConditionalDenoiser": "conditional",
    "ClassifierFree": "conditional",
    "noise_levels": "diffusion",
    "step": "diffusion",
    "Posterior": "posterior",
    "join": "inference.joint",
    "Method": "method",
    "Sampler": "sampler",
    "Cost": "cost",
    "forecast": "inference.forecasting",
    "Forecast": "inference.forecasting",
    "solve": "inference.solve",
    "Result": "inference.solve",
    "sample": "inference.simulation",
    "edit": "commands.edit",
    "Edit": "commands.edit",
    "score": "inference.score",
    "Scores": "inference.score",
    "detector": "inference.score",
    "Detector": "inference.score",
    "purify": "inference.purify",
    "compare_priors": "inference.compare",
    "PriorComparison": "inference.compare",
    "log_prob": "numerics.density",
    "bits_per_dim": "numerics.density",
    "simulate": "inference.simulation",
    "calibrate": "inference.calibration",
    "Calibration": "inference.calibration",
    "Correction": "inference.conformal",
    "Fit": "inference.fit",
    "tune": "inference.tuning",
    "Tuning": "inference.tuning",
    "check_operator": "inference.checks",
    "InvgenError": "errors",
    "ShapeError": "errors",
    "OptionError": "errors",
    "CallError": "errors",
    "UnsupportedError": "errors",
    "OperatorError": "errors",
    "DivergedError": "errors",
    "WeightsError": "errors",
    "MissingWeightsError": "errors",
    "FileError": "errors",
    "MissingExtraError": "errors",
    "CheckError": "errors",
}
_MODULES = ("operators", "priors", "samplers", "metrics", "benchmarks", "linalg", "plots")

# For editors and type checkers, the same names as in the list above: tests/test_typing.py compares the two.
if TYPE_CHECKING:
    from invgen import benchmarks as benchmarks
    from invgen import linalg as linalg
    from invgen import metrics as metrics
    from invgen import operators as operators
    from invgen import plots as plots
    from invgen import priors as priors
    from invgen import samplers as samplers
    from invgen.commands.edit import Edit as Edit
    from invgen.commands.edit import edit as edit
    from invgen.conditional import ClassifierFree as ClassifierFree
    from invgen.conditional import Conditional as Conditional
    from invgen.conditional import ConditionalDenoiser as ConditionalDenoiser
    from invgen.cost import Cost as Cost
    from invgen.diffusion import Denoiser as Denoiser
    from invgen.diffusion import Prior as Prior
    from invgen.diffusion import noise_levels as noise_levels
    from invgen.diffusion import step as step
    from invgen.errors import CallError as CallError
    from invgen.errors import CheckError as CheckError
    from invgen.errors import DivergedError as DivergedError
    from invgen.errors import FileError as FileError
    from invgen.errors import InvgenError as InvgenError
    from invgen.errors import MissingExtraError as MissingExtraError
    from invgen.errors import MissingWeightsError as MissingWeightsError
    from invgen.errors import OperatorError as OperatorError
    from invgen.errors import OptionError as OptionError
    from invgen.errors import ShapeError as ShapeError
    from invgen.errors import UnsupportedError as UnsupportedError
    from invgen.errors import WeightsError as WeightsError
    from invgen.forward import LinearOperator as LinearOperator
    from invgen.forward import Operator as Operator
    from invgen.forward import SVDOperator as SVDOperator
    from invgen.inference.calibration import Calibration as Calibration
    from invgen.inference.calibration import calibrate as calibrate
    from invgen.inference.checks import check_operator as check_operator
    from invgen.inference.compare import PriorComparison as PriorComparison
    from invgen.inference.compare import compare_priors as compare_priors
    from invgen.inference.conformal import Correction as Correction
    from invgen.inference.fit import Fit as Fit
    from invgen.inference.forecasting import Forecast as Forecast
    from invgen.inference.forecasting import forecast as forecast
    from invgen.inference.joint import join as join
    from invgen.inference.purify import purify as purify
    from invgen.inference.score import Detector as Detector
    from invgen.inference.score import Scores as Scores
    from invgen.inference.score import detector as detector
    from invgen.inference.score import score as score
    from invgen.inference.simulation import sample as sample
    from invgen.inference.simulation import simulate as simulate
    from invgen.inference.solve import Result as Result
    from invgen.inference.solve import solve as solve
    from invgen.inference.tuning import Tuning as Tuning
    from invgen.inference.tuning import tune as tune
    from invgen.method import Method as Method
    from invgen.noise import Confusion as Confusion
    from invgen.noise import Energy as Energy
    from invgen.noise import Equality as Equality
    from invgen.noise import Erasure as Erasure
    from invgen.noise import Gaussian as Gaussian
    from invgen.noise import InferredLevel as InferredLevel
    from invgen.noise import Noise as Noise
    from invgen.noise import Noiseless as Noiseless
    from invgen.noise import Poisson as Poisson
    from invgen.noise import StudentT as StudentT
    from invgen.noise import Substitution as Substitution
    from invgen.noise import TransmissionPoisson as TransmissionPoisson
    from invgen.noise import VonMisesFisher as VonMisesFisher
    from invgen.noise import log_transform as log_transform
    from invgen.numerics.density import bits_per_dim as bits_per_dim
    from invgen.numerics.density import log_prob as log_prob
    from invgen.posterior import Posterior as Posterior
    from invgen.pushforward import Flow as Flow
    from invgen.pushforward import Generator as Generator
    from invgen.sampler import Sampler as Sampler
else:
    __all__ = ["__version__", *_HOME, *_MODULES]

    def __getattr__(name: str) -> object:
        if name in _HOME:
            return getattr(importlib.import_module(f"invgen.{_HOME[name]}"), name)
        if name in _MODULES:
            return importlib.import_module(f"invgen.{name}")
        raise AttributeError(f"module 'invgen' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted(__all__)
