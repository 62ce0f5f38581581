"""Does a sampler draw from the posterior?
=======================================

One that does and one that does not, by simulation-based calibration.
"""

import torch

import invgen
from invgen import operators, priors, samplers

prior = priors.GaussianPrior(shape=(16,))
A = operators.Blur(prior.shape, torch.ones(3) / 3)

# PiGDM is exact for this prior as its steps grow; DPS with its published step size fits the noise of the measurement
for sampler in (samplers.PiGDM(steps=400), samplers.DPS.paper(steps=100)):
    report = invgen.calibrate(prior, A, 0.3, sampler, num_simulations=200, num_samples=50, seed=0)
    path = f"calibration_{type(sampler).__name__}.png"
    report.plot(path)
    print(f"{report}\n\nthe picture is {path}\n")
