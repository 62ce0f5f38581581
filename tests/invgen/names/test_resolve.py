"""Names from the command line: what they reach, that nothing typed is evaluated, and the sentences for what is wrong."""

import sys

import pytest
import torch

import invgen
from invgen import LinearOperator, OptionError, operators, samplers
from invgen.names import resolve
from invgen.names.spec import Call, parse
from invgen.noise import Gaussian, Poisson

MODULE = """
from invgen import LinearOperator, Operator
from invgen.priors import GaussianPrior
from invgen.samplers import DAPS


class Flip(LinearOperator):
    def forward(self, x):
        return x.flip(-1)


class Every(Operator):
    def __init__(self, in_shape, factor, offset=0):
        if factor < 1:
            raise RuntimeError("factor too small")
        super().__init__(in_shape)
        self.factor = factor

    def forward(self, x):
        return x[..., :: self.factor]


class MyDAPS(DAPS):
    pass


white = GaussianPrior(shape=(1, 8, 8))
number = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_names.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_names", None)


def test_parse():
    assert parse("DAPS") == (None, "DAPS", {})
    assert parse(" ParallelBeamCT( num_angles = 23 ) ") == (None, "ParallelBeamCT", {"num_angles": 23})
    module, name, options = parse("a.b:C(x=-1.5, y=[1, 2], z=(1, 2), s='(:', none=None, d={'k': True})")
    assert (module, name) == ("a.b", "C")
    assert options == {"x": -1.5, "y": [1, 2], "z": (1, 2), "s": "(:", "none": None, "d": {"k": True}}
    assert parse("Blur(kernel=gaussian_kernel(std=2.0))")[2] == {"kernel": Call("gaussian_kernel", {"std": 2.0})}


@pytest.mark.parametrize(
    "spec, sentence",
    [
        ("", "cannot read ''"),
        ("A(", "cannot read"),
        ("A(steps=5", "with all brackets closed"),
        ("A(1)", "must be given by name"),
        ("A(**{'a': 1})", "must be given by name"),
        ("A(x=1, x=2)", "option x of 'A(x=1, x=2)' is given twice"),
        ("A(x=)", "not well formed"),
        ("A(x=y)", "option x = y"),
        ("A(x=__import__('os').system('touch pwned'))", "not a literal"),
        ("A(x=f(open('pwned', 'w')))", "must be given by name"),
        ("A(x=[i for i in range(3)])", "not a literal"),
        ("A(x=lambda: 1)", "not a literal"),
        ("A(x=(1).__class__)", "not a literal"),
        ("A(x=" + "(" * 500 + ")" * 500 + ")", "not well formed"),
    ],
)
def test_parse_refuses(spec, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=".") as error:
        parse(spec)
    assert sentence in str(error.value)
    assert not list(tmp_path.iterdir()), "something that was typed has been run"


def test_catalogue_names_in_any_case():
    A = resolve.operator("identity", (1, 4, 4))
    assert type(A) is operators.Identity
    assert A.in_shape == (1, 4, 4)
    assert resolve.sampler("daps(steps=7)") == samplers.DAPS(steps=7)


def test_constructors_and_functions_of_the_catalogue():
    mask = resolve.operator("Mask.random(keep=0.5, seed=3)", (1, 8, 8))
    assert torch.equal(mask.mask, operators.Mask.random((1, 8, 8), keep=0.5, seed=3).mask)
    blur = resolve.operator("Blur(kernel=gaussian_kernel(std=1.0))", (1, 8, 8))
    x = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(blur(x), operators.Blur((1, 8, 8), operators.gaussian_kernel(1.0))(x))


def test_array_options_from_files(tmp_path):
    import numpy as np

    keep = np.zeros((4, 4), dtype=bool)
    keep[1, 2] = True
    np.save(tmp_path / "keep.npy", keep)
    A = resolve.operator(f"Mask(mask='{tmp_path / 'keep.npy'}')", (1, 4, 4))
    assert A.out_shape == (1,)


def test_objects_of_the_user(here):
    A = resolve.operator("my_names:Flip", (1, 8, 8))
    assert isinstance(A, LinearOperator)
    assert A.in_shape == (1, 8, 8)
    assert resolve.operator("my_names.py:Every(factor=2)", (1, 8, 8)).out_shape == (1, 8, 4)
    assert resolve.operator("my_names:Every(factor=2, in_shape=(1, 4, 4))", (1, 8, 8)).in_shape == (1, 4, 4)
    assert resolve.prior("my_names:white").shape == (1, 8, 8)
    assert resolve.sampler("my_names:MyDAPS(steps=3)").steps == 3


@pytest.mark.parametrize(
    "spec, sentence",
    [
        ("my_names:Flop", "has no 'Flop'; its classes are Flip, Every, MyDAPS"),
        ("my_names:number", "expected an operator class"),
        ("my_names:MyDAPS", "expected an invgen Operator"),
        ("my_names:Every", "Every needs a value for factor: write Every(factor=...)"),
        ("my_names:Every(factr=2)", "did you mean 'factor'?"),
        ("my_names:Every(factor=0)", "RuntimeError: factor too small"),
        ("no_such_module_here:X", "there is no module 'no_such_module_here'"),
        ("gone.py:X", "there is no Python file 'gone.py'"),
        ("broken:X", "broken.py:1 with ZeroDivisionError: division by zero"),
        ("needy:X", "needs the package 'a_package_that_is_not_there', which is not installed"),
        ("Identty", "unknown operator 'Identty'; did you mean 'Identity'?"),
        ("Mask.rndom", "did you mean 'random'?"),
        ("Blur(kernel=gausian_kernel(std=1.0))", "did you mean 'gaussian_kernel'?"),
    ],
)
def test_what_is_wrong_with_an_operator(here, spec, sentence):
    (here / "broken.py").write_text("1 / 0\n")
    (here / "needy.py").write_text("import a_package_that_is_not_there\n")
    with pytest.raises(OptionError) as error:
        resolve.operator(spec, (1, 8, 8))
    assert sentence in str(error.value)


def test_noise():
    assert repr(resolve.noise("0.05")) == repr(Gaussian(0.05))
    assert isinstance(resolve.noise("Poisson(gain=0.1)"), Poisson)
    for bad in ("0", "-1", "nan", "inf"):
        with pytest.raises(OptionError, match="positive number"):
            resolve.noise(bad)
    with pytest.raises(OptionError, match=r"unknown noise 'Gausian'; did you mean 'Gaussian'\?"):
        resolve.noise("Gausian(sigma=1.0)")


def test_a_folder_of_diffusers_is_a_prior(tmp_path, monkeypatch):
    from invgen import priors

    asked = []
    monkeypatch.setattr(priors, "from_diffusers", lambda model, shape=None: asked.append((model, shape)) or "prior")
    assert resolve.prior(str(tmp_path), (1, 8, 8)) == "prior"
    assert asked == [(str(tmp_path), (1, 8, 8))]


@pytest.mark.slow
def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(invgen.WeightsError, match="no diffusers model could be read"):
        resolve.prior(f"from_diffusers(model={str(tmp_path)!r})")


def test_unknown_prior_lists_what_there_is():
    with pytest.raises(OptionError, match=r"unknown prior 'GausianPrior'; did you mean 'GaussianPrior'\?"):
        resolve.prior("GausianPrior(shape=(1, 4, 4))")
    assert resolve.prior("GaussianPrior(shape=(1, 4, 4), var=0.5)").shape == (1, 4, 4)


def test_unknown_sampler():
    with pytest.raises(OptionError, match="unknown sampler 'DPSS'; did you mean 'DPS'"):
        resolve.sampler("DPSS")
    with pytest.raises(OptionError, match=r"unknown option of DPS 'step'; did you mean 'steps'\?"):
        resolve.sampler("DPS(step=10)")
