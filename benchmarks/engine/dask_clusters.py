"""The Dask clusters that a run starts: on this machine, or of SLURM jobs. Who does not hold the key of the run is refused.

Whoever may talk to a scheduler or a worker may run code as its owner. What is started here therefore talks by TLS, and to
nobody but holders of a key that is made for this one run, on both sides.
"""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invgen.errors import FileError, MissingExtraError

if TYPE_CHECKING:
    from distributed import Security


def credentials() -> "Security":
    """Makes a key and a certificate for one run, in memory; who does not hold them is refused.

    Raises:
        MissingExtraError: cryptography is not installed.
    """
    from distributed import Security

    try:
        return Security.temporary()
    except ImportError as error:
        raise MissingExtraError(
            "a Dask cluster without keys would run anybody's code, and keys need the package cryptography: "
            "pip install 'invgen-solvers[bench]'"
        ) from error


def scheduler(security: "Security") -> Any:
    """Returns a scheduler in this process, for workers that are started apart."""
    from distributed import Scheduler, SpecCluster

    options = {"host": "127.0.0.1", "protocol": "tls://", "port": 0, "dashboard": False, "security": security}
    scheduler = {"cls": Scheduler, "options": options}
    silent: Any = logging.CRITICAL  # a level is taken too
    return SpecCluster(workers={}, scheduler=scheduler, security=security, silence_logs=silent)


def _worker_settings(security: "Security") -> dict[str, str]:
    """Returns the environment of a worker that holds the key: nobody but its owner can read it, which a command line is
    not."""
    own = security.get_tls_config_for_role("worker")
    return {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": own["ca_file"],
        "DASK_DISTRIBUTED__COMM__TLS__WORKER__CERT": own["cert"],
        "DASK_DISTRIBUTED__COMM__TLS__WORKER__KEY": own["key"],
        "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "[]",
    }


class Workers:
    """Worker processes of one thread, one for each environment, started again where they die.

    Not by Dask's nannies: those lose a worker that dies while they start it, and a cell may kill its workers at once. A
    session of their own keeps Ctrl-C from them; they end when the scheduler does, with this process at the latest.

    Args:
        address: of the scheduler.
        environments: the variables of each worker.
        device: of torch.
        security: the certificates of the cluster.
    """

    def __init__(self, address: str, environments: Sequence[Mapping[str, str]], device: str, security: "Security") -> None:
        options = ["--nthreads", "1", "--memory-limit", "0", "--no-nanny", "--no-dashboard", "--death-timeout", "300"]
        options += ["--resources", "GPU=1"] if device == "cuda" else []
        self.command = [sys.executable, "-m", "distributed.cli.dask_worker", address, *options]
        shared = {**os.environ, "DASK_LOGGING__DISTRIBUTED": "critical", **_worker_settings(security)}
        self.environments = [{**shared, **environment} for environment in environments]
        self.processes = [self._start(environment) for environment in self.environments]

    def _start(self, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self.command, env=environment, stdout=2, start_new_session=True)

    def restart(self) -> None:
        """Starts those again that have ended."""
        for k, process in enumerate(self.processes):
            if process.poll() is not None:
                self.processes[k] = self._start(self.environments[k])

    def stop(self) -> None:
        """Ends them at once, whatever they do: what they were writing is under a temporary name."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()


def slurm(device: str = "cpu", folder: str | Path = ".", **options: Any) -> Any:
    """Returns a cluster of SLURM jobs, none yet; `job_script()` shows what it submits.

    Jobs read the key of the cluster from files that nobody but their owner can read: `keys`, a temporary directory in
    `folder` (of the results, which jobs share) or in dask-jobqueue's `shared-temp-directory`, which goes before it.

    The options (queue, account, walltime, cores, memory, ...) are those of dask-jobqueue's configuration, `jobqueue.slurm`
    in ~/.config/dask/*.yaml or DASK_JOBQUEUE__SLURM__... in the environment; `options` go before them. A job has one core
    and 4 GB where neither says otherwise, and one worker process for each core; on CUDA one process, and `--gres=gpu:1`
    unless the configuration asks for GPUs itself.

    Raises:
        MissingExtraError: dask-jobqueue or cryptography is not installed.
    """
    try:
        import dask.config
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise MissingExtraError("the executor slurm needs dask-jobqueue: pip install 'invgen-solvers[slurm]'") from error

    def configured(name: str, default: Any) -> Any:
        value = options.get(name.replace("-", "_"))
        value = dask.config.get(f"jobqueue.slurm.{name}", None) if value is None else value
        return default if value is None else value

    cores = configured("cores", 1)
    exports = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
    arguments, directives = list(configured("worker-extra-args", [])), list(configured("job-extra-directives", []))
    if device == "cuda":
        arguments += ["--resources", "GPU=1"]
        if not any("gpu" in line for line in directives):
            directives.append("--gres=gpu:1")
    exports["DASK_DISTRIBUTED__WORKER__HTTP__ROUTES"] = '"[]"'
    place = Path(configured("shared-temp-directory", folder)).expanduser().resolve()
    keys, security = _key_files(credentials(), place)
    chosen = {
        "security": security,
        "cores": cores,
        "memory": configured("memory", "4GB"),
        "processes": 1 if device == "cuda" else configured("processes", cores),
        # a limit of its own would end workers at a share of what the job has; the last of two options counts
        "worker_extra_args": [*arguments, "--memory-limit", "0"],
        "job_script_prologue": [*configured("job-script-prologue", []), *(f"export {k}={v}" for k, v in exports.items())],
        "job_extra_directives": directives,
        "scheduler_options": {"dashboard": False},
    }
    cluster = SLURMCluster(**{**options, **chosen})
    cluster.keys = keys  # pyright: ignore[reportAttributeAccessIssue]  (which lie there as long as it does)
    return cluster


def _key_files(security: "Security", folder: Path) -> "tuple[tempfile.TemporaryDirectory[str], Security]":
    """Returns the key and the certificate of a run in files of a temporary directory, which its owner alone may enter."""
    from distributed import Security

    try:
        keys = tempfile.TemporaryDirectory(prefix=".keys-", dir=folder, ignore_cleanup_errors=True)
        certificate, key = Path(keys.name) / "certificate.pem", Path(keys.name) / "key.pem"
        certificate.write_text(security.tls_ca_file)
        key.touch(0o600)
        key.write_text(security.tls_worker_key)
    except OSError as error:
        raise FileError(f"cannot write the keys of the cluster into {folder}: {error.strerror or error}") from error
    roles = {f"tls_{role}_cert": str(certificate) for role in ("client", "scheduler", "worker")}
    roles |= {f"tls_{role}_key": str(key) for role in ("client", "scheduler", "worker")}
    return keys, Security(require_encryption=True, tls_ca_file=str(certificate), **roles)
