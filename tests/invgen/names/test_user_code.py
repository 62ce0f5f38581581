"""What `module:Name` may reach, and that nothing is called before it is known what it makes."""

import sys
import time

import pytest
import yaml

from invgen import InvgenError, OptionError
from invgen.benchmarks.engine.runner import check
from invgen.benchmarks.suite import scores
from invgen.cli import main
from invgen.names import resolve
from invgen.names.user_code import user_object

MODULE = """
import functools
import os
import pathlib
import shutil
import subprocess as sp
from os import system
from pathlib import Path

import numpy as np
import torch
from numpy import load
from invgen import Gaussian, LinearOperator, Operator


class Op(LinearOperator):
    def forward(self, x):
        return x.flip(-1)

    @classmethod
    def twice(cls, in_shape):
        return cls(in_shape)


class Witness:
    def __init__(self, **options):
        Path("pwned").touch()


class Within:
    inner = Op
    tools = os

    @staticmethod
    def make(in_shape) -> Operator:
        return Op(in_shape)


def wipe(path="."):
    Path("pwned").touch()


def says_none(path=".") -> None:
    Path("pwned").touch()


def maker(in_shape):
    return Op(in_shape)


def annotated(in_shape) -> "Operator":
    return Op(in_shape)


@functools.lru_cache
def kept(in_shape) -> LinearOperator:
    return Op(in_shape)


def broken_hint(in_shape) -> "NoSuchName":
    return Op(in_shape)


hidden = functools.partial(os.system, "touch pwned")
call = sp.run
fixed = functools.partial(maker, (1, 4, 4))
_private = Op
config = {"os": os}
instance = Op((1, 4, 4))


def mean(samples, truth, posterior):
    return float(samples.mean())
"""

HOSTILE = [
    "os:system(command='touch pwned')",
    "posix:system(command='touch pwned')",
    "posixpath:os.system(command='touch pwned')",
    "subprocess:run(args=['touch', 'pwned'])",
    "subprocess:Popen(args=['touch', 'pwned'])",
    'builtins:eval(source=\'open("pwned", "w")\')',
    "builtins:exec",
    "builtins:open(file='pwned', mode='w')",
    "shutil:rmtree(path='.')",
    "pathlib:Path.touch",
    "pathlib:Path.unlink",
    "pickle:load",
    "runpy:run_path(path_name='evil.py')",
    "importlib:import_module(name='evil')",
    "ctypes:CDLL(name='evil.so')",
    "antigravity:fly",
    "__main__.os:system",
    "numpy:load(file='evil.pkl', allow_pickle=True)",
    "numpy:save(file='pwned', arr=1)",
    "torch:load(f='evil.pkl', weights_only=False)",
    "torch:save(obj=1, f='pwned')",
    "torch.hub:load",
    "torch:os.system(command='touch pwned')",
    "torch.nn:Module",
    "my_tools:os.system(command='touch pwned')",
    "my_tools.py:os.system(command='touch pwned')",
    "./my_tools.py:sp.run(args=['touch', 'pwned'])",
    "my_tools:system(command='touch pwned')",
    "my_tools:call(args=['touch', 'pwned'])",
    "my_tools:hidden",
    "my_tools:load(file='evil.pkl', allow_pickle=True)",
    "my_tools:torch.load(f='evil.pkl')",
    "my_tools:shutil.rmtree(path='.')",
    "my_tools:Path.touch",
    "my_tools:Path",
    "my_tools:Within.tools.system(command='touch pwned')",
    "my_tools:Within.tools",
    "my_tools:config.os.system",
    "my_tools:instance.forward",
    "my_tools:Op.forward.__globals__",
    "my_tools:Op.__init__",
    "my_tools:Op.mro",
    "my_tools:__builtins__",
    "my_tools:_private",
    "my_tools:Witness",
    "my_tools:Witness(x=1)",
    "my_tools:says_none",
    "my_tools:says_none(path='/')",
    "invgen.files.writing:write_text(path='pwned', text='')",
    "invgen.names.resolve:os.system",
    "invgen:names",
    "..:x",
    "a..b:x",
    "/etc/passwd:x",
    "/dev/zero.py:x",
    "nul\0.py:x",
    "x" * 300 + ".py:x",
    "x" * 5000 + ":x",
    "my_tools:" + "x" * 5000,
    "os\n:system",
    " os :system",
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_tools.py").write_text(MODULE)
    for name in ("evil.py", "evil.pkl", "evil.so"):
        (tmp_path / name).write_text("open('pwned', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("my_tools", "my_tools_of_user", "evil"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("kind", ["operator", "noise", "sampler", "prior"])
def test_what_is_no_maker_is_refused_and_not_called(here, kind):
    before = set(here.iterdir())
    for spec in HOSTILE:
        with pytest.raises(InvgenError) as error:
            getattr(resolve, kind)(spec)
        assert "\n" not in str(error.value) and len(str(error.value)) < 700, str(error.value)
        left = set(here.iterdir()) - before - {here / "__pycache__"}
        assert not left, f"{spec} has been called"


def test_metrics_and_suites_keep_to_the_same_rule(here):
    for spec in HOSTILE:
        if "says_none" in spec or spec.endswith("Op.forward.__globals__"):  # a metric of one's own may be called anything
            continue
        with pytest.raises(OptionError):
            scores.metric(spec)
    for spec in ("numpy:load", "torch:load", "torch:save", "shutil:rmtree", "my_tools:Witness", "my_tools:config"):
        with pytest.raises(OptionError):
            scores.metric(spec)
    assert callable(scores.metric("my_tools:mean"))
    for suite in ("os:environ", "my_tools:os.environ", "my_tools:_private", "sys:modules"):
        with pytest.raises(OptionError):
            check(suite)
    assert not (here / "pwned").exists()


@pytest.mark.slow
def test_a_suite_that_names_programs_is_refused_by_check_and_run(here, capsys):
    """The report of this fault: a YAML file alone ran a shell command, by `bench check` too."""
    sound = {"data": "prior", "priors": "digits", "samplers": ["DPS(steps=1)"], "seeds": 1}
    sound["problems"] = [{"operator": "Identity", "noise": 0.1}]
    spec = "os:system(command='touch pwned')"
    for change in (
        {"problems": [{"operator": spec, "noise": 0.1}]},
        {"problems": [{"operator": "Identity", "noise": spec}]},
        {"priors": spec},
        {"samplers": [spec]},
        {"baselines": [spec]},
        {"metrics": [spec]},
    ):
        (here / "suite.yaml").write_text(yaml.safe_dump(sound | change))
        with pytest.raises(OptionError, match="a module of Python's standard library, which a spec may not reach"):
            check("suite.yaml")
    with pytest.raises(SystemExit) as ended:
        main(["bench", "run", "suite.yaml", "--out", "out"])
    assert ended.value.code == 2 and "standard library" in capsys.readouterr().err
    assert not (here / "pwned").exists()


@pytest.mark.parametrize(
    "spec",
    ["Op", "Op.twice", "Within.inner", "Within.make", "maker", "annotated", "kept", "broken_hint", "fixed", "instance"],
)
def test_what_makes_an_operator_is_called(here, spec):
    for module in ("my_tools", "my_tools.py", "./my_tools.py", str(here / "my_tools.py")):
        made = resolve.operator(f"{module}:{spec}", None if spec in ("fixed", "instance") else (1, 4, 4))
        assert made.in_shape == (1, 4, 4)


def test_the_sentences(here):
    (here / "code.py").write_text("from invgen.operators import Identity as Same\n")
    for spec, sentence in (
        (
            "code:Same",
            "'code' is a module of Python's standard library, which a spec may not reach; if you mean your file, ",
        ),
        (
            "my_tools:system",
            "'my_tools:system' is from Python's standard library, which a spec may not call; expected code of",
        ),
        ("my_tools:os", "'my_tools:os' is a module; name a class in it: os:Name"),
        ("my_tools:_private", "'my_tools:_private' is private, as its underscore says"),
        ("my_tools:load", "is a function of an installed package that does not say what it makes"),
        ("my_tools:says_none", "'my_tools:says_none' makes NoneType, as its annotation says, expected an invgen Operator"),
        ("my_tools:Witness", "'my_tools:Witness' makes Witness, expected an invgen Operator"),
        ("my_tools:config.os", "looks into config, which is no class"),
        ("my_tools:Op.thrice", "my_tools:Op has no 'thrice'; its class methods are twice"),
    ):
        with pytest.raises(OptionError) as error:
            resolve.operator(spec, (1, 4, 4))
        assert sentence in str(error.value)
    assert resolve.operator("./code.py:Same", (1, 4, 4)).in_shape == (1, 4, 4)


def test_a_file_runs_once_until_it_changes_under_a_name_that_does_not_depend_on_what_was_loaded(here):
    (here / "counted.py").write_text(
        "from pathlib import Path\nPath(f'run{len(list(Path().glob(\"run*\")))}').touch()\nvalue = 1\n"
    )
    for _ in range(3):
        assert user_object("counted.py", "value") == 1
    assert len(list(here.glob("run*"))) == 1
    (here / "counted.py").write_text((here / "counted.py").read_text() + "value = 20\n")
    assert user_object("counted.py", "value") == 20
    for folder in ("a", "b"):  # two files of one name are two modules, in any order
        (here / folder).mkdir()
        (here / folder / "ops.py").write_text(f"class X:\n    folder = {folder!r}\n")
    found = {folder: user_object(f"{folder}/ops.py", "X") for folder in ("b", "a", "b")}
    assert {k: (x.folder, x.__module__) for k, x in found.items()} == {
        "a": ("a", "a_ops_of_user"),
        "b": ("b", "b_ops_of_user"),
    }


def test_long_and_odd_texts_take_no_time():
    begin = time.process_time()
    for spec in (
        " " * 9000,
        "a" * 9000,
        "a" * 10**6,
        "a:" * 4000,
        "a " * 4000,
        "A(" + "x" * 9000 + ")",
        "A(x=" + "-" * 9000 + "1)",
    ):
        with pytest.raises(OptionError) as error:
            resolve.operator(spec, (1, 4, 4))
        assert len(str(error.value)) < 1500
    assert time.process_time() - begin < 5
