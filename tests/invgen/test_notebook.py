"""Notebooks: figures show themselves once, results and problems have a compact HTML form, bars are widgets."""

import base64
import io

import matplotlib.figure
import pytest
import torch
from PIL import Image

import invgen
from invgen import operators, plots, priors, samplers
from invgen.html import card


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(20)])

    def forward(self, x, sigma):
        return x / (1 + torch.as_tensor(sigma).reshape(-1, *[1] * (x.ndim - 1)) ** 2)


def a_prior(shape=(1, 8, 8)):
    return priors.from_denoiser(Net(), shape, data_std=1.0, sigma_min=0.01, sigma_max=20.0)


def a_result(shape=(1, 8, 8), num_samples=3):
    prior = a_prior(shape)
    A = operators.Mask(shape, torch.ones(shape))
    y = A(torch.zeros(2, *shape))
    return invgen.solve(y, A, prior, 0.1, samplers.PiGDM(steps=4), num_samples=num_samples)


def picture(text):
    head = 'src="data:image/png;base64,'
    assert text.count(head) == 1
    start = text.index(head) + len(head)
    return Image.open(io.BytesIO(base64.b64decode(text[start : text.index('"', start)])))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 64), (5,), (1, 6, 8, 8)])
def test_a_result_is_a_picture_and_a_table(shape):
    text = a_result(shape)._repr_html_()
    width, height = picture(text).size
    assert (width, height) == (552, 200), "three panels of 2.3 inches, 2.5 high, at 80 dots an inch"
    for word in ("PiGDM(steps=4", "network evaluations a sample", "seconds", "times the noise", "Gaussian(sigma=0.1)"):
        assert word in text
    assert text.startswith("<div>") and text.endswith("</div>")


def test_a_single_sample_has_no_deviation_to_show():
    assert picture(a_result(num_samples=1)._repr_html_()).size == (368, 200), "two panels"


def test_every_text_is_escaped():
    text = card("<script>a</script>", {"<b>": "<i>&"})
    assert text.count("<script>") == text.count("<b>") == text.count("<i>") == 0
    assert "&lt;script&gt;a&lt;/script&gt;" in text and "&lt;i&gt;&amp;" in text
    prior = a_prior()
    prior.read_from = "<img src=x onerror=alert(1)>"
    assert (
        "<img" not in prior._repr_html_()
        and "<img"
        not in invgen.Posterior(prior, operators.Mask((1, 8, 8), torch.ones(1, 8, 8)), 0.1, torch.zeros(64))._repr_html_()
    )


def test_a_prior_is_one_line_and_not_its_network():
    prior = a_prior()
    prior.read_from = "a file\nwith a line break"
    post = invgen.Posterior(prior, operators.Mask((1, 8, 8), torch.ones(1, 8, 8)), 0.1, torch.zeros(4, 64))
    latent = invgen.Flow(prior)
    for thing in (prior, latent, prior.rescaled(2.0), post):
        assert "\n" not in repr(thing) and "Linear" not in repr(thing) and len(repr(thing)) < 400
    assert "shape=(1, 8, 8)" in repr(prior) and "sigma_max=20" in repr(prior)
    assert "y of shape (4, 64)" in repr(post) and "Mask((1, 8, 8) -> (64,))" in repr(post)


def test_priors_and_posteriors_and_reports_have_a_table():
    prior = a_prior()
    A = operators.Mask((1, 8, 8), torch.ones(1, 8, 8))
    text = prior._repr_html_()
    assert "0.01 to 20" in text and "(1, 8, 8)" in text and f"{20 * (64 * 64 + 64):,}" in text
    assert "N(0, I)" not in text and "StandardNormal of shape (1, 8, 8)" in invgen.Flow(prior)._repr_html_()
    text = invgen.Posterior(prior, A, 0.1, torch.full((64,), 0.25))._repr_html_()
    assert "Mask" in text and "Gaussian(sigma=0.1)" in text and "values from 0.25 to 0.25" in text
    report = invgen.check_operator(A)
    assert all(name in report._repr_html_().replace("&#x27;", "'").replace("&gt;", ">") for name in report.passed)


@pytest.mark.slow
def test_a_calibration_shows_its_figure_and_its_coverage():
    prior = priors.GaussianPrior(3)
    A = operators.Mask((3,), torch.ones(3))
    found = invgen.calibrate(prior, A, 0.5, samplers.PiGDM(steps=4), num_simulations=10, num_samples=9)
    text = found._repr_html_()
    assert picture(text).size[0] == 5 * 162, "five columns of 2.7 inches at 60 dots an inch"
    assert "coverage of joint 90% regions" in text


CELLS = [
    "import torch, invgen, sys\nfrom invgen import operators, priors, samplers, plots\n"
    "prior = priors.GaussianPrior((1, 8, 8))\nA = operators.Mask((1, 8, 8), torch.ones(1, 8, 8))\n"
    "run = lambda **kw: invgen.solve(torch.zeros(64), A, prior, 0.1, samplers.PiGDM(steps=4), num_samples=2, **kw)",
    "r = run(); r",
    "plots.show_posterior(r)",
    "assert 'matplotlib.pyplot' not in sys.modules",
    "import matplotlib.pyplot",
    "plots.show_posterior(r)",
    "prior",
    "r.posterior",
    "invgen.check_operator(A)",
    "r = run(progress=None)",
]


@pytest.mark.slow
def test_a_notebook_shows_everything_once(tmp_path):
    import nbclient
    import nbformat

    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    done = nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    done.execute()
    shown = [cell.outputs for cell in book.cells]
    for outputs in (shown[2], shown[5]):  # before and after pyplot has told IPython of figures
        assert [o.output_type for o in outputs] == ["execute_result"] and "image/png" in outputs[0].data
        assert "text/html" not in outputs[0].data
    for k in (1, 6, 7, 8):
        (output,) = shown[k]
        assert output.data["text/html"].startswith("<div><strong>")
    assert "data:image/png;base64," in shown[1][0].data["text/html"]
    bars = [o for o in shown[9] if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    assert len(bars) == 1, shown[9]


def test_a_figure_is_that_of_matplotlib_and_can_be_pickled():
    import pickle

    figure = plots.show_estimate(a_result())
    again = pickle.loads(pickle.dumps(figure))
    assert isinstance(again, matplotlib.figure.Figure)
    assert base64.b64decode(again._repr_png_()).startswith(b"\x89PNG")
