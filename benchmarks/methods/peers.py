"""Samplers of other packages on the same prior, operator, noise, measurement and seed: the peer rows of a suite.

deepinv (0.5) and azula (0.11) run through the adapters that invgen has for them, with their own code and their own
defaults; what is adapted is units and shapes. Their random numbers are torch's, seeded for each call, so that a result is
reproduced, but depends on what it is batched with. Both need a torchvision that fits torch: extra `peers`, which is no
part of `all`.
"""

from invgen.benchmarks.methods.peers_azula import AzulaDiffPIR, AzulaDPS, AzulaMMPS, AzulaPiGDM, AzulaTMPD
from invgen.benchmarks.methods.peers_deepinv import (
    DeepinvDDRM,
    DeepinvDiffPIR,
    DeepinvDPS,
    DeepinvMomentMatching,
    DeepinvPiGDM,
)

__all__ = [
    "AzulaDPS",
    "AzulaDiffPIR",
    "AzulaMMPS",
    "AzulaPiGDM",
    "AzulaTMPD",
    "DeepinvDDRM",
    "DeepinvDPS",
    "DeepinvDiffPIR",
    "DeepinvMomentMatching",
    "DeepinvPiGDM",
]
