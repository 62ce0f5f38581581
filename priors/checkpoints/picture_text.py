"""Pictures and texts in one space: a small network that is trained to say of a picture what its caption says."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invgen.errors import OptionError
from invgen.forward import Operator
from invgen.noise import VonMisesFisher
from invgen.numerics.gradients import differentiating
from invgen.priors.checkpoints.sentences import WIDTH, sentence_encoder
from invgen.validation.hints import Count, Positive

NOISE = 0.5  # the most noise on the pictures of training, so that the network is smooth where guidance asks it


class PictureEncoder(Operator):
    """A picture as the sentence encoder would describe it: (C, H, W) -> a vector of length 1, (384,). See `trained`.

    Args:
        in_shape: (C, H, W).
        width: channels of the first layer.
    """

    def __init__(self, in_shape: tuple[int, ...], width: Count = 32) -> None:
        super().__init__(in_shape)
        self.out_shape = (WIDTH,)
        sizes = [in_shape[0], width, 2 * width, 3 * width]
        layers: list[nn.Module] = []
        for a, b in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Conv2d(a, b, 3, 2, 1), nn.GELU()]
        side = [-(-n // 8) for n in in_shape[1:]]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(sizes[-1] * side[0] * side[1], WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.net(x), dim=1)

    @classmethod
    def trained(
        cls, pictures: Tensor, labels: Tensor, captions: Tensor, passes: Count = 1, width: Count = 32, seed: int = 0
    ) -> "PictureEncoder":
        """Returns an encoder for which a picture is nearest to the captions of its class, in a minute for 20,000 pictures.

        Args:
            pictures: (N, C, H, W), in the units of a prior.
            labels: (N,), from 0.
            captions: unit vectors of several captions for each class, (classes, wordings, 384).
            passes: over the pictures.
            width: of the network.
            seed: of weights, order, wordings and noise.
        """
        if len(labels) != len(pictures) or labels.max() >= len(captions):
            raise OptionError(
                f"{len(pictures)} pictures need a label each, from 0 to {len(captions) - 1}, got {len(labels)}"
            )
        with torch.random.fork_rng(devices=[]), differentiating():
            torch.manual_seed(seed)
            encoder = cls(tuple(pictures.shape[1:]), width)
            optimiser = torch.optim.AdamW(encoder.parameters(), 2e-3)
            every = torch.arange(len(captions))
            for _ in range(passes):
                for i in torch.randperm(len(pictures)).split(64):
                    x = pictures[i] + NOISE * torch.rand(len(i), 1, 1, 1) * torch.randn_like(pictures[i])
                    said = captions[every, torch.randint(captions.shape[1], (len(captions),))]  # one wording a class
                    loss = F.cross_entropy(20 * encoder(x) @ said.T, labels[i])
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
        return encoder.eval().requires_grad_(False)


class Text(tuple[Tensor, Operator, VonMisesFisher]):
    """A text as a measurement (y, A, noise) of a picture: what the picture says, as a direction, is near the text.

        y, A, noise = priors.Text("something for rainy feet", encoder)
        invgen.solve(*invgen.join((y_low, A_low, 0.05), priors.Text("a boot", encoder)), prior)

    y is the unit vector of the text, A the encoder, and noise the law of von Mises and Fisher.

    Args:
        text: one, or several for a batch.
        encoder: of pictures, such as `PictureEncoder.trained(...)`; any operator with vectors of 384 values.
        kappa: the concentration: how much the text counts. `DPS`, whose step has one length for all laws, ignores it.
    """

    __slots__ = ()

    def __new__(cls, text: str | Sequence[str], encoder: Operator, kappa: Positive = 60.0) -> "Text":
        if tuple(encoder.out_shape) != (WIDTH,):
            raise OptionError(f"the encoder must give vectors of {WIDTH} values, got {tuple(encoder.out_shape)}")
        with torch.inference_mode():
            y = sentence_encoder()(text if isinstance(text, str) else list(text))
        return super().__new__(cls, (y.clone(), encoder, VonMisesFisher(kappa)))
