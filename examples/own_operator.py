"""An operator of your own
=======================

In under ten lines, checked, and a posterior that is known in closed form to compare with.
"""

import torch
from matplotlib.figure import Figure

import invgen
from invgen import LinearOperator, plots, priors, samplers


class LightCurve(LinearOperator):
    """A rotating strip whose columns pass a slit three at a time: (1, H, W) -> (W - 2,)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2)).unfold(-1, 3, 1).sum(-1)


A = LightCurve((1, 4, 16))
print(invgen.check_operator(A))

# a smooth prior: neighbouring pixels are alike
row, column = torch.meshgrid(torch.arange(4.0), torch.arange(16.0), indexing="ij")
place = torch.stack([row.flatten(), column.flatten()], 1)
prior = priors.GaussianPrior(shape=A.in_shape, covariance=torch.exp(-torch.cdist(place, place) / 4))

truth = prior.sample(1, seed=0)[0]
y = invgen.Gaussian(0.1).sample(A(truth), torch.Generator().manual_seed(1))
result = invgen.solve(y, A, prior, noise=0.1, sampler=samplers.MMPS(steps=25), num_samples=1000, seed=0)
exact = prior.posterior(A, 0.1, y)
error, spread, right = (result.mean - exact.mean).abs().max(), result.std.mean(), exact.var.sqrt().mean()
print(f"mean: at most {error:.3f} from that of the exact posterior")
print(f"standard deviation: {spread:.3f} on average, exactly {right:.3f}")

figure = Figure(figsize=(6, 3), layout="constrained")
axes, columns = figure.subplots(), range(16)
mean, std = result.mean[0, 1], result.std[0, 1]
axes.fill_between(columns, mean - 2 * std, mean + 2 * std, color="0.85", label="two standard deviations of the samples")
axes.plot(columns, mean, label="mean of the samples")
axes.plot(columns, exact.mean[0, 1], "k:", label="exact mean")
axes.plot(columns, truth[0, 1], ".", label="truth")
axes.set(xlabel="column", ylabel="the second row of the strip")
axes.legend(fontsize="small")
plots.save(figure, "own_operator.png")
print("the picture is own_operator.png")
assert error < 0.1  # four standard errors of a mean of 1000 samples are 0.064; the rest is left to finite steps
assert abs(spread / right - 1) < 0.03
