"""Which blur made this measurement?
=================================

Models are compared by the evidence p(y) that sequential Monte Carlo estimates.
"""

import math

import torch
from matplotlib.figure import Figure

import invgen
from invgen import operators, plots, priors, samplers
from invgen.operators.kernels import gaussian_kernel

g = torch.Generator().manual_seed(0)
prior = priors.GaussianMixture(torch.randn(5, 16, generator=g), var=0.3)  # five kinds of signal, each with variations
widths, chains = [0.5, 0.75, 1.0, 1.25, 1.5, 2.0], 6
models = [operators.Blur(prior.shape, gaussian_kernel(width, dim=1)) for width in widths]
y = invgen.Gaussian(0.2).sample(models[2](prior.sample(1, seed=1)), g)[0]

sampler = samplers.LinearisedTDS(steps=50, particles=64)
found, exact = [], []
for width, A in zip(widths, models, strict=True):
    post = invgen.Posterior(prior, A, 0.2, y)
    log = sampler.weighted(post, chains=chains).log_evidence  # one estimate a chain; the mean of their exponentials counts
    found.append(log)
    exact.append(prior.posterior(A, 0.2, y).log_evidence)  # this prior knows the answer
    print(f"blur of width {width:4.2f}: log p(y) = {log.logsumexp(0) - math.log(chains):6.2f}, exactly {exact[-1]:6.2f}")

figure = Figure(figsize=(5, 3.2), layout="constrained")
axes = figure.subplots()
axes.plot(widths, exact, color="0.3", label="exact")
axes.plot([w for w in widths for _ in range(chains)], torch.cat(found), ".", label=f"{chains} chains of 64 particles")
axes.set(xlabel="width of the blur in pixels (the truth is 1)", ylabel="log p(y)")
axes.legend()
plots.save(figure, "evidence.png")
print("the picture is evidence.png")

# six chains of 64 particles find the exact log-evidence to within 1 for each model
worst = max(abs(f.logsumexp(0).item() - math.log(chains) - e) for f, e in zip(found, exact, strict=True))
assert worst < 1, worst
