"""What people get wrong: each mistake is one clear sentence that says what was wrong and what was expected.

Files (damaged pictures, arrays with code in them) are in test_files.py, names in test_names.py, the same through the
command line in test_cli.py, damaged weights in priors/test_weights.py.
"""

import contextlib
import math
import pickle

import pytest
import torch

import invgen
from invgen import (
    Denoiser,
    DivergedError,
    FileError,
    Gaussian,
    Generator,
    InvgenError,
    LinearOperator,
    Operator,
    OptionError,
    Posterior,
    ShapeError,
    UnsupportedError,
    WeightsError,
    operators,
    plots,
    priors,
    samplers,
    solve,
)
from invgen.autoregressive import Autoregressive
from invgen.conditional import ConditionalDenoiser

SHAPE = (1, 8, 8)


class Half(LinearOperator):
    def forward(self, x):
        return x[..., ::2]


class Squared(Operator):
    def forward(self, x):
        return x**2


class Unfolded(Generator):
    def forward(self, z):
        return z.reshape(-1, *self.shape)

    def encode(self, x):
        return x.flatten(1)


def problem(y=None, A=None, prior=None, noise=0.1, sampler="DAPS", **options):
    """A sound problem, in which one thing is replaced."""
    A = Half(SHAPE) if A is None else A
    prior = priors.GaussianPrior(shape=SHAPE) if prior is None else prior
    y = torch.zeros(A.out_shape) if y is None else y
    if sampler == "DAPS":
        sampler = samplers.DAPS(steps=2)
    return solve(y, A, prior, noise, sampler, **options)


def sentence(error, *parts):
    """The message is one sentence (one line, not long) that holds all of these parts."""
    text = str(error.value)
    assert isinstance(error.value, InvgenError)
    assert "\n" not in text and 20 < len(text) < 400, text
    for part in parts:
        assert part in text, f"{part!r} is not in {text!r}"


def test_the_sound_problem():
    assert problem().samples.shape == (1, *SHAPE)


@pytest.mark.parametrize("shape", [(1, 8, 3), (8, 4), (1, 4, 8), ()])
def test_wrong_shape_of_the_measurement(shape):
    with pytest.raises(ShapeError) as error:
        problem(y=torch.zeros(shape))
    sentence(error, f"shape {shape}", "(*batch, 1, 8, 4)", "Half")


def test_operator_and_prior_of_different_shapes():
    with pytest.raises(ShapeError) as error:
        problem(A=Half((1, 4, 4)))
    sentence(error, "(1, 4, 4)", "(1, 8, 8)")


def test_wrong_shape_into_an_operator():
    for method, got, wanted in (("", (1, 8, 7), "(*batch, 1, 8, 8)"), (".adjoint", (1, 8, 8), "(*batch, 1, 8, 4)")):
        A = Half(SHAPE)
        with pytest.raises(ShapeError) as error:
            (A.adjoint if method else A)(torch.zeros(got))
        sentence(error, f"Half{method} takes", wanted, str(got))
    with pytest.raises(ShapeError) as error:
        Half(SHAPE)([1.0, 2.0])
    sentence(error, "takes a torch.Tensor, got list", "torch.as_tensor")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_wrong_dtype(dtype):
    with pytest.raises(ShapeError) as error:
        problem(y=torch.zeros(1, 8, 4, dtype=dtype))
    sentence(error, str(dtype), "floating point", "y.float()")


def test_wrong_device():
    with pytest.raises(ShapeError) as error:
        problem(y=torch.zeros(1, 8, 4, device="meta"))
    sentence(error, "on meta", "on cpu", ".to()")


def test_not_tensors_and_not_nouns():
    with pytest.raises(InvgenError) as error:
        problem(y="0")
    sentence(error, "must be a tensor, got '0'", "torch.as_tensor")
    with pytest.raises(InvgenError) as error:
        problem(A=lambda x: x, y=torch.zeros(1, 8, 8))
    sentence(error, "must be an invgen Operator, got function", "from_function")
    with pytest.raises(InvgenError) as error:
        problem(prior=torch.nn.Identity())
    sentence(error, "must be an invgen Prior, got Identity")
    with pytest.raises(InvgenError) as error:
        problem(noise="0.1")
    sentence(error, "a positive number", "'0.1'")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_of_the_measurement_that_are_not_finite(value):
    y = torch.zeros(1, 8, 4)
    y[0, 0, :3] = value
    with pytest.raises(OptionError) as error:
        problem(y=y)
    sentence(error, "3 values that are not finite", "of 32")


@pytest.mark.parametrize("sigma", [0, 0.0, -0.1, math.nan, math.inf, True])
def test_noise_levels_that_are_none(sigma):
    if sigma is True:
        with pytest.raises(OptionError) as error:
            problem(noise=sigma)
        sentence(error, "a positive number", "True")
        return
    with pytest.raises(OptionError) as error:
        problem(noise=sigma)
    sentence(error, "a positive number", repr(sigma), "Noiseless")


def test_noise_of_each_detector_element():
    with pytest.raises(OptionError) as error:
        problem(noise=Gaussian(torch.tensor([0.1, 0.0, 0.1, 0.1])))
    sentence(error, "must be a positive number")
    with pytest.raises(OptionError) as error:
        invgen.Poisson(gain=-1.0)
    sentence(error, "positive number", "-1.0")


@pytest.mark.parametrize(
    "make, wrong, expected",
    [
        (lambda: problem(sampler="DAPSS"), "unknown sampler 'DAPSS'", "did you mean 'DAPS'"),
        (lambda: problem(sampler=samplers.DPS(steps=3, schedule="cosine")), "unknown noise schedule 'cosine'", "'edm'"),
        (lambda: problem(sampler=samplers.DPS(steps=3, schedule=(1.0, 2.0))), "decreasing sequence", "positive"),
        (lambda: problem(sampler=samplers.DPS(steps=0)), "got 0", "steps of DPS must be a positive whole number"),
        (lambda: problem(sampler=samplers.DPS(steps=1.5)), "got 1.5", "steps of DPS must be a positive whole number"),
        (lambda: problem(num_samples=0), "got 0", "positive whole number"),
        (lambda: problem(max_batch=0), "got 0", "positive whole number"),
        (lambda: operators.Blur(SHAPE, torch.ones(3, 3) / 9, boundary="round"), "'round'", "'circular', 'reflect'"),
        (lambda: operators.Mask(SHAPE, torch.zeros(8, 8)), "keeps no value", "at least one"),
        (lambda: operators.Downsample(SHAPE, 3), "3", "divide"),
        (lambda: operators.ParallelBeamCT(SHAPE, projector="cubic", num_angles=3), "'cubic'", "linear"),
    ],
)
def test_options(make, wrong, expected):
    with pytest.raises(OptionError) as error:
        make()
    sentence(error, wrong, expected)


@pytest.mark.parametrize("make", [operators.ParallelBeamCT, operators.FanBeamCT])
def test_angles(make):
    options = {} if make is operators.ParallelBeamCT else {"source_origin": 20.0, "origin_det": 20.0}
    for angles in ([], torch.empty(0)):
        with pytest.raises(OptionError) as error:
            make(SHAPE, angles=angles, **options)
        sentence(error, "angle")
    for bad in (0, -3):
        with pytest.raises(OptionError) as error:
            make(SHAPE, num_angles=bad, **options)
        sentence(error, "num_angles", str(bad))
    with pytest.raises(OptionError) as error:
        make(SHAPE, angles=[0.0, math.nan], **options)
    sentence(error, "angle", "finite")
    with pytest.raises(OptionError) as error:
        make(SHAPE, **options)
    sentence(error, "num_angles", "angles")


def test_samplers_on_problems_that_they_cannot_solve():
    for name in ("PiGDM", "TMPD", "MMPS", "DiffPIR", "DDS", "DDNM"):
        with pytest.raises(UnsupportedError) as error:
            problem(A=Squared(SHAPE), sampler=name)
        sentence(error, f"{name} needs a LinearOperator, got Squared", "samplers that fit:", "DPS", "DAPS")
    with pytest.raises(UnsupportedError) as error:
        problem(sampler="DDRM")
    sentence(error, "DDRM needs an SVDOperator, or an operator with a method svd(), got Half", "samplers that fit:")
    with pytest.raises(UnsupportedError) as error:
        problem(noise=invgen.Poisson(0.1), sampler="PiGDM")
    sentence(error, "needs Gaussian noise, got Poisson", "samplers that fit:")
    with pytest.raises(UnsupportedError) as error:
        problem(noise=invgen.Noiseless(), sampler="MMPS")
    sentence(error, "needs noise with a density", "samplers that fit:")


def test_options_that_do_not_exist_are_not_swallowed():
    for call in (
        lambda: samplers.DPS(stps=3),
        lambda: problem(num_sample=3),
        lambda: Half(SHAPE, factor=2),
        lambda: operators.Blur(SHAPE, torch.ones(3, 3) / 9, border="valid"),
        lambda: operators.ParallelBeamCT(SHAPE, n_angles=3),
        lambda: priors.GaussianPrior(shape=SHAPE, std=2.0),
    ):
        with pytest.raises(TypeError, match="has no option .*; (did you mean|there are) "):
            call()


class Moved(ConditionalDenoiser):
    """A consistency function whose signals an embedding moves."""

    def __init__(self, base):
        super().__init__(base.shape, sigma_min=base.sigma_min, sigma_max=base.sigma_max)
        self.base, self.consistency = base, True

    def forward(self, x, sigma, condition=None):
        shift = 0.0 if condition is None else condition.view(-1, *[1] * (x.ndim - 1))
        return self.base(x - shift, sigma) + shift


# those of a posterior over signals; an autoregressive prior has problems of its own
OF_A_POSTERIOR = sorted(
    k for k, c in samplers.catalogue().items() if c.family != "unconditional" and not issubclass(c.prior, Autoregressive)
)


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_A_POSTERIOR)
# in two steps
@pytest.mark.filterwarnings("ignore:.* not explain the measurement")
@pytest.mark.filterwarnings("ignore:.* samples of .* are saturated")
@pytest.mark.filterwarnings("ignore:.* cannot make what was measured")
def test_the_measurement_and_the_operator_are_left_as_they_are(name):
    prior, A = priors.GaussianPrior(shape=SHAPE), operators.Mask(SHAPE, torch.eye(8))
    if samplers.get(name).prior is Generator:
        prior = Unfolded(SHAPE, (64,))
    elif samplers.get(name).consistency:
        prior = priors.GaussianConsistency(SHAPE, torch.zeros(SHAPE))
    if name == "latinopro":
        prior = Moved(prior).condition(torch.zeros(1))
    if name == "reversediffusion":
        A = operators.Identity(SHAPE)
    if name == "phasecrossing":
        prior, A = priors.GaussianPrior(shape=(1, 256)), operators.STFTMagnitude((1, 256), 64, 16)
    y = torch.linspace(0, 1, A.out_shape.numel()).reshape(A.out_shape)
    before, tables = y.clone(), {key: table.clone() for key, table in A.state_dict().items()}
    sampler = samplers.get(name)(steps=2)
    with contextlib.suppress(DivergedError):  # of two steps; what counts is what is left
        solve(y, A, prior, 0.1, sampler, seed=0)
    assert torch.equal(y, before)
    assert all(torch.equal(table, tables[key]) for key, table in A.state_dict().items())


def test_an_exact_draw_of_a_nonlinear_problem():
    post = Posterior(priors.GaussianPrior(shape=SHAPE), Squared(SHAPE), 0.1, torch.zeros(1, *SHAPE))
    with pytest.raises(UnsupportedError) as error:
        post.draw(torch.zeros(1, *SHAPE), 1.0)
    sentence(error, "linear operator and Gaussian noise", "Squared")


def test_a_prior_that_gives_nan_is_named_with_step_and_level():
    class Broken(Denoiser):
        def forward(self, x, sigma):
            return x * math.nan

    with pytest.raises(DivergedError) as error:
        problem(prior=Broken(SHAPE), sampler=samplers.DPS(steps=3))
    sentence(error, "DPS diverged at step 1 of 3", "sigma = 80")


class _Evil:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('pwned').touch()",))


def test_weights_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from safetensors.torch import save_file

    whole = tmp_path / "whole.safetensors"
    save_file({"a": torch.zeros(100)}, whole)
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-40])
    (tmp_path / "text.safetensors").write_text("these are not weights, whatever the name says")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "pickle.safetensors").write_bytes(pickle.dumps(_Evil()))
    torch.save({"a": _Evil()}, tmp_path / "torch.pt")
    for name, expected in (
        ("gone.safetensors", "there is no weights file"),
        ("cut.safetensors", "not a whole safetensors file"),
        ("text.safetensors", "not a whole safetensors file"),
        ("empty.safetensors", "not a whole safetensors file"),
        ("whole.safetensors", "no description of an invgen prior"),
        ("pickle.safetensors", "can run code"),
        ("torch.pt", "can run code"),
    ):
        with pytest.raises(WeightsError) as error:
            priors.load(tmp_path / name)
        sentence(error, name, expected)
    with pytest.raises(WeightsError) as error:
        priors.load("phto")
    sentence(error, "unknown prior 'phto'", ", ".join(priors.names()))
    assert not (tmp_path / "pwned").exists(), "a weights file has run code"


@pytest.mark.slow
def test_a_picture_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("here")
    result = problem(num_samples=2)
    for name, expected in (
        ("file/a.png", "Not a directory"),
        ("gone/a.png", "No such file"),
        ("a.xyz", "'xyz' is not supported"),
    ):
        with pytest.raises(FileError) as error:
            plots.show_posterior(result, path=tmp_path / name)
        sentence(error, f"cannot write {tmp_path / name}", expected)
    with pytest.raises(OptionError, match="index must be in 0 to 0"):
        plots.show_posterior(result, index=1)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
