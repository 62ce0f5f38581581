"""The names for `samplers` and `baselines` of a suite: the samplers of invgen first, then the methods of this folder."""

import importlib
import inspect
from typing import Any

from invgen.method import Method
from invgen.names import resolve

# each names its methods in __all__
MODULES = ("exact", "classical", "total_variation", "ct", "images", "mri", "audio", "peers")


def method(spec: str) -> Method:
    """Returns the sampler of a spec, among those of invgen first, then among the methods that stand beside them in a suite.

    Raises:
        OptionError: there is none of that name, or it has no such option.
    """
    return resolve.sampler(spec, others())


def others() -> dict[str, type[Method]]:
    """Returns the methods of suites that are not samplers of invgen, by name."""
    modules = [importlib.import_module(f"invgen.benchmarks.methods.{name}") for name in MODULES]
    return {name: getattr(module, name) for module in modules for name in module.__all__ if _usable(getattr(module, name))}


def _usable(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Method)
