"""Recordings: WAV of integers or floats by scipy; its other codings, FLAC, OGG, MP3, AIFF by soundfile (extra `audio`)."""

import io
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from invgen.errors import FileError, InvgenError, MissingExtraError
from invgen.files.signal import Signal
from invgen.validation.limits import check_size

# how FLAC, OGG, AIFF, AU, CAF, RF64, Wave64 and MP3 files begin
COMPRESSED = (b"fLaC", b"OggS", b"FORM", b".snd", b"caff", b"RF64", b"riff", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")
WAVE = (b"RIFF", b"RIFX")
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64")
PLAIN = (1, 3)  # the codings of WAV that scipy reads: integers and floats
EXTENSIBLE = 0xFFFE  # the coding is told further on
UNKNOWN = 0x7FFFF000  # a length from here on is what a program writes that does not know it yet, as into a pipe


def is_sound(path: Path, head: bytes) -> bool:
    """Tells whether a file is named or begins as a recording does."""
    wave = head.startswith(WAVE) and head[8:12] == b"WAVE"  # WebP pictures begin with RIFF too
    return wave or head.startswith(COMPRESSED) or path.name.lower().endswith(SUFFIXES)


def read_sound(path: str | Path) -> Signal:
    """Reads a recording: (channels, samples), full scale is 1, with its sampling rate.

    Raises:
        FileError: damaged, cut off, empty, not finite, or too large.  MissingExtraError: soundfile is not installed.
    """
    import torch

    path, notes = Path(path), []
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except FileNotFoundError:
        raise FileError(f"there is no file {path}; pass a recording that exists") from None
    if head.startswith(COMPRESSED) or not (head in WAVE or path.suffix.lower() == ".wav"):
        samples, rate = _read_compressed(path, path)
    else:
        samples, rate, notes = _read_wave(path)
    return Signal(torch.from_numpy(samples), "own", rate=rate, notes=tuple(notes))


def read_wave(path: str | Path) -> tuple[np.ndarray, int]:
    """Reads a recording as (samples (channels, length) float32, rate in Hz); as `read_sound`."""
    signal = read_sound(path)
    assert signal.rate is not None  # a recording has one
    return signal.values.numpy(), int(signal.rate)


def _read_wave(path: Path) -> tuple[np.ndarray, int, list[str]]:
    try:
        coding, source, notes = _layout(path)
        if coding not in PLAIN:
            samples, rate = _read_compressed(path, source)
            return samples, rate, notes
        return *_read_plain(path, source), notes
    except InvgenError:
        raise
    except Exception as error:  # scipy raises many kinds: ValueError, struct.error, UnboundLocalError, ...
        raise FileError(f"{path} is not a whole WAV file ({error}); export it as PCM or floating point") from error


def _layout(path: Path) -> tuple[int, Any, list[str]]:
    """Returns the coding of a WAV file, what to read it from, and notes. Lengths that were never written become those
    that are."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] not in WAVE or head[8:12] != b"WAVE":
            raise ValueError("it does not begin as one")
        order = "<" if head[:4] == b"RIFF" else ">"
        whole, coding, at = struct.unpack(f"{order}I", head[4:8])[0], 0, 12
        while len(chunk := file.read(8)) == 8:
            name, length = chunk[:4], struct.unpack(f"{order}I", chunk[4:])[0]
            at += 8
            if name == b"data":
                break
            if name == b"fmt ":
                form = file.read(min(length, 40))
                coding = struct.unpack(f"{order}H", form[:2])[0]
                if coding == EXTENSIBLE and len(form) >= 26:
                    coding = struct.unpack(f"{order}H", form[24:26])[0]
            at += length + length % 2
            file.seek(at)
        else:
            raise ValueError("it has no samples")
        there = size - at
        if length <= there and (length or whole not in (0, 2**32 - 1)):
            return coding, path, []
        if 0 < length < UNKNOWN:
            raise FileError(f"{path} is cut off (it has {there} of {length} bytes of samples); fetch or record it again")
        file.seek(0)
        raw = bytearray(file.read())
    block = struct.unpack(f"{order}H", form[12:14])[0] or 1
    there -= there % block
    raw[at - 4 : at] = struct.pack(f"{order}I", there)
    raw[4:8] = struct.pack(f"{order}I", at - 8 + there)
    note = "it does not tell its length, as a recording from a pipe: its samples were read to the end of the file"
    return coding, io.BytesIO(bytes(raw[: at + there])), [note]


def _read_plain(path: Path, source: Any) -> tuple[np.ndarray, int]:
    from scipy.io import wavfile

    check_size(4 * path.stat().st_size, str(path))  # 8 bits become 32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks that it does not know
        warnings.filterwarnings("error", "Reached EOF prematurely", wavfile.WavFileWarning)
        try:
            rate, values = wavfile.read(source)
        except wavfile.WavFileWarning as error:
            raise FileError(f"{path} is cut off ({error}); fetch or record it again") from None
    kind, width = values.dtype.kind, values.dtype.itemsize
    if kind == "u":
        values = (values.astype(np.float32) - 128) / 128  # 8 bits are stored with an offset
    elif kind == "i":
        values = values / 2.0 ** (8 * width - 1)  # scipy puts 24 bits into the upper bytes of 32
    return _checked(values, path), int(rate)


def _read_compressed(path: Path, source: Any) -> tuple[np.ndarray, int]:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: libsndfile is missing
        raise MissingExtraError(
            f"reading {path} needs soundfile: pip install 'invgen-solvers[audio]'; or pass WAV"
        ) from error
    try:
        with soundfile.SoundFile(source) as file:
            rate, expected = file.samplerate, file.frames
            check_size(4 * expected * file.channels, str(path))
            values = file.read(dtype="float32", always_2d=False)
    except InvgenError:
        raise
    except Exception as error:  # soundfile's own, OSError, ValueError, TypeError
        raise FileError(f"{path} is damaged or cut off ({error}); fetch or record it again") from error
    if len(values) < expected:
        raise FileError(f"{path} is cut off (it has {len(values)} of {expected} samples); fetch or record it again")
    return _checked(values, path), int(rate)


def _checked(values: np.ndarray, path: str | Path) -> np.ndarray:
    """Returns (samples,) or (samples, channels) -> (channels, samples) float32."""
    if values.size == 0:
        raise FileError(f"{path} holds no samples, expected a recording")
    if not np.isfinite(values).all():
        raise FileError(f"{path} has values that are not finite (NaN or infinite); replace them first")
    return np.ascontiguousarray(np.atleast_2d(values.T), dtype=np.float32)
