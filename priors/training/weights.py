"""Weights files: written whole or not at all, with a description that rebuilds the prior and says how it was made."""

import json
import math
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invgen.errors import InvgenError, OptionError, WeightsError
from invgen.files import pickles
from invgen.files.writing import replace
from invgen.priors.checkpoints.networks.unet import EDMDenoiser
from invgen.priors.load import FACTS, FORMAT, load, read


def export(denoiser: EDMDenoiser, average: dict[str, Tensor], training: dict[str, Any], path: Path) -> Path:
    """Writes float16 weights; the metadata hold what rebuilds the denoiser, its units, and how it was trained.

    Args:
        denoiser: the network, for its options and units.
        average: the averaged weights.
        training: the facts of the training.
        path: of the file.
    """
    about = {"format": FORMAT, "network": "UNet", "options": denoiser.net.options, "shape": list(denoiser.shape)}
    about |= {key: getattr(denoiser, key) for key in FACTS} | {"units": training["recipe"]["units"], "training": training}
    about |= {"consistency": True} if denoiser.consistency else {}
    about |= {"mmse": [[s, e] for s, e in denoiser.mmse if s <= denoiser.sigma_max]} if denoiser.mmse else {}
    about |= {} if denoiser.sampling_rate is None else {"sampling_rate": denoiser.sampling_rate}
    write(path, average, about)
    return path


def write(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """A safetensors file of float16 tensors with a description under the key "invgen"."""
    from safetensors.torch import save_file

    half = {name: t.detach().to("cpu", torch.float16).contiguous() for name, t in tensors.items()}
    replace(path, lambda temporary: save_file(half, temporary, metadata={"invgen": json.dumps(about)}))


def calibrate(path: Path, clean: Tensor) -> None:
    """Adds to a weights file the table `mmse` (see `Denoiser.variance`), measured on clean views, (B, *shape).

    sigma_max becomes the highest level up to which the error never exceeds that of the mean of the views by more than 5 %,
    which is the best that is left to a denoiser at the end: above, where little was learnt, samplers had better not start.
    """
    denoiser = load(path)
    high = denoiser.sigma_max
    levels = [high * 2**-k for k in range(16) if high * 2**-k > denoiser.sigma_min]
    table = denoiser.measure_mmse(clean, [*levels, denoiser.sigma_min]).mmse
    worst = 1.05 * clean.var(0).mean().item()
    trusted = [s for k, (s, _) in enumerate(table) if all(e <= worst for _, e in table[: k + 1])] or [table[-1][0]]
    tensors, about = read(path)
    about |= {"mmse": [[s, e] for s, e in table if s <= trusted[-1]], "sigma_max": trusted[-1]}
    write(path, tensors, about)


@contextmanager
def restoring(checkpoint: Path) -> Iterator[dict[str, Any]]:
    """Returns the content of a checkpoint of a training, to be put back in the block.

    Raises:
        WeightsError: the file is damaged, could run code, or what it holds does not fit this training.
    """
    state = pickles.read(checkpoint)
    try:
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
        if type(state["step"]) is not int or state["step"] < 0 or not 0 <= float(state["elapsed"]) < math.inf:
            raise ValueError(f"its step is {state['step']!r:.40} and its time {state['elapsed']!r:.40}")
        yield state
    except InvgenError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).strip().split("\n")[0]
        raise WeightsError(
            f"{checkpoint} is not a checkpoint that this training left ({reason:.200}): pass resume=False (--no-resume) to "
            "begin anew, or another folder"
        ) from error


def restore(module: nn.Module, tensors: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Puts the weights of a checkpoint into a network; OptionError if it is another one."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise OptionError(f"{checkpoint} is of another network: pass resume=False or another folder") from error
    if not all(bool(t.isfinite().all()) for t in module.state_dict().values()):
        raise ValueError("its weights are not finite")


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Puts the moments of a checkpoint into an optimizer, which compares no shapes itself; ValueError if they differ."""
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        shapes = [value.shape for value in moments.values() if isinstance(value, Tensor) and value.ndim]
        if not isinstance(parameter, Tensor) or any(shape != parameter.shape for shape in shapes):
            raise ValueError("its optimizer is of another network")


class Interruptible:
    """While it is open, Ctrl-C asks for the end of the step, where everything can be saved; a second one ends at once."""

    def __init__(self) -> None:
        self.asked, self.before = False, None

    def __enter__(self) -> "Interruptible":
        try:
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self.before = signal.signal(signal.SIGINT, self._ask)
        except ValueError:  # not the main thread, which alone is interrupted
            pass
        return self

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)

    def leave(self, step: int, checkpoint: Path, save: Iterable[Callable[[], Any]]) -> None:
        """Saves and raises KeyboardInterrupt, if that was asked for."""
        if self.asked:
            for one in save:
                one()
            raise KeyboardInterrupt(
                f"interrupted after step {step}; {checkpoint} is saved, and the same command goes on from there"
            )
