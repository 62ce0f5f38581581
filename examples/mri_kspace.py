"""Measured multi-coil k-space, an eighth of it sampled
====================================================

Each reconstruction predicts samples that it was not given. This script needs data that is not in the repository, so that
the gallery does not run it::

    python examples/mri_kspace.py brain_kspace_8coils.npy

The file: complex (coils, H, W), zero where nothing was measured, zero frequency at n // 2, its centre fully sampled; the
one this was written for comes with SigPy's tutorial (BSD-3-Clause). There is no image to compare with, so one sample in ten
outside the centre is left out, and half of these judge. Their own noise cannot be predicted; its share, from the outermost
samples, is printed as the floor.

Each method is there twice: with the weight that the noise level gives (SENSE and wavelets stop where the residual is that
of noise), and "tuned", with the weight that predicts the other half best (of the prior: the noise level that it is told).

The image is complex and the prior `mr` is of magnitudes: invgen.benchmarks.measured.kspace says how it serves.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import invgen
from invgen import operators, plots, priors, samplers
from invgen.benchmarks.measured.kspace import CENTRE, FILE, NearlyReal
from invgen.benchmarks.methods.mri import SENSE, L1Wavelet
from invgen.priors.data.fetch import data_folder

LEVELS = tuple(np.geomspace(1.0, 0.02, 24).tolist())  # the data leave no doubt about what is larger


def main(path: Path, prior: str, num_samples: int, picture: str) -> dict[str, float]:
    """Prints and returns the error of each method."""
    kspace = torch.from_numpy(np.load(path, allow_pickle=False)).to(torch.complex64)
    mask, size = kspace.abs().sum(0) > 0, tuple(kspace.shape[1:])
    maps = operators.espirit_maps(kspace, (CENTRE, CENTRE), threshold=0.05)

    centre = torch.zeros(size, dtype=torch.bool)
    top, left = ((n - CENTRE + 1) // 2 for n in size)
    centre[top : top + CENTRE, left : left + CENTRE] = True
    chance = torch.rand(size, generator=torch.Generator().manual_seed(0))
    tune, judge = mask & ~centre & (chance < 0.05), mask & ~centre & (chance > 0.95)
    given = mask & ~tune & ~judge

    def coils(where: Tensor) -> operators.MultiCoilMRI:
        return operators.MultiCoilMRI((2, *size), where, maps)

    A = coils(given)
    rough = A.prox(torch.zeros(1, *A.in_shape), A.measured(kspace)[None], 1.0, 0.03)[0]
    kspace = kspace / rough[0].clamp(min=0).quantile(0.995)  # as the prior's training data: nearly all in [0, 1]
    y = A.measured(kspace)
    rows, columns = ((torch.arange(n) - n // 2) / (n / 2) for n in size)
    outside = mask & (torch.hypot(rows[:, None], columns[None]) > 0.95)
    noise = torch.view_as_real(kspace[:, outside]).square().mean().sqrt().item()  # of each part; at most, with some signal

    def errors(x: Tensor, where: Tensor) -> Tensor:
        """Squared errors of the samples of a mask, summed over the coils, over their mean power."""
        truth = coils(where).measured(kspace)
        wrong = (coils(where)(x[None])[0] - truth).square().sum((0, 2))
        return wrong / truth.square().sum((0, 2)).mean()

    def best(method: Callable[[float], Tensor], weights: tuple[float, ...]) -> Tensor:
        return min((method(w) for w in weights), key=lambda x: errors(x, tune).mean().item())

    post = invgen.Posterior(priors.GaussianPrior(A.in_shape), A, noise, y)  # its prior is not looked at
    zero, wavelets = torch.zeros(1, *A.in_shape), L1Wavelet()(post)[0]
    seen = maps.abs().sum(0) > 0  # elsewhere there is nothing
    network = NearlyReal(priors.load(prior, shape=(1, *size)), seen)
    sampler = samplers.MMPS(schedule=LEVELS)

    def mean(level: float) -> Tensor:
        return invgen.solve(y, A, network, level, sampler, num_samples=num_samples, seed=0, max_batch=2).mean

    by_noise = mean(noise)
    found = {
        "zero-filling": A.adjoint(y[None])[0],
        "SENSE": SENSE()(post)[0],
        "l1-wavelet": wavelets,
        f"prior {prior}": by_noise,
        "SENSE, tuned": best(lambda w: A.prox(zero, y[None], 1.0, w)[0], (0.003, 0.01, 0.03, 0.1)),
        "l1-wavelet, tuned": best(lambda w: L1Wavelet(steps=60, threshold=w)(post)[0], (0.0025, 0.005, 0.01)),
        f"prior {prior}, tuned": best(lambda w: by_noise if w == 1 else mean(noise / w), (1, 1.5, 2.25)),
    }
    floor = 2 * len(kspace) * noise**2 / coils(judge).measured(kspace).square().sum((0, 2)).mean().item()
    print(
        f"in each of {len(kspace)} coils {int(given.sum())} of {mask.numel()} samples are given, {int(judge.sum())} judge"
    )
    print(
        f"relative error of samples that were left out (1: predicting zero; {floor**0.5:.3f}: their noise alone, at most)"
    )
    missed = {name: errors(x, judge) for name, x in found.items()}
    draw = torch.randint(len(missed["SENSE"]), (2000, len(missed["SENSE"])), generator=torch.Generator().manual_seed(1))
    for name, error in missed.items():
        ours = missed[f"prior {prior}" + (", tuned" if name.endswith("tuned") else "")]
        more = (error[draw].mean(1).sqrt() - ours[draw].mean(1).sqrt()).quantile(torch.tensor([0.025, 0.975])).tolist()
        against = "" if error is ours else f"   {more[0]:+.4f} to {more[1]:+.4f} more than the prior (95 %)"
        print(f"  {name:28s} {error.mean().sqrt():.4f}{against}")
    shown = torch.stack([torch.linalg.vector_norm(x, dim=0, keepdim=True) for x in found.values()])
    plots.show_samples(shown, (0.0, 1.0), picture)
    print(f"the picture is {picture}: {', '.join(found)}")
    return {name: error.mean().sqrt().item() for name, error in missed.items()}


# sphinx_gallery_thumbnail_path = "images/prior_mr.png"
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kspace", nargs="?", type=Path, default=data_folder() / "mr" / FILE)
    parser.add_argument("--prior", default="mr")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--picture", default="mri_kspace.png")
    args = parser.parse_args()
    if args.kspace.is_file():
        main(args.kspace, args.prior, args.samples, args.picture)
    else:
        print(f"there is no {args.kspace}; pass a k-space file, such as that of SigPy's tutorial")
