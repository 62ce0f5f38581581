"""Running suites: resumed, killed, interrupted, sharded and in several processes, they end as one quiet run does."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from invgen.benchmarks.engine import tasks
from invgen.benchmarks.engine.executor import Executor, environments, visible_gpus
from invgen.benchmarks.engine.local import pool
from invgen.benchmarks.engine.runner import check, run
from invgen.benchmarks.engine.store import Store
from invgen.benchmarks.report.page import report
from invgen.benchmarks.report.results import read
from invgen.benchmarks.suite.expand import expand, load
from invgen.cli import main
from invgen.errors import FileError, InvgenError, MissingExtraError, OptionError
from tests.benchmarks.running import SMALL, children, results, wait_for


@pytest.mark.slow
def test_a_run_stores_every_cell_and_a_second_computes_nothing(here, capsys):
    before = check("suite.yaml", "out", probe=False)
    assert (before.total, before.done) == (24, 0)
    report = run("suite.yaml", "out")
    assert (report.total, report.done, report.failed, report.computed) == (24, 24, 0, 24)
    assert "24 done, 0 failed, 0 remaining" in capsys.readouterr().err
    assert set(results("out")) == {c.key for c in expand("suite.yaml")}
    record = Store("out").record(expand("suite.yaml")[0].key)
    assert record["environment"]["threads"] == 1 and record["metrics"].keys() == {"psnr", "crps"}
    assert len((here / "out" / "results.csv").read_text().splitlines()) == 25
    assert run("suite.yaml", "out").computed == 0
    assert str(check("suite.yaml", "out")) == "24 cells: 24 done, 0 failed, 0 to compute"
    assert run(load("suite.yaml").content | {"seeds": 3}, "out").computed == 12

    # a result that was cut off is computed anew, and is the same
    first, key = results("out"), expand("suite.yaml")[5].key
    path = Store("out").path(key, ".json")
    path.write_text(path.read_text()[:200])
    with pytest.warns(UserWarning, match="are damaged, and their cells are to be computed again"):
        assert run("suite.yaml", "out").computed == 1
    assert results("out") == first

    # two shards make a whole
    parts = [run("suite.yaml", "shards", shard=(i, 2)) for i in (1, 2)]
    assert sum(p.computed for p in parts) == 24
    assert results("shards") == {c.key: first[c.key] for c in expand("suite.yaml")}


def test_what_was_changed_is_computed_again_and_named(here):
    """A digit of a figure, a byte of an array, a field that is gone; sizes and dates tell nothing."""
    suite = SMALL | {"data": "images", "seeds": 2}
    assert run(suite, "out", progress=False).computed == 4
    first, store = results("out"), Store("out")
    digit, byte, field, _ = store.stored()
    path = store.path(digit, ".json")
    text = path.read_text()
    psnr = re.search(r'"psnr": (-?)(\d)', text)
    path.write_text(text[: psnr.start(2)] + str((int(psnr[2]) + 1) % 10) + text[psnr.end(2) :])
    arrays = store.path(byte, ".npz")
    data = bytearray(arrays.read_bytes())
    data[len(data) // 2] ^= 1
    arrays.write_bytes(data)
    record = json.loads(store.path(field, ".json").read_text())
    del record["nfe"]
    store.path(field, ".json").write_text(json.dumps(record))
    report("out", formats=["csv"])  # none of them blocks anything
    with pytest.warns(UserWarning, match="are damaged, and their cells are to be computed again") as said:
        assert str(check(suite, "out", probe=False)).startswith("4 cells: 1 done, 0 failed, 3 to compute")
        assert run(suite, "out", progress=False).computed == 3
    for name in (f"{digit}.json (its checksum does not fit)", f"{byte}.npz (its bytes are not", f"{field}.json (its check"):
        assert name in str(said[0].message)
    assert results("out") == first


def test_one_table_has_one_form(here):
    run(SMALL | {"samplers": ["PiGDM(steps=2)", "DDRM(steps=2)"]}, "out", progress=False)  # DDRM fails
    by_run = (here / "out" / "results.csv").read_bytes()
    report("out", formats=["csv"])
    assert (here / "out" / "results.csv").read_bytes() == by_run
    assert by_run.startswith(
        b"key,problem,operator,noise,prior,sampler,kind,image,seed,num_samples,psnr,residual,nfe,seconds"
    )
    assert [(r.sampler, bool(r.error)) for r in read("out").rows] == [("DDRM(steps=2)", True), ("PiGDM(steps=2)", False)]


@pytest.mark.parametrize("left", ["nothing", "one cell less"])
def test_a_run_whose_results_are_removed_does_not_end_well(here, monkeypatch, capsys, left):
    real, calls = tasks.work.compute, []

    def compute(cells):
        calls.append(cells)
        if len(calls) == 3:
            gone = here / "out" if left == "nothing" else Store("out").path(calls[0][0].key, ".json")
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        return real(cells)

    monkeypatch.setattr(tasks.work, "compute", compute)
    (here / "small.py").write_text(f"suite = {SMALL | {'data': 'images', 'seeds': 2}!r}")
    with pytest.raises(SystemExit) as end:
        main(["bench", "run", "small.py", "--out", "out"])
    assert end.value.code == 2
    lost = {"nothing": 2, "one cell less": 1}[left]
    assert f"{lost} of 4 results are no longer in out: they were removed or damaged" in capsys.readouterr().err
    assert run("small.py", "out", progress=False).computed == lost


def test_a_failure_is_a_cell_and_is_tried_again_on_request(here, capsys):
    (here / "broken").touch()
    suite = SMALL | {"metrics": ["my_suite:grumble"], "samplers": ["PiGDM(steps=2)", "DDRM(steps=2)"]}
    suite["num_samples"] = 3
    with pytest.raises(OptionError, match="metrics: my_suite:grumble cannot be computed: out of luck"):
        run(suite, "out")
    suite["num_samples"] = 2
    report = run(suite, "out")
    assert (report.done, report.failed) == (1, 1)
    assert "needs an SVDOperator" in next(iter(report.errors))
    (failed,) = (k for k, state in Store("out").states(Store("out").stored()).items() if state == "failed")
    assert "UnsupportedError" in Store("out").failure(failed)["traceback"]
    assert run(suite, "out").computed == 0
    assert run(suite, "out", retry_failed=True).computed == 1
    assert Store("out").failure(failed)["attempts"] == 2
    assert "could not be probed: DDRM" in str(check(suite))


def test_a_worker_for_each_gpu(monkeypatch):
    seen = [environment["CUDA_VISIBLE_DEVICES"] for environment in environments(None, "cuda", ["0", "1"])]
    assert seen == ["0", "1"]
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments(5, "cuda", ["2", "GPU-7f"])] == [
        "2",
        "GPU-7f",
        "2",
        "GPU-7f",
        "2",
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert visible_gpus() == ["3", "1"]
    assert environments(3, "cpu") == [{"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}] * 3
    with pytest.raises(OptionError, match="no GPU is visible"):
        environments(None, "cuda", [])


def test_what_executors_are_called():
    assert Executor.parse("serial") == Executor("serial") and Executor.parse("local:3") == Executor("local", 3)
    assert Executor.parse("slurm") == Executor("slurm") and Executor.parse("dask:2") == Executor("dask", 2)
    assert Executor.parse("tls://node7:8786") == Executor("address", address="tls://node7:8786")
    for wrong in ("local:0", "serial:2", "tcp://node7", "mpi", "slurm:", "local:2x"):
        with pytest.raises(OptionError, match="there are serial, local"):
            Executor.parse(wrong)


@pytest.mark.parametrize(
    ("executor", "package", "extra"), [("dask:1", "distributed", "bench"), ("slurm", "dask_jobqueue", "slurm")]
)
def test_an_extra_that_is_missing_is_named(here, monkeypatch, executor, package, extra):
    pytest.importorskip("distributed")
    for name in [package, *(n for n in sys.modules if n.startswith(f"{package}."))]:  # a submodule would import by itself
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"invgen-solvers\[{extra}\]"):
        run(SMALL, "out", executor=executor, progress=False)


def test_slurm_without_its_command_is_an_error(here, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InvgenError, match="needs the command sbatch, which this machine does not have"):
        run(SMALL, "out", executor="slurm", progress=False)


def test_memory_and_time_are_estimated(here):
    estimate = check(SMALL)
    assert 1e8 < estimate.memory < 1e11  # torch alone takes more than 100 MB
    assert "about 0 s on one core" in str(estimate) and "GB of memory for a worker process" in str(estimate)


def test_an_interrupt_drops_the_cell_in_flight(here, monkeypatch):
    real, calls = tasks.work.compute, []

    def compute(cells):
        calls.append(cells)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(cells)

    monkeypatch.setattr(tasks.work, "compute", compute)
    with pytest.raises(KeyboardInterrupt):
        run("suite.yaml", "out")
    assert len(results("out")) == 2
    assert not [p for p in (here / "out").rglob("*") if "unfinished" in p.name or p.suffix == ".lock"]


def test_what_cannot_be_run_is_said_before_it_runs(here):
    (here / "file").touch()
    with pytest.raises(FileError, match="choose another --out"):
        run("suite.yaml", here / "file" / "out")
    with pytest.raises(OptionError, match="unknown executor 'locally'; there are serial, local and local:N"):
        run("suite.yaml", "out", executor="locally")


def test_the_command_line(here, capsys):
    (here / "small.yaml").write_text(
        "data: images/0.npy\npriors: my_suite:smooth\nsamplers: PiGDM(steps=2)\n"
        "problems: {operator: my_suite:Half, noise: 0.1}\n"
    )
    for args, code, printed in [
        (["check", "small.yaml"], 0, "1 cells: 0 done, 0 failed, 1 to compute\n2 network evaluations and "),
        (["run", "small.yaml", "--out", "out", "--shard", "1/1"], 0, "1 cells: 1 done, 0 failed, 0 remaining; 1 computed"),
        (["check", "small.yaml", "--out", "out"], 0, "1 cells: 1 done, 0 failed, 0 to compute\n"),
        (["run", "small.yaml", "--out", "out", "--shard", "one"], 2, "cannot read the shard 'one'"),
    ]:
        with pytest.raises(SystemExit) as end:
            main(["bench", *args])
        said = capsys.readouterr()
        assert (end.value.code or 0) == code and printed in said.out + said.err


@pytest.mark.slow
def test_after_kill_9_a_rerun_completes_the_same_results(here):
    naps = load("suite.yaml").content | {"metrics": ["psnr", "my_suite:nap(seconds=0.3)"]}
    run(naps, "quiet", progress=False)
    (here / "naps.py").write_text(f"suite = {naps!r}\n")
    (here / "napping").touch()  # for the run that is killed alone: it lasts four seconds
    command = [sys.executable, "-m", "invgen", "bench", "run", "naps.py", "--out", "out", "--executor", "local:2"]
    driver = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list((here / "out").glob("cells/??/*[0-9a-f].json"))) >= 2 or driver.poll() is not None)
    workers = children(driver.pid)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))  # none outlives its parent
    (here / "napping").unlink()
    before = {p: p.stat().st_mtime_ns for p in (here / "out").glob("cells/??/*.json")}
    assert 2 <= len(before) < 24
    report = run(naps, "out", progress=False)
    assert (report.done, report.computed) == (24, 24 - len(before))
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    assert results("out") == results("quiet")


@pytest.mark.slow
def test_two_runners_share_a_folder_and_compute_nothing_twice(here):
    naps = load("suite.yaml").content | {"metrics": ["psnr", "my_suite:nap(seconds=0.1)"]}
    (here / "naps.py").write_text(f"suite = {naps!r}\n")
    (here / "napping").touch()  # so that both are at work at one time
    command = [sys.executable, "-m", "invgen", "bench", "run", "naps.py", "--out", "out"]
    options = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "stdout": subprocess.PIPE, "text": True}
    two = [subprocess.Popen(command, **options) for _ in range(2)]
    said = [runner.communicate(timeout=600)[0] for runner in two]
    assert all("24 cells: 24 done, 0 failed, 0 remaining" in text for text in said), said
    assert sum(int(text.split(" computed now")[0].rpartition(" ")[2]) for text in said) == 24, said
    assert len(results("out")) == 24


@pytest.mark.slow
def test_two_workers_compute_at_one_time_and_a_cell_that_kills_its_worker_fails_alone(here):
    suite = SMALL | {"metrics": ["my_suite:meet", "my_suite:die"], "seeds": 3}
    deadly = {"operator": "Identity", "noise": 0.1, "name": "deadly", "seeds": 1}
    suite["problems"] = [SMALL["problems"], deadly]
    cells = expand(suite)
    for name in ("deadly", "meeting"):  # only now: the rehearsal computes the metrics too, in this process
        (here / name).touch()
    store = Store("out")
    store.prepare()
    outcomes = {cell.key: outcome for cell, outcome in pool([(c,) for c in cells], store, environments(2, "cpu"))}
    assert [outcomes[c.key] for c in cells if c.problem == "deadly"] == ["failed"]
    assert [outcomes[c.key] for c in cells if c.problem != "deadly"] == ["done"] * 3
    assert all(store.record(c.key)["metrics"]["my_suite:meet"] >= 2 for c in cells if c.problem != "deadly")
    (failure,) = (store.failure(c.key) for c in cells if c.problem == "deadly")
    assert "its worker process died" in failure["error"]


def test_arrays_are_kept_as_asked(here):
    for arrays, names in (("none", set()), ("all", {"truth", "measurement", "mean", "std", "samples"})):
        run(SMALL | {"arrays": arrays, "num_samples": 4}, arrays, progress=False)
        (key,) = Store(arrays).stored()
        kept = Store(arrays).arrays(key) if names else {}
        assert set(kept) == names
    assert kept["samples"].shape == (4, 1, 6, 6) and kept["samples"].dtype == np.float32
