"""Vision as inverse graphics: the coin behind half a photograph, and the shape behind a noisy picture, by a renderer."""

from pathlib import Path

import numpy as np
import torch
from torch.distributions import Categorical, LogNormal, Normal

import invgen
from invgen import operators, priors, samplers
from invgen.benchmarks.gallery.pictures import scenes
from invgen.benchmarks.gallery.rows import Figure, Row, bootstrap, mean, share

TWO = torch.zeros(2)


def scene_priors() -> tuple[priors.Scene, priors.Scene]:
    """Returns the priors of a coin and of a shape, whose parameters are in pixels of the crop."""
    x = y = Normal(32.0, 5.0)
    round_, light, ground = Normal(0.0, 0.05), Normal(0.6, 0.15), Normal(0.25, 0.12)
    law = {"x": x, "y": y, "radius": LogNormal(np.log(22.0), 0.2), "stretch": round_, "skew": round_, "light": light}
    one = priors.Scene(
        lambda **p: scenes.coin(16, **p), **law, ground=ground, slope=Normal(TWO, TWO + 0.05), edge=LogNormal(0.0, 0.5)
    )
    kinds = {"x": x, "y": y, "radius": LogNormal(np.log(14.0), 0.2), "light": light, "kind": Categorical(torch.ones(3))}
    return one, priors.Scene(scenes.shape, **kinds)


def run(out: Path, quick: bool = False) -> Row:
    """Finds coins of which the right half is hidden, and kinds of shapes under noise."""
    one, kinds = scene_priors()
    x, truth = scenes.crops(turns=1 if quick else 4, every=3 if quick else 1)  # each coin, its four halves hidden in turn
    y, A = x[..., :16], operators.Identity(one.shape)
    smc = samplers.TemperedSMC(steps=20, particles=100 if quick else 200, draws=100 if quick else 200, moves=3)
    rough = invgen.solve(y, A, one, invgen.InferredLevel(0.1), smc, num_samples=smc.draws, max_batch=200)
    law = invgen.InferredLevel.of_residual(y - A(rough.mean))  # a renderer is not exact: its misfit has spots
    found = invgen.solve(y, A, one, law, smc, num_samples=smc.draws, max_batch=200).scene
    error = (torch.stack([found[k].mean for k in ("x", "y", "radius")], 1) - truth).abs()
    inside, white = scenes.covered(found, truth), scenes.covered(rough.scene, truth)
    hough = (scenes.hough(x) - truth).abs().mean(0)
    z = torch.randn(30 if quick else 300, *kinds.latent_shape, generator=torch.Generator().manual_seed(1))
    true = kinds.scene(z)
    noisy = invgen.Gaussian(0.1).sample(kinds(z), torch.Generator().manual_seed(2))
    named = invgen.solve(noisy, operators.Identity(kinds.shape), kinds, 0.1, smc, num_samples=50, max_batch=200).scene
    right = named["kind"].probabilities.argmax(-1) == true["kind"].samples
    per_coin = [
        v.reshape(-1, len(x) // (1 if quick else 4)).mean(0).tolist() for v in (error[:, :2].mean(1), error[:, 2], inside)
    ]
    figures = (
        Figure(
            "coins: error of the centre, a coordinate",
            *mean(per_coin[0]),
            "px",
            most=1,
            baseline=f"Hough {hough[:2].mean():.2f}",
        ),
        Figure("coins: error of the radius", *mean(per_coin[1]), "px", most=1, baseline=f"Hough {hough[2]:.2f}"),
        Figure(
            "coins: 90 % intervals that cover",
            *bootstrap(np.mean, per_coin[2]),
            least=0.8,
            most=0.95,
            baseline=f"white noise {white.mean():.2f}",
        ),
        Figure("shapes: kind right", *share(right.tolist()), least=0.9 if quick else 0.97, baseline="chance 0.33"),
    )
    scenes.draw(x, found, truth, noisy, named, out / "inverse_graphics.png")
    return Row(
        1,
        figures,
        (out / "inverse_graphics.png",),
        f"{len(per_coin[0])} coins of scikit-image, half of each hidden; noise {law}.",
    )
