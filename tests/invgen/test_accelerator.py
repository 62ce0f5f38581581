"""No sampler's loop and no operator waits for an accelerator, or leaves a tensor on the processor: see `accelerator.py`."""

import dataclasses
import sys

import pytest
import torch

from invgen import operators
from invgen.forward import LinearOperator, SVDOperator
from invgen.method import Run
from invgen.sampler import Sampler
from invgen.samplers.smc.base import EnsembleSampler
from tests.invgen.accelerator import Accelerator, Elsewhere, Finished, HostRead
from tests.invgen.samplers.test_contract import ALL, FEWER, prior, problem_for, short


class Noise:
    """Stands for `Streams`, whose seeds are numbers of the processor."""

    def __init__(self, *_):
        pass

    def __call__(self, like):
        return torch.empty_like(like)

    uniform = __call__

    def every(self, step):
        return self


@pytest.fixture
def accelerator(monkeypatch):
    mode, last_state = Accelerator(), Sampler.last_state
    for module in list(sys.modules.values()):
        if module.__name__.startswith("invgen."):
            for name in ("streams", "Streams"):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, Noise)
    monkeypatch.setattr(
        Sampler, "last_state", lambda self, p, states, x, run: last_state(self, p, mode.watched(states), x, run)
    )
    return mode


@pytest.mark.slow  # a third of a second each
@pytest.mark.parametrize("cls", ALL, ids=lambda c: c.__name__)
def test_a_loop_does_not_wait(cls, accelerator, monkeypatch):
    few = {name: 2 for name, value in cls.options().items() if name in FEWER and type(value) is int and value > 2}
    post, sampler = problem_for(cls, prior(dtype=torch.float32)), dataclasses.replace(short(cls), steps=3, **few)
    monkeypatch.setattr(type(post.prior), "variance", lambda self, sigma: 0.5, raising=False)  # a table
    accelerator.move(post.prior)
    accelerator.move(post.A)
    object.__setattr__(post, "y", accelerator.there(post.y[None]))
    draws = torch.tensor([[0, 0]] if issubclass(cls, EnsembleSampler) else [[0, 0], [1, 0]])
    with accelerator, pytest.raises(Finished):
        sampler.draw_chunk(post.latent() if sampler._through_latent(post) else post, draws, 0, Run())


def test_what_waits_is_found(accelerator):
    x = accelerator.there(torch.zeros(3))
    accelerator.phase = "loop"
    with accelerator:
        for read in (
            lambda: bool(x.any()),
            lambda: x.sum().item(),
            lambda: x.cpu(),
            lambda: x.tolist(),
            lambda: x.nonzero(),
        ):
            with pytest.raises(HostRead):
                read()
        with pytest.raises(Elsewhere):
            x + torch.ones(3)
        assert (x + torch.ones(()) + 1).is_meta


KERNEL = operators.gaussian_kernel(1.0, 3)
MASK = operators.equispaced_mask(8, 2)
IMAGE = (3, 8, 8)
OPERATORS = {
    "Identity": lambda: operators.Identity(IMAGE),
    "Mask": lambda: operators.Mask.random(IMAGE, 0.5, seed=0),
    "Blur circular": lambda: operators.Blur(IMAGE, KERNEL),
    "Blur reflect": lambda: operators.Blur(IMAGE, KERNEL, "reflect"),
    "Blur valid": lambda: operators.Blur(IMAGE, KERNEL, "valid"),
    "Downsample": lambda: operators.Downsample(IMAGE, 2),
    "Decimate": lambda: operators.Decimate(IMAGE, 2),
    "Resize": lambda: operators.Resize(IMAGE, (4, 4)),
    "Grey": lambda: operators.Grey(IMAGE),
    "JPEG": lambda: operators.JPEG(IMAGE, 50),
    "Matrix": lambda: operators.Matrix(torch.eye(5)[:3]),
    "CompressedSensing": lambda: operators.CompressedSensing(IMAGE, 40),
    "HighDynamicRange": lambda: operators.HighDynamicRange(IMAGE),
    "PhaseRetrieval": lambda: operators.PhaseRetrieval(IMAGE),
    "NonlinearBlur": lambda: operators.NonlinearBlur(IMAGE),
    "Quantize": lambda: operators.Quantize(IMAGE, 8),
    "Fourier": lambda: operators.Fourier((2, 8, 8)),
    "MRI": lambda: operators.MRI((2, 8, 8), MASK),
    "MultiCoilMRI": lambda: operators.MultiCoilMRI((2, 8, 8), MASK, operators.birdcage_maps((4, 8, 8))),
    "LowPassDecimate": lambda: operators.LowPassDecimate((1, 64), 2),
    "chain": lambda: operators.Downsample(IMAGE, 2) @ operators.Blur(IMAGE, KERNEL),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "NonlinearBlur")) for n in OPERATORS])
def test_an_operator_does_not_wait(name, accelerator):
    A = OPERATORS[name]()

    def used(x):
        """Returns what each method gives, on the device of x."""
        y = A(x)
        yield y
        if isinstance(A, LinearOperator):
            yield A.adjoint(y)
        if isinstance(A, SVDOperator):  # conjugate gradients read their residual, every tenth iteration
            yield A.prox(x, y, 1.0, 0.1)
            yield A.weighted_adjoint(y, 1.0, 0.1)

    x = torch.zeros(2, *A.in_shape, dtype=A.in_dtype)
    list(used(x))  # what is made at the first use is made before a loop
    accelerator.move(A)
    accelerator.phase = "loop"
    with accelerator:
        assert all(value.is_meta for value in used(accelerator.there(x)))
