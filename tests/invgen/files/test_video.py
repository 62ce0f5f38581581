import pytest
import torch
from PIL import Image

from invgen.errors import FileError, ShapeError
from invgen.files.video import read_clip, side_by_side, write_clip


def clip():
    """A square that moves two pixels a frame: (1, 5, 16, 32)."""
    x = torch.zeros(1, 5, 16, 32)
    for k in range(5):
        x[:, k, 4:12, 4 + 2 * k : 12 + 2 * k] = 1
    return x


def test_a_gif_has_the_frames(tmp_path):
    x = side_by_side(clip(), 1 - clip())
    with Image.open(write_clip(tmp_path / "clip.gif", x, rate=5)) as image:
        assert image.n_frames == 5 and image.size == (64, 16) and image.info["duration"] == 200
        image.seek(3)
        assert image.convert("L").getpixel((12, 8)) == 255 and image.convert("L").getpixel((44, 8)) == 0
    with pytest.raises(ShapeError, match="one height and length"):
        side_by_side(clip(), clip()[:, :3])
    with pytest.raises(ShapeError, match="a clip is"):
        write_clip(tmp_path / "clip.gif", clip()[0])


@pytest.mark.slow
def test_a_video_comes_back(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    path = write_clip(tmp_path / "clip.mp4", clip(), rate=10)
    found = read_clip(path, frames=3, start=1)
    assert found.values.shape == (3, 3, 16, 32) and "3 frames at 10 a second" in found.notes[0]
    # 8 bits of a coder with losses: edges ring, the mean over a frame is kept to 3 per cent
    assert (found.values - clip()[:, 1:4]).abs().mean() < 0.03
    (tmp_path / "bad.mp4").write_bytes(b"no clip at all")
    with pytest.raises(FileError, match="cannot be read as a clip"):
        read_clip(tmp_path / "bad.mp4")
    with pytest.raises(FileError, match="has no frame 50"):
        read_clip(path, start=50)
    with pytest.raises(FileError, match="there is no clip"):
        read_clip(tmp_path / "none.mp4")
