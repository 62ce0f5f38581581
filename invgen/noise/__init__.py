"""The laws of the noise, p(y | clean measurement): `laws` for any modality, `directions` for unit vectors, `robust` for
noise that is not known well, `ct` for photon counts, `channels` for values that are names."""

from invgen.noise.channels import Channel, Confusion, Equality, Erasure, Substitution
from invgen.noise.ct import LineIntegrals, TransmissionPoisson, log_transform
from invgen.noise.directions import VonMisesFisher
from invgen.noise.joint import Joint
from invgen.noise.laws import Energy, Gaussian, Noise, Noiseless, NoiseLike, Poisson, RandnLike, as_noise
from invgen.noise.robust import InferredLevel, StudentT

__all__ = [
    "Channel",
    "Confusion",
    "Energy",
    "Equality",
    "Erasure",
    "Gaussian",
    "Joint",
    "LineIntegrals",
    "Noise",
    "NoiseLike",
    "Noiseless",
    "Poisson",
    "Substitution",
    "RandnLike",
    "StudentT",
    "TransmissionPoisson",
    "InferredLevel",
    "VonMisesFisher",
    "as_noise",
    "log_transform",
]
