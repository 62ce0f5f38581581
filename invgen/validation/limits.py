"""How much memory a file may ask for: every reader asks here before it believes a header."""

import os

from invgen.errors import FileError, OptionError

SETTING = "INVGEN_MAX_BYTES"
DEFAULT = 2 * 2**30  # bytes; a CT volume of 512 x 512 x 1000 in float32 has half of it


def max_bytes() -> int:
    """Returns the limit in bytes: the environment variable INVGEN_MAX_BYTES, or 2 GiB.

    Raises:
        OptionError: the variable is not a positive whole number.
    """
    text = os.environ.get(SETTING, "")
    if not text:
        return DEFAULT
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise OptionError(f"{SETTING} must be a positive whole number of bytes, got {text!r}")
    return int(text)


def check_size(size: int, what: str) -> None:
    """Refuses what would take more memory than the limit.

    Args:
        size: bytes that would be allocated.
        what: the file, or the part of it, that asks for them; the sentence begins with it.

    Raises:
        FileError: size is above the limit; the sentence names the setting.
    """
    if size > max_bytes():
        raise FileError(
            f"{what} asks for {_readable(size)} of memory, more than the {_readable(max_bytes())} that is allowed; if you "
            f"trust it, set the environment variable {SETTING}={size}"
        )


def _readable(size: int) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{min(size, 2**100) / factor:.3g} {unit}"
    return f"{size} bytes"
