"""Every error that invgen raises on purpose: one sentence that says what was wrong, what was expected and what to do."""


class InvgenError(Exception):
    """The base of all errors of invgen: `except invgen.InvgenError` catches each of them."""


class ShapeError(InvgenError, ValueError):
    """A tensor has the wrong shape, dtype or device."""


class OptionError(InvgenError, ValueError):
    """An option has a value that cannot be used, or a name is not known."""


class CallError(OptionError, TypeError):
    """A call lacks an argument, or names one that does not exist."""


class UnsupportedError(InvgenError, TypeError):
    """A combination that the mathematics does not allow, such as a linear sampler on a nonlinear operator."""


class DivergedError(InvgenError, ArithmeticError):
    """A computation produced infinite or undefined values."""


class OperatorError(InvgenError, RuntimeError):
    """The code of an operator fails on what it should take; the sentence names the operator, `__cause__` is the failure."""


class WeightsError(InvgenError, ValueError):
    """A weights file is missing, damaged, not what it says it is, or would run code."""


class MissingWeightsError(WeightsError):
    """Weights that a command fetches are not on this machine; the sentence names the file, the folders and the command."""


class FileError(InvgenError, OSError):
    """A data file cannot be read or written."""


class MissingExtraError(InvgenError, ImportError):
    """An optional package is not installed; the sentence names the extra that brings it."""

    @classmethod
    def of_broken(cls, package: str, extra: str, error: Exception) -> "MissingExtraError":
        """Of a package that needs torchvision: one that does not fit torch fails with errors of several kinds."""
        return cls(
            f"this needs the package {package}, which does not import ({error}): pip install 'invgen-solvers[{extra}]', "
            "with a torchvision that fits torch"
        )


class CheckError(InvgenError, AssertionError):
    """An operator or a prior breaks its contract; the message lists every breach in words."""


class ConvergenceWarning(UserWarning):
    """An iterative solve stopped before it reached its tolerance."""


class UnitsWarning(UserWarning):
    """Values lie so far from those of a prior that they may be in other units."""
