"""What every sampler promises, whatever its algorithm.

Each sampler meets the first of five problems that it accepts: a random matrix, a noisy mask, an exact mask, a linear
generator (a pushforward prior), which some need, and the random matrix under a consistency function. A new sampler of the
catalogue is covered without a line here. Which sampler is exempt from which promise, and why, stands in EXEMPT; nothing
else is left out but this: samplers without a measurement (Unconditional) are not asked about measurements, and the states
that a callback sees are compared with the samples only where they are samples, not codes z or chains of particles.
"""

import ast
import dataclasses
import functools
import inspect
import re
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import pytest
import torch
from torch import Tensor

from invgen import CallError, DivergedError, Gaussian, OptionError, Posterior, UnsupportedError, samplers
from invgen.autoregressive import Autoregressive
from invgen.conditional import ConditionalDenoiser
from invgen.diffusion import Denoiser, Prior, Sigma, per_sample_sigma
from invgen.forward import LinearOperator, Operator
from invgen.noise import Noise, Noiseless, Poisson
from invgen.operators import Mask, Matrix
from invgen.priors import GaussianConsistency, GaussianMixture
from invgen.pushforward import Generator, StandardNormal
from invgen.sampler import Cost, Sampler
from invgen.samplers.projection.phasecrossing import PhaseCrossing
from invgen.samplers.smc.base import EnsembleSampler
from invgen.samplers.unconditional.ancestral import Unconditional
from invgen.validation.hints import hints_of

F64 = torch.float64
# samplers of autoregressive priors keep these promises in tests/priors/test_autoregressive.py: their signals are discrete
# and the sampler of spectrograms in test_phases.py
ALL = [c for c in samplers.catalogue().values() if not issubclass(c.prior, Autoregressive) and c is not PhaseCrossing]
# those that find one point draw nothing, warn of it when asked for several samples, and are asked for several here
pytestmark = pytest.mark.filterwarnings("ignore:.* finds one point:UserWarning")
CONDITIONAL = [c for c in ALL if not issubclass(c, Unconditional)]


# as published: a length of a step, a width or a schedule is a number in the units of images in [-1, 1]
IN_PUBLISHED_UNITS = [
    *("DPS", "FreeDoM", "MCG", "PiGDM", "LGD", "MPGD", "FlowChef", "FlowDPS"),
    *("DPG", "DCPS", "MGPS", "MGDM", "ReSample", "DDRM", "DDS"),
]

# promise -> sampler -> why it does not give it
EXEMPT = {
    "follows the measurement": {
        "PULSE": "its codes stay on a sphere, which does not reach data this far away",
        "TDS": "with weak noise it diverges in so few steps; its law is compared in test_particles",
        "DCPS": "as published it follows far data by half: 3.9 to 6.9 of 8",
        "MGPS": "as published it follows far data by a quarter to a half",
        "ALD": "as released it does not know the noise, and follows far data by a quarter to a half",
        "DPG": "as published its steps have a length of their own: 4.0 to 8.3 of 8",
        "FlowPriors": "its published steps of 0.01 data_std do not reach far data",
        "SDEdit": "the measurement enters through its start alone; sigma0 trades it for the prior's realism",
    },
    "units do not matter": {
        **dict.fromkeys(IN_PUBLISHED_UNITS, "a published constant of it is in units of images in [-1, 1]"),
        "OTODE": "starts from A^T y as public code does, which does not know the size of A",
    },
    "an offset does not matter": {
        "REDdiff": "starts from A^T y as its paper does, which knows no offset",
        "HybridReg": "starts as REDdiff does",
        "OTODE": "starts from A^T y as public code does, which knows no offset",
    },
}

# options that multiply the work of a step, and the value that is enough here where the default is larger
FEWER = {
    "particles": 8,
    "draws": 4,
    "candidates": 4,
    "iterations": 3,
    "langevin_steps": 5,
    "warm": 2,
    "leapfrogs": 3,
    "ode_steps": 2,
    "denoise_steps": 2,
    "prior_steps": 4,
    "corrections": 3,
    "inner_steps": 4,
    "repeat": 3,
    "last_iterations": 4,
    "recurrences": 3,
    "stages": 4,
}


# published constants that belong to one loss, or to signals in [-1, 1]: as they are, they diverge on the problems here
TUNED = {
    "UniversalGuidance": {"forward": 0.02},
    "LGD": {"zeta": 0.02},
    "ALD": {"weight": 0.5},
    "EnKG": {"draws": 1},
    "DPG": {"scale": 1.0},
    "FlowChef": {"scale": 0.1},
    "FlowDPS": {"step_size": 0.5},
    "MPGD": {"zeta": 0.3},
}
# the noise of the problem where weak noise diverges in six steps: the guidance of p(y | D) overshoots, as published
LOUD = {"TDS": 3.0, "UniversalGuidance": 3.0}


def short(cls: type[Sampler]) -> Sampler:
    """Six steps of little work each; what does not change the work keeps its default."""
    fewer = {k: v for k, v in FEWER.items() if isinstance(d := cls.options().get(k), int) and d > v}
    return cls(steps=6, **fewer | TUNED.get(cls.__name__, {}))


def each_but(promise: str) -> pytest.MarkDecorator:
    """All samplers of a posterior but those that are exempt from a promise."""
    return pytest.mark.parametrize(
        "cls", [c for c in CONDITIONAL if c.__name__ not in EXEMPT[promise]], ids=lambda c: c.__name__
    )


def test_exemptions_name_samplers_that_exist():
    assert {name for names in EXEMPT.values() for name in names} <= {c.__name__ for c in CONDITIONAL}


def test_every_sampler_is_compared_with_a_law_elsewhere():
    # the promises here hold for a sampler of the wrong law too: each is named in another file of this folder
    here = Path(__file__)
    words = set(re.findall(r"\w+", "".join(p.read_text() for p in here.parent.glob("test_*.py") if p != here)))
    assert {c.__name__ for c in ALL} <= words


def prior(shape: tuple[int, ...] = (2, 3), dtype: torch.dtype = F64) -> GaussianMixture:
    g = torch.Generator().manual_seed(0)
    return GaussianMixture(torch.randn(3, *shape, dtype=dtype, generator=g), [0.2, 0.3, 0.5], var=0.4)


class Linear(Generator):
    """x = scale (W z + b) + shift with orthonormal W and an encoder, z standard normal."""

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, scale: float = 1.0, shift: float = 0.0, broken: bool = False
    ) -> None:
        n = torch.Size(shape).numel()
        super().__init__(shape, StandardNormal((n - 1,), dtype), data_std=scale, data_mean=shift)
        g = torch.Generator().manual_seed(2)
        self.register_buffer("W", torch.linalg.qr(torch.randn(n, n, dtype=F64, generator=g))[0][:, 1:].to(dtype))
        self.scale, self.shift = scale, shift
        if broken:
            self.W.fill_(torch.nan)

    def forward(self, z: Tensor) -> Tensor:
        return (self.scale * z @ self.W.T + self.shift).reshape(len(z), *self.shape)

    def encode(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - self.shift) @ self.W / self.scale

    def rescaled(self, scale: float, shift: float = 0.0) -> "Linear":
        return Linear(self.shape, self.W.dtype, scale * self.scale, scale * self.shift + shift)


def consistent(p: Prior) -> Denoiser:
    """A consistency function over the signals of a prior."""
    if isinstance(p, GaussianMixture):
        return GaussianConsistency(p.shape, p.mean, var=0.4)
    p.consistency = True
    return p


class Embedded(ConditionalDenoiser):
    """A consistency function whose signals an embedding of one number moves."""

    def __init__(self, base: Denoiser) -> None:
        facts = ("sigma_min", "sigma_max", "value_range", "data_mean", "data_std")
        super().__init__(base.shape, **{name: getattr(base, name) for name in facts})
        self.base, self.consistency = base, True

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    def forward(self, x: Tensor, sigma: Sigma, condition: Tensor | None = None) -> Tensor:
        shift = 0.0 if condition is None else condition.view(-1, *[1] * (x.ndim - 1)) * self.data_std
        return self.base(x - shift, sigma) + shift


def problem(
    p: Prior | None = None, batch: tuple[int, ...] = (), rows: int = 3, sigma: float = 0.3, kind: str = "matrix"
) -> Posterior:
    p = prior() if p is None else p
    if kind in ("consistency", "embedding"):
        p = consistent(p)
    if kind == "embedding":
        p = Embedded(p).condition(torch.zeros(1, dtype=p.dtype))
    if kind == "generator" and not isinstance(p, Generator):
        p = Linear(p.shape, p.dtype, broken=isinstance(p, Broken))
    g = torch.Generator().manual_seed(1)
    if "mask" in kind:
        kept = torch.arange(p.shape.numel()).reshape(p.shape) % 2 == 0
        A: Operator = Mask(p.shape, kept)
    elif kind == "orthogonal":
        n = p.shape.numel()
        A = Matrix(4 * torch.linalg.qr(torch.randn(n, n, dtype=F64, generator=g)).Q, p.shape)
    else:
        A = Matrix(torch.randn(rows, p.shape.numel(), dtype=F64, generator=g), p.shape)
    y = torch.randn(*batch, *A.out_shape, dtype=p.dtype, generator=g)
    return Posterior(p, A, Noiseless() if kind == "exact mask" else Gaussian(sigma), y)


@functools.cache
def kind_for(cls: type[Sampler]) -> str:
    """The first kind of problem that a sampler accepts."""
    if issubclass(cls, Unconditional):
        return "consistency" if cls.consistency else "matrix"
    for kind in ("matrix", "mask", "exact mask", "generator", "consistency", "embedding", "orthogonal"):
        if cls().refuses(problem(kind=kind)) is None:
            return kind
    raise AssertionError(f"{cls.__name__} accepts none of the problems: {cls().refuses(problem())}")


def problem_for(cls: type[Sampler], *args: object, **options: object) -> Posterior:
    return problem(*args, **{"sigma": LOUD.get(cls.__name__, 0.3)} | options, kind=kind_for(cls))


def draw(sampler: Sampler, post: Posterior, num_samples: int, seed: int = 0, **options: object) -> Tensor:
    """Samples of a posterior, or of its prior where the sampler is unconditional."""
    return sampler(post.prior if isinstance(sampler, Unconditional) else post, num_samples, seed, **options)


each = pytest.mark.parametrize("cls", ALL, ids=lambda c: c.__name__)
each_conditional = pytest.mark.parametrize("cls", CONDITIONAL, ids=lambda c: c.__name__)


@each
def test_same_seed_same_samples_bit_for_bit_and_no_global_state(cls):
    post = problem_for(cls)
    y = post.y.clone()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a = draw(short(cls), post, 4, 0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    b = draw(short(cls), post, 4, 0)
    assert a.shape == (4, 2, 3) and a.dtype == F64 and not a.requires_grad
    assert torch.equal(a, b)
    # zero is a seed like any other
    assert cls.point == torch.equal(a, draw(short(cls), post, 4, 1))
    assert torch.equal(post.y, y)


@pytest.mark.parametrize("cls", [c for c in ALL if not c.point], ids=lambda c: c.__name__)
def test_samples_differ_from_each_other(cls):
    x = draw(short(cls), problem_for(cls), 4).flatten(1)
    assert torch.cdist(x, x)[~torch.eye(4, dtype=torch.bool)].min() > 1e-3


@each
def test_a_sample_depends_on_its_number_only_not_on_its_batch(cls):
    post, sampler = problem_for(cls), short(cls)
    x = draw(sampler, post, 7)
    # the order of sums in a matrix product may depend on the batch: float64 rounding, amplified by a few steps
    torch.testing.assert_close(draw(sampler, post, 3), x[:3], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(draw(sampler, post, 7, max_batch=2), x, rtol=1e-8, atol=1e-8)


@each
def test_no_network_sees_more_rows_than_max_batch(cls):
    post, rows = problem_for(cls), []
    for module in post.prior.modules():
        if isinstance(module, Prior):
            module.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    draw(short(cls), post, 4, max_batch=3)
    assert max(rows) <= 3


@each_conditional
def test_batches_of_measurements(cls):
    post, sampler = problem_for(cls, batch=(2, 2)), short(cls)
    x = sampler(post, 3)
    assert x.shape == (3, 2, 2, 2, 3)
    torch.testing.assert_close(sampler(post, 3, max_batch=5), x, rtol=1e-8, atol=1e-8)
    # the first measurement of a batch gets the samples that it gets alone
    torch.testing.assert_close(sampler(dataclasses.replace(post, y=post.y[0, 0]), 3), x[:, 0, 0], rtol=1e-8, atol=1e-8)
    assert sampler(problem_for(cls, batch=(0,)), 2).shape == (2, 0, 2, 3)


@each
@pytest.mark.parametrize("shape", [(5,), (1, 2, 3), (2, 2, 1, 2), (1, 6)])
def test_any_rank_of_signal_in_single_precision(cls, shape):
    post = problem_for(cls, prior(shape, torch.float32))
    x = draw(short(cls), post, 2)
    assert x.shape == (2, *shape) and x.dtype == torch.float32 and torch.isfinite(x).all()


# options that cost most of the time, and what is enough for six values; all others keep their defaults
ENOUGH = {
    "EnKG": {"particles": 128, "draws": 128},  # of 2048, whose covariance has rank three
    **dict.fromkeys(["ReSample", "InvariantReSample"], {"inner_steps": 25}),  # of 500: L-BFGS stays where it is after that
}


@pytest.mark.slow  # by default settings, a third of this file's time
@each_but("follows the measurement")
def test_samples_follow_the_measurement(cls):
    post = problem_for(cls, sigma=0.2)
    both = dataclasses.replace(post, y=torch.stack([post.y, post.y + 8]))
    sampler = cls(steps=min(60, cls().steps), **TUNED.get(cls.__name__, {}) | ENOUGH.get(cls.__name__, {}))
    a, b = post.A(sampler(both, 6, [0, 0])).mean(0)
    # the posterior follows data of this precision almost whole; half of it is more than noise and less than that
    assert ((b - a) > 4).all()


def louder(noise: Noise, gain: float) -> Noise:
    return Gaussian(gain * noise.sigma) if noise.sigma > 0 else Noiseless()


@each_but("units do not matter")
def test_units_do_not_matter(cls):
    post, scale = problem_for(cls), 37.0
    gain = scale if isinstance(post.A, Mask) else 0.05  # a mask times a number is no mask
    sampler = short(cls)
    x = sampler(post, 3)
    # signal in other units, the operator reads those, then the measurement in other units too
    other = Posterior(post.prior.rescaled(scale), post.A * (gain / scale), louder(post.noise, gain), gain * post.y)
    torch.testing.assert_close(sampler(other, 3), scale * x, rtol=1e-6, atol=1e-6 * scale)


@each_but("an offset does not matter")
def test_an_offset_of_the_signal_does_not_matter(cls):
    post, shift = problem_for(cls), 3.0
    sampler = short(cls)
    moved = Posterior(
        post.prior.rescaled(1.0, shift), post.A, post.noise, post.y + post.A(torch.full((2, 3), shift, dtype=F64))
    )
    x = sampler(post, 3)
    torch.testing.assert_close(sampler(moved, 3), x + shift, rtol=1e-6, atol=1e-6)


class Broken(Denoiser):
    """A network whose output overflows below sigma = 5."""

    def __init__(self) -> None:
        super().__init__((2, 3))
        self.register_buffer("gain", torch.ones((), dtype=F64))

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        level = per_sample_sigma(torch.as_tensor(sigma, dtype=x.dtype).expand(len(x)), x)
        return 0.5 * x * torch.where(level > 5, self.gain.to(x.dtype), torch.nan)


@each
def test_divergence_is_an_error_that_says_where(cls):
    post = problem_for(cls, Broken())
    with pytest.raises(DivergedError, match=rf"{cls.__name__} diverged at step \d+ of 6"):
        draw(short(cls), post, 2)


@each
def test_runs_under_inference_mode(cls):
    expected = draw(short(cls), problem_for(cls), 2)
    with torch.inference_mode():
        post = problem_for(cls)  # the prior, the operator and y are made here
        inside = draw(short(cls), post, 2)
    # made in one mode and used in the other
    torch.testing.assert_close([inside, draw(short(cls), post, 2)], [expected] * 2, rtol=1e-9, atol=1e-9)


def test_a_state_that_grows_without_bound_is_a_divergence_before_it_overflows():
    @dataclasses.dataclass(frozen=True)
    class Doubling(samplers.Ancestral):
        def run(self, post, x, randn):
            for _ in range(self.steps):
                x = 8 * x
                yield x

    with pytest.raises(DivergedError, match=r"ended at values from .* where the prior declares value_range"):
        Doubling(steps=3)(prior(), 2)
    with pytest.raises(DivergedError, match=r"at step \d+ of 60.*far beyond any signal"):
        Doubling(steps=60)(prior(), 2)


class Curved(Operator):
    def forward(self, x: Tensor) -> Tensor:
        return (x**2).flatten(1)


class Summed(LinearOperator):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).cumsum(1)


@each_conditional
# what fits runs on a measurement that no signal of the prior explains
@pytest.mark.filterwarnings("ignore:.* samples of .* are saturated")
def test_unfit_problems_are_refused_with_the_samplers_that_fit(cls):
    p, sampler = prior(), short(cls)
    y = torch.ones(6, dtype=F64)
    curved = [(Curved((2, 3)), Gaussian(LOUD.get(cls.__name__, 0.1)))]
    if cls.__name__ not in LOUD:
        curved.append((Curved((2, 3)), Poisson()))
    for A, noise in (*curved, (Summed((2, 3)), Noiseless())):
        post = Posterior(p, A, noise, y)
        if sampler.refuses(post) is None:
            assert torch.isfinite(sampler(post, 2)).all()
            continue
        with pytest.raises(UnsupportedError, match=f"{cls.__name__} needs .*; samplers that fit: (.+)") as error:
            sampler(post, 2)
        named = str(error.value).split("fit: ")[1].split(" and ")[0].split(", ")
        assert cls.__name__ not in named and all(samplers.get(n)().refuses(post) is None for n in named)


@each
def test_bad_options_are_refused(cls):
    for steps in (0, -3, 2.5):
        with pytest.raises(OptionError, match=f"steps of {cls.__name__} must be a positive whole number"):
            cls(steps=steps)
    with pytest.raises(OptionError, match="num_samples"):
        draw(short(cls), problem_for(cls), 0)
    with pytest.raises(OptionError, match="max_batch"):
        draw(short(cls), problem_for(cls), 1, max_batch=0)
    with pytest.raises(CallError, match="guidance_scale"):
        cls(guidance_scale=3.0)  # nothing unknown is swallowed
    for option in dataclasses.fields(cls):
        if get_origin(option.type) is Literal:
            with pytest.raises(OptionError, match=f"{option.name} of {cls.__name__} must be one of .*, got 'tea'"):
                cls(**{option.name: "tea"})


@each
def test_callback_progress_and_cost(cls, capsys):
    post, seen, cost = problem_for(cls), [], Cost()
    x = draw(short(cls), post, 4, max_batch=2, progress=True, cost=cost, callback=lambda k, state: seen.append((k, state)))
    assert "it/s" in capsys.readouterr().err
    # a chain of particles is worked on whole, its rows split for the network only
    chains = issubclass(cls, EnsembleSampler)
    chunks = 4 if chains else 2
    assert [k for k, _ in seen] == chunks * list(range(len(seen) // chunks))
    if not chains and not isinstance(post.prior, Generator):  # there the states are the codes z
        assert all(state.shape == (2, 2, 3) for _, state in seen)
        torch.testing.assert_close(seen[-1][1], x[2:])
    # at least one evaluation a sample and step, whatever the batches; none of them is left to count afterwards
    assert cost.nfe >= 6 and cost.nfe == pytest.approx(round(cost.nfe)) and cost.seconds > 0
    assert not post.prior._forward_hooks


@each
def test_a_name_is_one_algorithm(cls):
    # a class with the name of a paper is the paper's algorithm; another rule has a name and a class of its own
    fields = {f.name: f.type for f in dataclasses.fields(cls)}
    assert "form" not in fields
    assert not [name for name, kind in fields.items() if "paper" in get_args(kind)]


def test_an_algorithm_is_under_eighty_lines():
    """Of code: what documents it does not count."""
    sizes = {}
    for path in {Path(inspect.getsourcefile(c)) for c in samplers.catalogue().values()}:
        tree, lines = ast.parse(path.read_text()), path.read_text().splitlines()
        texts = [n.body[0] for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
        texts = [t for t in texts if isinstance(t, ast.Expr) and isinstance(t.value, ast.Constant)]
        said = {k for t in texts for k in range(t.lineno - 1, t.end_lineno)}
        code = (line.strip() for k, line in enumerate(lines) if k not in said)
        sizes[path.name] = sum(bool(line) and not line.startswith("#") for line in code)
    assert max(sizes.values()) < 80, sizes


def test_every_number_among_the_options_has_a_range():
    def free(hint: object) -> bool:
        if hint in (int, float):
            return True
        return get_origin(hint) not in (Literal, Annotated) and any(free(part) for part in get_args(hint))

    for cls in samplers.catalogue().values():
        hints = hints_of(cls)
        # the levels of a schedule are checked where they are made
        free_ones = [f.name for f in dataclasses.fields(cls) if f.name != "schedule" and free(hints[f.name])]
        assert not free_ones, (cls.__name__, free_ones)


@each
def test_a_sampler_is_a_value(cls):
    sampler = short(cls)
    assert sampler == short(cls) and hash(sampler) == hash(short(cls)) and sampler != cls(steps=7)
    assert repr(sampler).startswith(f"{cls.__name__}(steps=6")
    assert set(cls.options()) == {f.name for f in dataclasses.fields(cls)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        sampler.steps = 3
