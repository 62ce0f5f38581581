"""`invgen edit`: what is kept stays to the last bit, strength trades the painting for the prior, and the page works."""

import json
import shutil
import subprocess
import threading

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import invgen
from invgen import priors
from invgen.cli import app
from invgen.commands import edit_page
from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.priors import GaussianPrior

PRIOR = GaussianPrior((1, 6, 6), var=0.25)  # independent values
PAINTING = torch.full((1, 6, 6), 0.8)


@pytest.mark.slow
def test_strength_goes_from_the_painting_to_the_prior():
    done = invgen.edit(PAINTING, PRIOR, strength=(0.2, 1.0, 20.0), num_samples=200, steps=20)
    assert done.samples.shape == (3, 200, 1, 6, 6)
    # noise of s data_std on N(0, 1) data pulls the painting to 1 / (1 + s^2) of itself: 0.77, 0.4, 0.002
    means = done.samples.mean((1, 2, 3, 4))
    assert means.tolist() == pytest.approx([0.8 / 1.04, 0.4, 0.002], abs=0.04)
    assert list(done.faithfulness) == sorted(done.faithfulness)


@pytest.mark.slow
def test_what_is_kept_is_exact_and_the_rest_follows_it():
    keep = torch.ones(1, 6, 6)
    keep[..., 2:4, 2:4] = 0
    grid = torch.arange(6.0)
    spots = torch.exp(-0.5 * (grid[:, None] - grid).square() / 4)
    prior = GaussianPrior((1, 6, 6), covariance=0.25 * torch.kron(spots, spots) + 1e-3 * torch.eye(36))
    done = invgen.edit(PAINTING, prior, keep=keep, strength=3.0, num_samples=50, steps=20, real=torch.zeros(4, 1, 6, 6))
    assert (done.result - PAINTING)[:, keep > 0].eq(0).all()
    # neighbours of .8 all around make a smooth field about .8 inside, whatever the painting had there
    assert done.result[:, keep == 0].mean().item() == pytest.approx(0.8, abs=0.1)


def test_auto_takes_the_least_strength_that_looks_real():
    real = PRIOR.sample(64, seed=1)
    done = invgen.edit(PAINTING, PRIOR, num_samples=8, steps=10, real=real)
    assert len(done.strengths) == 5 and "<- taken" in done.text()
    least = [k for k, r in enumerate(done.realism) if r <= done.real]
    assert done.chosen == (least[0] if least else done.realism.index(min(done.realism)))


def test_what_cannot_be_edited_is_said():
    with pytest.raises(ShapeError, match="the picture has shape"):
        invgen.edit(PAINTING[:, :3], PRIOR)
    with pytest.raises(OptionError, match="nothing left to edit"):
        invgen.edit(PAINTING, PRIOR, keep=torch.ones(1, 6, 6))
    with pytest.raises(UnsupportedError, match="knows no conditions"):
        invgen.edit(torch.zeros(3, 64, 64), priors.load("photo"), condition=3)
    for wrong in ((), (1.0, -1.0)):
        with pytest.raises(OptionError, match="strengths are positive"):
            invgen.edit(PAINTING, PRIOR, strength=wrong)
    with pytest.raises(OptionError, match="square pictures"):
        edit_page.server(GaussianPrior(8))


@pytest.mark.slow
def test_the_command_writes_a_strip_and_a_curve(tmp_path):
    Image.new("L", (32, 32), 40).save(tmp_path / "picture.png")
    strokes = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    strokes.paste((255, 255, 255, 255), (10, 10, 20, 20))
    strokes.save(tmp_path / "strokes.png")
    out = tmp_path / "out"
    words = f"edit {tmp_path}/picture.png --prior digits --strokes {tmp_path}/strokes.png --strength 0.5,1 -k 1 --steps 4"
    done = CliRunner().invoke(app, [*words.split(), "--text", "7", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert {p.name for p in out.iterdir()} >= {"strip.png", "curve.png", "edit_000.png", "samples.npy", "summary.json"}
    assert json.loads((out / "summary.json").read_text())["strengths"] == [0.5, 1.0]


# what the mouse does: a stroke from left to right, then the button, then a mark that the samples are there
STROKE = """<script>ready.then(async () => {
const box = canvas.getBoundingClientRect(), fire = (kind, x) => (kind == "up" ? window : canvas).dispatchEvent(
  new PointerEvent("pointer" + kind, {clientX: box.left + x * box.width, clientY: box.top + box.height / 2, bubbles: true}))
fire("down", .3); fire("move", .7); fire("up", .7)
document.body.dataset.painted = mask.reduce((a, b) => a + b)
await draw()
document.body.dataset.samples = document.querySelectorAll("#out img").length })</script></html>"""


@pytest.mark.slow
def test_the_page_paints_and_draws_in_a_browser(monkeypatch, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium")
    monkeypatch.setattr(edit_page, "PAGE", edit_page.PAGE.replace("</script></html>", "</script>" + STROKE))
    with edit_page.server(priors.load("clothing"), num_samples=2, steps=2) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}",
            "--virtual-time-budget=60000",
        ]
        done = subprocess.run([browser, *options, "--dump-dom", address], capture_output=True, text=True, timeout=120)
        server.shutdown()
    assert 'data-samples="2"' in done.stdout, done.stdout[-500:] + done.stderr[-500:]
    painted = int(done.stdout.split('data-painted="')[1].split('"')[0])
    # a stroke of 0.4 x 32 pixels in length, 2 x 5 wide with its margin: about 13 x 10 and two half discs
    assert 150 < painted < 280


def test_another_page_may_not_ask():
    from http.client import HTTPConnection

    with edit_page.server(GaussianPrior((1, 6, 6), var=0.25)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        statuses = []
        for headers in ({"Origin": "http://elsewhere"}, {"Host": "elsewhere:80"}, {}):
            ask = HTTPConnection("127.0.0.1", server.server_port)
            ask.request("POST", "/edit", json.dumps({"picture": "?"}), headers)
            answer = ask.getresponse()
            statuses.append((answer.status, json.loads(answer.read())))
        server.shutdown()
    assert statuses[:2] == [(403, {})] * 2 and "cannot be read" in statuses[2][1]["error"]
