"""The judge of objects: what it learns, and how it is kept."""

import numpy as np
import pytest
import torch

from invgen.errors import WeightsError
from invgen.priors.cards.judges import object_judge
from invgen.priors.data.readable import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Noisy pictures of ten colours, the class of each its colour, in the files of CIFAR-10."""
    folder, rng = tmp_path_factory.mktemp("objects"), np.random.default_rng(0)
    colours = np.stack(np.meshgrid(*[(30, 225)] * 3), -1).reshape(8, 3).tolist() + [[128, 128, 128], [225, 128, 30]]
    for split, count in (("train", 320), ("test", 50)):
        labels = np.arange(count) % 10
        noisy = np.array(colours)[labels][:, None, None] + rng.normal(0, 20, (count, 32, 32, 3))
        np.savez(folder / f"{split}.npz", images=noisy.clip(0, 255).astype(np.uint8), labels=labels)
    return folder


def test_it_is_trained_once_and_kept(folder):
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    first = object_judge(folder, epochs=6, batch=32)
    # 60 steps leave the means of the batch normalisation behind; chance is .1, and its deviation for 50 pictures .04
    assert first.accuracy > 0.4
    assert torch.equal(first(x), first(x.flip(3)))  # each picture is seen both ways
    (folder / "train.npz").rename(folder / "away.npz")  # so that it cannot be trained again
    again = object_judge(folder)
    assert again.accuracy == first.accuracy and torch.equal(again(x), first(x))
    (folder / "away.npz").rename(folder / "train.npz")


def test_damaged_weights_and_missing_pictures_are_one_sentence(folder, tmp_path):
    path = folder / "judge.safetensors"
    if not path.exists():
        object_judge(folder, epochs=1, batch=32)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(WeightsError, match="is not a whole judge of objects: delete it"):
        object_judge(folder)
    path.write_bytes(whole)
    with pytest.raises(DataError, match="there is no train.npz"):
        object_judge(tmp_path)
