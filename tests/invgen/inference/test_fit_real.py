"""The report of `Result.fit` on real signals under the shipped priors: how often it alarms, on theirs and on others.

The figures of docs/guides/reading.md are of more signals; these are few, so that the test takes seconds.
"""

import pytest
import torch

import invgen
from invgen import operators, priors, samplers
from invgen.inference.fit import Fit
from invgen.priors.data.fetch import data_folder
from invgen.priors.data.held_out import held_out, held_out_photographs
from invgen.priors.data.labelled import labelled

pytestmark = pytest.mark.slow
SAMPLER = samplers.AdaptivePiGDM(steps=25)


def half_seen(prior: invgen.Denoiser, x: torch.Tensor, noise: float = 0.1) -> Fit:
    """The report on samples given half of the values of each signal."""
    A = operators.Mask.random(prior.shape, 0.5)
    y = invgen.Gaussian(noise).sample(A(x), torch.Generator().manual_seed(5))
    return invgen.solve(y, A, prior, noise, SAMPLER, num_samples=2).fit


@pytest.mark.skipif(
    not all((data_folder() / kind / f"{kind}.npz").is_file() for kind in ("digits", "clothing")),
    reason="`invgen data digits` and `invgen data clothing` fetch the test sets",
)
def test_digits_and_garments_under_the_prior_of_digits():
    kept = [labelled(data_folder() / kind, "test")[0] for kind in ("digits", "clothing")]
    digits, garments = (x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:12]] for x in kept)
    found = half_seen(priors.load("digits"), torch.cat([digits, digits.flip(-2), garments]))
    own, upside, other = found.elsewhere.split(12)
    assert own.sum() <= 1
    assert other.sum() >= 8
    assert upside.sum() <= 3  # strokes are strokes: the check does not see them, which the guide says


def test_photographs_under_the_prior_of_ct():
    """One by one they are hard to tell from scans of fine detail: a network of a few million weights denoises both."""
    prior = priors.load("ct", shape=(1, 64, 64))
    scan = held_out("ct")["pydicom CT_small"][0][None]
    photos = torch.stack([x.mean(0)[None, 32:96, 32:96] for x in held_out_photographs().values()])
    found = half_seen(prior, torch.cat([scan[..., :64, :64], scan[..., 32:96, 32:96], photos]))
    assert not found.elsewhere[:2].any()
    assert found.denoising[2:].mean() > 1.15 * found.denoising[:2].mean()  # 1.26 and 0.98; scans differ by 15 per cent
    assert found.elsewhere[2:].sum() <= 2  # of four: this check has little power here
