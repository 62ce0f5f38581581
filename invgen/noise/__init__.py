"""The laws of the noise, p(y | clean measurement): `laws` for any modality, `ct` for photon counts."""

from invgen.noise.ct import LineIntegrals, TransmissionPoisson, log_transform
from invgen.noise.laws import Energy, Gaussian, Noise, Noiseless, NoiseLike, Poisson, RandnLike, as_noise

__all__ = [
    "Energy",
    "Gaussian",
    "LineIntegrals",
    "Noise",
    "NoiseLike",
    "Noiseless",
    "Poisson",
    "RandnLike",
    "TransmissionPoisson",
    "as_noise",
    "log_transform",
]
