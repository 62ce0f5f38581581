"""Programs from tests: expressions with the shares of operations in real code, held against all 9868 of up to 5 tokens."""

from pathlib import Path

import torch
from torch import Tensor

import invgen
from invgen import Posterior, operators, samplers
from invgen.benchmarks.gallery.rows import Figure, Row, mean, share
from invgen.plots import show_texts
from invgen.priors.laws.programs import Programs, all_programs, execute

INPUTS = torch.tensor([-7.0, -2, 0, 3, 12, 25])
LENGTH, NOISE = 5, 0.3
TASKS = {
    "x*x": lambda x: x * x,
    "abs(x)+1": lambda x: abs(x) + 1,
    "max(x,0)": lambda x: x.clamp(min=0),
    "x%10": lambda x: x % 10,
    "2*x-1": lambda x: 2 * x - 1,
    "min(x*x,10)": lambda x: (x * x).clamp(max=10),
    "(x+1)*(x-1)": lambda x: x * x - 1,
}


def run(out: Path, quick: bool) -> Row:
    """Solves each task from six tests, and compares the posterior with the enumeration of all programs.

    More particles than there are programs, all different: what is left of the distance is rounding. It takes seconds, so
    that the quick form is the whole.
    """
    prior = Programs(LENGTH)
    every = all_programs(prior)
    log, results = prior.log_prob(every), execute(every, INPUTS)
    A = operators.from_function(lambda x: execute(x, INPUTS), (LENGTH,), differentiable=False)
    solved, far, lines = [], [], []
    for name, f in TASKS.items():
        y = f(INPUTS)
        post = Posterior(prior, A, NOISE, y)
        w = samplers.DiscreteParticleFilter(particles=10_000, lookahead="none").weighted(post)
        alive = w.log_weights[0] > -torch.inf
        law, found = shares(every, w.samples[0, alive], w.log_weights[0, alive].exp())
        exact = (log + invgen.Gaussian(NOISE).log_prob(y.expand(len(every), -1), results)).softmax(0)
        far.append((law - exact).abs().sum().item() / 2)
        best = law.topk(3).indices
        solved.append(bool((results[best[0]] - y).abs().max() < 0.1) and found)
        lines.append(
            [name, *(f"{t}  {law[k]:.2f} ({exact[k]:.2f})" for t, k in zip(prior.text(every[best]), best, strict=True))]
        )
    titles = ("task", "likeliest program, probability (exact)", "second", "third")
    show_texts(dict(zip(titles, zip(*lines, strict=True), strict=True)), out / "row19.png")
    figures = (
        Figure("tasks solved", *share(solved), least=1.0, baseline="2000 particles: 4 of 7"),
        Figure("total variation from enumeration", *mean(far), most=0.05, baseline="exact, 9868 programs"),
    )
    return Row(19, figures, (out / "row19.png",))


def shares(every: Tensor, samples: Tensor, p: Tensor) -> tuple[Tensor, bool]:
    """Returns the weight of each program of `every`, and whether all samples are among them."""
    powers = 16 ** torch.arange(every.shape[1])
    codes, order = (every.long() * powers).sum(1).sort()
    own = (samples.long() * powers).sum(1)
    place = torch.searchsorted(codes, own).clamp(max=len(codes) - 1)
    return torch.zeros(len(every), dtype=torch.float64).index_add_(0, order[place], p), bool((codes[place] == own).all())
