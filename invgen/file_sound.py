"""Recordings: WAV by scipy, FLAC, OGG and AIFF by soundfile (extra `audio`)."""

import warnings
from pathlib import Path

import numpy as np

from invgen.errors import FileError, MissingExtraError
from invgen.files import Signal

COMPRESSED = (b"fLaC", b"OggS", b"FORM")  # how FLAC, OGG and AIFF files begin


def read_sound(path: Path) -> Signal:
    """The recording in a file: (channels, samples), full scale is 1, with its sampling rate."""
    import torch

    with path.open("rb") as file:
        head = file.read(4)
    samples, rate = read_compressed(path) if head in COMPRESSED else read_wave(path)
    return Signal(torch.from_numpy(samples), "own", rate=rate)


def read_wave(path: str | Path) -> tuple[np.ndarray, int]:
    """Samples (channels, length) float32, full scale is 1, and the rate in Hz, of a WAV file of integers or floats.

    Raises:
        FileError: not a WAV file, damaged, cut off, empty, or not finite.
    """
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks that it does not know
            warnings.filterwarnings("error", "Reached EOF prematurely", wavfile.WavFileWarning)
            rate, values = wavfile.read(path)
    except FileNotFoundError:
        raise FileError(f"there is no file {path}; pass a recording that exists") from None
    except wavfile.WavFileWarning as error:
        raise FileError(f"{path} is cut off ({error}); fetch or record it again") from None
    except Exception as error:  # scipy raises many kinds: ValueError, struct.error, UnboundLocalError, ...
        raise FileError(f"{path} is not a whole WAV file ({error}); export it as PCM or floating point") from error
    kind, width = values.dtype.kind, values.dtype.itemsize
    if kind == "u":
        values = (values.astype(np.float32) - 128) / 128  # 8 bits are stored with an offset
    elif kind == "i":
        values = values / 2.0 ** (8 * width - 1)  # scipy puts 24 bits into the upper bytes of 32
    return _checked(values, path), int(rate)


def read_compressed(path: Path) -> tuple[np.ndarray, int]:
    """The same of a FLAC, OGG or AIFF file.

    Raises:
        MissingExtraError: soundfile is not installed.  FileError: damaged, cut off, empty, or not finite.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: libsndfile is missing
        raise MissingExtraError(f"reading {path} needs soundfile: pip install 'invgen[audio]', or pass WAV") from error
    try:
        with soundfile.SoundFile(path) as file:
            rate, expected = file.samplerate, file.frames
            values = file.read(dtype="float32", always_2d=False)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise FileError(f"{path} is damaged or cut off ({error}); fetch or record it again") from error
    if len(values) < expected:
        raise FileError(f"{path} is cut off (it has {len(values)} of {expected} samples); fetch or record it again")
    return _checked(values, path), int(rate)


def _checked(values: np.ndarray, path: str | Path) -> np.ndarray:
    """(samples,) or (samples, channels) -> (channels, samples) float32."""
    if values.size == 0:
        raise FileError(f"{path} holds no samples, expected a recording")
    if not np.isfinite(values).all():
        raise FileError(f"{path} has values that are not finite (NaN or infinite); replace them first")
    return np.ascontiguousarray(np.atleast_2d(values.T), dtype=np.float32)
