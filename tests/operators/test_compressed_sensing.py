import copy
import pickle

import pytest
import torch
from scipy.fft import dct
from scipy.linalg import hadamard

from invgen import check_operator
from invgen.errors import OptionError
from invgen.operators import CompressedSensing
from invgen.operators import compressed_sensing as module

KINDS = ["gaussian", "hadamard", "dct"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [1, 7, 32])
def test_keeps_the_contract(kind, m):
    check_operator(CompressedSensing((2, 4, 4), m, kind))
    check_operator(CompressedSensing((2, 4, 4), m, kind), dtype=torch.float32)


def test_gaussian_rows_have_variance_one_over_m():
    A = CompressedSensing((16, 16), 100)
    # 25600 numbers: the standard error of their variance is sqrt(2 / 25600) = 0.9 % of it
    assert abs(100 * A.matrix.double().var().item() - 1) < 0.04
    got = A.s.sort(descending=True).values
    assert torch.allclose(got[:100], torch.linalg.svdvals(A.matrix.double()), atol=1e-12) and not got[100:].any()


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 64, 128, 4096])
def test_hadamard_is_that_of_scipy(n):
    x = torch.randn(3, n, dtype=torch.float64)
    assert torch.allclose(module.hadamard(x), x @ torch.from_numpy(hadamard(n) / n**0.5).T, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 7, 12, 64])
def test_dct_is_that_of_scipy(n):
    x = torch.randn(3, n, dtype=torch.float64)
    assert torch.allclose(module.dct(x), torch.from_numpy(dct(x.numpy(), norm="ortho")), atol=1e-13)
    assert torch.allclose(module.idct(module.dct(x)), x, atol=1e-13)


@pytest.mark.parametrize("kind", ["hadamard", "dct"])
def test_fast_kinds_are_rows_of_the_transform_of_the_signed_signal(kind):
    A = CompressedSensing((4, 8), 10, kind, seed=3)
    full = hadamard(32) / 32**0.5 if kind == "hadamard" else dct(torch.eye(32).numpy(), norm="ortho", axis=0)
    want = torch.from_numpy(full).double()[A.rows] * A.signs.double()
    got = A(torch.eye(32, dtype=torch.float64).reshape(32, 4, 8)).T
    assert torch.allclose(got, want, atol=1e-7)  # scipy's cosine transform of single precision input
    assert set(A.signs.tolist()) == {-1.0, 1.0} and len(A.rows.unique()) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_depends_on_the_seed_alone(kind):
    state, x = torch.random.get_rng_state(), torch.randn(1, 4, 4)
    after = torch.random.get_rng_state()
    y = CompressedSensing((4, 4), 5, kind, seed=1)(x)
    assert torch.equal(CompressedSensing((4, 4), 5, kind, seed=1)(x), y)
    assert CompressedSensing((4, 4), 5, kind, seed=2)(x).ne(y).any()
    assert torch.equal(torch.random.get_rng_state(), after) and state is not None


@pytest.mark.parametrize("kind", KINDS)
def test_copies_conversions_and_files(kind):
    A, x = CompressedSensing((4, 4), 5, kind), torch.randn(1, 4, 4, dtype=torch.float64)
    A.pinv(A(x))  # what is computed on first use is copied too
    for other in (copy.deepcopy(A), pickle.loads(pickle.dumps(A)), copy.deepcopy(A).to(torch.float64)):
        assert type(other) is type(A) and torch.equal(other(x), A(x))


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"num_measurements": 5, "kind": "fourier"}, "'gaussian', 'hadamard', 'dct', got 'fourier'"),
        ({"num_measurements": 0}, "must be a positive whole number, got 0"),
        ({"num_measurements": 13}, "from 1 to 12"),
        ({"num_measurements": 2.5}, "must be a positive whole number, got 2.5"),
        ({"num_measurements": 5, "kind": "hadamard"}, "needs 2\\^k values, in_shape \\(3, 4\\) has 12; use 'dct'"),
    ],
)
def test_bad_options_are_named(options, sentence):
    with pytest.raises(OptionError, match=sentence):
        CompressedSensing((3, 4), **options)
