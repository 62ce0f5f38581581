"""The discrete Fourier transform as in MRI and optics: orthonormal, zero frequency in the centre."""

import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError
from invgen.forward import SVDOperator
from invgen.validation.arguments import checked
from invgen.validation.hints import Count


@checked
def fftc(x: Tensor, dims: Count = 2) -> Tensor:
    """Returns the centred orthonormal Fourier transform over the last `dims` axes, fftshift(fft(ifftshift(x))), complex.

    Origin and zero frequency are both at index n // 2, as in fastMRI's fft2c.
    """
    axes = _axes(x, dims)
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(x, axes), dim=axes, norm="ortho"), axes)


@checked
def ifftc(z: Tensor, dims: Count = 2) -> Tensor:
    """Returns the inverse of `fftc`, and its adjoint, because it is unitary."""
    axes = _axes(z, dims)
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(z, axes), dim=axes, norm="ortho"), axes)


def _axes(x: Tensor, dims: int) -> tuple[int, ...]:
    if x.ndim < dims or not x.numel():
        raise ShapeError(f"a Fourier transform over {dims} axes needs values on that many, got shape {tuple(x.shape)}")
    return tuple(range(-dims, 0))


def to_complex(x: Tensor) -> Tensor:
    """Returns (B, 2, *shape), real and imaginary part, as complex (B, *shape)."""
    return torch.complex(x[:, 0], x[:, 1])


def to_channels(z: Tensor) -> Tensor:
    """Returns complex (B, *shape) as its real and imaginary part, (B, 2, *shape)."""
    return torch.stack([z.real, z.imag], 1)


class Fourier(SVDOperator):
    """z = F x, the centred orthonormal Fourier transform of a complex signal, unitary: F^H F = I.

    Args:
        in_shape: (2, *shape) with real and imaginary part as two real channels, or the shape of a complex signal.
        complex: whether signals are complex tensors.
        dims: how many of the last axes are transformed; by default all but the channel axis.

    The output has the shape and units of the input. Compositions keep their exact singular values: `mask @ Fourier(...)`.

    Raises:
        OptionError: a real signal without two channels on its first axis, or no axis to transform.
    """

    def __init__(self, in_shape: tuple[int, ...], *, complex: bool = False, dims: Count | None = None) -> None:
        super().__init__(in_shape, dtype=torch.complex64 if complex else torch.float32)
        if not self.in_shape:
            raise OptionError("Fourier needs a signal with axes, got in_shape ()")
        if not complex and self.in_shape[0] != 2:
            raise OptionError(
                f"Fourier takes real and imaginary part as channels, in_shape (2, ...), got {tuple(self.in_shape)}; for "
                "complex tensors pass complex=True"
            )
        axes = len(self.in_shape) - (not complex)
        self.dims = axes if dims is None else dims
        if not 1 <= self.dims <= axes:
            raise OptionError(
                f"Fourier of a signal of shape {tuple(self.in_shape)} transforms 1 to {axes} axes, got dims={dims}"
            )
        self.out_shape = self.in_shape
        self.register_buffer("s", torch.ones(()).expand(self.in_shape), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.Vt(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.V(y)

    def Vt(self, x: Tensor) -> Tensor:
        return fftc(x, self.dims) if x.is_complex() else to_channels(fftc(to_complex(x), self.dims))

    def V(self, z: Tensor) -> Tensor:
        return ifftc(z, self.dims) if z.is_complex() else to_channels(ifftc(to_complex(z), self.dims))

    def U(self, z: Tensor) -> Tensor:
        return z

    def Ut(self, y: Tensor) -> Tensor:
        return y
