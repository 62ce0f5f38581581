"""The operator behind an autoencoder, which MPGD descends on."""

from torch import Tensor

from invgen.posterior import Posterior
from invgen.pushforward import Decoded, Generator


class Autoencoded(Decoded):
    """A after decode(encode(.)): x -> A(g(e(x)))."""

    def __init__(self, post: Posterior, auto: Generator) -> None:
        super().__init__(post.A, auto)
        self.in_shape = auto.shape

    def forward(self, x: Tensor) -> Tensor:
        return self.A(self.generator(self.generator.encode(x)))
