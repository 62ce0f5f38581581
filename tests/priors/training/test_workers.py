import os
import socket
import subprocess
import sys

import pytest
import torch

from invgen.priors.load import load, metadata
from invgen.priors.training.workers import Workers

SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from invgen.priors import train
from invgen.priors.recipes import Recipe
recipe = Recipe("tiny", (1, 16, 16), (4, 6), 1, 2, "grey", batch=2, steps=3, warmup=1, data="images")
train.train(recipe, sys.argv[2] if int(__import__("os").environ["RANK"]) == 0 else sys.argv[2] + "-other", sys.argv[1],
            progress=False, resume=False)
from invgen.priors.training.workers import Workers
workers, p = Workers("cpu"), torch.zeros(2, requires_grad=True)
p.grad = torch.tensor([1.0, 2.0]) * (workers.rank + 1)
assert workers.average([p], float(workers.rank)) == 0.5 and p.grad.tolist() == [1.5, 3.0]
"""


def test_one_process_needs_nothing():
    workers = Workers("cpu")
    assert (workers.rank, workers.count) == (0, 1)
    assert workers.average([torch.zeros(2, requires_grad=True)], 0.5) == 0.5


@pytest.mark.slow
def test_two_processes_train_together(tmp_path):
    pytest.importorskip("accelerate")
    import numpy as np
    from PIL import Image

    for k in range(4):
        values = np.random.default_rng(k).integers(0, 256, (20, 20), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / f"{k}.png")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    common = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(tmp_path / "run")]
    jobs = [
        subprocess.Popen(command, env=common | {"RANK": r, "LOCAL_RANK": r}, stderr=subprocess.PIPE, text=True)
        for r in "01"
    ]
    errors = [job.communicate(timeout=300)[1] for job in jobs]
    assert all(job.returncode == 0 for job in jobs), errors
    about = metadata(tmp_path / "run" / "tiny.safetensors")
    assert about["training"]["processes"] == 2 and about["training"]["steps"] == 3
    assert not list((tmp_path / "run-other").iterdir())  # the first process alone writes
    load(tmp_path / "run" / "tiny.safetensors")
