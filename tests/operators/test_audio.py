"""Low pass and decimation against scipy.signal."""

import numpy as np
import pytest
import scipy.signal
import torch

from invgen.errors import OptionError
from invgen.inference.checks import check_operator
from invgen.operators import HighDynamicRange, LowPassDecimate
from invgen.operators.audio import lowpass_filter


def signal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("taps", "cutoff"), [(21, 0.5), (81, 0.25), (7, 0.9)])
def test_filter_is_scipys(taps, cutoff):
    np.testing.assert_allclose(lowpass_filter(taps, cutoff).numpy(), scipy.signal.firwin(taps, cutoff), atol=1e-15)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("length", [240, 241, 100, 17])
def test_zero_boundary_is_scipys_decimate(factor, length):
    x = signal(3, 2, length)
    y = LowPassDecimate((2, length), factor)(x)
    want = scipy.signal.decimate(x.numpy(), factor, ftype="fir", axis=-1)
    np.testing.assert_allclose(y.numpy(), want, atol=1e-13)


@pytest.mark.parametrize("length", [60, 61])
def test_reflect_boundary_is_scipys_filter_of_the_mirrored_signal(length):
    x = signal(1, 1, length)
    A = LowPassDecimate((1, length), 3, boundary="reflect")
    h = scipy.signal.firwin(61, 1 / 3)
    want = scipy.signal.convolve(np.pad(x.numpy()[0, 0], 30, mode="reflect"), h, "valid")[::3]
    np.testing.assert_allclose(A(x).numpy()[0, 0], want, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["zero", "reflect"])
@pytest.mark.parametrize(
    ("shape", "factor", "taps"), [((2, 40), 4, 31), ((33,), 2, 9), ((1, 2, 21), 3, 1), ((1, 24), 1, 5)]
)
def test_contract(boundary, shape, factor, taps):
    check_operator(LowPassDecimate(shape, factor, taps=taps, boundary=boundary))


def test_filter_longer_than_the_signal():
    check_operator(LowPassDecimate((1, 16), 4))  # 81 taps


def test_a_tone_below_the_cutoff_passes_and_one_above_is_gone():
    t = torch.arange(2000, dtype=torch.float64)
    A = LowPassDecimate((1, 2000), 4)
    inner = slice(20, -20)  # away from the silence outside
    low, high = (torch.sin(torch.pi * f * t)[None] for f in (0.1, 0.5))  # fractions of the Nyquist frequency, cutoff 0.25
    torch.testing.assert_close(A(low)[..., inner], low[..., ::4][..., inner], rtol=0, atol=5e-3)  # -46 dB ripple
    assert A(high)[..., inner].abs().max() < 5e-3


def test_declipping_is_the_clip():
    x = signal(2, 1, 50)
    A = HighDynamicRange((1, 50), gain=1.0, low=-0.8, high=0.8)
    assert torch.equal(A(x), x.clamp(-0.8, 0.8))


def test_errors():
    with pytest.raises(OptionError, match="factor"):
        LowPassDecimate((1, 100), 0)
    with pytest.raises(OptionError, match="must be one of 'zero', 'reflect'"):
        LowPassDecimate((1, 100), 2, boundary="periodic")
    with pytest.raises(OptionError, match="odd number of taps"):
        LowPassDecimate((1, 100), 2, taps=10)
    with pytest.raises(OptionError, match="cutoff"):
        LowPassDecimate((1, 100), 2, cutoff=1.5)
    with pytest.raises(OptionError, match="more than 40 samples to reflect"):
        LowPassDecimate((1, 40), 4, boundary="reflect")
