"""Chains of atoms: angles there and back, and the mixture that is drawn from standard normals."""

import torch

from invgen.benchmarks.gallery.sequences import proteins
from invgen.metrics import rmsd
from invgen.priors import AngleMixture
from invgen.priors.laws.chains import build, features


def test_real_chains_are_rebuilt_from_their_angles():
    _, pieces = proteins.load()
    f = torch.as_tensor(features(pieces.numpy()))
    back = build(1.8 + 0.3 * f[:, :14], f[:, 14:27], f[:, 27:])
    # bonds of real chains differ from 3.8 angstrom by 0.02
    assert rmsd(back, pieces).max() < 0.2 and rmsd(back, pieces, mirror=True).median() > 1.5
    bond = (back[:, 1:] - back[:, :-1]).norm(dim=-1)
    torch.testing.assert_close(bond, torch.full_like(bond, 3.8))


def test_components_have_their_weights():
    means = 2 * torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    prior = AngleMixture(means, torch.tensor([0.3, 0.7]), torch.zeros(2, 7, 7))
    assert prior.shape == (5, 3) and prior.latent_shape == (8,)
    x = prior.sample(2000, seed=1)
    first = build(
        *((1.8 + 0.3 * means[:1, :3]), *torch.nn.functional.normalize(means[:1, 3:].reshape(1, 2, 2), dim=1).unbind(1))
    )
    share = (rmsd(x, first) < 0.02).float().mean()
    assert abs(share - 0.3) < 0.031  # 2000 draws: right to 0.0103; three
