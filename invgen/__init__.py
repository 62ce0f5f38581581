"""invgen: samples from p(x | y), for measurements y = A(x) + noise and a learned generative prior p(x).

Names load on first use, so that `import invgen` costs nothing and the command line answers at once.
"""

import importlib

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
    "TransmissionPoisson": "noise_ct",
    "log_transform": "noise_ct",
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
    "Sampler": "sampler",
    "Cost": "cost",
    "forecast": "inference.forecasting",
    "Forecast": "inference.forecasting",
    "solve": "inference.solve",
    "Result": "inference.solve",
    "sample": "inference.simulation",
    "log_prob": "numerics.density",
    "bits_per_dim": "numerics.density",
    "simulate": "inference.simulation",
    "calibrate": "inference.calibration",
    "Calibration": "inference.calibration",
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

__all__ = ["__version__", *_HOME, *_MODULES]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f"invgen.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"invgen.{name}")
    raise AttributeError(f"module 'invgen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
