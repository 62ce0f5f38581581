"""Training data of the prior `cifar`: small colour pictures with a class and a caption each (CIFAR-10).

The set has classes only. A caption is a name of the class, in one of several wordings, and now and then the colour that the
edge of the picture has: "a kitten", "a photo of a lorry", "a toad on a green background".
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from invgen.priors.checkpoints.sentences import sentence_encoder
from invgen.priors.data.readable import DataError, readable

OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLOTHES_NAMES = (
    "T-shirt, tee, top, T-shirt with short sleeves, tank top, summer top",
    "pair of trousers, pair of pants, pair of leggings, pair of slacks, pair of chinos, pair of sweatpants",
    "pullover, sweater, jumper, sweatshirt, knitted sweater, hoodie",
    "dress, gown, summer dress, long dress, frock, cocktail dress",
    "coat, jacket, overcoat, winter coat, parka, trench coat",
    "sandal, flip-flop, open shoe, strappy shoe, slipper, high-heeled sandal",
    "shirt, blouse, shirt with buttons, button-down shirt, dress shirt, shirt with long sleeves",
    "sneaker, trainer, sports shoe, tennis shoe, gym shoe, canvas shoe",
    "bag, handbag, shoulder bag, tote bag, backpack, satchel",
    "boot, ankle boot, leather boot, high boot, hiking boot, winter boot",
)
NAMES = (
    "airplane, plane, aeroplane, jet, airliner, aircraft, passenger jet, fighter plane, propeller plane, jumbo jet",
    "automobile, car, sedan, sports car, convertible, motor car, hatchback, station wagon, compact car, racing car",
    "bird, sparrow, ostrich, songbird, parrot, finch, emu, pigeon, robin, bird of prey",
    "cat, kitten, house cat, tabby cat, kitty, tomcat, black cat, feline, Siamese cat, pet cat",
    "deer, stag, doe, fawn, elk, reindeer, roe deer, buck with antlers, red deer, young deer",
    "dog, puppy, hound, terrier, spaniel, poodle, sheepdog, small dog, pet dog, beagle",
    "frog, toad, tree frog, bullfrog, green frog, amphibian, little frog, poison frog, common toad, pond frog",
    "horse, pony, stallion, mare, foal, racehorse, brown horse, white horse, horse with a rider, wild horse",
    "ship, boat, cargo ship, sailing boat, ferry, ocean liner, motor boat, container ship, vessel at sea, warship",
    "truck, lorry, pickup truck, fire truck, dump truck, delivery van, tow truck, articulated lorry, big rig, heavy truck",
)
WORDINGS = ("{}", "a {}", "a photo of a {}", "a picture of a {}", "a small image of a {}", "there is a {}", "look, a {}!")
COLOURED = ("a {} on a {} background", "a {} in front of something {}", "a {} against a {} background", "{}, {} background")
COLOURS = ("black", "grey", "white", "blue", "green", "brown", "beige")


def captioned(folder: Path | str, split: str = "train") -> tuple[Tensor, Tensor]:
    """Returns pictures (N, 3, 32, 32) uint8 and labels (N,) of FOLDER/**/SPLIT.npz.

    The file holds `jpeg`, the bytes of pictures end to end, `offsets`, (N + 1,), where each begins, and `labels`, (N,); or
    `images`, (N, 32, 32, 3) uint8, and `labels`. split: "train" or "test" (never trained on).
    """
    from PIL import Image

    paths = sorted(Path(folder).rglob(f"{split}.npz"))
    if not paths:
        raise DataError(
            f"there is no {split}.npz under {folder}: the recipe reads CIFAR-10 as train.npz and test.npz, see docs/data.md"
        )
    with readable(paths[0]), np.load(paths[0], allow_pickle=False) as arrays:
        labels = torch.from_numpy(arrays["labels"].astype(np.int64))
        if "images" in arrays:
            images = torch.from_numpy(arrays["images"])
        else:
            data, offsets = arrays["jpeg"].tobytes(), arrays["offsets"].tolist()
            parts = [data[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
            images = torch.stack([torch.from_numpy(np.array(Image.open(io.BytesIO(part)))) for part in parts])
    if images.shape[1:] != (32, 32, 3) or images.dtype != torch.uint8 or len(images) != len(labels) or labels.max() > 9:
        raise DataError(
            f"{paths[0]} has pictures {tuple(images.shape)} {images.dtype} and {len(labels)} labels, expected (N, 32, 32, "
            "3) of uint8 and a label from 0 to 9 each"
        )
    return images.permute(0, 3, 1, 2).contiguous(), labels


def edge_colour(images: Tensor) -> Tensor:
    """Returns the number in COLOURS of the mean colour of a frame of 4 pixels, (N,), of pictures (N, 3, H, W) uint8."""
    inside = torch.zeros(images.shape[-2:], dtype=torch.bool)
    inside[4:-4, 4:-4] = True
    means = [part.float()[..., ~inside].mean(-1) / 255 for part in images.split(1000)]
    colour = torch.cat(means)
    light, spread, strongest = colour.mean(1), colour.amax(1) - colour.amin(1), colour.argmax(1)
    grey = torch.where(light < 0.25, 0, torch.where(light < 0.7, 1, 2))
    bright = torch.where(strongest == 2, 3, torch.where(strongest == 1, 4, torch.where(light < 0.5, 5, 6)))
    return torch.where(spread < 0.1, grey, bright)


def captions(names: Sequence[str]) -> Tensor:
    """Returns the vectors of several captions for each class, (classes, wordings, 384); names: of each, with commas."""
    with torch.inference_mode():
        texts = [[w.format(n) for n in part.split(", ") for w in WORDINGS] for part in names]
        return torch.stack([sentence_encoder()(part) for part in texts]).clone()


def nearest_captions(vectors: Tensor, names: Sequence[str] = NAMES) -> Tensor:
    """Returns for each vector of a sentence, (N, 384), that of the nearest caption of the training, (N, 384).

    A prior that was trained on few captions knows little of a vector between them: led to the nearest, sentences in other
    words find its class, as in retrieval-augmented diffusion (Blattmann et al., NeurIPS 2022).

    Args:
        vectors: of length 1, as `priors.sentence_encoder` gives them.
        names: of each class, with commas.
    """
    known = captions(names).flatten(0, 1)
    return known[(vectors @ known.T).argmax(1)]


def embeddings() -> tuple[Tensor, Tensor]:
    """Returns the vectors of all captions: (classes, wordings, 384), and with colours (classes, colours, wordings, 384)."""
    coloured = []
    with torch.inference_mode():
        for names in (part.split(", ") for part in NAMES):
            texts = [[w.format(n, c) for n in names for w in COLOURED] for c in COLOURS]
            coloured.append(torch.stack([sentence_encoder()(part) for part in texts]))
    return captions(NAMES), torch.stack(coloured).clone()


class CaptionedViews:
    """Pictures drawn at random, mirrored at random, with their classes and the vectors of captions, drawn at random too.

    Args:
        images: (N, 3, H, W) uint8.
        labels: (N,).
        texts: of `embeddings`.
        mirror: whether half of the pictures are mirrored.
    """

    def __init__(self, images: Tensor, labels: Tensor, texts: tuple[Tensor, Tensor], mirror: bool = True) -> None:
        self.images, self.labels, self.mirror = images, labels, mirror
        (self.plain, self.coloured), self.colours = texts, edge_colour(images)

    def batch(self, count: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (count, 3, 32, 32) float32 in [-1, 1], the labels, (count,), and the vectors, (count, 384)."""
        chosen = torch.randint(len(self.images), (count,), generator=generator)
        mirrored, tells, wording = torch.rand(3, count, generator=generator)
        images, labels, colours = self.images[chosen].float() / 127.5 - 1, self.labels[chosen], self.colours[chosen]
        if self.mirror:
            images = torch.where((mirrored < 0.5).view(-1, 1, 1, 1), images.flip(3), images)
        plain = self.plain[labels, (wording * self.plain.shape[1]).long()]
        coloured = self.coloured[labels, colours, (wording * self.coloured.shape[2]).long()]
        return images, labels, torch.where((tells < 0.5)[:, None], coloured, plain)
