"""What an installation holds and what an import costs: modules loaded, packages listed, wheel and sdist complete."""

import ast
import configparser
import functools
import json
import os
import re
import subprocess
import sys
import tarfile
import tokenize
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("invgen", "operators", "priors", "benchmarks")
NO_CODE = (tokenize.COMMENT, tokenize.ENCODING)
HEAVY = ("torch", "diffusers", "astra", "matplotlib", "skimage", "scipy", "h5py", "pydicom", "PIL")


def config():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def listed(text):
    return [line.strip() for line in text.strip().splitlines()]


def packages():
    return listed(config()["options"]["packages"])


def loaded_by(code):
    """The modules that a fresh interpreter has loaded after running the code."""
    code += "\nimport sys, json\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def sources():
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


@functools.cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path, top_level_only=False):
    """The modules that a file imports: (line, name)."""
    tree = parsed(path)
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_import_invgen_loads_nothing_heavy():
    assert not set(HEAVY) & set(loaded_by("import invgen"))


@pytest.mark.slow
def test_the_core_and_the_samplers_load_torch_and_numpy_alone():
    code = "import invgen\nfor name in invgen.__all__:\n    name == 'plots' or getattr(invgen, name)"
    code += "\nfrom invgen import samplers\nsamplers.catalogue()"
    heavy = {*HEAVY, "torch._dynamo", "torch._inductor", "optuna", "sklearn", "ot"} - {"torch"}
    assert not heavy & set(loaded_by(code))


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["--help", "reconstruct --help", "calibrate --help", "--version", "train --help", "bench run --help"]
)
def test_help_loads_no_torch(command):
    code = f"""
import sys
from invgen.cli import main
try:
    main({command.split()!r})
except SystemExit:
    pass
"""
    assert not {"torch", "numpy", "rich"} & set(loaded_by(code))


def test_every_public_name_resolves():
    import invgen

    for name in invgen.__all__:
        assert getattr(invgen, name) is not None
    assert set(invgen.__all__) <= set(dir(invgen))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = invgen.nothing


@pytest.mark.slow
def test_torchvision_is_never_imported():
    for path in [*sources(), *ROOT.glob("tests/**/*.py"), *ROOT.glob("examples/*.py")]:
        for line, name in imports(path):
            assert name.split(".")[0] != "torchvision", f"{path}:{line}"


@pytest.mark.slow
def test_heavy_packages_are_imported_where_they_are_used():
    for path in sources():
        for line, name in imports(path, top_level_only=True):
            assert name.split(".")[0] not in {*HEAVY} - {"torch"}, f"{path}:{line} imports {name} at the top of the file"


# folder: what nothing in it imports, not even inside a function, and the files that are exempt
RULES = {
    "invgen": (
        "operators priors benchmarks samplers",
        ("__init__.py", "cli", "commands", "names", "samplers", "inference"),
    ),
    "invgen/inference": ("operators priors benchmarks", ()),
    "invgen/samplers": ("operators priors benchmarks inference", ()),
    "operators": ("priors benchmarks samplers inference", ()),
    "priors": ("operators benchmarks samplers inference", ()),
    "priors/laws": ("priors.wrappers priors.checkpoints priors.data priors.training priors.cards", ()),
    "priors/wrappers": ("priors.checkpoints priors.data priors.training priors.cards", ()),
    "priors/checkpoints": ("priors.data priors.training priors.cards", ()),
    "priors/data": ("priors.training priors.cards", ()),
    "priors/training": ("priors.cards", ()),
    "benchmarks/methods": ("benchmarks.suite benchmarks.engine benchmarks.report benchmarks.studies", ()),
    "benchmarks/suite": ("benchmarks.engine benchmarks.report benchmarks.studies benchmarks.gallery", ()),
    "benchmarks/engine": ("benchmarks.studies benchmarks.gallery", ()),
    "benchmarks/report": ("benchmarks.studies benchmarks.gallery", ()),
    "benchmarks/gallery": ("benchmarks.engine benchmarks.studies", ()),
    "benchmarks/measured": ("benchmarks.engine benchmarks.studies benchmarks.gallery", ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("folder", RULES)
def test_the_house_rule_of_imports(folder):
    """Catalogues import contracts, never each other nor a sampler; the contracts import no catalogue at all."""
    banned, exempt = RULES[folder]
    for path in (ROOT / folder).rglob("*.py"):
        if path.relative_to(ROOT / folder).parts[0] in exempt:
            continue
        for line, name in imports(path):
            wrong = [b for b in banned.split() if f"{name}.".startswith(f"invgen.{b}.")]
            assert not wrong, f"{path}:{line} imports {name}"


def test_no_folder_is_a_heap():
    for folder in {path.parent for path in sources()}:
        assert len(list(folder.glob("*.py"))) <= 20, folder


def code_lines(path):
    """Returns how many lines of a file hold code: no imports, docstrings, comments, blank lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    left_out = set()
    for node in ast.walk(tree):
        quoted = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if quoted or isinstance(node, ast.Import | ast.ImportFrom):
            left_out.update(range(node.lineno, node.end_lineno + 1))
    with path.open("rb") as file:
        tokens = [t for t in tokenize.tokenize(file.readline) if t.string.strip() and t.type not in NO_CODE]
    return len({line for t in tokens for line in range(t.start[0], t.end[0] + 1)} - left_out)


@pytest.mark.slow
def test_a_sampler_reads_like_its_algorithm_box():
    for path in (ROOT / "invgen" / "samplers").glob("*/*.py"):
        if path.name != "base.py" and not path.name.startswith("_"):  # what a family shares
            assert code_lines(path) < 80, path


def signatures(nodes, owner=""):
    """The public functions and methods of a file: (name, node)."""
    for node in nodes:
        public = not node.name.startswith("_") or node.name in ("__init__", "__call__") if hasattr(node, "name") else False
        if public and isinstance(node, ast.ClassDef):
            yield from signatures(node.body, f"{owner}{node.name}.")
        elif public and isinstance(node, ast.FunctionDef):
            yield owner + node.name, node


@pytest.mark.slow
def test_every_public_signature_is_annotated():
    for path in sources():
        for name, node in signatures(ast.parse(path.read_text(encoding="utf-8")).body):
            spec = node.args
            every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *filter(None, (spec.vararg, spec.kwarg))]
            bare = [a.arg for a in every if a.annotation is None and a.arg not in ("self", "cls")]
            assert not bare and node.returns is not None, f"{path}:{node.lineno} {name} lacks types: {bare or 'the result'}"


def test_every_folder_with_code_is_a_listed_package():
    found = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            name = ".".join(path.parent.relative_to(ROOT).parts)
            found.add(name if folder == "invgen" else f"invgen.{name}")
    assert found == set(packages()), "setup.cfg lists other packages than there are folders with Python files"


@pytest.mark.slow
def test_all_dependencies_are_needed_and_stated():
    """What the code imports is in setup.cfg, and what setup.cfg asks for is imported (or brings something that is)."""
    known = {
        "scikit-image": "skimage",
        "scikit-learn": "sklearn",
        "astra-toolbox": "astra",
        "pillow": "PIL",
        "pynrrd": "nrrd",
        "POT": "ot",
        "dask-jobqueue": "dask_jobqueue",
        "pyyaml": "yaml",
        "imageio-ffmpeg": "imageio_ffmpeg",
    }
    sections = [config()["options"]["install_requires"], *config()["options.extras_require"].values()]
    names = {re.split(r"[<>=\[]", line)[0] for section in sections for line in listed(section)} - {"invgen-solvers"}
    stated = {known.get(name, name) for name in names}
    stated |= {"bm3d"}  # a baseline for whoever evaluates a prior; its licence keeps it out of the extras
    used = {name.split(".")[0] for path in sources() for _, name in imports(path)}
    foreign = used - set(sys.stdlib_module_names) - {"invgen"}
    assert foreign <= stated, f"imported but not stated in setup.cfg: {foreign - stated}"
    required = {known.get(n, n) for n in (re.split(r"[<>=\[]", x)[0] for x in listed(sections[0]))}
    assert required <= used, f"required but never imported: {required - used}"


def test_the_lock_holds_every_file_against_its_hash():
    """All but torch, whose builds for CUDA, for the CPU and from a local folder differ, are pinned with hashes."""
    text = (ROOT / "requirements-dev.lock").read_text()
    entries = re.findall(r"^([a-z0-9.-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})*)$", text, re.MULTILINE)
    assert len(entries) == len([line for line in text.splitlines() if line and line[0] not in "# "]) > 100
    assert [name for name, _, hashes in entries if not hashes] == ["torch"]
    assert {"uv", "setuptools", "cryptography"} <= {name for name, _, _ in entries}
    makefile = (ROOT / "Makefile").read_text()
    assert "--require-hashes" in makefile and "--no-build-isolation" in makefile


def test_licence_and_notice():
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    notice = (ROOT / "NOTICE").read_text()
    assert "astra-toolbox" in notice
    assert "GNU General Public License, version 3" in notice


def package_data():
    """The data files that the wheel must hold, as paths in it."""
    for package, text in config()["options.package_data"].items():
        folder = ROOT / (package.partition(".")[2].replace(".", "/") or package)
        for pattern in text.replace("\n", ",").split(","):
            for path in folder.glob(pattern.strip() or "nothing"):
                yield f"{package.replace('.', '/')}/{path.relative_to(folder)}"


@pytest.mark.slow
def test_wheel_and_sdist_hold_everything(tmp_path):
    # without isolation nothing is downloaded; a copy, so that no build folder is left in the checkout
    copy = tmp_path / "checkout"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in tracked.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]

    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        (metadata,) = (name for name in inside if name.endswith(".dist-info/METADATA"))
        about = archive.read(metadata).decode()
    modules = {name for name in tracked.stdout.split("\0") if name.endswith(".py") and name.split("/")[0] in FOLDERS}
    expected = {name if name.startswith("invgen/") else f"invgen/{name}" for name in modules}
    data = {name for name in package_data() if name.removeprefix("invgen/") in tracked.stdout or name == "invgen/py.typed"}
    assert expected | data <= inside, f"missing from the wheel: {sorted((expected | data) - inside)}"
    assert any(name.endswith(".safetensors") for name in data), "no weights are shipped"
    assert {name.split("/")[0] for name in inside if ".dist-info/" not in name} == {"invgen"}
    assert any(name.endswith("/NOTICE") for name in inside)
    assert [line for line in about.splitlines() if line.startswith("License") and "Apache-2.0" in line]

    # a wheel is a folder of packages in a zip file: used from there, far from the checkout, it finds all its parts
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = """
import pathlib, invgen
from invgen import benchmarks, operators, priors, samplers
for package in (invgen, benchmarks, operators, priors, samplers):
    print(pathlib.Path(package.__file__).parent)
print(*[priors.load(name).shape for name in priors.names()])
"""
    path = {"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", env=os.environ | path)
    assert done.returncode == 0, done.stderr[-2000:]
    *folders, shapes = done.stdout.splitlines()
    site = tmp_path / "site" / "invgen"
    assert folders == [str(site), *(str(site / name) for name in ("benchmarks", "operators", "priors", "samplers"))]
    assert "(" in shapes

    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    at_root = {name if name == "invgen/py.typed" else name.removeprefix("invgen/") for name in data}
    wanted = (
        modules | at_root | {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "tests/test_packaging.py"}
    )
    assert wanted <= inside, f"missing from the sdist: {sorted(wanted - inside)}"
