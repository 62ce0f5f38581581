"""Networks of every parametrisation, exact on a Gaussian: D in closed form; the self-check of right and wrong ones."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import invgen
from invgen import priors
from invgen.conditional import ClassifierFree
from invgen.priors import Schedule, check_prior, from_denoiser, from_network

SIZE = 24
SCHEDULES = {
    "linear": Schedule.linear(),
    "scaled_linear": Schedule.scaled_linear(),
    "cosine": Schedule.cosine(),
    "vp": Schedule.vp(),
    "ve": Schedule.ve(),
    "edm": Schedule.edm(),
    "angle": Schedule.angle(),
    "flow": Schedule.flow(),
    "flow reverse": Schedule.flow(time_scale=1.0, reverse=True),
}
RIGHT = [
    ("epsilon", "linear"),
    ("epsilon", "cosine"),
    ("v", "scaled_linear"),
    ("v", "angle"),
    ("sample", "linear"),
    ("score", "vp"),
    ("score", "ve"),
    ("velocity", "flow"),
    ("velocity", "flow reverse"),
    ("edm", "edm"),
]


def spectrum():
    """Variances that fall as those of photographs do, 0.25 on average, and an orthonormal basis that hides them."""
    variances = torch.arange(1, SIZE**2 + 1, dtype=torch.float64) ** -1.2
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(SIZE**2, SIZE**2, generator=generator, dtype=torch.float64))[0]
    return 0.25 * variances / variances.mean(), basis


VARIANCES, BASIS = spectrum()


def denoised(x, sigma):
    """The exact D of N(0, basis diag(variances) basis^T)."""
    sigma = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, 1)
    return ((x.double().flatten(1) @ BASIS * (VARIANCES / (VARIANCES + sigma**2))) @ BASIS.T).reshape(x.shape)


def signals(number=6):
    z = torch.randn(number, SIZE**2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (z * VARIANCES.sqrt() @ BASIS.T).reshape(number, 1, SIZE, SIZE)


class Exact(nn.Module):
    """The network that training would end at: its own time gives sigma back, its output is what it was asked to predict."""

    def __init__(self, prediction, schedule, sigma_data=0.5):
        super().__init__()
        self.prediction, self.schedule, self.sigma_data = prediction, SCHEDULES[schedule], sigma_data
        low, high = math.log(self.schedule.sigma_min), math.log(self.schedule.sigma_max)
        self.log_sigma = torch.linspace(low, high, 20001, dtype=torch.float64)
        self.times = self.schedule.time(self.log_sigma.exp())

    def sigma(self, t):
        order = self.times.argsort()
        times, log = self.times[order], self.log_sigma[order]
        k = torch.searchsorted(times, t.double()).clamp(1, len(times) - 1)
        weight = ((t - times[k - 1]) / (times[k] - times[k - 1])).clamp(0, 1)
        return torch.lerp(log[k - 1], log[k], weight).exp()

    def forward(self, x_t, t):
        s = self.sigma(t).reshape(-1, 1, 1, 1)
        edm = self.prediction == "edm"
        alpha = (s**2 + self.sigma_data**2).rsqrt() if edm else self.schedule.alpha(s)
        x = x_t.double() / alpha
        x0 = denoised(x, s)
        eps, sigma_t = (x - x0) / s, alpha * s
        skip = self.sigma_data**2 / (s**2 + self.sigma_data**2)
        return {
            "epsilon": lambda: eps,
            "sample": lambda: x0,
            "v": lambda: alpha * eps - sigma_t * x0,
            "score": lambda: -eps / sigma_t,
            "velocity": lambda: self.schedule.direction * (eps - x0),
            "edm": lambda: (x0 - skip * x) / (s * self.sigma_data * alpha),
        }[self.prediction]().to(x_t.dtype)


def prior(net, prediction, schedule, **options):
    facts = {"value_range": (-2.0, 2.0), **options}
    return from_network(net, (1, SIZE, SIZE), prediction=prediction, schedule=SCHEDULES[schedule], **facts)


@pytest.mark.parametrize(("prediction", "schedule"), RIGHT)
def test_equals_the_exact_denoiser(prediction, schedule):
    D = prior(Exact(prediction, schedule), prediction, schedule)
    x0 = signals(3)
    for sigma in (0.05, 0.3, 2.0, 11.0):
        x = x0 + sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        # the network knows its noise level from a table of its own
        torch.testing.assert_close(D(x, sigma), denoised(x, sigma), rtol=0, atol=2e-5)
    levels = torch.tensor([0.05, 0.3, 11.0])
    torch.testing.assert_close(D(x, levels), denoised(x, levels), rtol=0, atol=2e-5)


def test_consistency_keeps_signals_at_the_least_level():
    class Net(nn.Module):
        def forward(self, x, t):
            return x.sin() + t.reshape(-1, 1)

    D = from_network(Net(), (3,), prediction="consistency", schedule=Schedule.edm(time_scale=1000.0), sigma_data=0.7)
    x = torch.randn(2, 3)
    torch.testing.assert_close(D(x, D.sigma_min), x)
    s = 1.3  # Song et al. (2023), Appendix C
    out = (x / math.hypot(s, 0.7)).sin() + 250 * math.log(s)
    expected = 0.49 / ((s - 0.002) ** 2 + 0.49) * x + (s - 0.002) * 0.7 / math.hypot(s, 0.7) * out
    torch.testing.assert_close(D(x, s), expected)


class Linear(nn.Module):
    """A network with weights, so with a dtype, that notes what it is given."""

    def __init__(self, factor=2):
        super().__init__()
        self.weight = nn.Parameter(torch.full((), 0.5))
        self.factor, self.seen = factor, []

    def forward(self, x, t, condition=None):
        self.seen.append((x.dtype, t.dtype, x.shape, condition))
        return torch.cat([self.weight * x] * self.factor, 1)


def test_dtypes():
    net = Linear(1)
    D = from_network(net, (2, 8), prediction="epsilon", schedule=Schedule.linear())
    x = torch.randn(3, 2, 8)
    assert D.dtype == torch.float32 and D(x, 1.0).dtype == torch.float32
    exact = D(x, 1.0)
    D.to(torch.bfloat16)
    out = D(x, 1.0)
    assert net.seen[-1][:2] == (torch.bfloat16, torch.float32)  # in bfloat16 the time 258.09 would be 258
    assert D.dtype == torch.float32 and out.dtype == torch.float32 and (out - exact).abs().max() < 0.02
    D.double()
    assert D.dtype == torch.float64 and D(x.double(), 1.0).dtype == torch.float64
    assert net.seen[-1][:2] == (torch.float64, torch.float64)
    assert D(x.bfloat16(), 1.0).dtype == torch.bfloat16


def test_learned_variance_and_sizes_and_conditions():
    net = Linear(2)
    D = from_network(net, (2, 8, 8), prediction="epsilon", schedule=Schedule.linear(), stride=4)
    x = torch.randn(3, 2, 7, 10)
    torch.testing.assert_close(D(x, 1.0), x - 0.5 * x / math.sqrt(2))
    assert net.seen[-1][2] == (3, 2, 8, 12) and net.seen[-1][3] is None
    D(torch.randn(1, 2, 1, 3), 1.0)  # too small to be reflected
    D.condition("cat")(x, 1.0)
    assert net.seen[-1][3] == "cat"
    D.condition(torch.zeros(5))(x, 1.0)
    assert net.seen[-1][3].shape == (3, 5)
    torch.testing.assert_close(ClassifierFree.of(D, "cat", scale=3.0)(x, 1.0), D(x, 1.0))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_everything_moves_with_the_prior(schedule):
    """On the device without memory: what is left on the CPU raises, as it would on CUDA."""
    D = from_network(Linear(1), (2, 8), prediction="epsilon", schedule=SCHEDULES[schedule], stride=3)
    D = copy.deepcopy(D).to("meta")
    x = torch.empty(3, 2, 8, device="meta")
    for sigma in (1.0, torch.empty(3, device="meta")):
        assert D(x, sigma).device.type == "meta"
        assert D.condition(torch.empty(4, device="meta"))(x, sigma).device.type == "meta"


def test_other_ways_to_call_and_what_libraries_return():
    class Output:
        def __init__(self, sample):
            self.sample = sample

    class Returns(nn.Module):
        def __init__(self, wrap):
            super().__init__()
            self.wrap = wrap

        def forward(self, x, t):
            return self.wrap(x)

    x = torch.randn(2, 4)
    for wrap in (lambda o: o, Output, lambda o: (o, None)):
        D = from_network(Returns(wrap), (4,), prediction="sample", schedule=Schedule.ve())
        torch.testing.assert_close(D(x, 1.0), x)
    called = from_network(
        Linear(1), (4,), prediction="sample", schedule=Schedule.ve(), call=lambda net, x, t, c: net(x, 0 * t) * t[:, None]
    )
    torch.testing.assert_close(called(x, 3.0), 1.5 * x)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: prior(Linear(), "noise", "linear"),
            invgen.OptionError,
            "unknown prediction 'noise'; there are 'epsilon', 'v'",
        ),
        (
            lambda: from_network(Linear(), (1,), prediction="v", schedule="linear"),
            invgen.OptionError,
            "schedule of from_network must be an invgen Schedule, got 'linear'",
        ),
        (
            lambda: prior(Linear(3), "v", "linear")(torch.randn(1, 1, 8, 8), 1.0),
            invgen.ShapeError,
            "twice as many channels",
        ),
        (
            lambda: prior(Linear(1), "v", "linear")(torch.randn(1, 3, 8, 8), 1.0),
            invgen.ShapeError,
            r"denoises \(B, 1, 24, 24\)",
        ),
        (
            lambda: from_denoiser(lambda x, s: x[:, :1], (2,))(torch.randn(1, 2), 1.0),
            invgen.ShapeError,
            "expected the same shape",
        ),
        (lambda: check_prior(prior(Linear(1), "v", "linear"), torch.randn(1, 24, 24)), invgen.ShapeError, "takes signals"),
    ],
)
def test_bad_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_denoiser_is_a_prior_as_it_is():
    D = from_denoiser(lambda x, sigma: x / (1 + sigma**2), (5,), data_std=1.0, value_range=(-3.0, 3.0))
    x = torch.randn(4, 5)
    torch.testing.assert_close(D(x, 2.0), x / 5)
    A = invgen.operators.Mask((5,), torch.tensor([True, True, False, True, False]))
    result = invgen.solve(torch.zeros(3), A, D, 0.1, "pigdm", num_samples=3)
    assert result.samples.shape == (3, 5)

    class Net(nn.Module):
        def forward(self, x, sigma, condition=None):
            assert sigma.shape == (len(x),)
            return x / (1 + sigma[:, None] ** 2) + (0 if condition is None else condition)

    D = from_denoiser(Net().train(), (5,), per_sample=True)
    assert not D.f.training
    torch.testing.assert_close(D(x, 2.0), x / 5)
    torch.testing.assert_close(D.condition(1.0)(x, 2.0), x / 5 + 1)


@pytest.mark.slow  # the import of the compiler alone takes seconds
def test_compiles():
    D = from_network(Linear(1), (2, 8), prediction="v", schedule=Schedule.cosine(), stride=3)
    x = torch.randn(2, 2, 8)
    expected = D(x, 0.7)
    torch.testing.assert_close(torch.compile(D, backend="eager")(x, 0.7), expected)
    D.net = torch.compile(D.net, backend="eager")
    torch.testing.assert_close(D(x, 0.7), expected)
    assert D.dtype == torch.float32


@pytest.mark.parametrize(("prediction", "schedule"), RIGHT)
def test_check_is_silent_where_the_declaration_fits(prediction, schedule, recwarn):
    report = check_prior(prior(Exact(prediction, schedule), prediction, schedule), signals())
    assert not report.findings and not [w for w in recwarn if issubclass(w.category, priors.PriorWarning)]
    assert "the declaration fits" in str(report)
    for level in report.levels:
        assert level.error < 1.3 * level.linear and level.residual < 1.02
        assert level.slope == pytest.approx(1, abs=0.02 + 3 / (level.residual * 6**0.5 * SIZE))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("truth", "declared", "advice"),
    [
        (("epsilon", "linear"), ("v", "linear"), "prediction='epsilon'"),
        (("epsilon", "linear"), ("sample", "linear"), "prediction='epsilon'"),
        (("v", "scaled_linear"), ("epsilon", "scaled_linear"), "prediction='v'"),
        (("sample", "linear"), ("epsilon", "linear"), "prediction='sample'"),
        (("score", "ve"), ("epsilon", "ve"), "prediction='score'"),
        (("edm", "edm"), ("epsilon", "edm"), "prediction='edm'"),
        (("velocity", "flow"), ("v", "flow"), "prediction='velocity'"),
        (("epsilon", "linear"), ("epsilon", "scaled_linear"), "schedule=Schedule.linear()"),
        (("v", "scaled_linear"), ("v", "linear"), "schedule=Schedule.scaled_linear()"),
        (("epsilon", "cosine"), ("epsilon", "linear"), "schedule=Schedule.cosine()"),
        (("velocity", "flow reverse"), ("velocity", "flow"), "schedule=Schedule.flow(time_scale=1, reverse=True)"),
        (("velocity", "flow"), ("epsilon", "linear"), "prediction='velocity' and schedule=Schedule.flow()"),
    ],
)
def test_check_names_the_mistake(truth, declared, advice):
    with pytest.warns(priors.PriorWarning, match="does not fit its declaration"):
        report = check_prior(prior(Exact(*truth), *declared), signals())
    assert f"with {advice} the error would be" in report.findings[0], report


@pytest.mark.slow
def test_check_through_from_network_and_conditions():
    with pytest.warns(priors.PriorWarning, match="prediction='epsilon'"):
        prior(Exact("epsilon", "linear"), "v", "linear", data=signals())

    class Labelled(Exact):
        def forward(self, x_t, t, condition):
            return super().forward(x_t, t) if condition == "gaussian" else 0 * x_t

    declared = prior(Labelled("epsilon", "linear"), "v", "linear")
    with pytest.warns(priors.PriorWarning, match="prediction='epsilon'"):
        check_prior(declared.condition("gaussian"), signals())


# several findings at once
@pytest.mark.filterwarnings("ignore:the network does not fit its declaration")
@pytest.mark.filterwarnings("ignore:the signals have values")
def test_check_names_wrong_units():
    unit = from_denoiser(lambda x, sigma: 0.5 + denoised(x - 0.5, sigma), (1, SIZE, SIZE), value_range=(-1.5, 2.5))
    assert not check_prior(unit, signals() + 0.5).findings
    with pytest.warns(priors.PriorWarning, match=r"values from .* declares value_range=\(-1\.5, 2\.5\)"):
        report = check_prior(unit, 100 * (signals() + 0.5))
    assert any("does not fit" in finding for finding in report.findings)
    ranged = from_denoiser(lambda x, sigma: x, (1, SIZE, SIZE), value_range=(-1.0, 1.0))
    with pytest.warns(priors.PriorWarning, match="bring them to its units, or prior.rescaled"):
        check_prior(ranged, signals().sigmoid())


# several findings at once
@pytest.mark.filterwarnings("ignore:the network does not fit its declaration")
@pytest.mark.filterwarnings("ignore:the signals have values")
def test_check_finds_what_breaks_the_contract():
    class Batch(nn.Module):
        def forward(self, x, sigma):
            return denoised(x, sigma) + x.mean(0)

    with pytest.warns(priors.PriorWarning, match="depends on the others in its batch"):
        check_prior(from_denoiser(Batch(), (1, SIZE, SIZE), value_range=(-2.0, 2.0)), signals())

    def frozen(x, sigma):
        with torch.no_grad():
            return denoised(x, sigma)

    with pytest.warns(priors.PriorWarning, match="no gradient flows"):
        report = check_prior(from_denoiser(frozen, (1, SIZE, SIZE), value_range=(-2.0, 2.0)), signals())
    assert len(report.findings) == 1

    with pytest.warns(priors.PriorWarning, match="no other prediction, standard schedule or range fits better"):
        noisy = from_denoiser(lambda x, sigma: x + 3 * torch.ones_like(x).cumsum(-1).sin(), (1, SIZE, SIZE))
        check_prior(noisy, signals())


def test_a_denoiser_of_x_alone_is_told_how_to_be_declared():
    for f in (lambda x: x, torch.nn.Identity()):
        with pytest.raises(invgen.OptionError, match=r"the denoiser takes x alone, expected f\(x, sigma\); pass level= if"):
            priors.from_denoiser(f, (4,), sigma_min=0.1, sigma_max=1.0)


def test_clean_signals_that_are_no_numbers_are_refused():
    with pytest.raises(invgen.ShapeError, match=r"check_prior takes signals \(B, 4\), got ndarray"):
        priors.from_denoiser(
            lambda x, s: x, (4,), sigma_min=0.1, sigma_max=1.0, data=np.array([1, "a", None], dtype=object)
        )
