"""Denoisers of deepinv and azula here, and ours there: each equals the other library's own call, to 1e-5.

They run where the libraries import; deepinv needs a torchvision that fits torch.
"""

import math
import sys
import warnings

import pytest
import torch
from torch import Tensor, nn

from invgen import MissingExtraError, OptionError, Posterior, ShapeError, UnsupportedError, samplers
from invgen.operators import Mask
from invgen.priors import GaussianPrior
from invgen.priors.checkpoints.azula import from_azula, to_azula
from invgen.priors.checkpoints.deepinv import from_deepinv, to_deepinv

F64 = torch.float64


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def dinv():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import deepinv
    except Exception:  # not only ImportError: a torchvision of another build raises RuntimeError
        pytest.skip("deepinv does not import")
    return deepinv


@pytest.fixture(scope="module")
def azula():
    azula = pytest.importorskip("azula")
    pytest.importorskip("azula.denoise")
    return azula


# -- deepinv ---------------------------------------------------------------------------------------------------------------


def denoisers(dinv) -> dict[str, tuple[nn.Module, tuple[int, ...], dict]]:
    torch.manual_seed(0)
    m = dinv.models
    return {
        "DRUNet": (m.DRUNet(1, 1, nc=(4, 8, 8, 8), nb=1, pretrained=None), (1, 24, 20), {"sigma_max": 0.2}),
        "DnCNN": (m.DnCNN(1, 1, depth=3, nf=4, pretrained=None), (1, 16, 16), {"sigma_max": 0.1}),
        "DiffUNet": (m.DiffUNet(1, 1, large_model=False, pretrained=None), (1, 32, 32), {}),
        "NCSNpp": (
            m.NCSNpp(
                img_resolution=16,
                in_channels=1,
                out_channels=1,
                model_channels=32,
                channel_mult=(1,),
                num_blocks=1,
                attn_resolutions=(),
                pretrained=None,
            ),
            (1, 16, 16),
            {"sigma_max": 80.0},
        ),
        "MedianFilter": (m.MedianFilter(), (1, 12, 12), {"sigma_max": 0.3}),
    }


@pytest.mark.parametrize("name", ["DRUNet", "DnCNN", "DiffUNet", "NCSNpp", "MedianFilter"])
def test_a_denoiser_of_deepinv_is_its_own_call(dinv, name):
    net, shape, options = denoisers(dinv)[name]
    prior = from_deepinv(net, shape, **options)
    x, sigma = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)), torch.tensor([0.05, 0.1])
    with torch.no_grad():
        assert (prior(x, sigma) - net(x, sigma)).abs().max() < 1e-5
        assert (prior(x, 0.1) - net(x, 0.1)).abs().max() < 1e-5
    assert prior.value_range == (0, 1) and prior.shape == shape and prior(x.double(), 0.1).dtype == F64
    sym = prior.rescaled(2.0, -1.0)  # the same in [-1, 1]
    with torch.no_grad():
        assert (sym(2 * x - 1, 0.2) - (2 * net(x, 0.1) - 1)).abs().max() < 1e-5


def test_levels_are_known_or_asked_for(dinv):
    nets = denoisers(dinv)
    assert from_deepinv(nets["DiffUNet"][0], (1, 32, 32)).sigma_max == pytest.approx(78.7)
    with pytest.raises(OptionError, match="give sigma_max=.*DRUNet"):
        from_deepinv(nets["DRUNet"][0], (1, 24, 20))
    with pytest.raises(OptionError, match="expected a denoiser of deepinv, got function"):
        from_deepinv(lambda x, sigma: x, (1, 8, 8))
    with pytest.raises(ShapeError, match="expected the same shape"):
        from_deepinv(Halved(), (1, 8, 8), sigma_max=1.0)(torch.zeros(2, 1, 8, 8), 0.1)


class Halved(nn.Module):
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x[..., ::2]


def test_a_problem_with_a_denoiser_of_deepinv(dinv):
    points = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    net = dinv.models.MMSE(dataloader=points, device=torch.device("cpu"))  # the exact denoiser of a set of images
    prior = from_deepinv(net, (1, 6, 6), sigma_min=0.01, sigma_max=20.0)
    A = Mask(prior.shape, (normal(1, 6, 6) > 0).float())
    y = A(points[3]) + 0.02 * normal(*A(points[3]).shape, seed=4)
    x = samplers.PiGDM(steps=40)(Posterior(prior, A, 0.02, y), num_samples=4, seed=0)
    assert (x - points[3]).abs().max() < 0.1  # only this image explains the measurement


def test_ours_as_a_denoiser_of_deepinv(dinv):
    prior = GaussianPrior((1, 8, 8), 0.5, 0.04, value_range=(0.0, 1.0))
    net = to_deepinv(prior)
    x = normal(3, 1, 8, 8)
    assert isinstance(net, dinv.models.Denoiser)
    for sigma in (0.3, torch.tensor(0.3), torch.tensor([0.3]), torch.tensor([0.3, 0.3, 0.3]).reshape(3, 1, 1, 1)):
        assert torch.allclose(net(x, sigma), prior(x, 0.3), atol=1e-6)
    again = from_deepinv(net, prior.shape, sigma_max=10.0)
    assert torch.allclose(again(x, torch.tensor([0.1, 0.2, 0.3])), prior(x, torch.tensor([0.1, 0.2, 0.3])), atol=1e-6)
    with pytest.raises(OptionError, match=r"prior.rescaled\(0.5, 0.5\)"):
        to_deepinv(GaussianPrior((1, 8, 8), value_range=(-1.0, 1.0)))
    with pytest.raises(OptionError, match="expected an invgen Denoiser"):
        to_deepinv(nn.Identity())


def test_ours_in_an_algorithm_of_deepinv(dinv):
    prior = GaussianPrior((1, 8, 8), 0.5, 0.04, value_range=(0.0, 1.0))
    physics = dinv.physics.Denoising(dinv.physics.GaussianNoise(0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = dinv.sampling.DDRM(denoiser=to_deepinv(prior), sigmas=torch.linspace(1, 0.01, 20).numpy())
        y = physics(prior.sample(1, seed=1))
        x = model(y, physics)
    exact = prior.posterior(Mask((1, 8, 8), torch.ones(1, 8, 8)), 0.1, y.flatten())
    assert (x.flatten() - exact.mean.flatten()).abs().mean() < 0.1


# -- azula -----------------------------------------------------------------------------------------------------------------


def schedules(azula) -> dict[str, object]:
    n = azula.noise
    return {
        "VE": n.VESchedule(0.01, 50.0),
        "VP": n.VPSchedule(),
        "cosine": n.CosineSchedule(),
        "rectified": n.RectifiedSchedule(),
        "decay": n.DecaySchedule(),
    }


class Backbone(nn.Module):
    """Depends on its time, and on a label if it gets one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        out = self.net(x) * torch.sin(t).reshape(-1, 1, 1, 1)
        return out if label is None else out + label.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("precondition", ["SimpleDenoiser", "KarrasDenoiser"])
@pytest.mark.parametrize("name", ["VE", "VP", "cosine", "rectified", "decay"])
def test_a_denoiser_of_azula_is_its_own_call(azula, name, precondition):
    torch.manual_seed(0)
    schedule = schedules(azula)[name]
    theirs = getattr(azula.denoise, precondition)(Backbone().double(), schedule)
    prior = from_azula(theirs, (1, 8, 8), data_std=0.5)
    t = torch.tensor([0.05, 0.3, 0.7, 0.95], dtype=F64)
    alpha, noise = schedule(t)
    x_t = alpha.reshape(-1, 1, 1, 1) * normal(4, 1, 8, 8, dtype=F64) + noise.reshape(-1, 1, 1, 1) * normal(
        4, 1, 8, 8, seed=1, dtype=F64
    )
    got = prior(x_t / alpha.reshape(-1, 1, 1, 1), noise / alpha)
    want = theirs(x_t, t).mean
    assert (got - want).abs().max() < 1e-5 * want.abs().max().clamp(min=1)
    assert prior.dtype == F64 and prior.sigma_max == pytest.approx(
        (schedule(t[-1:] * 0 + 1)[1] / schedule(t[-1:] * 0 + 1)[0]).item()
    )
    time, scale = prior.time(noise / alpha)
    assert (time - t).abs().max() < 1e-6 and (scale - alpha).abs().max() < 1e-6


def test_conditions_of_azula(azula):
    theirs = azula.denoise.KarrasDenoiser(Backbone().double(), azula.noise.VESchedule())
    prior = from_azula(theirs, (1, 8, 8))
    x, sigma = normal(3, 1, 8, 8, dtype=F64), torch.full((3,), 0.5, dtype=F64)
    t, _ = prior.time(sigma)
    want = theirs(x, t, label=torch.full((3,), 2.0, dtype=F64)).mean
    assert torch.allclose(prior.condition(torch.tensor(2.0, dtype=F64))(x, 0.5), want, atol=1e-8)
    assert torch.allclose(prior.condition({"label": torch.full((3,), 2.0, dtype=F64)})(x, 0.5), want, atol=1e-8)


@pytest.mark.parametrize("name", ["VE", "VP", "rectified", None])
def test_ours_as_a_denoiser_of_azula_and_in_its_sampler(azula, name):
    prior = GaussianPrior((3,), 0.5, 0.04)
    schedule = None if name is None else schedules(azula)[name]
    theirs = to_azula(prior, schedule)
    assert isinstance(theirs, azula.denoise.Denoiser)
    t = torch.tensor(0.6)
    alpha, noise = theirs.schedule(t)
    x = normal(5, 3)
    want = prior(x / alpha, (noise / alpha).item())
    assert torch.allclose(theirs(x, t).mean, want, atol=1e-5)
    assert torch.allclose(theirs(x, t.expand(5)).mean, want, atol=1e-5)
    sampler = azula.sample.DDIMSampler(theirs, steps=64, silent=True)
    torch.manual_seed(0)
    samples = sampler(sampler.init((2000, 3)))
    assert samples.mean().item() == pytest.approx(0.5, abs=0.03) and samples.std().item() == pytest.approx(0.2, rel=0.15)
    again = from_azula(theirs, (3,))
    sigma = torch.tensor([0.05, 0.1, 0.5, 1.0, 5.0])
    assert torch.allclose(again(x, sigma), prior(x, sigma), atol=1e-5)


def test_bad_input_of_azula(azula):
    with pytest.raises(OptionError, match="with a schedule, got Linear"):
        from_azula(nn.Linear(2, 2), (2,))
    backwards = azula.denoise.SimpleDenoiser(Backbone(), azula.noise.VESchedule(50.0, 0.01))
    with pytest.raises(OptionError, match="grows with t"):
        from_azula(backwards, (1, 8, 8))
    with pytest.raises(UnsupportedError, match="takes no label"):
        to_azula(GaussianPrior((3,)))(torch.zeros(1, 3), torch.tensor(0.5), label=1)
    with pytest.raises(OptionError, match="expected an invgen Denoiser"):
        to_azula(nn.Identity())
    assert math.isfinite(
        from_azula(azula.denoise.SimpleDenoiser(Backbone(), azula.noise.VPSchedule()), (1, 8, 8)).sigma_max
    )


# -- without the packages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["deepinv", "azula"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package):
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    prior = GaussianPrior((3,), value_range=(0.0, 1.0))
    with pytest.raises(MissingExtraError, match=rf"pip install 'invgen-solvers\[{package}\]'"):
        to_deepinv(prior) if package == "deepinv" else to_azula(prior)


def test_a_missing_deepinv_of_an_operator(monkeypatch):
    from invgen.operators.peers.deepinv import to_deepinv as as_physics

    for name in [n for n in sys.modules if n.split(".")[0] == "deepinv"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "deepinv", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'invgen-solvers\[deepinv\]'"):
        as_physics(Mask((3,), torch.ones(3)))
