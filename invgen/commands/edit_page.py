"""The local page of `invgen edit --page`: paint with the mouse, see samples. Standard library alone, this machine alone."""

import base64
import io
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from invgen.commands.edit import edit, in_units
from invgen.diffusion import Denoiser, Prior
from invgen.errors import InvgenError, OptionError
from invgen.inference.simulation import sample

LARGEST = 2**23  # bytes of a request
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>invgen edit</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 52em; padding: 0 1em }
canvas, #out img { width: 320px; image-rendering: pixelated; border: 1px solid #999; touch-action: none }
#out img { width: 155px; margin: 0 4px 4px 0 } label { display: block; margin: .3em 0 }
main { display: flex; gap: 2em; flex-wrap: wrap }
</style>
<h1>Paint, and see what the prior makes of it</h1>
<main><div><canvas id="canvas" width="SIDE" height="SIDE"></canvas><br>
<input type="file" id="file" accept="image/*"> <button id="fresh">another sample</button>
<button id="undo">undo</button></div>
<div><label>colour <input type="color" id="colour" value="#ffffff"></label>
<label>brush <input type="range" id="brush" min="1" max="12" value="3"></label>
<label>strength <input type="range" id="strength" min="0.1" max="6" step="0.1" value="1.2">
<output id="shown">1.2</output></label>
<label><input type="checkbox" id="keep" checked> change only near the strokes</label>
<label>class or text <input id="condition"></label>
<button id="go">draw samples</button> <span id="state" role="status"></span></div></main>
<div id="out"></div>
<script>
const $ = id => document.getElementById(id), canvas = $("canvas"), pen = canvas.getContext("2d", {willReadFrequently: true})
let base = null, mask = null, past = [], last = null
function show(url) { return new Promise(done => { const i = new Image()
  i.onload = () => { const s = Math.min(i.width, i.height)
    pen.drawImage(i, (i.width - s) / 2, (i.height - s) / 2, s, s, 0, 0, canvas.width, canvas.height); start(); done() }
  i.src = url }) }
function start() { base = pen.getImageData(0, 0, canvas.width, canvas.height)
  mask = new Uint8Array(canvas.width * canvas.height); past = [] }
function at(e) { const r = canvas.getBoundingClientRect()
  return [(e.clientX - r.left) * canvas.width / r.width, (e.clientY - r.top) * canvas.height / r.height] }
function dab(x, y) { const b = +$("brush").value; pen.fillStyle = $("colour").value
  pen.beginPath(); pen.arc(x, y, b, 0, 7); pen.fill()
  for (let j = 0; j < canvas.height; j++) for (let i = 0; i < canvas.width; i++)
    if ((i - x) ** 2 + (j - y) ** 2 <= (b + 2) ** 2) mask[j * canvas.width + i] = 1 }
canvas.onpointerdown = e => { past.push([pen.getImageData(0, 0, canvas.width, canvas.height), mask.slice()])
  last = at(e); dab(...last) }
canvas.onpointermove = e => { if (!last) return
  const now = at(e), n = Math.ceil(Math.hypot(now[0] - last[0], now[1] - last[1])) || 1
  for (let k = 1; k <= n; k++) dab(last[0] + (now[0] - last[0]) * k / n, last[1] + (now[1] - last[1]) * k / n)
  last = now }
window.onpointerup = () => { last = null }
$("undo").onclick = () => { const p = past.pop(); if (p) { pen.putImageData(p[0], 0, 0); mask = p[1] } }
$("strength").oninput = () => { $("shown").value = $("strength").value }
$("file").onchange = e => { const f = e.target.files[0]; if (f) show(URL.createObjectURL(f)) }
async function ask(path, body) { $("state").textContent = "working ..."
  const r = await fetch(path, {method: "POST", body: JSON.stringify(body)}), answer = await r.json()
  $("state").textContent = answer.error || ""; return answer }
let seed = 0
async function fresh() { const a = await ask("/sample", {seed: seed++}); if (a.picture) await show(a.picture) }
$("fresh").onclick = fresh
async function draw() { const a = await ask("/edit", {picture: canvas.toDataURL(), strength: +$("strength").value,
    change: $("keep").checked && mask.includes(1) ? Array.from(mask) : null, condition: $("condition").value})
  if (a.samples) $("out").replaceChildren(...a.samples.map(u => Object.assign(new Image(), {src: u, alt: "sample"}))) }
$("go").onclick = draw
const ready = fresh()
</script></html>"""


def server(prior: Prior, port: int = 0, num_samples: int = 4, steps: int = 25) -> ThreadingHTTPServer:
    """Returns a server of the page on this machine's own address, not started; port 0 takes a free one.

    Args:
        prior: of square pictures, grey or colour.
        port: on 127.0.0.1.
        num_samples: a drawing.
        steps: of a drawing.

    Raises:
        OptionError: a prior of other signals.
    """
    if (
        not isinstance(prior, Denoiser)
        or len(prior.shape) != 3
        or prior.shape[0] not in (1, 3)
        or prior.shape[1] != prior.shape[2]
    ):
        raise OptionError(f"the page paints on square pictures, grey or colour, and the prior's are {tuple(prior.shape)}")
    page = PAGE.replace("SIDE", str(prior.shape[1])).encode()
    one = Lock()

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200 if self.path == "/" else 404, page if self.path == "/" else b"", "text/html; charset=utf-8")

        def do_POST(self) -> None:
            host = self.headers.get("Host", "")
            own, here = f"http://{host}", host.rsplit(":", 1)[0] in ("127.0.0.1", "localhost")
            size = int(self.headers.get("Content-Length") or 0)
            if not here or self.headers.get("Origin", own) != own or not 0 < size <= LARGEST:  # no other page may ask
                self._answer(403, b"{}", "application/json")
                return
            try:
                asked = json.loads(self.rfile.read(size))
                with one:
                    found = _sample(prior, asked) if self.path == "/sample" else _edit(prior, asked, num_samples, steps)
            except InvgenError as error:
                found = {"error": str(error)}
            except (ValueError, LookupError, TypeError, AttributeError, OSError, RuntimeError) as error:
                found = {"error": f"the request cannot be read: {error}"}
            self._answer(200, json.dumps(found).encode(), "application/json")

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", port), Page)


def _sample(prior: Denoiser, asked: dict[str, Any]) -> dict[str, Any]:
    return {"picture": _url(sample(prior, 1, int(asked["seed"]))[0], prior)}


def _edit(prior: Denoiser, asked: dict[str, Any], num_samples: int, steps: int) -> dict[str, Any]:
    import numpy as np
    from PIL import Image

    size = (prior.shape[2], prior.shape[1])
    picture = Image.open(io.BytesIO(base64.b64decode(asked["picture"].split(",", 1)[1]))).convert("RGB").resize(size)
    painting, keep, condition = in_units(np.asarray(picture), prior), None, asked.get("condition") or None
    if asked.get("change"):
        keep = torch.tensor(asked["change"]).reshape(1, *prior.shape[1:]) == 0
    given = int(condition) if condition and condition.isdecimal() else condition
    # a set of real pictures is not needed where the strength is given
    options: dict[str, Any] = {"real": painting.expand(4, *prior.shape), "num_samples": num_samples, "steps": steps}
    done = edit(painting, prior, keep=keep, condition=given, strength=float(asked["strength"]), **options)
    return {"samples": [_url(x, prior) for x in done.result]}


def _url(x: Tensor, prior: Denoiser) -> str:
    from PIL import Image

    from invgen.plots import as_picture

    low, high = prior.value_range
    levels = ((as_picture(x) - low) / (high - low)).clamp(0, 1).mul(255).round().to(torch.uint8)
    Image.fromarray(levels.numpy()).save(file := io.BytesIO(), format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
