"""Noise streams: what a sample draws depends on the seed and on its own index, never on its batch.

Every draw of a row has a seed of its own, the hash (SplitMix64: Steele, Lea & Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014) of seed, index and number of the draw. A long row is filled by torch's generator of its device
with that seed: one operation a row, nearly as fast as torch.randn, and other numbers on a GPU than on a processor. Short
rows, of which there may be thousands, are filled together by SplitMix64 itself, as a counter, with Box and Muller's
transform: some seventy elementwise operations for all of them, and the same numbers on every device. Neither touches the
global state of torch, and the number of threads plays no part.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # the odd number nearest 2^64 / golden ratio, as a signed 64-bit integer
_MIX1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX2 = 0x94D049BB133111EB - 2**64
_WORD = 2**64 - 1
_BLOCK = 2**15  # words at once on a processor: a quarter of a megabyte
# Values in a row from which a generator of its own is faster on a processor: setting a seed takes as long as 500 values of
# the counter. It depends on the row alone, so that a sample keeps its numbers in any batch.
_LONG = 512


def _mix_(z: Tensor) -> Tensor:
    """Returns SplitMix64's output function, in place."""
    for bits, factor in ((30, _MIX1), (27, _MIX2), (31, 1)):
        # torch shifts arithmetically, the generator logically: the mask removes the copies of the sign bit
        z ^= (z >> bits).bitwise_and_(2 ** (64 - bits) - 1)
        if factor != 1:
            z *= factor
    return z


def _mixed(z: int) -> int:
    """Returns SplitMix64's output function of one number, in [0, 2^64)."""
    z &= _WORD
    z = (z ^ (z >> 30)) * _MIX1 & _WORD
    z = (z ^ (z >> 27)) * _MIX2 & _WORD
    return z ^ (z >> 31)


def _signed(z: int) -> int:
    """Returns the 64-bit signed integer that is equal modulo 2^64."""
    return (z + 2**63) % 2**64 - 2**63


def _long(like: Tensor) -> bool:
    """Tells whether a row of `like` has a generator of its own."""
    rows = like.shape[0]
    return rows > 0 and like.numel() >= _LONG * rows


def seeds_of(seeds: Sequence[int]) -> Tensor:
    """Returns integers of any size as 64-bit ones: equal where they are equal modulo 2^64."""
    return torch.tensor([_signed(int(seed)) for seed in seeds], dtype=torch.int64)


def streams(seed: int | Tensor, index: Tensor) -> "Streams":
    """Returns the streams of rows (number, measurement, ...), (N, k), of a batch of measurements.

    seed: one for all, or (measurements,), one for each measurement, whose rows then draw what they draw where it is alone.
    """
    if not isinstance(seed, Tensor):
        return Streams(seed, index)
    alone = index.clone()
    alone[:, 1] = 0
    return Streams(seed[index[:, 1]], alone)


def second(seed: int | Tensor) -> int | Tensor:
    """Returns a seed whose streams are independent of those of `seed`, for draws beside the steps of an algorithm."""
    return ~seed


class Streams:
    """One stream of random numbers per row of a batch.

    Args:
        seed: any integer, or a tensor of 64-bit integers, (N,), one for each row.
        index: what identifies each row, integers of shape (N,) or (N, k), such as (sample, measurement).

    Called with a tensor of shape (N, *shape), it returns standard normals of its shape, dtype and device (for a complex
    tensor, real and imaginary part are standard normals each); every call is a new, independent draw. Long rows are drawn
    in single precision and cast, so that all dtypes see the same numbers. torch's generator of a processor takes 32 bits of
    a seed: among a million draws of rows, some hundred pairs have the same noise, at steps and samples that chance picks.
    """

    def __init__(self, seed: int | Tensor, index: Tensor | Sequence[int]) -> None:
        index = torch.as_tensor(index, dtype=torch.int64)
        index = index[:, None] if index.ndim == 1 else index
        key = seeds_of([int(seed)]).expand(len(index)) if not isinstance(seed, Tensor) or seed.ndim == 0 else seed
        key = key.to(index.device)
        for column in index.unbind(1):
            key = _mix_(_mix_(key + _GOLDEN) + column)
        self._begin(key)

    def _begin(self, key: Tensor) -> None:
        self._key, self._keys, self._draws = key, key.tolist(), 0
        self._generator: torch.Generator | None = None

    def every(self, step: int) -> "Streams":
        """Returns new streams, one for each `step` rows: those that belong to a chain of `step` particles."""
        other = object.__new__(Streams)
        other._begin(_mix_(self._key[::step].clone() + _GOLDEN))
        return other

    def _by_rows(self, like: Tensor, uniform: bool = False) -> Tensor:
        """Returns normal or uniform numbers of the shape of `like`, from a generator a row."""
        self._draws += 1
        draw, device = self._draws * _GOLDEN, like.device
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device)
        generator, single = self._generator, torch.float32
        if len(like) == 1 and not uniform:  # one operation, and the same numbers
            generator.manual_seed(_mixed(self._keys[0] + draw))
            z = torch.randn(like.shape, generator=generator, device=device, dtype=single)
            return z if like.dtype == single else z.to(like.dtype)
        z = torch.empty(like.shape, device=device, dtype=single)
        for row, key in zip(z.unbind(), self._keys, strict=True):
            generator.manual_seed(_mixed(key + draw))
            row.uniform_(generator=generator) if uniform else row.normal_(generator=generator)
        return z if like.dtype == torch.float32 else z.to(like.dtype)

    def _uniforms(self, like: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yields two numbers uniform on (0, 1) for every two values of a row of `like`, as (which, first, second), block
        by block.

        They come from the upper and the lower half of each word, (N, block) in single or double precision. A block and what
        is computed from it stay in the cache of a processor.
        """
        count, device = (like[0].numel() + 1) // 2 if len(like) else 0, like.device
        dtype = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
        self._key = self._key.to(device)
        self._draws += 1
        key = _mix_(self._key ^ _signed(_mixed(self._draws * _GOLDEN)))[:, None]
        block = max(_BLOCK // max(len(like), 1), 1) if device.type == "cpu" else max(count, 1)
        for begin in range(0, count, block):
            at = slice(begin, min(begin + block, count))
            bits = _mix_(key + torch.arange(at.start + 1, at.stop + 1, device=device).mul_(_GOLDEN))
            # 24 bits are what float32 can hold exactly; the half keeps the ends of the interval out
            first, second = ((bits >> shift).bitwise_and_(0xFFFFFF).to(dtype).add_(0.5).mul_(2.0**-24) for shift in (40, 8))
            yield at, first, second

    def __call__(self, like: Tensor) -> Tensor:
        if like.is_complex():
            real = torch.view_as_real(like)
            return torch.view_as_complex(self(real))
        if _long(like):
            return self._by_rows(like)
        z = like.new_empty(len(like), 2, (like[0].numel() + 1) // 2 if len(like) else 0)
        for at, u, v in self._uniforms(like):
            radius = u.log_().mul_(-2.0).sqrt_()
            angle = v.mul_(2.0 * torch.pi)
            z[:, 0, at] = angle.cos().mul_(radius)
            z[:, 1, at] = angle.sin_().mul_(radius)
        return self._shaped(z, like)

    def uniform(self, like: Tensor) -> Tensor:
        """Returns numbers uniform on (0, 1), one for each entry of `like`, of shape (N, *shape)."""
        # in single precision the largest would round to 1, and torch's own may be 0
        low, high = 2.0**-25, 1 - 2.0**-24
        if _long(like):
            return self._by_rows(like, uniform=True).clamp_(low, high)
        z = like.new_empty(len(like), 2, (like[0].numel() + 1) // 2 if len(like) else 0)
        for at, u, v in self._uniforms(like):
            z[:, 0, at], z[:, 1, at] = u.clamp_(max=high), v.clamp_(max=high)
        return self._shaped(z, like)

    @staticmethod
    def _shaped(z: Tensor, like: Tensor) -> Tensor:
        """As many of the values (N, 2, half) as `like` has, in its shape."""
        return z.flatten(1)[:, : like[0].numel() if len(like) else 0].reshape(like.shape)
