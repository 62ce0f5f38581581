"""The type hints of a sampler's methods read no more of a posterior than its class attributes have had checked."""

import inspect
import typing

import pytest

from invgen import Gaussian, samplers
from invgen.pushforward import Decoded


@pytest.mark.parametrize("cls", samplers.catalogue().values(), ids=lambda cls: cls.__name__)
def test_methods_read_no_more_than_is_checked(cls):
    # DPG asks for Gaussian noise by a `refuses` of its own
    checked = (cls.prior, cls.A, Gaussian if cls is samplers.DPG else cls.noise)
    requirements = []
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        read = typing.get_args(typing.get_type_hints(method).get("post"))
        if not read or Decoded in read:  # a problem over codes, which the sampler has made itself
            continue
        requirements.append(name)
        for one, other in zip(checked, read, strict=True):
            assert other is typing.Any or issubclass(one, other), (name, one, other)
    assert requirements  # each names what it needs somewhere
