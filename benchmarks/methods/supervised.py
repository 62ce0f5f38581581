"""A network trained for one measurement: what learned reconstruction without a prior does, and where it ends."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from invgen.numerics.gradients import differentiating
from invgen.priors.checkpoints.networks.unet import UNet

Pairs = Callable[[Generator], tuple[Tensor, Tensor]]


class Residual(nn.Module):
    """x -> x + net(x), with a `UNet` whose noise level stands still: FBPConvNet (Jin et al., TIP 2017) is of this kind."""

    def __init__(self, net: UNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Returns the reconstruction, (B, *shape), of a first one."""
        return x + self.net(x, x.new_zeros(len(x)))


def train_supervised(pairs: Pairs, net: nn.Module, steps: int, learning_rate: float = 1e-3, seed: int = 0) -> nn.Module:
    """Returns the network after training on the mean squared error, by Adam with a cosine to zero.

    Args:
        pairs: draws a batch of (first reconstruction, truth).
        net: from the one to the other.
        steps: batches.
        learning_rate: the highest.
        seed: of the batches.
    """
    optimiser = torch.optim.Adam(net.parameters(), learning_rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = Generator().manual_seed(seed)
    with differentiating():
        for _ in range(steps):
            first, truth = pairs(generator)
            optimiser.zero_grad()
            (net(first) - truth).square().mean().backward()
            optimiser.step()
            falling.step()
    return net.requires_grad_(False).eval()
