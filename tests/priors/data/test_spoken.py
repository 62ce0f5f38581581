"""Spoken digits as log-mel pictures: both layouts of the set, its split, and the operator that measures the pictures."""

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from invgen.operators import MelSpectrogram
from invgen.priors.data import spoken
from invgen.priors.data.readable import DataError
from invgen.priors.data.spoken import SpokenViews, pictures, recordings


def tone(digit: int, speaker: int, length: int = 4000) -> np.ndarray:
    """A tone whose pitch tells the digit, and whose loudness the speaker."""
    t = np.arange(length) / spoken.RATE
    return (1000 * (1 + speaker) * np.sin(2 * np.pi * 200 * (1 + digit) * t)).astype(np.int16)


@pytest.fixture
def packed(tmp_path):
    facts = [(d, s, k) for d in (0, 7) for s in range(2) for k in (0, 4, 5)]
    waves = [tone(d, s, 9000 if k == 5 else 4000) for d, s, k in facts]
    columns = dict(zip(("digits", "speakers", "index"), map(np.array, zip(*facts, strict=True)), strict=True))
    offsets = np.cumsum([0, *map(len, waves)])
    np.savez(tmp_path / "recordings.npz", samples=np.concatenate(waves), offsets=offsets, rate=np.array(8000), **columns)
    return tmp_path


def test_the_first_five_recordings_of_a_voice_are_held_out(packed):
    waves, digits, speakers = recordings(packed)
    assert digits.tolist() == [0, 0, 7, 7] and speakers.tolist() == [0, 1, 0, 1]
    assert waves.shape == (4, spoken.LENGTH)
    assert len(recordings(packed, "test")[0]) == 8
    # every voice has the same peak
    torch.testing.assert_close(waves.abs().amax(1), torch.full((4,), spoken.PEAK), rtol=1e-3, atol=0)


def test_the_published_files_are_read_as_the_packed_ones(packed, tmp_path):
    folder = tmp_path / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    for digit in (0, 7):
        for speaker, name in enumerate(("ann", "bo")):
            for index in (0, 5):
                wavfile.write(folder / f"{digit}_{name}_{index}.wav", 8000, tone(digit, speaker, 9000))
    (packed / "recordings.npz").rename(packed / "packed.bin")
    waves, digits, speakers = recordings(tmp_path)
    (packed / "packed.bin").rename(packed / "recordings.npz")
    there = recordings(packed)
    assert torch.equal(digits, there[1]) and torch.equal(speakers, there[2])
    torch.testing.assert_close(waves, there[0], rtol=0, atol=1e-4)  # 16 bits of full scale


def test_the_operator_measures_the_pictures(packed):
    waves = recordings(packed)[0]
    A = MelSpectrogram(
        (1, spoken.LENGTH), spoken.RATE, spoken.BANDS, window=spoken.WINDOW, hop=spoken.HOP, floor=spoken.FLOOR
    )
    torch.testing.assert_close((A(waves[:, None]) - spoken.MIDDLE) / spoken.SCALE, pictures(waves), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pictures(torch.zeros(1, spoken.LENGTH)), torch.full((1, 1, 64, 64), -1.0), rtol=0, atol=0.01)


def test_views_tell_digit_and_speaker_and_move_the_sound(packed):
    views = SpokenViews(*recordings(packed))
    x, digits, speakers = views.batch(16, torch.Generator().manual_seed(0))
    assert x.shape == (16, 1, 64, 64) and speakers.sum(1).eq(1).all() and speakers.shape == (16, 6)
    # the pitch of 7 is eight times that of 0: its loudest band is higher
    bands = x.amax(3)[:, 0].argmax(1)
    assert bands[digits == 7].min() > bands[digits == 0].max()
    same = (digits == 0) & (speakers[:, 0] == 1)
    assert len(x[same].flatten(1).unique(dim=0)) > 1


def test_what_is_no_set_of_spoken_digits_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"reads recordings\.npz, or DIGIT_SPEAKER_INDEX\.wav"):
        recordings(tmp_path)
    np.savez(
        tmp_path / "recordings.npz", samples=tone(0, 0), offsets=np.array([0, 4000]), digits=np.array([0]),
        speakers=np.array([0]), index=np.array([9]), rate=np.array(16000),
    )  # fmt: skip
    with pytest.raises(DataError, match="16000 Hz"):
        recordings(tmp_path)
