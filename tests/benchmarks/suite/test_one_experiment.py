"""One suite is one experiment, whatever the processor: names, seeds and draws do not rest on round-off.

Two processors are played by one: MKL and torch are told to do without their widest instructions, so that sums are taken in
another order and exponentials differ in their last digit, as they do between an old machine and a new one.
"""

import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from invgen.benchmarks.engine import compute as work
from invgen.benchmarks.engine.runner import run
from invgen.benchmarks.engine.store import Store
from invgen.benchmarks.report import reference
from invgen.benchmarks.report.compare import compare
from invgen.benchmarks.report.results import read
from invgen.benchmarks.suite import parts
from invgen.benchmarks.suite.expand import expand
from invgen.benchmarks.suite.identity import Identity, values_of
from invgen.errors import FileError
from invgen.names import user_code

NEW, OLD = {}, {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ATEN_CPU_CAPABILITY": "default"}
ROUNDING = 1e-3  # figures of the suite `quick` were within 3e-4 of each other on these


def python(code, processor, threads=1):
    """What a program prints on a processor."""
    settings = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} | processor
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


EVERYTHING = """
import json, sys, torch
from invgen.benchmarks.studies.suite_priors import smooth
from invgen.benchmarks.engine.runner import run
from invgen.benchmarks.suite.expand import expand
from invgen.operators import Mask
from invgen.priors import GaussianMixture

p, A = smooth(size=10), Mask.random((1, 10, 10), 0.5)
q = p.posterior(A, 0.2, A(p.sample(1, 7)[0]))
m = GaussianMixture(torch.stack([p.mean, p.mean + 1]), covariances=torch.stack([p.covariance, 2 * p.covariance]))
draws = [law.sample(2, 3).flatten().tolist() for law in (p, q, m)]
suites = ["quick", "exact", "ct", "photo", "peers", "mri"]  # `speech` has signals that have to be fetched
cells = [[c.key, c.noise_seed, c.sampler_seed, [i.name for i in c.is_of]] for name in suites for c in expand(name)]
report = run("quick", {out!r}, progress=False)
print(json.dumps([draws, cells, report.total, report.done]))
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What the program above finds on two processors, one with two threads, and the folders of `quick`."""
    folders = [tmp_path_factory.mktemp(name) for name in ("new", "old")]
    programs = [EVERYTHING.replace("{out!r}", repr(str(folder))) for folder in folders]
    found = [python(code, which, n) for code, which, n in zip(programs, (NEW, OLD), (2, 1), strict=True)]
    return [json.loads(text) for text in found], folders


@pytest.mark.slow
def test_one_seed_is_one_draw_on_every_processor(both):
    (here, _, _, _), (there, _, _, _) = both[0]
    # in double precision; the square root of a variance of 1e-3 beside others of 25 loses a few digits of sixteen
    np.testing.assert_allclose(np.array(here), np.array(there), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_the_shipped_suites_have_the_same_cells_on_every_processor(both):
    (_, here, _, _), (_, there, _, _) = both[0]
    assert here == there and len(here) > 250


@pytest.mark.slow
def test_quick_gives_the_same_figures_on_every_processor(both):
    assert all(done == total for _, _, total, done in both[0])
    new, old = (read(folder).rows for folder in both[1])
    assert [row.key for row in new] == [row.key for row in old]
    for a, b in zip(new, old, strict=True):
        figures = [{k: v for k, v in row.values.items() if k != "seconds"} for row in (a, b)]
        assert figures[0] == pytest.approx(figures[1], rel=ROUNDING, abs=1e-9), a.identity
    assert not compare(*both[1]).regressions


@pytest.mark.slow
def test_quick_gives_what_it_gave(both):
    # keys, seeds and draws are those of every processor; figures differ between two by 3e-4 at most, a thirtieth of the
    # gate's 1 % of a mean
    found = compare(reference.path_of("quick"), both[1][0])
    assert not found.regressions, found.regressions


OWN = """
import torch
from invgen import LinearOperator
from invgen.priors import GaussianPrior

grid = torch.arange(24.0)
smooth = GaussianPrior((24,), covariance=(-(grid[:, None] - grid) ** 2 / 8).exp() + 0.01 * torch.eye(24))


class Fade(LinearOperator):
    def __init__(self, in_shape):
        super().__init__(in_shape)
        self.fade = (-grid / 7.3).exp() / (-grid / 7.3).exp().sum()
        self.register_buffer("frame", torch.linalg.svd(torch.outer(self.fade, grid) + torch.eye(24))[0])

    def forward(self, x):
        return x @ self.frame @ self.frame.T * self.fade
"""


@pytest.mark.slow
def test_cells_of_the_users_own_code_travel_between_processors(tmp_path, monkeypatch):
    """A prior and an operator of theirs, with tables that are computed: expanded here, computed there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    np.save(tmp_path / "x.npy", np.linspace(-1, 1, 24, dtype=np.float32))
    problem = {"operator": "own.py:Fade", "noise": 0.01}
    suite = {"data": ["x.npy", "prior/0"], "priors": "own.py:smooth", "problems": problem, "samplers": "PiGDM(steps=3)"}
    Path("suite.py").write_text(f"suite = {suite!r}")
    cells = expand("suite.py")
    Path("cells").write_bytes(pickle.dumps(cells))
    code = """
        import pickle
        from pathlib import Path
        from invgen.benchmarks.engine.compute import compute
        from invgen.benchmarks.suite.expand import expand
        cells = pickle.loads(Path("cells").read_bytes())
        assert [c.key for c in expand("suite.py")] == [c.key for c in cells]
        print([compute([c])[0][0]["metrics"]["psnr"] for c in cells])
    """
    there = json.loads(python(code, OLD))
    assert [work.compute([c])[0][0]["metrics"]["psnr"] for c in cells] == pytest.approx(there, rel=ROUNDING)


LOADED = """
import numpy as np, torch
from invgen.priors import GaussianPrior

smooth = GaussianPrior((1, 6, 6), mean=torch.from_numpy(np.load("mean.npy")))
"""


def test_what_a_module_of_the_users_loads_is_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loaded.py").write_text(LOADED)
    np.save("mean.npy", np.zeros((1, 6, 6), np.float32))
    np.save("x.npy", np.ones((1, 6, 6), np.float32))
    problem = {"operator": "Identity", "noise": 0.1}
    suite = {"data": "x.npy", "priors": "loaded.py:smooth", "problems": problem, "samplers": "PiGDM(steps=3)"}
    assert run(suite, "out", progress=False).computed == 1
    assert run(suite, "out", progress=False).computed == 0
    (before,) = (Store("out").record(key)["metrics"] for key in Store("out").stored())
    cell = expand(suite)[0]
    np.save("mean.npy", np.full((1, 6, 6), 0.1, np.float32))
    user_code._loaded.clear()  # as in another process
    assert run(suite, "out", progress=False).computed == 1
    (after,) = (Store("out").record(key)["metrics"] for key in Store("out").stored())
    assert before != after
    with pytest.raises(FileError, match="prior loaded.py:smooth gives other values than where the run began"):
        parts.problem_of(cell)
    np.save("x.npy", np.zeros((1, 6, 6), np.float32))
    cell = expand(suite)[0]
    np.save("x.npy", np.ones((1, 6, 6), np.float32))
    parts.forget()
    with pytest.raises(FileError, match="image .*x.npy has changed since the run began"):
        parts.problem_of(cell)


def test_a_file_is_its_bytes_wherever_it_lies(tmp_path):
    here, there = tmp_path / "a", tmp_path / "b"
    problem = {"operator": "Mask.random(keep=0.5)", "noise": 0.1}
    keys = []
    for folder in (here, there):
        folder.mkdir()
        np.save(folder / "x.npy", np.ones((1, 6, 6), np.float32))
        prior = "GaussianPrior(shape=(1, 6, 6))"
        suite = {"data": str(folder / "x.npy"), "priors": prior, "problems": problem, "samplers": "PiGDM(steps=3)"}
        keys.append(expand(suite)[0].key)
    assert keys[0] == keys[1]


def test_values_are_compared_to_a_tolerance():
    x = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    one = Identity("x", values_of(x))
    assert one.is_like(values_of(x + 1e-6)) and one.is_like(values_of(x.double()))
    assert one.values[0] == pytest.approx(x.norm().item())
    other = x.clone()
    other[1, 2, 3] += 0.3  # a fiftieth of the norm, in one value
    for changed in (other, x.flip(2), -x, 1.01 * x, x[:2]):
        assert not one.is_like(values_of(changed))
    assert not one.is_like(()) and Identity("none").is_like(())
    hole = values_of(torch.tensor([1.0, float("nan")]))
    assert Identity("nan", hole).is_like(hole) and not Identity("nan", hole).is_like(values_of(torch.ones(2)))
    turned = torch.complex(x, -x)
    assert not Identity("z", values_of(turned)).is_like(values_of(turned.conj()))
