"""Fitting a signal to a prior: its units, its channels, its size. Whatever is done is said in the notes."""

from dataclasses import replace
from typing import TYPE_CHECKING

from invgen.errors import OptionError, ShapeError, UnitsWarning
from invgen.files.signal import Signal
from invgen.messages import warn

if TYPE_CHECKING:
    from torch import Tensor

    from invgen.diffusion import Prior

LUMA = (0.2126, 0.7152, 0.0722)  # ITU-R BT.709: red, green and blue in grey
WINDOW = (-1000.0, 1000.0)  # HU
FAR = 5.0  # times the width of the prior's range: values that lie farther from its middle are in other units


def fit(
    signal: Signal, prior: "Prior", *, resize: bool = True, window: tuple[float, float] | None = None
) -> tuple["Tensor", Signal]:
    """Returns the signal as one that the prior knows: its channels, its size and its units.

    Grey levels of 0 to 1, and Hounsfield units within `window` (-1000 to 1000 if left out; clipped to it), map on the
    prior's value range; the values of arrays, recordings and floating-point pictures are left as they are. Complex values
    become two channels. Size: cut to the middle in the prior's proportions, then resampled bicubically with antialiasing;
    of a volume the slice in its middle, of a recording as many samples from its middle as the prior has.

    Returns:
        (x, signal): x of shape prior.shape, and the signal with spacing and notes brought up to date.

    Raises:
        ShapeError: the shapes differ and `resize` is False, or no reshaping makes sense.
        OptionError: a recording has another sampling rate than the prior, or a window is given for other units than HU.

    Warns:
        UnitsWarning: values that were taken as they are lie far outside of the prior's range.
    """
    import torch

    values, notes, spacing = signal.values, list(signal.notes), signal.spacing
    shape = tuple(prior.shape)
    values = _in_units(values, signal.units, prior.value_range, window, notes)
    if values.is_complex():
        values = _slice_of_complex(values, shape, signal.volume, notes)
        volume = signal.volume and len(shape) == 4
        values = torch.view_as_real(values).movedim(-1, 0).flatten(0, max(0, values.ndim - len(shape) + 1))
        notes.append("its real and imaginary parts became two channels")
        signal = replace(signal, volume=volume)
    if signal.rate is not None:
        _check_rate(signal.rate, prior)
    if tuple(values.shape) != shape:
        if len(shape) == 2 and values.ndim <= 2:
            values = _excerpt(values, shape, notes)
        elif len(shape) == 3 and signal.rate is None:
            values = _channels(_middle(values, shape, signal.volume, notes), shape[0], notes)
        elif len(shape) == 4 and signal.volume and shape[0] == 1:
            values = values[None]
        if tuple(values.shape) != shape:
            if len(shape) != 3 or values.ndim != 3 or values.shape[0] != shape[0] or signal.rate is not None:
                raise ShapeError(f"the signal has shape {tuple(signal.values.shape)}, the prior is over {shape}")
            if not resize:
                raise ShapeError(
                    f"the signal is {values.shape[1]} x {values.shape[2]} pixels, the prior is over {shape[1]} x "
                    f"{shape[2]}; leave out --no-resize, or pass --size"
                )
            values, factor = _resample(values, shape[1:], notes)
            spacing = spacing and (spacing[0] * factor, spacing[1] * factor)
    return values.to(prior.device, prior.dtype), replace(signal, values=values, spacing=spacing, notes=tuple(notes))


def picture_size(signal: Signal) -> tuple[int, int] | None:
    """Returns the (rows, columns) of a picture or of a slice of a volume; None for recordings and vectors."""
    shape = tuple(signal.values.shape)
    if signal.rate is not None or len(shape) < 2:
        return None
    last_is_colour = len(shape) == 3 and not signal.volume and shape[-1] in (1, 3, 4) and shape[0] not in (1, 3)
    rows, columns = shape[:2] if last_is_colour else shape[-2:]
    return rows, columns


def cut(signal: Signal, size: tuple[int, int]) -> Signal:
    """Returns the middle of a picture, or of each slice of a volume, of `size` (rows, columns), and a note if that left
    any out."""
    own = picture_size(signal)
    if own is None or own == size:
        return signal
    (top, left), axis = ((n - m) // 2 for n, m in zip(own, size, strict=True)), signal.values.ndim - 2
    if own != tuple(signal.values.shape[-2:]):
        axis = 0
    values = signal.values.narrow(axis, top, size[0]).narrow(axis + 1, left, size[1])
    note = f"the middle {size[0]} x {size[1]} of its {own[0]} x {own[1]} pixels was cut out"
    return replace(signal, values=values, notes=(*signal.notes, note))


def _in_units(
    values: "Tensor",
    units: str,
    ends: tuple[float, float],
    window: tuple[float, float] | None,
    notes: list[str],
) -> "Tensor":
    low, high = ends
    if window is not None and units != "HU":
        raise OptionError(
            "a window is for Hounsfield units, which this signal does not have; leave it out, or say modality='CT' where "
            "it is a CT"
        )
    if units == "HU":
        a, b = window or WINDOW
        if not a < b:
            raise OptionError(f"a Hounsfield window needs low < high, got {a:g} to {b:g}")
        notes.append(f"Hounsfield units of {a:g} to {b:g} became the prior's {low:g} to {high:g}, others were clipped")
        return low + (values.clamp(a, b) - a) * ((high - low) / (b - a))
    if units == "unit":
        notes.append(f"grey levels of 0 to 1 became the prior's {low:g} to {high:g}")
        return low + values * (high - low)
    if (largest := (values.abs() if values.is_complex() else (values - (low + high) / 2).abs()).max()) > FAR * (high - low):
        sentence = (
            f"the signal's values were taken as they are, and lie up to {largest:.4g} from the middle of the prior's range "
            f"of {low:g} to {high:g}: they may be in other units"
        )
        warn(sentence, UnitsWarning)
        notes.append(sentence)
    return values


def _slice_of_complex(values: "Tensor", shape: tuple[int, ...], volume: bool, notes: list[str]) -> "Tensor":
    """Returns the slice in the middle of a complex volume, whose parts are to become the two channels of a prior over
    pictures."""
    if len(shape) == 3 and values.ndim == 3 and (volume or 2 * len(values) != shape[0]) and len(values) > 1:
        notes.append(f"of its {len(values)} slices number {len(values) // 2}, the middle, was read")
        return values[len(values) // 2]
    return values


def _check_rate(rate: float, prior: "Prior") -> None:
    own = prior.sampling_rate
    if own is not None and own != rate:
        raise OptionError(
            f"the recording has {rate:g} samples a second, the prior is over {own:g}; resample it first, for example with "
            "scipy.signal.resample_poly"
        )


def _excerpt(values: "Tensor", shape: tuple[int, ...], notes: list[str]) -> "Tensor":
    """Returns (channels, samples) or (samples,) -> shape, from the middle; several channels are averaged for a prior
    over one."""
    values = values[None] if values.ndim == 1 else values
    if shape[0] == 1 and len(values) > 1 and values.shape[1] >= shape[1]:
        notes.append(f"its {len(values)} channels were averaged")
        values = values.mean(0, keepdim=True)
    if len(values) == shape[0] and values.shape[1] > shape[1]:
        start = (values.shape[1] - shape[1]) // 2
        notes.append(f"of its {values.shape[1]} samples {start} to {start + shape[1] - 1}, the middle, were cut out")
        values = values[:, start : start + shape[1]]
    return values


def _middle(values: "Tensor", shape: tuple[int, ...], volume: bool, notes: list[str]) -> "Tensor":
    """Returns the slice in the middle of a volume; an array that cannot be a picture of one channel is taken for a
    volume."""
    if (volume and values.ndim in (3, 4)) or (
        values.ndim == 3 and (shape[0] == 1 and len(values) > 4 and values.shape[-1] > 4)
    ):
        notes.append(f"of its {len(values)} slices number {len(values) // 2}, the middle, was read")
        middle = values[len(values) // 2]
        return middle if middle.ndim == 3 else middle[None]
    return values


def _channels(values: "Tensor", count: int, notes: list[str]) -> "Tensor":
    """Returns (H, W), (C, H, W) or (H, W, C) -> (count, H, W) where grey and colour allow it."""
    if values.ndim == 2:
        values = values[None]
    if values.ndim == 3 and values.shape[-1] in (1, 3, 4) and values.shape[0] not in (1, 3):
        values = values[..., :3].movedim(-1, 0)
        notes.append("its last axis was taken for the colours")
    if values.ndim != 3 or values.shape[0] == count:
        return values
    if values.shape[0] == 1 and count == 3:
        notes.append("its grey was repeated as red, green and blue")
        return values.expand(3, -1, -1)
    if values.shape[0] == 3 and count == 1:
        notes.append("its colours became grey (BT.709 weights)")
        return (values * values.new_tensor(LUMA)[:, None, None]).sum(0, keepdim=True)
    return values


def _resample(values: "Tensor", size: tuple[int, ...], notes: list[str]) -> tuple["Tensor", float]:
    """Returns (C, H, W) -> (C, *size), and by how much a pixel has grown."""
    from torch.nn.functional import interpolate

    rows, columns = values.shape[1:]
    factor = min(rows / size[0], columns / size[1])
    cut = min(rows, round(size[0] * factor)), min(columns, round(size[1] * factor))
    if cut != (rows, columns):
        top, left = (rows - cut[0]) // 2, (columns - cut[1]) // 2
        values = values[:, top : top + cut[0], left : left + cut[1]]
        notes.append(f"the middle {cut[0]} x {cut[1]} of its {rows} x {columns} pixels was cut out")
    if cut != size:
        small = interpolate(values[None], size=size, mode="bicubic", antialias=True)[0]
        values = small.clamp(values.min(), values.max())  # bicubic weights overshoot at edges
        notes.append(f"{cut[0]} x {cut[1]} pixels were resampled to {size[0]} x {size[1]}")
    return values, factor
