"""A real CT slice from 23 views
=============================

Filtered backprojection next to posterior samples, their mean and their uncertainty.
"""

import torch
from pydicom.examples import get_path

import invgen
from invgen import metrics, operators, plots, priors, samplers
from invgen.files import reader

prior = priors.load("ct")  # over slices in Hounsfield units / 1000, clipped to [-1, 1]
x, slice_ = reader.fit(reader.read(get_path("ct")), prior)
A = operators.ParallelBeamCT(prior.shape, num_angles=23)
y = invgen.Gaussian(0.5).sample(A(x), torch.Generator().manual_seed(0))  # line integrals over 128 pixels of that size

result = invgen.solve(
    y, A, prior, noise=0.5, sampler=samplers.AdaptivePiGDM(steps=25), num_samples=4, seed=0, progress=True
)

fbp = A.fbp(y)
error, std = (result.mean - x).abs(), result.std
assert slice_.spacing is not None, "a DICOM slice says how large its pixels are"
print(f"pixels of {slice_.spacing[0]:.2f} mm; PSNR in dB, data range {prior.value_range}:")
before, after = (metrics.psnr(image, x, data_range=2.0).item() for image in (fbp, result.mean))
print(f"  filtered backprojection {before:.2f}")
print(f"  posterior mean          {after:.2f}")
print(f"  residual over noise     {result.residual.mean():.3f}")
print(f"  error within 2 standard deviations of the mean: {(error < 2 * std).float().mean():.0%} of the pixels")
print(f"  {result.nfe:g} network evaluations a sample, {result.seconds:.1f} s")
plots.show_posterior(result, truth=x, baseline=("FBP", fbp), path="sparse_view_ct.png")
print("the picture is sparse_view_ct.png")
assert after > before + 5  # what the prior knows is worth more than 5 dB here
assert 0.9 < result.residual.mean() < 1.15  # and the samples explain the measurement
