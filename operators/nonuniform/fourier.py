"""The Fourier transform of an image at any frequencies: what an interferometer or a scanner off the grid measures."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from invgen.errors import OptionError, ShapeError
from invgen.forward import LinearOperator, Variance, per_entry, per_sample
from invgen.linalg import cg
from invgen.operators.nonuniform._finufft import filtered, gram_spectra, sum_at, sum_back


class NonUniformFourier(LinearOperator):
    """y_k = w_k sum_n x_n exp(-2 pi i p_k (n - N // 2)): the Fourier transform at frequencies p_k, on no grid.

    Args:
        in_shape: (*channels, *spatial), with as many spatial axes as a point has numbers, one to three.
        points: frequencies in cycles per pixel, (M, dim), in the order of the spatial axes; beyond +-1/2 they wrap.
        weights: w_k, positive, (M,), such as 1 / sigma_k, which whitens measurements of unequal noise; by default 1.
        complex: whether signals and measurements are complex tensors.

    y is (*channels, M, 2), real and imaginary part, or complex (*channels, M). No scale is put on the sums, so that the
    value at frequency zero is the sum of the image. By finufft (Barnett, Magland & af Klinteberg, SIAM J. Sci. Comput.
    41(5), 2019), on the CPU, to 1e-6 in single and 1e-13 in double precision; from the extra `nonuniform`. `gram` is A^H A
    by two FFTs of twice the size, and `weighted_adjoint`, `prox` and `pinv` are conjugate gradients on it, preconditioned
    by the nearest circulant matrix, which need no other transform.

    Raises:
        OptionError: points or weights that are not finite, or weights that are not positive.
        ShapeError: points or weights of another shape.
        MissingExtraError: finufft is not installed.
    """

    points: Tensor
    weights: Tensor
    spectrum: Tensor
    circulant: Tensor

    def __init__(
        self,
        in_shape: tuple[int, ...],
        points: Tensor,
        *,
        weights: Tensor | Sequence[float] | None = None,
        complex: bool = False,
    ) -> None:
        super().__init__(in_shape, dtype=torch.complex64 if complex else torch.float32)
        points = torch.as_tensor(points).detach().double()
        if points.ndim != 2 or not 1 <= points.shape[1] <= min(3, len(self.in_shape)) or not len(points):
            raise ShapeError(
                f"points must be (M, dim), one to three numbers for each and at most the {len(self.in_shape)} axes of a "
                f"signal, got {tuple(points.shape)}"
            )
        weights = torch.ones(len(points)) if weights is None else torch.as_tensor(weights).detach()
        if weights.shape != points.shape[:1]:
            raise ShapeError(f"weights must be one number for each of {len(points)} points, got {tuple(weights.shape)}")
        if not (points.isfinite().all() and weights.isfinite().all() and (weights > 0).all()):
            raise OptionError("points must be finite, in cycles per pixel, and weights finite and positive")
        self.dim = points.shape[1]
        self.channels, self.spatial = tuple(self.in_shape[: -self.dim]), tuple(self.in_shape[-self.dim :])
        self.out_shape = (*self.channels, len(points), *([] if complex else [2]))
        self.register_buffer("points", points)
        self.register_buffer("weights", weights.double())
        spectrum, circulant = gram_spectra(points, weights.double() ** 2, self.spatial)
        self.register_buffer("spectrum", spectrum, persistent=False)
        self.register_buffer("circulant", circulant, persistent=False)

    def _signal(self, z: Tensor) -> Tensor:
        """Returns a complex image as a signal: its real part where signals are real."""
        return z if self.in_dtype.is_complex else z.real

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, *self.spatial)
        z = sum_at(rows if rows.is_complex() else torch.complex(rows, torch.zeros_like(rows)), self.points)
        z = z.reshape(-1, *self.channels, len(self.points)) * self.weights.to(z.real.dtype)
        return z if self.in_dtype.is_complex else torch.view_as_real(z)

    def adjoint(self, y: Tensor) -> Tensor:
        z = (y if y.is_complex() else torch.view_as_complex(y.contiguous())) * self.weights.to(y.real.dtype)
        x = sum_back(z.reshape(-1, len(self.points)), self.points, self.spatial)
        return self._signal(x.reshape(-1, *self.in_shape))

    def gram(self, x: Tensor) -> Tensor:
        """Returns A^H A x, (B, *in_shape), by two FFTs of twice the size."""
        return self._signal(filtered(x, self.spectrum))

    def weighted_adjoint(self, r: Tensor, var_x: Variance = 1.0, var_y: Variance = 0.0) -> Tensor:
        if per_entry(var_y, r) or per_entry(var_x, r):
            return super().weighted_adjoint(r, var_x, var_y)
        b = self.adjoint(r)  # A^H (var_x A A^H + var_y)^-1 = (var_x A^H A + var_y)^-1 A^H
        return solve_gram(self.gram, self.circulant, b, var_x, var_y, self)

    def pinv(self, y: Tensor) -> Tensor:
        return cg(self.gram, self.adjoint(y), tol=self.tolerance, max_iter=self.max_iter)


def solve_gram(
    gram: Callable[[Tensor], Tensor], circulant: Tensor, b: Tensor, var_x: Variance, var_y: Variance, A: LinearOperator
) -> Tensor:
    """Returns (var_x A^H A + var_y I)^-1 b by conjugate gradients, preconditioned by a circulant neighbour of A^H A.

    Args:
        gram: x -> A^H A x.
        circulant: real, (*sizes), the neighbour's eigenvalues.
        b: (B, *in_shape).
        var_x, var_y: numbers, or one a sample.
        A: whose tolerance and most iterations hold.
    """
    var_x, var_y = per_sample(var_x, b), per_sample(var_y, b)
    eigenvalues = circulant.to(b.real.dtype)
    # the floor was found by counting iterations: half as many on spokes, no more on spirals, over 1e-1 and 1e-3
    gain = 1 / (var_x * eigenvalues.clamp(min=1e-2 * eigenvalues.max().item()) + var_y)
    axes = tuple(range(-circulant.ndim, 0))

    def precondition(r: Tensor) -> Tensor:
        z = torch.fft.ifftn(torch.fft.fftn(r, dim=axes) * gain, dim=axes)
        return z if r.is_complex() else z.real

    return cg(lambda u: var_x * gram(u) + var_y * u, b, tol=A.tolerance, max_iter=A.max_iter, precondition=precondition)
