"""Runs on Dask: workers that die, cells that kill them, interrupts, schedulers that ran before, SLURM's job script."""

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from invgen.benchmarks.engine.runner import run
from invgen.benchmarks.engine.store import Store
from invgen.benchmarks.suite.expand import expand, load
from invgen.errors import InvgenError, MissingExtraError, OptionError
from tests.benchmarks.running import SMALL, children, results, wait_for

pytest.importorskip("distributed")
from invgen.benchmarks.engine import dask as dask_executor
from invgen.benchmarks.engine import dask_clusters


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_no_cell(here):
    """Every cell is there once, and equal to that of the serial run bit for bit."""
    naps = load("suite.yaml").content | {"metrics": ["psnr", "my_suite:nap(seconds=0.2)"]}
    run(naps, "serial", progress=False)
    (here / "naps.py").write_text(f"suite = {naps!r}\n")
    (here / "napping").touch()
    command = [sys.executable, "-m", "invgen", "bench", "run", "naps.py", "--out", "out", "--executor", "dask:2"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(list((here / "out").glob("cells/??/*[0-9a-f].json"))) >= 3 or driver.poll() is not None)
    victim = next(pid for pid in children(driver.pid) if "dask_worker" in cmdline(pid))
    os.kill(victim, signal.SIGKILL)
    said, err = driver.communicate(timeout=600)
    assert "24 cells: 24 done, 0 failed, 0 remaining" in said, said + err
    assert driver.returncode == 0
    assert results("out") == results("serial")
    assert len(list((here / "out").glob("cells/??/*.json"))) == 24


@pytest.mark.slow
def test_an_interrupt_ends_the_workers_and_keeps_what_was_stored(here):
    naps = load("suite.yaml").content | {"metrics": ["psnr", "my_suite:nap(seconds=0.5)"]}
    (here / "naps.py").write_text(f"suite = {naps!r}\n")
    (here / "napping").touch()  # until the interrupt
    command = [sys.executable, "-m", "invgen", "bench", "run", "naps.py", "--out", "out", "--executor", "dask:2"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    # what is started in the background of a shell without job control inherits that interrupts are ignored
    driver = subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options)
    wait_for(lambda: len(list((here / "out").glob("cells/??/*[0-9a-f].json"))) >= 2 or driver.poll() is not None)
    workers = children(driver.pid)
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
    _, err = driver.communicate(timeout=600)
    assert driver.returncode == 130, err
    assert "Traceback" not in err, err
    wait_for(lambda: not any(alive(pid) for pid in workers))
    (here / "napping").unlink()
    before = len(results("out"))
    assert 2 <= before < 24
    assert not list((here / "out").rglob("*unfinished*"))
    assert run(naps, "out", progress=False).computed == 24 - before


@pytest.mark.slow
def test_a_cell_that_kills_its_workers_fails_alone(here, monkeypatch):
    monkeypatch.setattr(dask_executor, "LOOK", 0.2)
    suite = SMALL | {"metrics": ["psnr", "my_suite:die"], "seeds": 3}
    deadly = {"operator": "Identity", "noise": 0.1, "name": "deadly", "seeds": 1}
    suite["problems"] = [SMALL["problems"], deadly]
    cells, store = expand(suite), Store("out")
    (here / "deadly").touch()  # only now: the rehearsal computes the metrics too, in this process
    store.prepare()
    executor = dask_executor.Executor.parse("dask:2")
    outcomes = {
        cell.problem: outcome for cell, outcome in dask_executor.results(executor, [(c,) for c in cells], store, "cpu")
    }
    assert outcomes.pop("deadly") == "failed" and set(outcomes.values()) == {"done"}
    (failure,) = (store.failure(c.key) for c in cells if c.problem == "deadly")
    assert "its worker process died" in failure["error"]


@pytest.mark.slow
def test_a_scheduler_that_runs_already(here, monkeypatch):
    """Its worker has two threads, was started elsewhere, and stays when the run has ended."""
    monkeypatch.setattr(dask_executor, "LOOK", 0.2)
    with scheduler(here) as address:
        report = run("suite.yaml", "out", executor=address, batch=2, progress=False)
        assert (report.done, report.computed) == (24, 24)
        assert run("suite.yaml", "out", executor=address, progress=False).computed == 0
        from distributed import Client

        with Client(address, set_as_default=False) as client:
            assert len(client.scheduler_info()["workers"]) == 1
    run("suite.yaml", "serial", batch=2, progress=False)
    assert results("out") == results("serial")


def test_a_scheduler_that_does_not_answer(here, monkeypatch):
    monkeypatch.setattr(dask_executor, "ANSWER", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(InvgenError, match="no Dask scheduler answers at tcp"):
        run(SMALL, "out", executor=address, progress=False)


def test_workers_that_do_not_see_the_folder_are_told(tmp_path, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr(dask_executor, "PATIENCE", 0.0)
    with pytest.raises(OptionError, match="choose an --out on a file system that they and this machine share"):
        dask_executor._visible(Store(tmp_path), SimpleNamespace(key="ab12"), "slurm")


def test_the_job_that_slurm_gets(tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    import dask

    config = {"jobqueue.slurm.queue": "gpu", "jobqueue.slurm.walltime": "04:00:00", "jobqueue.slurm.cores": 2}
    with dask.config.set(config), dask_clusters.slurm("cpu", tmp_path) as cluster:
        script = cluster.job_script()
    cluster.keys.cleanup()
    assert "#SBATCH -p gpu\n" in script and "#SBATCH -t 04:00:00\n" in script and "--cpus-per-task=2" in script
    assert "export OMP_NUM_THREADS=1\n" in script and "export DASK_DISTRIBUTED__WORKER__DAEMON=False\n" in script
    assert (
        "--nworkers 2" in script and "--nthreads 1" in script and script.rpartition("--memory-limit ")[2].startswith("0 ")
    )
    with dask_clusters.slurm("cuda", tmp_path) as cluster:
        script = cluster.job_script()
    cluster.keys.cleanup()
    assert "#SBATCH --gres=gpu:1\n" in script and "--resources GPU=1" in script and "--mem=4G" in script


def refused(address, context=None):
    """Whether who connects like this is turned away before anything that it says is heard."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=10) as plain:
            stream = context.wrap_socket(plain) if context else plain
            stream.sendall(b"\0" * 64)
            return stream.recv(64) == b""
    except OSError:  # an alert, or a connection that is closed
        return True


def context_of(security):
    """The TLS context of a client; without a key of its own where there is no `security`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return security.get_connection_args("client")["ssl_context"] if security else context


def said_by_a_stranger(address, security):
    """What another process prints that asks the cluster at an address to compute: nothing, if it is not let in.

    In a process of its own, because distributed's client may wait for ever after it was refused.
    """
    program = (
        "from distributed import Client, Security\n"
        f"client = Client({address!r}, security={security}, timeout=5)\n"
        "print(client.submit(pow, 2, 3).result(timeout=10), flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        return process.communicate(timeout=30)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0]


@pytest.mark.slow
def test_who_does_not_hold_the_key_of_the_run_is_refused(tmp_path):
    """The scheduler was open to any user of the machine, who could run code as its owner."""
    import dask
    from distributed import Client, LocalCluster, Security

    with LocalCluster(n_workers=1, processes=False, dashboard_address=None, protocol="tcp://") as open_to_all:
        assert said_by_a_stranger(open_to_all.scheduler_address, "None") == "8\n"
    ours = dask_clusters.credentials()
    with dask.config.set(dask_executor.SETTINGS), dask_clusters.scheduler(ours) as cluster:
        address = cluster.scheduler_address
        workers = dask_clusters.Workers(address, [{}], "cpu", ours)
        try:
            with Client(cluster, set_as_default=False) as client:
                client.wait_for_workers(1, timeout=120)
                assert client.submit(pow, 2, 3).result(timeout=60) == 8
                of_worker = next(iter(client.scheduler_info()["workers"]))
            plain = address.replace("tls", "tcp")
            assert address.startswith("tls://127.0.0.1:") and of_worker.startswith("tls://127.0.0.1:")
            for end in (address, of_worker):
                assert refused(end)
                assert refused(end, context_of(None))
                assert refused(end, context_of(Security.temporary()))
            for where, security in [(address, "None"), (address, "Security.temporary()"), (plain, "None")]:
                assert said_by_a_stranger(where, security) == ""
            assert "PRIVATE KEY" not in cmdline(workers.processes[0].pid)
            with pytest.raises(urllib.error.HTTPError, match="404"):
                page = f"http://127.0.0.1:{cluster.scheduler.http_server.port}/info/main/workers.html"
                urllib.request.urlopen(page, timeout=5)
        finally:
            workers.stop()


@pytest.mark.slow
def test_the_job_of_slurm_finds_the_key_and_nobody_else_may_read_it(tmp_path):
    """The script that SLURM would run, run here."""
    pytest.importorskip("dask_jobqueue")
    from distributed import Client, Security

    with dask_clusters.slurm("cpu", tmp_path, memory="1GB") as cluster:
        script = cluster.job_script()
        (folder,) = tmp_path.glob(".keys-*")
        assert folder.stat().st_mode & 0o777 == 0o700 and (folder / "key.pem").stat().st_mode & 0o777 == 0o600
        assert "--protocol tls://" in script and all(str(path) in script for path in folder.iterdir())
        assert "PRIVATE KEY" not in script
        assert refused(cluster.scheduler_address) and refused(cluster.scheduler_address, context_of(Security.temporary()))
        job = subprocess.Popen(["bash", "-c", script], cwd="/", stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            with Client(cluster, set_as_default=False) as client:
                client.wait_for_workers(1, timeout=120)
                assert client.submit(pow, 2, 3).result(timeout=60) == 8
        finally:
            os.killpg(job.pid, signal.SIGTERM)
            job.wait(60)
    cluster.keys.cleanup()
    assert not list(tmp_path.glob(".keys-*"))


def test_without_cryptography_no_cluster_is_started(monkeypatch):
    from distributed import Security

    def missing(**_):
        raise ImportError("no cryptography")

    monkeypatch.setattr(Security, "temporary", missing)
    with pytest.raises(MissingExtraError, match="keys need the package cryptography: pip install"):
        dask_clusters.credentials()


@contextlib.contextmanager
def scheduler(folder):
    """The address of a Dask scheduler with one worker of two threads, in processes of their own."""

    file = folder / "scheduler.json"
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    start = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    running = [subprocess.Popen([*start, "--scheduler-file", str(file)], **options)]
    try:
        wait_for(file.exists)
        address = json.loads(file.read_text())["address"]
        start = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "2", "--no-dashboard"]
        running.append(subprocess.Popen([*start, "--no-nanny", "--local-directory", str(folder / "worker")], **options))
        yield address
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(60)


def cmdline(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read()
    except OSError:
        return ""


def alive(pid):
    return bool(cmdline(pid))
