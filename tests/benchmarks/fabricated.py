"""Folders of results that no sampler computed, for what is read from them."""

import hashlib

import numpy as np

from invgen.benchmarks.engine.store import Store

ENVIRONMENT = {"invgen": "0.1.0", "torch": "2.13.0", "host": "here", "device": "cpu"}


def save(
    folder, metrics=None, *, error="", arrays=None, kind="sampler", version="", finished="2026-11-22T10:00:00Z", **facts
):
    """One cell, done or failed; its key."""
    cell = {"problem": "blur", "operator": "Blur", "noise": "0.05", "prior": "photo", "sampler": "DPS(steps=10)"}
    cell |= {"image": "a", "seed": 0, "num_samples": 4, **facts}
    extra = {name: cell.pop(name) for name in ("calibration", "warnings", "nfe", "seconds") if name in cell}
    key = hashlib.sha256(repr((cell, version)).encode()).hexdigest()[:24]
    environment = {**ENVIRONMENT, "finished": finished}
    store = Store(folder)
    store.prepare()
    if error:
        record = {
            "cell": cell,
            "error": error,
            "kind": "RuntimeError",
            "traceback": "Traceback: <b>",
            "environment": environment,
        }
        store.save_failure(key, record)
        return key
    record = {"cell": cell, "metrics": metrics or {}, "nfe": 10.0, "seconds": 0.5, "environment": environment, "kind": kind}
    store.save(key, {"warnings": [], **record, **extra}, arrays or {})
    return key


def grid(folder, values, metric="psnr", **facts):
    """Cells of `values[sampler][image][seed]`."""
    for sampler, images in values.items():
        for image, seeds in enumerate(images):
            for seed, value in enumerate(seeds):
                save(folder, {metric: float(value)}, sampler=sampler, image=f"image {image}", seed=seed, **facts)


def arrays(shape, measurement=None, dtype=np.float32, seed=0):
    """Arrays of a cell as a run keeps them."""
    rng = np.random.default_rng(seed)

    def drawn():
        x = rng.standard_normal(shape)
        return (x + 1j * rng.standard_normal(shape) if np.issubdtype(dtype, np.complexfloating) else x).astype(dtype)

    truth = drawn()
    measurement = truth if measurement is None else measurement
    std = np.abs(drawn()).astype(np.float32)
    return {
        "truth": truth,
        "measurement": measurement,
        "mean": drawn(),
        "std": std,
        "samples": np.stack([drawn(), drawn()]),
    }
