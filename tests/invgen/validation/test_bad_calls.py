"""Bad calls, by the table: each is an InvgenError of one sentence that says what was wrong, whatever was passed where."""

import inspect
import math
import traceback

import numpy as np
import pytest
import torch

import invgen
from invgen import InvgenError, LinearOperator, Operator, Posterior, metrics, operators, plots, priors, samplers
from invgen.benchmarks.engine import runner

S = (1, 8, 8)
PRIOR = priors.GaussianPrior(shape=S)
A = operators.Mask.random(S, 0.5)
Y = A(torch.zeros(S))
X = torch.zeros(3, *S)
POST = Posterior(PRIOR, A, 0.1, Y)


class Raises(LinearOperator):
    def forward(self, x):
        raise KeyError("calibration")


class GivesNumpy(LinearOperator):
    def forward(self, x):
        return x.detach().numpy()


class GivesOneRow(LinearOperator):
    def forward(self, x):
        return x[:1, ..., 0]


class OtherShape(LinearOperator):
    def __init__(self):
        super().__init__(S)
        self.out_shape = (7,)

    def forward(self, x):
        return x.flatten(1)


# name: (what is called, a sound call of it); each argument is replaced by each of WRONG that does not fit it
CALLS = {
    "solve": (
        invgen.solve,
        {
            "y": Y,
            "A": A,
            "prior": PRIOR,
            "noise": 0.1,
            "sampler": samplers.DPS(steps=1),
            "num_samples": 1,
            "seed": 0,
            "max_batch": None,
        },
    ),
    "a sampler": (samplers.DPS(steps=1), {"post": POST, "num_samples": 1, "seed": 0, "max_batch": None}),
    "sample": (invgen.sample, {"prior": PRIOR, "num_samples": 1, "seed": 0, "sampler": None, "max_batch": None}),
    "simulate": (invgen.simulate, {"prior": PRIOR, "A": A, "noise": 0.1, "num": 2, "seed": 0, "max_batch": None}),
    "Posterior": (Posterior, {"prior": PRIOR, "A": A, "noise": 0.1, "y": Y}),
    "Gaussian": (invgen.Gaussian, {"sigma": 0.1}),
    "Poisson": (invgen.Poisson, {"gain": 1.0}),
    "Energy": (invgen.Energy, {"loss": torch.sub, "std": 1.0}),
    "Mask": (operators.Mask, {"in_shape": S, "mask": torch.ones(8, 8)}),
    "Mask.random": (operators.Mask.random, {"in_shape": S, "keep": 0.5, "seed": 0}),
    "Mask.box": (operators.Mask.box, {"in_shape": S, "size": 2, "position": "centre"}),
    "Matrix": (operators.Matrix, {"matrix": torch.eye(64), "in_shape": S}),
    "Identity": (operators.Identity, {"in_shape": S, "dtype": torch.float32}),
    "Blur": (operators.Blur, {"in_shape": S, "kernel": torch.ones(3, 3), "boundary": "circular"}),
    "Downsample": (operators.Downsample, {"in_shape": S, "factor": 2, "filter": "average", "offset": 0}),
    "Resize": (operators.Resize, {"in_shape": S, "size": 4, "method": "bicubic"}),
    "CompressedSensing": (operators.CompressedSensing, {"in_shape": S, "num_measurements": 3, "kind": "dct", "seed": 0}),
    "MRI": (operators.MRI, {"image_shape": (2, 8, 8), "mask": torch.ones(8)}),
    "Fourier": (operators.Fourier, {"in_shape": (2, 8, 8), "dims": 2}),
    "Grey": (operators.Grey, {"in_shape": (3, 8, 8), "weights": "bt601"}),
    "JPEG": (operators.JPEG, {"in_shape": S, "quality": 50, "subsampling": "4:2:0", "value_range": (-1.0, 1.0)}),
    "PhaseRetrieval": (operators.PhaseRetrieval, {"in_shape": S, "oversample": 2.0}),
    "Quantize": (operators.Quantize, {"in_shape": S, "levels": 4, "low": -1.0, "high": 1.0}),
    "LowPassDecimate": (operators.LowPassDecimate, {"in_shape": (1, 64), "factor": 2, "taps": None, "cutoff": None}),
    "ParallelBeamCT": (
        operators.ParallelBeamCT,
        {"image_shape": (8, 8), "num_angles": 4, "pixel_size": 1.0, "det_count": None},
    ),
    "from_function": (operators.from_function, {"f": torch.sin, "in_shape": S, "adjoint": None, "dtype": torch.float32}),
    "gaussian_kernel": (operators.gaussian_kernel, {"std": 1.0, "size": None, "dim": 2}),
    "disk_kernel": (operators.disk_kernel, {"radius": 2.0}),
    "motion_kernel": (operators.motion_kernel, {"length": 5.0, "angle": None, "seed": 0, "size": None}),
    "random_mask": (operators.random_mask, {"width": 16, "acceleration": 4, "center_fraction": None, "seed": 0}),
    "radial_mask": (operators.radial_mask, {"shape": (8, 8), "spokes": 3, "start": 0.0}),
    "birdcage_maps": (operators.birdcage_maps, {"shape": (2, 8, 8), "radius": 1.5}),
    "limited_angles": (operators.limited_angles, {"count": 4, "degrees": 90.0, "start": 0.0}),
    "stack": (operators.stack, {"operators": [A, A]}),
    "fftc": (operators.fftc, {"x": torch.zeros(8, 8), "dims": 2}),
    "A(x)": (A, {"x": X}),
    "A.adjoint": (A.adjoint, {"y": Y}),
    "A.solve": (operators.Blur(S, torch.ones(3, 3)).solve, {"b": X, "var_x": 1.0, "var_y": 0.1}),
    "A.prox": (A.prox, {"x": X[0], "y": Y, "var_x": 1.0, "var_y": 0.1}),
    "A @ B": (lambda other: A @ other, {"other": operators.Identity(S)}),
    "A + B": (lambda other: A + other, {"other": A}),
    "c * A": (lambda c: c * A, {"c": 2.0}),
    "GaussianPrior": (priors.GaussianPrior, {"shape": S, "mean": 0.0, "var": 1.0}),
    "Denoiser": (
        invgen.Denoiser,
        {"shape": S, "sigma_min": 0.1, "sigma_max": 3.0, "value_range": (-1.0, 1.0), "data_std": 1.0},
    ),
    "Generator": (invgen.Generator, {"shape": S, "latent": (4,)}),
    "noise_levels": (invgen.noise_levels, {"steps": 3, "sigma_min": 0.1, "sigma_max": 2.0, "schedule": "edm"}),
    "DampedDPS": (samplers.DampedDPS, {"steps": 3, "zeta": 1.0, "fraction": 0.5, "schedule": "edm", "eta": 1.0}),
    "SDEdit": (samplers.SDEdit, {"steps": 3, "sigma0": 1.0, "repeats": 1, "keep": torch.ones(8, 8)}),
    "LinearisedTDS": (samplers.LinearisedTDS, {"steps": 3, "particles": 2, "twist": "auto", "threshold": 0.5}),
}


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


SAMPLES = normal(3, *S)
CALLS |= {
    "psnr": (metrics.psnr, {"estimate": X, "truth": X + 0.1, "data_range": 2.0, "dims": 3}),
    "nrmse": (metrics.nrmse, {"estimate": X, "truth": X + 0.1, "data_range": None}),
    "ssim": (
        metrics.ssim,
        {
            "estimate": torch.zeros(1, 16, 16),
            "truth": torch.ones(1, 16, 16),
            "value_range": (-1.0, 1.0),
            "boundary": "valid",
            "dims": 3,
        },
    ),
    "snr": (metrics.snr, {"estimate": normal(1, 8), "truth": normal(1, 8), "dims": 2}),
    "log_spectral_distance": (
        metrics.log_spectral_distance,
        {"estimate": normal(1, 2048), "truth": normal(1, 2048), "window": 512, "hop": 128, "floor": -80.0},
    ),
    "crps_ensemble": (metrics.crps_ensemble, {"samples": SAMPLES[:, None], "truth": SAMPLES[:1], "fair": False, "dims": 3}),
    "energy_score": (metrics.energy_score, {"samples": SAMPLES[:, None], "truth": SAMPLES[:1], "fair": False, "dims": 3}),
    "interval_coverage": (metrics.interval_coverage, {"samples": normal(8, 1, *S), "truth": X[:1], "level": 0.5}),
    "residual_over_noise": (metrics.residual_over_noise, {"samples": X, "posterior": POST}),
    "sbc_ranks": (metrics.sbc_ranks, {"samples": normal(4, 3), "truth": normal(3), "seed": 0, "atol": 0.0}),
    "region_ranks": (
        metrics.region_ranks,
        {"samples": normal(4, 3, *S), "truth": normal(3, *S), "scale": True, "atol": 0.0, "seed": 0, "dims": 3},
    ),
    "region_coverage": (metrics.region_coverage, {"samples": normal(4, 3, *S), "truth": normal(3, *S), "level": 0.5}),
    "rank_histogram": (
        metrics.rank_histogram,
        {"ranks": torch.arange(20) % 5, "num_samples": 4, "bins": None, "confidence": 0.95},
    ),
    "coverage_curve": (
        metrics.coverage_curve,
        {"ranks": torch.arange(20) % 5, "num_samples": 4, "confidence": 0.95, "bootstrap": 2, "seed": 0},
    ),
    "tarp": (
        metrics.tarp,
        {"samples": normal(4, 20, 3), "truth": normal(20, 3), "references": None, "bootstrap": 2, "seed": 0},
    ),
    "mmd": (metrics.mmd, {"x": normal(5, 3), "y": normal(5, 3), "bandwidth": None, "unbiased": True, "dims": 1}),
    "GaussianPrior of a covariance": (
        priors.GaussianPrior,
        {"shape": (3,), "mean": torch.zeros(3), "covariance": torch.eye(3)},
    ),
    "GaussianMixture": (priors.GaussianMixture, {"means": normal(2, 3), "weights": [0.5, 0.5], "var": 1.0}),
    "GaussianMixture covariances": (priors.GaussianMixture, {"means": normal(2, 3), "covariances": torch.eye(3)}),
    "Atoms": (priors.Atoms, {"points": normal(2, 3), "weights": None}),
    "prior.sample": (PRIOR.sample, {"num_samples": 2, "seed": 0}),
    "Schedule.linear": (priors.Schedule.linear, {"steps": 10, "start": 1e-4, "end": 0.02}),
    "Schedule.vp": (priors.Schedule.vp, {"beta_min": 0.1, "beta_max": 20.0, "t_min": 1e-3}),
    "Schedule.cosine": (priors.Schedule.cosine, {"steps": 10}),
}

WRONG = {
    "None": None,
    "a string": "a",
    "nan": math.nan,
    "inf": math.inf,
    "minus inf": -math.inf,
    "negative": -3,
    "negative fraction": -1.5,
    "True": True,
    "an empty list": [],
    "a dict": {},
    "an object": object(),
    "a class": samplers.DPS,
    "an array": np.full((2, 3), np.nan),
    "an array of objects": np.array(["a", None], dtype=object),
    "a table of nan": torch.full((2, 3, 5), math.nan),
    "a complex number": 1j,
    "2^100": 2**100,
    "bytes": b"a",
    "fractions": (1.5, 2.5),
    "a negative size": (-1, 8, 8),
    "a module": torch.nn.Linear(2, 2),
    "a set": {1},
}


def sentence(call):
    """The message of the InvgenError that a call ends in; None if it is sound."""
    try:
        call()
    except InvgenError as error:
        text = str(error)
        assert "\n" not in text and 15 < len(text) <= 400, text
        assert "Traceback" not in text and "object at 0x" not in text, text
        return text
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        pytest.fail(f"{type(error).__name__} at {last.filename}:{last.lineno}: {error}")
    return None


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_each_argument_replaced_by_what_does_not_fit(name):
    function, sound = CALLS[name]
    assert sentence(lambda: function(**sound)) is None
    refused = 0
    for argument in sound:
        for wrong in WRONG.values():
            text = sentence(lambda value=wrong, argument=argument: function(**{**sound, argument: value}))
            refused += text is not None
    assert refused >= 0.55 * len(sound) * len(WRONG), (refused, len(sound) * len(WRONG))


@pytest.mark.parametrize("name", [n for n, (f, _) in CALLS.items() if "@" not in n and "+" not in n and "*" not in n])
def test_arguments_that_are_unknown_missing_or_too_many(name):
    function, sound = CALLS[name]
    if not isinstance(function, Operator) and not hasattr(function, "__self__"):
        assert "has no option 'stps'" in sentence(lambda: function(**sound, stps=3))
        text = sentence(lambda: function(*[None] * 30))  # a class that looks at its kind first says what that may be
        assert "by position" in text or "must be one of" in text
        if any(p.default is p.empty for p in list(inspect.signature(function).parameters.values()) if p.name in sound):
            assert "needs a value for " in sentence(lambda: function())


# (what, call, words of the sentence)
TABLE = [
    ("what a prior denoises", lambda: PRIOR(None, 1.0), "x of GaussianPrior must be a tensor, got None"),
    ("a level", lambda: PRIOR(X, "a"), "sigma of GaussianPrior must be a tensor or a finite number, got 'a'"),
    ("a level of a score", lambda: PRIOR.score(X, None), "must be a tensor or a finite number, got None"),
    ("no prior of it", lambda: PRIOR.sample("a"), "num_samples of GaussianMixture.sample must be a positive whole number"),
    (
        "no posterior",
        lambda: metrics.residual_over_noise(X, None),
        "posterior of residual_over_noise must be an invgen Post",
    ),
    ("a slip in a name", lambda: samplers.DPS(stps=3), "did you mean 'steps'"),
    ("options of a scan", lambda: operators.FanBeamCT(S), "needs a value for source_origin, origin_det"),
    ("swapped", lambda: operators.Mask(torch.ones(8, 8), S), "are in_shape and mask in each other's place?"),
    ("no sampler", lambda: invgen.solve(Y, A, PRIOR, 0.1, None), "sampler of solve must be an invgen Sampler or a string"),
    ("a number", lambda: invgen.solve(Y, A, PRIOR, 0.1, 5), "sampler of solve must be"),
    ("a class", lambda: invgen.solve(Y, A, PRIOR, 0.1, samplers.DPS), "got the class DPS; make one: DPS(...)"),
    ("no tuned sampler", lambda: invgen.tune(PRIOR, A, 0.1, None), "sampler of tune must be"),
    ("calibrate", lambda: invgen.calibrate(PRIOR, A, 0.1, None), "sampler of calibrate must be"),
    ("alpha", lambda: invgen.calibrate(PRIOR, A, 0.1, "dps", alpha=2.0), "from 0 to 1, both excluded"),
    ("seed", lambda: invgen.sample(PRIOR, 1, 1.5), "seed of sample must be a whole number from 0 to 2^63 - 1, got 1.5"),
    ("seed", lambda: invgen.sample(PRIOR, 1, True), "got True"),
    ("seed", lambda: invgen.sample(PRIOR, 1, 2**64), "got 18446744073709551616"),
    ("seed", lambda: invgen.sample(PRIOR, 1, -1), "got -1"),
    ("seeds", lambda: samplers.DPS(steps=1)(POST, 1, [0.5]), "seed of Method.__call__ must be"),
    ("forecast", lambda: invgen.forecast(1, POST), "sampler of forecast must be"),
    ("forecast", lambda: invgen.forecast("DSP", POST), "unknown sampler 'DSP'"),
    ("no result", lambda: plots.show_posterior(None), "must be an invgen Result, got None"),
    ("signal", lambda: PRIOR(torch.zeros(2, 1, 5, 5), 1.0), "takes a tensor of shape (B, 1, 8, 8), got (2, 1, 5, 5)"),
    ("signal", lambda: PRIOR.log_prob(torch.zeros(2, 3)), ".log_prob takes a tensor of shape (B, 1, 8, 8), got (2, 3)"),
    ("level", lambda: PRIOR.score(torch.zeros(2, *S), (0.1,)), "must be a tensor or a finite number, got (0.1,)"),
    ("levels", lambda: PRIOR(torch.zeros(2, *S), torch.ones(3)), "takes one sigma for each of 2 entries, got (3,)"),
    ("level", lambda: PRIOR.variance("a"), ".variance must be a finite number, got 'a'"),
    ("code", lambda: priors.load("digits-vae")(torch.zeros(1, 99)), "VAE takes a tensor of shape (B, 12), got (1, 99)"),
    ("encode", lambda: priors.load("digits-vae").encode(torch.zeros(1, 1, 9, 9)), "VAE.encode takes a tensor of shape"),
    ("one class", lambda: priors.load("digits").condition("cat"), "there is no class 'cat': the prior knows 0 to 9"),
    ("rates", lambda: priors.Schedule.vp(beta_min=20.0, beta_max=0.1), "got beta_min=20 above beta_max=0.1"),
    ("no range", lambda: plots.show_samples(torch.zeros(2, 1, 8, 8)), "needs a value for value_range"),
    ("two precisions", lambda: metrics.sliced_wasserstein(torch.zeros(5, 3), torch.zeros(5, 3).double()), "convert one"),
    ("not finite", lambda: metrics.frechet_distance(torch.full((9, 2), math.nan), torch.ones(9, 2)), "not a finite number"),
    ("a score", lambda: metrics.kernel_stein_discrepancy(torch.ones(9, 2), lambda x: 1.0), "must give a torch.Tensor"),
    ("too large", lambda: operators.gaussian_kernel(1e9), "INVGEN_MAX_BYTES"),
    ("not finite", lambda: operators.gaussian_kernel(math.inf), "std of gaussian_kernel must be a positive number"),
    ("too many views", lambda: operators.ParallelBeamCT((8, 8), num_angles=10**9), "INVGEN_MAX_BYTES"),
    ("too large a signal", lambda: operators.Identity((10**6, 10**6)), "INVGEN_MAX_BYTES"),
    ("too many samples", lambda: samplers.DPS(steps=1)(POST, 10**12), "INVGEN_MAX_BYTES"),
    ("fractional size", lambda: operators.Identity((1.5, 2)), "in_shape of Identity must be whole numbers"),
    ("no shape", lambda: operators.Identity(None), "got None"),
    ("a word", lambda: operators.Matrix("abc"), "matrix of Matrix must be a tensor, got 'abc'"),
    ("one operator", lambda: operators.stack(A), "a list of values, each of them an invgen Operator"),
    ("no operator", lambda: invgen.check_operator(None), "A of check_operator must be an invgen Operator"),
    ("no file", lambda: _read(None), "must be a string or a Path"),
    ("no prior", lambda: priors.load(None), "must be a string or a Path"),
    (
        "a latent",
        lambda: invgen.Generator(shape=S, latent=torch.nn.Linear(2, 2)),
        "latent of Generator must be an invgen Denoiser or",
    ),
    ("no suite", lambda: runner.run(None, "out"), "suite of run must be"),
    ("a shard in words", lambda: runner.run("quick", "out", shard="1/2"), "shard of run must be 2 whole numbers"),
    ("a zero kernel", lambda: operators.Blur(S, torch.zeros(3, 3)), "the kernel is zero everywhere"),
    ("a zero filter", lambda: operators.Downsample(S, 2, torch.zeros(3, 3)), "the filter is zero everywhere"),
    ("variance", lambda: A.solve(Y, -1.0, 0.1), "var_x of Mask.solve must be a number of at least 0, got -1.0"),
    ("variance", lambda: A.solve(Y, 1.0, math.nan), "var_y of Mask.solve must be"),
    ("variances", lambda: A.prox(X, Y, torch.tensor([1.0, -1.0, 1.0]), 0.1), "finite and not negative everywhere"),
    ("no variance", lambda: A.solve(Y, 0.0, 0.0), "both zero"),
    ("a fraction", lambda: operators.Mask(S, torch.full((8, 8), 0.5)), "neither 0 nor 1, such as 0.5"),
    ("nan in a mask", lambda: operators.Mask(S, torch.full((8, 8), math.nan)), "neither 0 nor 1, such as nan"),
    ("speckle", lambda: operators.MRI((2, 8, 8), [0, 0, 3, 255, 251, 255, 0, 0]), "neither 0 nor 255, such as 3"),
    ("speckle", lambda: samplers.SDEdit(keep=torch.tensor([0.0, 0.7])), "keep of SDEdit has 1 of 2 values"),
    ("a range", lambda: samplers.DPS(zeta=-1), "zeta of DPS must be a number of at least 0, got -1"),
    ("options twice", lambda: invgen.solve(Y, A, PRIOR, 0.1, "DPS(steps=5)(steps=6)"), "DPS(steps=5)(steps=6)"),
    ("an operator that raises", lambda: Raises(S)(X), "Raises fails on torch.float32 of shape (3, 1, 8, 8) with KeyError"),
    ("in solve", lambda: invgen.solve(Y, Raises(S), PRIOR, 0.1), "Raises fails on"),
    ("NumPy out", lambda: GivesNumpy(S)(X), "GivesNumpy must give a torch.Tensor, got an array of shape (3, 1, 8, 8)"),
    ("a lost batch", lambda: GivesOneRow(S)(X), "GivesOneRow gives shape (1, 1, 8) for a batch of 3"),
    ("another shape", lambda: OtherShape()(X), "OtherShape gives shape (3, 64) for a batch of 3, expected (3, 7)"),
    ("whole numbers", lambda: operators.Matrix(torch.eye(4))(torch.ones(4, dtype=torch.int64)), "floating point numbers"),
]


def _read(path):
    from invgen.files import reader

    return reader.read(path)


@pytest.mark.parametrize(("what", "call", "words"), TABLE, ids=[f"{k}: {row[0]}" for k, row in enumerate(TABLE)])
def test_the_sentence_of_a_bad_call(what, call, words):
    text = sentence(call)
    assert text is not None and words in text, text


def test_the_failure_of_an_operator_is_the_cause():
    with pytest.raises(invgen.OperatorError) as error:
        Raises(S)(X)
    assert isinstance(error.value.__cause__, KeyError)


def test_numbers_of_numpy_and_torch_are_taken_everywhere():
    plain = invgen.solve(Y, A, PRIOR, 0.1, samplers.DPS(steps=2, zeta=0.5), num_samples=2, seed=3).samples
    for whole, number in ((np.int64, np.float32), (np.uint8, np.float64), (torch.tensor, torch.tensor)):
        sampler = samplers.DPS(steps=whole(2), zeta=number(0.5))
        assert sampler == samplers.DPS(steps=2, zeta=0.5) and type(sampler.steps) is int
        noise = number(0.1) if number is not np.float32 else np.float32(0.1)
        again = invgen.solve(Y.numpy(), A, PRIOR, noise, sampler, num_samples=whole(2), seed=whole(3)).samples
        # 0.1 in single precision is 1.5e-8 off
        assert torch.allclose(again, plain, atol=1e-5) and again.dtype == plain.dtype
    assert torch.equal(operators.Mask.random(S, np.float64(0.5), np.int64(0)).mask, A.mask)
    assert operators.Identity(np.array(S)).in_shape == S and operators.Identity(list(S)).in_shape == S
    post = Posterior(PRIOR, A, 0.1, Y.double().numpy())
    assert post.y.dtype == torch.float64  # its precision is kept


@pytest.mark.parametrize(
    "sampler", [samplers.DPS(steps=1), samplers.PiGDM(steps=1), samplers.TDS(steps=1), samplers.EKI(steps=1)]
)
def test_a_batch_of_no_measurements_gives_no_samples(sampler):
    result = invgen.solve(torch.zeros(0, *A.out_shape), A, PRIOR, 0.1, sampler, num_samples=2)
    assert result.samples.shape == (2, 0, *S)


def test_masks_of_eight_bits_are_masks():
    m = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    for kind in (m, m.numpy(), m.float(), 255 * m.to(torch.uint8), m.int().tolist(), 255.0 * m):
        assert torch.equal(operators.Mask(S, kind).mask[0], m)
        assert torch.equal(operators.MRI((2, 8, 8), kind).mask, m)
