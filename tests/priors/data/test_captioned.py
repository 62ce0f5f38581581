import io

import numpy as np
import pytest
import torch
from PIL import Image

from invgen.priors.data.captioned import COLOURS, CaptionedViews, captioned, edge_colour, nearest_captions
from invgen.priors.data.readable import DataError


def pictures():
    """Plain colours, each with a black middle: (7, 32, 32, 3), in the order of COLOURS."""
    plain = [(10, 10, 10), (120, 120, 120), (250, 250, 250), (40, 60, 200), (30, 160, 50), (120, 70, 40), (230, 200, 160)]
    images = np.repeat(np.array(plain, np.uint8)[:, None], 32 * 32, 1).reshape(7, 32, 32, 3)
    images[:, 8:24, 8:24] = 0
    return images


def test_the_colour_of_a_background_has_its_name():
    assert edge_colour(torch.from_numpy(pictures()).permute(0, 3, 1, 2)).tolist() == list(range(len(COLOURS)))


def test_pictures_are_read_as_jpeg_or_as_arrays(tmp_path):
    images, labels = pictures(), np.arange(7, dtype=np.uint8)
    parts = []
    for image in images:
        Image.fromarray(image).save(file := io.BytesIO(), "JPEG", quality=95, subsampling=0)
        parts.append(file.getvalue())
    offsets = np.cumsum([0, *map(len, parts)])
    np.savez(tmp_path / "train.npz", jpeg=np.frombuffer(b"".join(parts), np.uint8), offsets=offsets, labels=labels)
    np.savez(tmp_path / "test.npz", images=images, labels=labels)
    ours, plain = captioned(tmp_path), captioned(tmp_path, "test")
    assert ours[0].shape == (7, 3, 32, 32) and ours[1].tolist() == plain[1].tolist() == list(range(7))
    # one DCT block a colour is exact up to rounding, edges of blocks of one colour each too
    assert (ours[0].int() - plain[0].int()).abs().max() <= 3
    np.savez(tmp_path / "test.npz", images=images[:, :16], labels=labels)
    with pytest.raises(DataError, match="expected"):
        captioned(tmp_path, "test")
    with pytest.raises(DataError, match="there is no val.npz"):
        captioned(tmp_path, "val")


def test_a_caption_fits_its_picture():
    images = torch.from_numpy(pictures()).permute(0, 3, 1, 2)
    labels = torch.arange(7)
    plain = torch.zeros(10, 3, 4)
    plain[..., 0] = torch.arange(10.0)[:, None]
    coloured = torch.zeros(10, 7, 3, 4)
    coloured[..., 0], coloured[..., 1] = torch.arange(10.0)[:, None, None], 1 + torch.arange(7.0)[:, None]
    x, y, v = CaptionedViews(images, labels, (plain, coloured)).batch(200, torch.Generator().manual_seed(0))
    assert x.shape == (200, 3, 32, 32) and x.min() >= -1 and x.max() <= 1
    assert torch.equal(v[:, 0], y.float())  # the class of the caption is that of the picture
    told = v[:, 1] > 0
    assert torch.equal(v[told, 1], 1 + y[told].float())  # so is the colour: colour k is on picture k
    assert 70 <= told.sum() <= 130  # half of 200, four standard deviations of 7


def test_a_sentence_is_led_to_the_nearest_caption(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    known = torch.nn.functional.normalize(torch.randn(3, 4, 384, generator=generator), dim=2)
    monkeypatch.setattr("invgen.priors.data.captioned.captions", lambda names: known)
    near = torch.nn.functional.normalize(known[[2, 0], [1, 3]] + 0.02 * torch.randn(2, 384, generator=generator), dim=1)
    torch.testing.assert_close(nearest_captions(near), known[[2, 0], [1, 3]], rtol=0, atol=0)
