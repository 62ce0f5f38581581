"""Measured multi-coil k-space, 12 % of it sampled: what each reconstruction predicts of the samples it was not given.

    python examples/mri_kspace.py brain_kspace_8coils.npy

The file: complex (coils, H, W), zero where nothing was measured, zero frequency at n // 2; the one this was written for
comes with SigPy's tutorial (BSD-3-Clause). There is no image to compare with, so one measured sample in ten, outside the
centre, is left out: half of these choose the weight of each method, the other half, which no method sees, judge it. Needs
PyWavelets.
"""

import argparse
from collections.abc import Callable

import numpy as np
import pywt
import torch
from torch import Tensor

import invgen
from invgen import operators, plots, priors, samplers

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("kspace")
parser.add_argument("--centre", type=int, default=26, help="side of the fully measured block")
parser.add_argument("--steps", type=int, default=20, help="of the sampler")
parser.add_argument("--samples", type=int, default=2)
parser.add_argument("--prior", default="mr")
args = parser.parse_args()

kspace = torch.from_numpy(np.load(args.kspace, allow_pickle=False)).to(torch.complex64)
mask = kspace.abs().sum(0) > 0
size = tuple(mask.shape)
maps = operators.sensitivity_maps(kspace, (args.centre, args.centre))  # with the slow phase: the image is nearly real

centre = torch.zeros(size, dtype=torch.bool)
top, left = ((n - args.centre + 1) // 2 for n in size)
centre[top : top + args.centre, left : left + args.centre] = True
chance = torch.rand(size, generator=torch.Generator().manual_seed(0))
tune, judge = mask & ~centre & (chance < 0.05), mask & ~centre & (chance > 0.95)
given = mask & ~tune & ~judge


def coils(where: Tensor, channels: int = 1) -> operators.MultiCoilMRI:
    """The operator that measures the samples of a mask: of a real image, or of a complex one as two channels."""
    return operators.MultiCoilMRI((channels, *size), where, maps)


real, both = coils(given), coils(given, 2)
sense = real.prox(torch.zeros(1, 1, *size), real.measured(kspace)[None], 1.0, 0.1)
kspace = kspace / torch.quantile(sense.clamp_min(0), 0.995)  # as the prior's training data: nearly all in [0, 1]
y = real.measured(kspace)


def miss(x: Tensor, where: Tensor) -> float:
    """The error in the samples of a mask, relative to their size: 1 is what predicting zero costs."""
    A = coils(where, x.shape[0])
    truth = A.measured(kspace)
    return ((A(x[None])[0] - truth).square().sum() / truth.square().sum()).sqrt().item()


def shrink(image: Tensor, threshold: float, shift: tuple[int, int]) -> Tensor:
    """Soft thresholding of the details of an orthogonal wavelet transform (db4, 4 levels), the image shifted around."""
    plane = torch.roll(image, shift, (0, 1)).numpy()
    bands, slices = pywt.coeffs_to_array(pywt.wavedec2(plane, "db4", mode="periodization", level=4))
    rough = bands[slices[0]].copy()
    bands = np.sign(bands) * np.maximum(np.abs(bands) - threshold, 0)
    bands[slices[0]] = rough
    coefficients = pywt.array_to_coeffs(bands, slices, output_format="wavedec2")
    back = pywt.waverec2(coefficients, "db4", mode="periodization")[: size[0], : size[1]]
    return torch.roll(torch.from_numpy(np.ascontiguousarray(back)).float(), (-shift[0], -shift[1]), (0, 1))


def wavelets(A: operators.MultiCoilMRI, threshold: float, iterations: int = 60) -> Tensor:
    """l1-wavelet SENSE by proximal gradient steps of length 1, each at another shift (Lustig et al., MRM 2007)."""
    x, shifts = torch.zeros(1, *A.in_shape), np.random.default_rng(0).integers(0, 16, (iterations, 2)).tolist()
    for a, b in shifts:
        x = x - A.adjoint(A(x) - y[None])
        x = torch.stack([shrink(channel, threshold, (a, b)) for channel in x[0]])[None]
    return x[0]


def posterior(noise: float) -> Tensor:
    """The mean of posterior samples under the prior."""
    prior = priors.load(args.prior, shape=(1, *size))
    sampler = samplers.PiGDM(steps=args.steps)
    return invgen.solve(y, real, prior, noise=noise, sampler=sampler, num_samples=args.samples, seed=0).mean


def ridge(A: operators.MultiCoilMRI, weight: float) -> Tensor:
    """SENSE by conjugate gradients, with a ridge."""
    return A.prox(torch.zeros(1, *A.in_shape), y[None], 1.0, weight)[0]


methods: dict[str, tuple[Callable[[float], Tensor], tuple[float, ...]]] = {
    "zero-filling": (lambda _: both.adjoint(y[None])[0], (0.0,)),
    "SENSE, complex image": (lambda w: ridge(both, w), (0.003, 0.01, 0.03, 0.1, 0.3)),
    "SENSE, real image": (lambda w: ridge(real, w), (0.003, 0.01, 0.03, 0.1, 0.3)),
    "l1-wavelet, complex image": (lambda w: wavelets(both, w), (0.003, 0.01, 0.02, 0.04, 0.08)),
    "l1-wavelet, real image": (lambda w: wavelets(real, w), (0.003, 0.01, 0.02, 0.04, 0.08)),
    f"prior `{args.prior}`, posterior mean": (posterior, (0.02, 0.05, 0.1)),
}
print(f"{int(given.sum())} samples of {mask.numel()} given to each method, {int(judge.sum())} to judge by, in each coil")
print("relative error of the left-out samples (1: predicting zero), and of the given ones:")
pictures = {}
for name, (method, weights) in methods.items():
    tried = {w: method(w) for w in weights}
    weight = min(weights, key=lambda w: miss(tried[w], tune))
    x = pictures[name] = tried[weight]
    print(f"  {name:32s} {miss(x, judge):.4f} {miss(x, given):.4f}   (weight {weight:g})", flush=True)
shown = torch.stack([torch.linalg.vector_norm(x, dim=0, keepdim=True) for x in pictures.values()])
plots.show_samples(shown, (0.0, 1.0), "mri_kspace.png")
print(f"the picture is mri_kspace.png: {', '.join(pictures)}")
