"""Units of computed tomography: Hounsfield units and attenuation per millimetre."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from torch import Tensor

from invgen.validation.arguments import checked
from invgen.validation.hints import Positive

if TYPE_CHECKING:
    Values = TypeVar("Values", Tensor, np.ndarray, float)  # what is given comes back
else:
    Values = Tensor | np.ndarray | float

MU_WATER = 0.02  # 1/mm, linear attenuation of water at 60 to 70 keV, the mean energy of a 120 kVp beam


@checked
def hu_to_mu(hu: Values, mu_water: Positive = MU_WATER) -> Values:
    """Returns the attenuation in 1/mm of Hounsfield units, mu = mu_water (1 + HU / 1000) (Hounsfield 1973); negative
    values are
    kept.

    Args:
        hu: any shape; -1000 is air, 0 water.
        mu_water: attenuation of water in 1/mm at the energy of the scan (0.02: 60 to 70 keV).
    """
    return mu_water * (1 + hu / 1000)


@checked
def mu_to_hu(mu: Values, mu_water: Positive = MU_WATER) -> Values:
    """Returns Hounsfield units of an attenuation in 1/mm, HU = 1000 (mu / mu_water - 1)."""
    return 1000 * (mu / mu_water - 1)
