"""Sound sample by sample: causal, the same with its memory as without, and written and read by a training."""

import math

import numpy as np
import pytest
import torch
from scipy.io import wavfile

import invgen
from invgen import operators, priors, samplers
from invgen.priors.checkpoints.networks.wavenet import WaveNet, mu_law, mu_law_levels
from invgen.priors.training.digits_family import train


def small(length=24):
    torch.manual_seed(0)
    return WaveNet(width=6, layers=4, length=length).prior()


def test_levels_come_back_and_are_finer_where_it_is_soft():
    levels = mu_law_levels()
    assert torch.equal(mu_law(levels), torch.arange(256))
    assert levels[0] == -1 and levels[-1] == 1 and levels.diff()[127] < levels.diff()[0] / 20


@pytest.mark.slow
def test_the_memory_changes_nothing_and_later_samples_do_not_count():
    prior = small()
    tokens = torch.randint(256, (3, 24), generator=torch.Generator().manual_seed(1))
    whole, memory = prior.logits(tokens), []
    steps = [prior.step(tokens[:, i - 1 : i] if i else tokens[:, :0], memory) for i in range(24)]
    torch.testing.assert_close(torch.stack(steps, 1), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(prior.next_logits(tokens[:, :10]), whole[:, 10], atol=1e-5, rtol=0)
    other = tokens.clone()
    other[:, 10:] = 0
    torch.testing.assert_close(prior.logits(other)[:, :11], whole[:, :11], atol=1e-5, rtol=0)
    assert prior.sample(2, seed=0).shape == (2, 1, 24)


def test_a_gap_is_filled_and_what_is_known_stays():
    prior = small()
    prior.measure_moments(prior.sample(40, seed=1))
    x = prior.sample(1, seed=3)[0]
    keep = torch.ones(24, dtype=torch.bool)
    keep[10:14] = False
    A = operators.Mask((1, 24), keep)
    found = invgen.solve(A(x[None])[0], A, prior, 0.01, samplers.AutoregressiveSMC(particles=8), seed=0)
    error = (found.samples[0] - x)[..., keep].abs()
    assert error.max() < 0.1  # levels around full scale are .04 apart, and noise of .01 tells them


@pytest.mark.slow
def test_a_training_writes_what_load_reads_at_any_length(tmp_path):
    t = np.arange(9000) / 16_000
    wave = (8000 * np.sin(2 * math.pi * 300 * t)).astype(np.int16)
    for number in (1, 561):  # one to train on, one of those that are held out
        wavfile.write(tmp_path / f"ru_{number:04d}.wav", 16_000, wave)
    path = train("speech-ar", tmp_path / "out", tmp_path, steps=2, batch=1, progress=False)
    prior = priors.load(path, (1, 32))
    assert tuple(prior.shape) == (1, 32) and prior.sampling_rate == 16_000
    x = torch.from_numpy(wave[None, None, :32] / 32768.0).float()
    assert prior.log_prob(x).item() < 0
