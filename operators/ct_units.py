"""Units of computed tomography: Hounsfield units and attenuation per millimetre."""

from torch import Tensor

from invgen.errors import OptionError

MU_WATER = 0.02  # 1/mm, linear attenuation of water at 60 to 70 keV, the mean energy of a 120 kVp beam


def hu_to_mu(hu: Tensor, mu_water: float = MU_WATER) -> Tensor:
    """Attenuation in 1/mm of Hounsfield units, mu = mu_water (1 + HU / 1000) (Hounsfield 1973); negative values are
    kept.

    Args:
        hu: any shape; -1000 is air, 0 water.
        mu_water: attenuation of water in 1/mm at the energy of the scan (0.02: 60 to 70 keV).
    """
    return _checked(mu_water) * (1 + hu / 1000)


def mu_to_hu(mu: Tensor, mu_water: float = MU_WATER) -> Tensor:
    """Hounsfield units of an attenuation in 1/mm, HU = 1000 (mu / mu_water - 1)."""
    return 1000 * (mu / _checked(mu_water) - 1)


def _checked(mu_water: float) -> float:
    if not mu_water > 0:
        raise OptionError(f"mu_water must be a positive attenuation in 1/mm, got {mu_water!r}")
    return mu_water
