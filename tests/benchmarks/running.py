"""What the tests of runs share."""

import os
import time

from invgen.benchmarks.engine.store import Store

SMALL = {
    "data": "images/0.npy",
    "priors": "my_suite:smooth",
    "problems": {"operator": "my_suite:Half", "noise": 0.1},
    "samplers": ["PiGDM(steps=2)"],
}


def results(out):
    """Everything that must not depend on when, where and how often a suite was run."""
    store, found = Store(out), {}
    for key in store.stored():
        record = store.record(key)
        arrays = {name: (a.shape, a.tobytes()) for name, a in store.arrays(key).items()}
        found[key] = (record["cell"], record["metrics"], record["nfe"], arrays)
    return found


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def children(parent):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(pid))
    return found
