"""Any denoiser as a prior
=======================

Total variation, which knows nothing of diffusion, inpaints a photograph.
"""

import torch
from skimage import data
from skimage.restoration import denoise_tv_chambolle
from skimage.transform import resize

import invgen
from invgen import Denoiser, metrics, operators, plots, samplers


class TotalVariation(Denoiser):
    """D(x, sigma) by total variation, with the weight that suits noise of that level: a denoiser, hence a prior."""

    def forward(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        sigmas = torch.as_tensor(sigma, dtype=torch.float64).expand(len(x)).tolist()
        clean = [denoise_tv_chambolle(one.numpy(), weight=s, channel_axis=0) for one, s in zip(x, sigmas, strict=True)]
        return torch.stack([torch.as_tensor(c, dtype=x.dtype) for c in clean])


photo = resize(data.camera(), (64, 64), anti_aliasing=True)
truth = torch.as_tensor(photo, dtype=torch.float32)[None] * 2 - 1
prior = TotalVariation(truth.shape, sigma_min=0.01, sigma_max=2.0, data_std=0.5)
A = operators.Mask.random(truth.shape, keep=0.4, seed=0)
y = invgen.Gaussian(0.05).sample(A(truth), torch.Generator().manual_seed(0))

# DiffPIR asks for the denoiser alone, never for its derivative
result = invgen.solve(y, A, prior, noise=0.05, sampler=samplers.DiffPIR(steps=30), num_samples=2, seed=0)
before, after = (metrics.psnr(x, truth, data_range=2.0).item() for x in (A.pinv(y), result.mean))
print(f"PSNR in dB, data range 2: {before:.2f} with zeros in the gaps, {after:.2f} by {result.sampler}")
plots.show_posterior(result, truth=truth, baseline=("zeros", A.pinv(y)), path="own_denoiser.png")
print("the picture is own_denoiser.png")
assert after > before + 8  # a picture against its gaps
