"""Does a sampler draw from the posterior?
=======================================

One that does and one that does not, by simulation-based calibration.
"""

import torch

import invgen
from invgen import operators, priors, samplers

prior = priors.GaussianPrior(shape=(16,))
A = operators.Blur(prior.shape, torch.ones(3) / 3)

# AdaptivePiGDM is exact for this prior as its steps grow; AdaptiveDDRM's samples are too much alike
verdicts = []
for sampler in (samplers.AdaptivePiGDM(steps=400), samplers.AdaptiveDDRM()):
    report = invgen.calibrate(prior, A, 0.3, sampler, num_simulations=200, num_samples=50, seed=0)
    path = f"calibration_{type(sampler).__name__}.png"
    report.plot(path)
    print(f"{report}\n\nthe picture is {path}\n")
    verdicts.append(report.calibrated)
assert verdicts == [True, False]
