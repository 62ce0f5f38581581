"""Hounsfield units."""

import pytest
import torch

from invgen.errors import OptionError
from invgen.operators.ct.units import hu_to_mu, mu_to_hu


def test_water_air_and_back():
    hu = torch.tensor([-1000.0, 0.0, 1000.0, 3071.0])
    assert hu_to_mu(hu).tolist() == pytest.approx([0.0, 0.02, 0.04, 0.08142])
    assert torch.allclose(mu_to_hu(hu_to_mu(hu, 0.0193), 0.0193), hu, atol=1e-3)
    with pytest.raises(OptionError, match="mu_water"):
        hu_to_mu(hu, 0.0)
