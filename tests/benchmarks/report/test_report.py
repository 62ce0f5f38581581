"""The report: one well-formed page that loads nothing, whatever the names, and whose numbers lead to their cells."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from invgen.benchmarks.report import results, tables
from invgen.benchmarks.report.page import report
from invgen.cli import main
from invgen.errors import FileError, OptionError
from tests.benchmarks.fabricated import arrays, save

EVIL = "<script>alert('x')</script>\"'><img src=http://example.org/x.png>&{{ 7 * 7 }}"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements with their attributes and text; raises where one is closed that is not open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> in {self.open}"
        self.open.pop()

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(data for tag, data in self.texts if tag not in ("script", "style")).split())


def curve(shift=0.0):
    return {"levels": [0.2, 0.6], "coverage": [0.2 + shift, 0.6 + shift]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs, complex k-space, sound, a volume; classical and peer methods; failures, warnings, evil names."""
    out = tmp_path_factory.mktemp("report") / "out"
    rng = np.random.default_rng(0)
    kinds = {"TV": "classical", "DPS(steps=10)": "sampler", "DPS(steps=20)": "sampler", "peers.DPS": "peer"}
    for k, (sampler, kind) in enumerate(kinds.items()):
        for image in range(3):
            for seed in range(2):
                values = {
                    "psnr": 20.0 + 2 * k + image + 0.1 * rng.standard_normal(),
                    "crps": 0.1 + 0.01 * rng.standard_normal(),
                }
                facts = {"sampler": sampler, "image": f"image {image}", "seed": seed, "kind": kind, "problem": "colours"}
                if kind != "classical":
                    facts["calibration"] = curve(0.02 * image)
                else:
                    facts["nfe"] = 0.0
                kept = arrays((3, 8, 8), seed=image) if seed == 0 else None
                save(out, values, arrays=kept, **facts)
    save(out, {"psnr": 1.0}, problem="grey", arrays=arrays((1, 40, 300)), warnings=["slow <b>"])
    kept = arrays((1, 8, 8), measurement=np.ones(32, np.float32))
    save(out, {"psnr": 1.0}, problem="kept pixels", operator="Mask.random(keep=0.5)", arrays=kept)
    save(out, {"psnr": 1.0}, problem="kept pixels", operator="Mask.random(keep=0.5)", image="b", arrays=arrays((1, 8, 8)))
    kept = arrays((1, 16, 16), measurement=np.ones((128, 2), np.float32))  # lines of k-space, real and imaginary parts
    save(out, {"psnr": 1.0}, problem="k-space", operator="MRI(mask=random_mask(width=16, acceleration=2))", arrays=kept)
    mri = arrays((1, 8, 8), measurement=np.ones((4, 8, 8), np.complex64), dtype=np.complex64)
    save(out, {"psnr": float("inf")}, problem="complex", arrays=mri)
    save(out, {"psnr": 1.0}, problem="sound", arrays=arrays((1, 3000)))
    save(out, {"psnr": 1.0}, problem="parameters", arrays=arrays((5,), measurement=np.ones(3, np.float32)))
    save(out, {"psnr": 1.0}, problem="volume", arrays=arrays((1, 6, 8, 8), measurement=np.ones((5, 7, 9), np.float32)))
    save(
        out,
        {"my_module:f": 1.0},
        problem=EVIL,
        sampler=EVIL,
        image=EVIL,
        prior=EVIL,
        operator=EVIL,
        arrays=arrays((1, 8, 8)),
    )
    save(out, error=f"out of luck {EVIL}", problem=EVIL, sampler="broken")
    return out


@pytest.fixture(scope="module")
def page(folder):
    written = report(folder, title=EVIL)
    assert [path.name for path in written.files if path.suffix != ".parquet"] == [
        "report.html",
        "results.csv",
        "tables.md",
        "tables.tex",
    ]
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_page_loads_nothing_and_runs_no_names(page):
    assert len(page.all("script")) == 1 and not page.all("link") and not page.all("iframe")
    for _, attrs in page.elements:
        for name, value in attrs.items():
            assert not name.startswith("on"), "an event handler"
            if name in ("src", "href", "srcset", "action", "data"):
                assert value.startswith(("data:image/", "#")), value[:80]
    (style,) = [data for tag, data in page.texts if tag == "style"]
    assert "url(" not in style and "@import" not in style
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert page.text.count("<script>alert('x')</script>") >= 5  # shown as it was written
    assert "{{ 7 * 7 }}" in page.text


@pytest.mark.slow
def test_the_policy_lets_the_page_s_own_script_run(page):
    import hashlib

    (script,) = [data for tag, data in page.texts if tag == "script"]
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv")]
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy


@pytest.mark.slow
def test_every_link_leads_somewhere(page):
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a")} <= set(ids)


def test_pictures_are_pictures(page):
    kinds = {"png": 0, "svg+xml": 0}
    for img in page.all("img"):
        assert img["alt"]
        kind, data = re.fullmatch(r"data:image/(png|svg\+xml);base64,([A-Za-z0-9+/=]+)", img["src"]).groups()
        kinds[kind] += 1
        raw = base64.b64decode(data)
        if kind == "png":
            size = Image.open(BytesIO(raw)).size
            assert max(size) <= 128
        else:
            assert raw.startswith(b"<?xml") and b"<script" not in raw and raw.rstrip().endswith(b"</svg>")
    captions = " ".join(data for tag, data in page.texts if tag == "figcaption")
    for caption in (
        "truth",
        "measurement",
        "measurement, Aᵀy",
        "baseline: TV",
        "sample 1",
        "mean",
        "standard deviation",
        "error",
    ):
        assert caption in captions
    assert captions.count("measurement, Aᵀy") == 2
    # two images of the first problem with four methods each, one image of the others
    assert kinds["png"] > 2 * (3 + 4 * 5) and kinds["svg+xml"] == 2


def test_numbers_lead_to_their_cells(folder, page):
    found = tables.tables(results.read(folder))
    text = (folder / "report.html").read_text(encoding="utf-8")
    for p, table in enumerate(found, 1):
        for line in table.lines:
            (block,) = re.findall(rf'<table class="cells sortable" id="c{p}-{line.number}">(.*?)</table>', text, re.S)
            assert [row.key for row in line.cells] == re.findall(r'class="t key">(\w+)<', block)
            for entry in line.entries.values():
                assert f'<a href="#c{p}-{line.number}" title="mean of {entry.interval.cells} cells' in text
    (colours,) = (k for k, table in enumerate(found, 1) if table.problem == "colours")
    best = next(line for line in found[colours - 1].lines if line.entries["psnr"].mark == "best")
    assert best.sampler == "peers.DPS"  # 2 dB above the next one, with a noise of 0.1 dB
    assert re.search(rf'<td class="best" data-v="[\d.]+"><a href="#c{colours}-{best.number}"', text)


def test_failures_warnings_and_the_environment_are_told(page):
    assert "out of luck <script>" in page.text and "Traceback: <b>" in page.text
    assert "slow <b>" in page.text
    for value in ("2.13.0", "here", "none beyond doubt", "1 failed"):
        assert value in page.text or value == "1 failed"
    assert "classical methods" in page.text and "samplers of other packages" in page.text


def test_one_image_has_no_interval(page):
    assert "One image: no intervals, and nothing is marked." in page.text
    assert "∞" in page.text


def test_all_failed(tmp_path):
    for image in "ab":
        save(tmp_path / "out", error="out of luck", image=image)
    report(tmp_path / "out", formats=["html", "md", "tex", "csv"])
    found = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert "0 cells done 2 failed" in found.text and "2 × DPS(steps=10): out of luck" in found.text


def test_damaged_results_and_arrays_do_not_stop_it(tmp_path):
    out = tmp_path / "out"
    keys = [save(out, {"psnr": 1.0}, image=image, arrays=arrays((1, 8, 8))) for image in "abc"]
    (out / "cells" / keys[0][:2] / f"{keys[0]}.json").write_text("{")
    path = out / "cells" / keys[1][:2] / f"{keys[1]}.npz"
    path.write_bytes(b"x" * path.stat().st_size)
    report(out, formats=["html"])
    found = Page((out / "report.html").read_text(encoding="utf-8"))
    assert "2 result files could not be read; `invgen bench run` computes them anew" in found.text
    assert f"{keys[0]}.json: it is cut off, or no JSON" in found.text
    assert f"{keys[1]}.npz: its bytes are not those that were written" in found.text
    assert [a["alt"] for a in found.all("img") if "truth" in a["alt"]] == ["truth of c"]


def test_the_same_results_give_the_same_page(tmp_path):
    save(tmp_path / "out", {"psnr": 1.0}, arrays=arrays((1, 8, 8)), calibration=curve())
    pages = []
    for name in "ab":
        report(tmp_path / "out", tmp_path / f"{name}.html", formats=["html"])
        pages.append(re.sub(r"Page written.*UTC", "", (tmp_path / f"{name}.html").read_text(encoding="utf-8")))
    assert pages[0] == pages[1]


@pytest.mark.slow
def test_pictures_stay_within_their_budget(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    for sampler in ("DPS", "DAPS", "MMPS"):
        save(folder, {"psnr": 1.0}, sampler=sampler, arrays=arrays((1, 8, 8)))
    monkeypatch.setattr("invgen.benchmarks.report.page.PICTURES", 1000)  # bytes: less than five pictures have
    report(folder, tmp_path / "few.html", formats=["html"])
    found = Page((tmp_path / "few.html").read_text(encoding="utf-8"))
    assert "2 more methods are left out, to keep the page small" in found.text
    report(folder, tmp_path / "none.html", formats=["html"], images=0)
    assert not [a for a in Page((tmp_path / "none.html").read_text(encoding="utf-8")).all("img") if "png" in a["src"]]


@pytest.mark.slow
def test_the_command_line(folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for args, code, said in [
        ([folder, "--format", "md", "--out", tmp_path / "page.html"], 0, "tables.md\n"),
        ([tmp_path / "empty"], 2, "has no results of cells"),
        ([tmp_path / "nothing"], 2, "there is no folder"),
        ([folder, "--format", "pdf"], 2, "unknown format 'pdf'; there are html, csv, parquet, md, tex"),
        ([folder, "--format", "html", "--out", tmp_path / "file" / "page.html"], 2, "cannot write"),
    ]:
        with pytest.raises(SystemExit) as end:
            main(["bench", "report", *map(str, args)])
        printed = capsys.readouterr()
        assert (end.value.code or 0) == code and said in printed.out + printed.err
        assert code == 0 or len(printed.err.strip().splitlines()) == 1, printed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "tables.md"]


def test_without_pyarrow_all_but_parquet_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    save(tmp_path, {"psnr": 1.0})
    written = report(tmp_path)
    assert "results.parquet" not in [path.name for path in written.files] and len(written.files) == 4
    assert "results.parquet was left out" in written.left_out[0]


def test_what_cannot_be_reported_is_said(tmp_path):
    with pytest.raises(OptionError, match="unknown format"):
        report(tmp_path, formats=["word"])
    with pytest.raises(FileError, match="there is no folder"):
        report(tmp_path / "nothing")
