"""What an editor knows of invgen: every public name and its type, from anywhere, without configuration."""

import ast
import json
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import invgen
from invgen import priors

ROOT = Path(__file__).parents[1]
WINGS = ("operators", "priors", "benchmarks")
README = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)

# what a program gets from each verb; a type that is not known would pass everywhere, so each is stated
DOORS = """
from typing import assert_type
import torch
from torch import Tensor
import invgen
from invgen import operators, plots, priors, samplers

A = operators.Mask((16,), torch.arange(16) % 2 == 0)
prior = priors.GaussianPrior(shape=(16,))
assert_type(A, operators.Mask)
assert_type(A(torch.zeros(16)), Tensor)
assert_type(A.adjoint(torch.zeros(8)), Tensor)
assert_type(prior(torch.zeros(1, 16), 1.0), Tensor)
assert_type(prior.sample(3, seed=0), Tensor)
noise = invgen.Gaussian(0.1)
assert_type(noise.sample(torch.zeros(8)), Tensor)
post = invgen.Posterior(prior, A, 0.1, torch.zeros(8))
assert_type(post.noise, invgen.Noise)
assert_type(post.y, Tensor)
assert_type(samplers.DPS(steps=20), samplers.DPS)
assert_type(samplers.DPS(steps=20)(post), Tensor)
result = invgen.solve(torch.zeros(8), A, prior, noise=0.1)
assert_type(result, invgen.Result)
assert_type(result.mean, Tensor)
invgen.solve(torch.zeros(8).numpy(), A, prior, noise)
assert_type(invgen.calibrate(prior, A, 0.1, samplers.DPS()), invgen.Calibration)
assert_type(invgen.tune(prior, A, 0.1, "dps"), invgen.Tuning)
assert_type(invgen.forecast(samplers.DPS(), post), invgen.Forecast | None)
assert_type(priors.load("ct").score(torch.zeros(1, 1, 128, 128), 1.0), Tensor)
assert_type(priors.load("digits").condition(3)(torch.zeros(1, 1, 28, 28), 1.0), Tensor)
"""
# what is no use of invgen, and the rule that says so
WRONG = {
    "invgen.slove": "reportAttributeAccessIssue",
    "invgen.operators.Mask((3,))": "reportCallIssue",
    "invgen.solve(1, 2, 3)": "reportCallIssue",
    "invgen.solve('y', invgen.operators.Identity((3,)), invgen.priors.load('ct'), 0.1)": "reportArgumentType",
}


def diagnostics(folder, programs):
    """(file, line, rule or severity, message) for each report of the type checker on programs far from the checkout."""
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')  # the level of an editor out of the box
    for name, text in programs.items():
        (folder / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "--outputjson", *programs]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] >= len(programs), done.stderr
    return [
        (Path(d["file"]).name, d["range"]["start"]["line"] + 1, d.get("rule", d["severity"]), d["message"])
        for d in found["generalDiagnostics"]
    ]


def test_editors_and_the_interpreter_know_the_same_names():
    (block,) = (n for n in ast.parse((ROOT / "invgen/__init__.py").read_text()).body if isinstance(n, ast.If))
    names = [(node.module, alias.name, alias.asname) for node in block.body for alias in node.names]
    assert all(name == public for _, name, public in names), "`import X as X` is what makes a name public"
    seen = {name: module for module, name, _ in names}
    homes = {name: f"invgen.{module}" for name, module in invgen._HOME.items()}
    assert seen == homes | dict.fromkeys(invgen._MODULES, "invgen")


def test_an_edit_and_a_new_file_take_effect_at_once():
    """The installation is a path to the checkout, and the folders that Python looks into are those of the checkout."""
    code = "import importlib.util as u, sys\nfor name in sys.argv[1:]: print(*u.find_spec(name).submodule_search_locations)"
    names = ["invgen", *(f"invgen.{wing}" for wing in WINGS)]
    done = subprocess.run([sys.executable, "-c", code, *names], cwd="/", capture_output=True, text=True, check=True)
    found = [Path(line).resolve() for line in done.stdout.splitlines()]
    assert found == [(ROOT / name).resolve() for name in ("invgen", *WINGS)]


@pytest.mark.slow
def test_shipped_priors_are_what_load_declares():
    declared = {}
    for variant in typing.get_overloads(priors.load.__wrapped__):
        hints = variant.__annotations__
        for name in typing.get_args(hints["name_or_path"]):
            if isinstance(name, str):
                declared[name] = hints["return"] if isinstance(hints["return"], str) else hints["return"].__name__
    kinds = {name: [kind.__name__ for kind in type(priors.load(name)).__mro__] for name in priors.names()}
    assert declared.keys() == kinds.keys(), "a shipped prior has a Literal in priors/load.py"
    for name, kind in declared.items():
        assert kind in kinds[name], name


@pytest.mark.slow
def test_programs_far_from_the_checkout_are_resolved_and_typed(tmp_path):
    """README's programs pass, each door gives the type it says, and what is wrong is reported."""
    programs = {f"readme{i}.py": text for i, text in enumerate(README)} | {"doors.py": DOORS}
    names = "".join(f"reveal_type(invgen.{name})\n" for name in invgen.__all__)
    wrong = "".join(f"{line}\n" for line in WRONG)
    found = diagnostics(tmp_path, programs | {"names.py": "import invgen\n" + names, "wrong.py": "import invgen\n" + wrong})
    assert [d for d in found if d[0] in programs] == []
    revealed = [d for d in found if d[0] == "names.py"]
    assert len(revealed) == len(invgen.__all__) and {rule for _, _, rule, _ in revealed} == {"information"}
    assert not [message for *_, message in revealed if "Unknown" in message or '"object"' in message or '"Any"' in message]
    reported = {
        (line - 2, rule) for file, line, rule, _ in found if file == "wrong.py" and rule != "reportUnusedExpression"
    }
    assert {(i, rule) for i, rule in enumerate(WRONG.values())} <= reported
