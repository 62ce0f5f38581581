"""An operator of your own
=======================

In under ten lines, checked, and a posterior that is known in closed form to compare with.
"""

import torch

import invgen
from invgen import LinearOperator, priors, samplers


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
result = invgen.solve(y, A, prior, noise=0.1, sampler=samplers.MMPS(steps=300), num_samples=1000, seed=0)
exact = prior.posterior(A, 0.1, y)
print(f"mean: at most {(result.mean - exact.mean).abs().max():.3f} from that of the exact posterior")
print(f"standard deviation: {result.std.mean():.3f} on average, exactly {exact.var.sqrt().mean():.3f}")
