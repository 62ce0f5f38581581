"""A small suite in a folder of its own: an exact prior, two images, operators and metrics of the user's.

A file beside it says when a metric does more than compute: `napping` (nap takes its time), `meeting` (meet waits
until two processes compute), `broken` and `deadly`.
"""

import sys

import numpy as np
import pytest

MODULE = """
import os
import signal
import time
from pathlib import Path

from invgen import LinearOperator
from invgen.priors import GaussianPrior

smooth = GaussianPrior(shape=(1, 6, 6))


class Half(LinearOperator):
    def forward(self, x):
        return x[..., ::2]


def nap(samples, truth, posterior, seconds=0.1):
    if Path("napping").exists():
        time.sleep(seconds)
    return float(samples.mean())


def meet(samples, truth, posterior):
    if Path("meeting").exists():
        Path(f"here-{os.getpid()}").touch()
        end = time.monotonic() + 120
        while len(list(Path().glob("here-*"))) < 2 and time.monotonic() < end:
            time.sleep(0.01)
    return float(len(list(Path().glob("here-*"))))


def grumble(samples, truth, posterior):
    if samples.shape[0] == 3 and Path("broken").exists():
        raise RuntimeError("out of luck")
    return 1.0


def die(samples, truth, posterior):
    if posterior.y.numel() == 36 and Path("deadly").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0
"""

SUITE = """\
data: images
priors: my_suite:smooth
problems:
  - name: half
    operator: my_suite:Half
    noise: 0.1
  - name: mask
    operator: Mask.random
    noise: 1e-1
    grid: {keep: [0.3, 0.5]}
samplers:
  - PiGDM(steps=3)
  - {sampler: DAPS, grid: {steps: [2]}}
seeds: 2
num_samples: 3
metrics: [psnr, crps]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_suite.py").write_text(MODULE)
    (tmp_path / "suite.yaml").write_text(SUITE)
    (tmp_path / "images").mkdir()
    for k in range(2):
        values = np.random.default_rng(k).standard_normal((1, 6, 6)).astype(np.float32)
        np.save(tmp_path / "images" / f"{k}.npy", values)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_suite", None)
