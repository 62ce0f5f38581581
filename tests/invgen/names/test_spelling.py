import functools

import pytest

from invgen.errors import OptionError
from invgen.names.spelling import distance, hint, nearest


@functools.cache
def by_definition(a, b):
    """The same distance by its recursion over prefixes."""
    if not a or not b:
        return len(a) + len(b)
    ways = [by_definition(a[:-1], b) + 1, by_definition(a, b[:-1]) + 1, by_definition(a[:-1], b[:-1]) + (a[-1] != b[-1])]
    if a[-2:] == b[-2:][::-1] and len(a) > 1 and len(b) > 1:
        ways.append(by_definition(a[:-2], b[:-2]) + 1)
    return min(ways)


def test_the_distance_is_that_of_its_recursion():
    words = ["", "a", "ab", "ba", "abc", "cab", "acb", "dps", "dsp", "tds", "abcd", "badc", "kitten", "sitting"]
    for a in words:
        for b in words:
            assert distance(a, b) == by_definition(a, b)
    assert (distance("dsp", "dps"), distance("dsp", "tds"), distance("kitten", "sitting")) == (1, 2, 3)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("dsp", ["DPS"]),
        ("DSP", ["DPS"]),
        ("dap", ["DAPS"]),
        ("dpz", ["DPS", "DPG"]),
        ("pigmd", ["PiGDM"]),
        ("dim", ["DDIM"]),
    ],
)
def test_what_was_meant(typed, meant):
    assert nearest(typed, ["TDS", "DPS", "DPG", "DAPS", "PiGDM", "DDIM", "ParallelBeamCT"]) == meant


def test_far_names():
    assert nearest("parallel", ["FanBeamCT", "ParallelBeamCT"]) == ["ParallelBeamCT"]  # much in common
    assert nearest("xyz", ["DPS", "DAPS"]) == []
    assert nearest("x", ["a", "b"]) == []
    assert hint("xyz", ["DPS", "DAPS"]) == "there are DPS, DAPS"
    assert hint("xyz", []) == "there are none"
    assert hint("dpss", iter(["DPS", "DAPS"])) == "did you mean 'DPS'?"


def test_a_sampler_by_its_letters_exchanged():
    from invgen import samplers

    with pytest.raises(OptionError, match=r"unknown sampler 'dsp'; did you mean 'DPS'\?"):
        samplers.get("dsp")
