"""Shared by rows 9 and 13: a prior that takes vectors of sentences, sentences that its training had not, and a judge."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import invgen
from invgen import operators, priors, samplers
from invgen.benchmarks.gallery.judges import digit_classifier
from invgen.diffusion import Denoiser
from invgen.errors import WeightsError
from invgen.priors.cards.judges import object_judge
from invgen.priors.checkpoints.networks.unet import UNet, VectorDenoiser
from invgen.priors.data.captioned import captioned, nearest_captions
from invgen.priors.data.fetch import data_folder

# Two for each class in the order of `captioned.OBJECTS`; none has a name of a caption of the training.
SENTENCES = (
    "a glider high up in the sky, a biplane at an air show",
    "a taxi in the street, a limousine",
    "an owl on a branch, a gull by the sea",
    "a furry pet that meows, a purring pet with whiskers",
    "a moose in the woods, an animal with antlers in a meadow",
    "a golden retriever, a barking pet on a leash",
    "a slimy creature that croaks, a green animal on a lily pad",
    "a galloping thoroughbred, an animal with a saddle",
    "a yacht on the waves, a trawler in the harbour",
    "an eighteen-wheeler on the motorway, a heavy goods vehicle",
)
OTHER_OBJECTS = (8, 9, 0, 5, 7, 3, 3, 4, 0, 1)  # an airplane becomes a ship, a car a lorry, a cat a dog, ...
OTHER_GARMENTS = (3, 3, 4, 0, 2, 7, 0, 9, 0, 7)


@dataclass(frozen=True)
class Worded:
    """A prior with words.

    Attributes:
        prior: takes vectors of 384 values.
        texts, vectors, classes: sentences, n of them, their vectors, (n, 384), and what each asks for.
        judge: pictures -> logits of the classes.
        pictures, labels: real ones that neither the prior nor the judge has seen.
        known: pictures of the prior's training.
        near: for each class, the one into which row 13 turns it.
    """

    prior: VectorDenoiser
    texts: list[str]
    vectors: Tensor
    classes: list[int]
    judge: nn.Module
    pictures: Tensor
    labels: Tensor
    known: Tensor
    near: tuple[int, ...]

    @property
    def accuracy(self) -> float:
        """The share of the real pictures of which the judge names the class rightly."""
        return float((self.judge(self.pictures).argmax(1) == self.labels).float().mean())

    def right(self, samples: Tensor, wanted: int) -> list[bool]:
        """Returns whether the judge sees a class in each sample, (N, *shape)."""
        return (self.judge(samples).argmax(1) == wanted).tolist()

    def guided(self, k: int, scale: float) -> invgen.ClassifierFree:
        """Returns the prior guided towards sentence k."""
        return invgen.ClassifierFree.of(self.prior, self.vectors[k], scale=scale)


def objects() -> Worded:
    """Returns `cifar`, which was trained on captions of CIFAR-10.

    Raises:
        WeightsError: it has not been trained yet.
        DataError: CIFAR-10 is not in the folder of the data.
    """
    if "cifar" not in priors.names():
        raise WeightsError(
            "the prior cifar does not ship: train it (invgen train cifar --data CIFAR10 --out runs/cifar), then add it by "
            "python -m invgen.priors.cards cifar --data CIFAR10 --weights runs/cifar/cifar.safetensors; --quick needs none"
        )
    folder = data_folder() / "cifar"
    prior, judge = priors.load("cifar"), object_judge(folder)
    texts = [sentence for part in SENTENCES for sentence in part.split(", ")]
    with torch.inference_mode():
        vectors = nearest_captions(priors.sentence_encoder()(texts)).clone()
    x, y = captioned(folder, "test")
    known = captioned(folder)[0]
    known = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))[:3000]]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:1000]
    classes = [k for k in range(10) for _ in range(2)]
    return Worded(prior, texts, vectors, classes, judge, x[order] / 127.5 - 1, y[order], known / 127.5 - 1, OTHER_OBJECTS)


def garments(noise: float = 0.3) -> Worded:
    """Returns `clothing` with vectors in place of its classes, which needs no data and no encoder of sentences.

    Its embeddings of classes become a linear map of vectors: that of class k is what ten orthonormal vectors are mapped to,
    zeros to that of no class. What stands for a sentence is such a vector with some noise. Pictures are samples.
    """
    known = priors.load("clothing")
    options: dict[str, Any] = known.net.options | {"classes": 0, "vector": 384}
    net = UNet(**options)
    rest = known.net.state_dict()
    table, generator = rest.pop("label.weight"), torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(384, 10, generator=generator))[0]  # (384, 10)
    rest["given.weight"] = (table[:10] - table[10]).T @ basis.T
    rest["embed.2.bias"] = rest["embed.2.bias"] + table[10]  # what is added without a condition
    net.load_state_dict(rest)
    keys = ("sigma_min", "sigma_max", "value_range", "data_mean", "data_std")
    facts = {key: getattr(known, key) for key in keys}
    prior = VectorDenoiser(net.requires_grad_(False), known.shape, **facts)
    prior.mmse = known.mmse
    made = [invgen.sample(known.condition(k), 40, k, sampler="DPMSolver(steps=6)") for k in range(10)]
    x, y = torch.stack(made, 1).flatten(0, 1), torch.arange(10).repeat(40)
    vectors = basis.T + noise * torch.randn(10, 384, generator=generator) / 384**0.5
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    names = [f"garment {k}" for k in range(10)]
    judge = digit_classifier(x[100:], y[100:], epochs=20)
    return Worded(prior, names, vectors, list(range(10)), judge, x[:100], y[:100], x[100:], OTHER_GARMENTS)


def enlarged(x: Tensor) -> Tensor:
    """Returns a picture (C, H, W) with each pixel twice as wide and as high."""
    return x.repeat_interleave(2, 1).repeat_interleave(2, 2)


def noised_edit(prior: Denoiser, x: Tensor, draws: int, level: float, steps: int, seed: int) -> Tensor:
    """Returns SDEdit's pictures under a prior, (draws, *x.shape).

    Args:
        prior: guided by what is wanted.
        x: the source, (1, *shape).
        draws: how many.
        level: of noise to start from.
        steps, seed: of the sampler.
    """
    A, sampler = operators.Identity(prior.shape), samplers.SDEdit(steps=steps, sigma0=level)
    return invgen.solve(x, A, prior, invgen.Noiseless(), sampler, num_samples=draws, seed=seed).samples
