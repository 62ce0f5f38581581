"""Molecules from distances: pieces of real proteins from 8 or 32 of 91 noisy distances, with the right handedness."""

import warnings
from pathlib import Path

import numpy as np
import torch

import invgen
from invgen import operators, samplers
from invgen.benchmarks.gallery.rows import Figure, Row, bootstrap, share
from invgen.benchmarks.gallery.sequences import proteins
from invgen.metrics import rmsd

NOISE = 0.3  # angstrom


def run(out: Path, quick: bool = False) -> Row:
    """Draws structures given some distances between C-alpha atoms at least three places apart."""
    prior, truth = proteins.load()
    truth = truth[:6] if quick else truth
    smc = samplers.TemperedSMC(
        steps=20, particles=200 if quick else 600, draws=20 if quick else 40, moves=8 if quick else 10
    )
    figures, drawn = [], {}
    for count, most in ((32, 1.5),) if quick else ((8, 2.5), (32, 1.5)):
        A = operators.Distances.random(prior.shape, count, apart=3, seed=count)
        y = invgen.Gaussian(NOISE).sample(A(truth), torch.Generator().manual_seed(0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # some chains miss a structure: counted in the median
            x = invgen.solve(y, A, prior, NOISE, smc, num_samples=40, max_batch=600).samples
        best = proteins.middle(x)
        right, mirrored = rmsd(best, truth), rmsd(best, truth, mirror=True)
        classical = proteins.scaling(y, A.pairs, truth)
        alone = rmsd(prior.sample(len(truth), seed=1), truth).median()
        known = {tuple(p) for p in A.pairs.tolist()}
        rest = [p for p in torch.triu_indices(16, 16, 3).T.tolist() if tuple(p) not in known]
        far = operators.Distances(prior.shape, rest)
        d, true = torch.stack([far(one) for one in x]), far(truth)
        low, high = d.quantile(0.05, 0), d.quantile(0.95, 0)
        inside = ((low < true) & (true < high)).float().mean(1)
        what = f"{count} of 91 distances: "
        figures += [
            Figure(
                f"{what}median RMSD",
                *bootstrap(np.median, right.tolist()),
                "A",
                most=float(classical.median()) if quick else most,  # the reduced form has few particles
                baseline=f"scaling, better mirror {classical.median():.2f}, prior {alone:.2f}",
            ),
            Figure(f"{what}handedness right", *share((right < mirrored).tolist()), least=None if quick else 0.95),
            Figure(f"{what}90 % intervals of the others cover", *bootstrap(np.mean, inside.tolist()), baseline="0.90"),
        ]
        drawn[count] = x
    proteins.draw(drawn, truth, out / "molecules.png")
    note = (
        f"{len(truth)} pieces of 16 residues of unseen proteins; the sample nearest to the others counts. Random "
        "walks in 40 angles mix slowly: the particles of a chain descend from few, and their intervals are too narrow."
    )
    return Row(21, tuple(figures), (out / "molecules.png",), note)
