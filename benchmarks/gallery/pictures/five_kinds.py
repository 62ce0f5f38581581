"""Five kinds of model that learn pictures of 8 x 8 pixels in seconds, for row 23."""

from collections.abc import Callable

import torch
from torch import Tensor

import invgen
from invgen import priors

SHAPE, LEVELS, CODE = (64,), 5, 12  # CODE: entries of a code of the linear decoder


def gaussian(x: Tensor) -> invgen.Prior:
    """Returns N(mean, covariance) of the pictures, the covariance drawn a little towards white."""
    C = torch.cov(x.T)
    return priors.GaussianPrior(SHAPE, x.mean(0), covariance=C + 0.01 * C.diagonal().mean() * torch.eye(64))


def mixture(x: Tensor) -> invgen.Prior:
    """Returns ten Gaussians with covariances of their own, found by expectation maximisation."""
    from sklearn.mixture import GaussianMixture

    fitted = GaussianMixture(10, reg_covar=0.005, random_state=0).fit(x.double().numpy())
    means, weights, covariances = (torch.as_tensor(t) for t in (fitted.means_, fitted.weights_, fitted.covariances_))
    return priors.GaussianMixture(means.float(), weights, covariances=covariances.float())


def kernel(x: Tensor) -> invgen.Prior:
    """Returns a Gaussian about every picture: what a network learns that has learnt its pictures by heart."""
    return priors.GaussianMixture(x, var=0.09)


def linear(x: Tensor) -> invgen.Prior:
    """Returns a decoder of principal components, with its encoder: probabilistic PCA, a linear VAE."""
    mean = x.mean(0)
    values, axes = torch.linalg.eigh(torch.cov(x.T))
    scale, axes = values[-CODE:].sqrt(), axes[:, -CODE:]
    rest = values[:-CODE].mean().log().item()

    def encoder(signals: Tensor) -> tuple[Tensor, Tensor]:
        z = (signals - mean) @ axes / scale
        return z, (rest - (scale**2 + values[:-CODE].mean()).log()).expand(len(z), -1)

    return priors.VAE(lambda z: (z * scale) @ axes.T + mean, encoder, CODE, SHAPE)


def chain(x: Tensor) -> invgen.Prior:
    """Returns a chain of pixels of five grey levels, each given the nine before it."""
    tokens = ((x + 1) / 2 * (LEVELS - 1)).round().long()
    return priors.NGram(list(tokens), 64, torch.linspace(-1, 1, LEVELS), order=9)


KINDS: dict[str, Callable[[Tensor], invgen.Prior]] = {
    "Gaussian": gaussian,
    "mixture": mixture,
    "kernel": kernel,
    "linear decoder": linear,
    "chain": chain,
}
