"""Classical methods in the place of samplers: against ASTRA, scikit-image and theory."""

import dataclasses

import astra
import numpy as np
import pytest
import torch

import invgen
from invgen import metrics
from invgen.benchmarks.methods import catalogue
from invgen.errors import OptionError, UnsupportedError
from invgen.operators import (
    JPEG,
    Blur,
    Downsample,
    HighDynamicRange,
    Identity,
    Mask,
    ParallelBeamCT,
    PhaseRetrieval,
    gaussian_kernel,
)
from invgen.priors import GaussianPrior
from invgen.sampler import Cost


def posterior(A, noise=0.05, truth=None, batch=(), seed=0):
    """The problem of a smooth image with an edge, and the image."""
    shape = tuple(A.in_shape)
    if truth is None:
        u = torch.linspace(-1, 1, shape[-1])
        disc = (u[:, None] ** 2 + u**2 < 0.5).float() if len(shape) > 1 else (u > 0).float()
        truth = (disc - 0.5 + 0.3 * torch.sin(3 * u)).expand(*batch, *shape)
    y = invgen.Gaussian(noise).sample(A(truth), torch.Generator().manual_seed(seed))
    return invgen.Posterior(GaussianPrior(shape, var=0.25), A, invgen.Gaussian(noise), y), truth


def residual(post, x):
    return post.rows(torch.arange(int(np.prod(post.batch)))).residual_over_noise(x.reshape(-1, *post.prior.shape))


@pytest.mark.slow
def test_a_prior_with_codes_is_not_decoded():
    prior = invgen.priors.load("digits-gan")
    post = invgen.Posterior(prior, Identity(prior.shape), 0.1, torch.full(prior.shape, 0.3))
    torch.testing.assert_close(catalogue.method("PseudoInverse")(post, 2), torch.full((2, *prior.shape), 0.3))


def test_the_estimate_is_repeated_and_costs_no_network():
    post, _ = posterior(Blur((1, 16, 16), gaussian_kernel(1.0)), batch=(2,))
    cost = Cost()
    x = catalogue.method("TV(steps=20)")(post, 3, seed=5, cost=cost)
    assert x.shape == (3, 2, 1, 16, 16) and (x == x[:1]).all() and cost.nfe == 0 and cost.seconds > 0
    # a measurement of a batch is worked on as it would be alone, up to the round-off of sums in other batches
    alone = invgen.Posterior(post.prior, post.A, post.noise, post.y[1])
    torch.testing.assert_close(catalogue.method("TV(steps=20)")(alone)[0], x[0, 1], atol=1e-5, rtol=0)
    assert catalogue.method("TV").kind == "classical"
    with pytest.raises(OptionError, match="positive whole number"):
        catalogue.method("TV")(post, 0)


@pytest.mark.parametrize("name", ["SIRT", "CGLS"])
@pytest.mark.parametrize(("backend", "tolerance"), [("astra", 1e-4), ("sparse", 1e-3)])
def test_iterations_are_those_of_astra(name, backend, tolerance):
    A = ParallelBeamCT((1, 32, 32), num_angles=20, pixel_size=0.7, backend=backend)
    post, _ = posterior(A, noise=0.1)
    ours = catalogue.method(f"{name}(steps=10, discrepancy=False)")(post)[0, 0]
    c, s = np.cos(A.angles), np.sin(A.angles)
    vectors = np.stack([-s, c, 0 * c, 0 * c, A.det_spacing * c, A.det_spacing * s], axis=1)
    scan = astra.create_proj_geom("parallel_vec", A.det_count, vectors)
    volume = astra.create_vol_geom(32, 32, -11.2, 11.2, -11.2, 11.2)
    ids = {
        "ProjectorId": astra.create_projector("linear", scan, volume),
        "ProjectionDataId": astra.data2d.create("-sino", scan, post.y[0].numpy()),
        "ReconstructionDataId": astra.data2d.create("-vol", volume, 0.0),
    }
    algorithm = astra.algorithm.create({"type": name, **ids})
    astra.algorithm.run(algorithm, 10)
    image = torch.from_numpy(astra.data2d.get(ids["ReconstructionDataId"]))
    astra.algorithm.delete(algorithm)
    # ten iterations add up the round-off of single precision; with our projector rays along the edges of pixels differ too
    assert (ours - image).norm() / image.norm() < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIRT", "CGLS"])
# 500 iterations fit the noise
@pytest.mark.filterwarnings("ignore:.* samples of .* are saturated")
def test_iterations_stop_where_the_residual_is_that_of_noise(name):
    post, truth = posterior(ParallelBeamCT((1, 32, 32), num_angles=20), noise=0.3, batch=(2,))
    x = catalogue.method(f"{name}(steps=500)")(post)[0]
    explained = residual(post, x)
    # it stops at the first estimate below 1; one more iteration at this stage changes the residual by some per cent
    assert (explained <= 1).all() and (explained > 0.8).all()
    longer = catalogue.method(f"{name}(steps=500, discrepancy=False)")(post)[0]
    assert ((x - truth) ** 2).mean() < 0.8 * ((longer - truth) ** 2).mean()  # what is left out is noise, mostly


def test_fbp_is_that_of_the_operator():
    A = ParallelBeamCT((1, 32, 32), num_angles=40)
    post, _ = posterior(A)
    assert torch.equal(catalogue.method("FBP(filter='cosine')")(post)[0], A.fbp(post.y, "cosine"))
    with pytest.raises(OptionError, match="filter of FBP must be one of .*, got 'cos'"):
        catalogue.method("FBP(filter='cos')")


def test_interpolation_and_inpainting():
    post, truth = posterior(Downsample((3, 32, 32), 4))
    for name in ("Bicubic", "PseudoInverse", "Adjoint"):
        x = catalogue.method(name)(post)[0]
        assert x.shape == truth.shape and metrics.psnr(x, truth, data_range=2.0) > 18
    post, truth = posterior(Mask.box((3, 32, 32), 8), noise=0.01)
    x = catalogue.method("Biharmonic")(post)[0]
    torch.testing.assert_close(post.A(x), post.y, atol=1e-5, rtol=0)
    hole = post.A.mask[0] == 0
    # smooth across the hole: far better there than zero, whose squared error is the mean square of the truth
    assert ((x - truth)[..., hole] ** 2).mean() < 0.1 * (truth[..., hole] ** 2).mean()
    # a plane is biharmonic, so that it is continued exactly up to the solver's rounding
    plane = (0.3 + 0.02 * torch.arange(24.0)[:, None] - 0.01 * torch.arange(24.0))[None]
    post = invgen.Posterior(GaussianPrior((1, 24, 24)), Mask.box((1, 24, 24), 8), 0.01, Mask.box((1, 24, 24), 8)(plane))
    torch.testing.assert_close(catalogue.method("Biharmonic")(post)[0], plane, atol=1e-4, rtol=0)


def test_wiener_finds_the_level_of_the_image_from_the_measurement():
    n, level, noise = 64, 1.6e5, 0.05
    f = torch.fft.fftfreq(n, 1 / n)
    S = level / (1 + f[:, None] ** 2 + f**2)
    white = torch.fft.fft2(torch.randn(3, n, n, generator=torch.Generator().manual_seed(0)))
    truth = torch.fft.ifft2(white * S.sqrt() / n).real
    truth = truth - truth.mean((-1, -2), keepdim=True) + 0.2
    A = Blur((3, n, n), gaussian_kernel(1.5))
    post, _ = posterior(A, noise, truth)
    x = catalogue.method("Wiener")(post)[0]
    H2, H = A.H[..., 0] ** 2 + A.H[..., 1] ** 2, torch.complex(A.H[..., 0], A.H[..., 1])
    N, half = n * n * noise**2, S[:, : n // 2 + 1]
    Y = torch.fft.rfft2(post.y - 0.2)
    known = torch.fft.irfft2((H.conj() * half / (H2 * half + N)).to(Y.dtype) * Y) + 0.2
    errors = [((v - truth) ** 2).mean().item() for v in (x, known)]
    # the level is estimated from 3 x 64^2 values: the loss against knowing it is of second order in its error
    assert errors[0] < 1.01 * errors[1]


def test_hio_explains_magnitudes_within_its_bounds():
    post, _ = posterior(PhaseRetrieval((1, 16, 16), 4.0), noise=0.02)
    x = catalogue.method("HIO(steps=300)")(post)[0]
    low, high = post.prior.value_range
    assert x.min() >= low and x.max() <= high and residual(post, x) < 1.5


def test_the_measurement_itself():
    A = HighDynamicRange((1, 16, 16))
    post, _ = posterior(A)
    assert torch.equal(catalogue.method("Measurement")(post)[0], post.y / 2)
    post, _ = posterior(JPEG((3, 16, 16), 50))
    assert torch.equal(catalogue.method("Measurement")(post)[0], post.y)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("FBP", "FBP needs ParallelBeamCT, FanBeamCT or ConeBeamCT, got BlockAverage"),
        ("SIRT", "SIRT needs ParallelBeamCT, FanBeamCT or ConeBeamCT"),
        ("Biharmonic", "Biharmonic needs a Mask of"),
        ("Wiener", "Wiener needs a CircularBlur"),
        ("HIO", "HIO needs a PhaseRetrieval"),
        ("Measurement", "Measurement needs a measurement of the shape of the signal"),
    ],
)
def test_a_method_that_does_not_fit_says_so(spec, sentence):
    post, _ = posterior(Downsample((1, 16, 16), 2))
    with pytest.raises(UnsupportedError, match=sentence):
        catalogue.method(spec)(post)


def test_names():
    assert type(catalogue.method("PiGDM")) is invgen.samplers.PiGDM  # the catalogue first
    with pytest.raises(OptionError, match="unknown sampler 'FBPP'; did you mean 'FBP'"):
        catalogue.method("FBPP")
    with pytest.raises(OptionError, match="weight of TV must be a positive number"):
        catalogue.method("TV(weight=-1)")


@pytest.mark.slow
def test_exact_draws_have_the_law_of_the_posterior():
    prior = GaussianPrior((3,), mean=torch.tensor([1.0, 0.0, -1.0]), var=torch.tensor([1.0, 4.0, 0.25]))
    A = Mask((3,), torch.tensor([1, 1, 0]))
    y = torch.tensor([[0.0, 2.0], [1.0, -3.0]])
    for noise in (invgen.Gaussian(0.5), invgen.Gaussian(torch.tensor([0.5, 0.1]))):
        post = invgen.Posterior(prior, A, noise, y)
        x = catalogue.method("Exact")(post, 4000, seed=3)
        assert x.shape == (4000, 2, 3)
        for k in range(2):
            law = prior.posterior(A, noise, y[k])
            # four standard errors of a mean and of a variance
            assert ((x[:, k].mean(0) - law.mean).abs() < 4 * (law.var / 4000).sqrt()).all()
            torch.testing.assert_close(x[:, k].var(0), law.var, rtol=4 * (2 / 4000) ** 0.5, atol=0)
        assert not torch.equal(x[:, 0] - x[:, 0].mean(0), x[:, 1] - x[:, 1].mean(0))
    with pytest.raises(UnsupportedError, match="Exact needs a prior whose posterior is known"):
        catalogue.method("Exact")(
            invgen.Posterior(invgen.priors.load("digits"), Identity((1, 32, 32)), 0.1, torch.zeros(1, 32, 32))
        )


@pytest.mark.parametrize("name", sorted(catalogue.others()))
def test_every_number_of_a_method_has_a_range(name):
    cls = catalogue.others()[name]
    for field in dataclasses.fields(cls):
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            # no count, size, weight, share or tolerance is negative
            with pytest.raises(OptionError, match=f"{field.name} of {name} must be "):
                cls(**{field.name: -1})
