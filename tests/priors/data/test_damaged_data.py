"""Damaged files in a folder of training data: one sentence that names the file."""

import numpy as np
import pytest
from PIL import Image

from invgen.priors.data.ct import ct_slices
from invgen.priors.data.labelled import labelled
from invgen.priors.data.mr import heads
from invgen.priors.data.photographs import PhotoViews, photographs, read_picture
from invgen.priors.data.readable import DataError


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [cut_off, lambda p: p.write_text("hello"), lambda p: p.write_bytes(b"")])
def test_pictures(damage, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(picture).save(tmp_path / name)
    damage(tmp_path / "b.png")
    for read in (lambda: PhotoViews(photographs(tmp_path), 16), lambda: read_picture(tmp_path / "b.png")):
        with pytest.raises(DataError, match=r"b.png cannot be read \(.*\): repair it, or take it out of the folder"):
            read()


def objects(path):
    np.savez(path, A=np.array([{}], dtype=object), train_images=np.array([{}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize("damage", [cut_off, objects, lambda p: p.write_text("hello"), lambda p: p.write_bytes(b"")])
@pytest.mark.parametrize("read", [ct_slices, labelled, heads])
def test_arrays(read, damage, tmp_path):
    np.savez(tmp_path / "a.npz", A=np.zeros((4, 32, 32), np.int16))
    damage(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"a.npz cannot be read"):
        read(tmp_path)
