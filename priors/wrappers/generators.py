"""GAN and VAE decoders as priors: x = g(z) for any network g, with codes z ~ N(0, I), on a sphere, or of a prior of theirs.

They are pushforward priors (`invgen.pushforward.Generator`), so that CSGM, PULSE and every sampler that takes a nonlinear
operator run on them. Nothing is clamped and no range is changed: x is what the network gives, `rescaled` gives other units.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from invgen.diffusion import Denoiser, as_size
from invgen.errors import OptionError, ShapeError, UnsupportedError
from invgen.linalg import norm
from invgen.numerics.density import bits_per_dim
from invgen.numerics.gradients import unit_cotangents
from invgen.priors.wrappers.from_network import in_half, network_dtype
from invgen.pushforward import Generator, StandardNormal
from invgen.validation.arguments import checked

Network = Callable[..., Tensor]
Encoder = Callable[..., Any]  # of a tensor, (mean, log-variance) or a distribution
Made = TypeVar("Made", bound=Generator)
Kind = TypeVar("Kind", bound=Network)


def standard_codes(shape: int | Sequence[int], network: Network) -> StandardNormal:
    """Returns N(0, I) over codes, on the device of a network, in float64 for one in float64, else in float32."""
    table = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    double = table is not None and table.dtype == torch.float64
    latent = StandardNormal(shape, torch.float64 if double else torch.float32)
    return latent if table is None else latent.to(table.device)


def frozen(network: Kind) -> Kind:
    """Returns a network in eval mode without gradients of its weights; a plain function as it is."""
    if not callable(network):
        raise OptionError(f"expected a network or a function of a tensor, got {type(network).__name__}")
    module: Any = network  # the checker would take `network` for a plain Module after isinstance
    if isinstance(module, nn.Module):
        module.eval().requires_grad_(False)
    return network


def evaluate(network: Network, x: Tensor, condition: Tensor | None = None) -> Tensor:
    """Returns network(x), or network(x, condition) with a condition for each row, in the network's dtype, back in that
    of x."""
    dtype = network_dtype(network) if isinstance(network, nn.Module) else None
    inputs = x if dtype is None else x.to(dtype)
    out = network(inputs) if condition is None else network(inputs, condition.expand(len(x), *condition.shape))
    if not isinstance(out, Tensor):
        return out
    out = out.to(x.dtype)
    if isinstance(network, nn.Module) and in_half(network):
        unit_cotangents(x, out)
    return out


def output_shape(network: Callable[[Tensor], Tensor], latent: Denoiser, shape: int | Sequence[int] | None) -> torch.Size:
    """Returns the shape of one signal, from two codes; compared with `shape` where that is given.

    Raises:
        OptionError: the network does not give tensors.
        ShapeError: it does not take the codes, or gives another shape.
    """
    codes = torch.zeros(2, *latent.shape, dtype=latent.dtype, device=latent.device)
    try:
        with torch.no_grad():
            x = network(codes)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ShapeError(
            f"the network fails on two codes, a tensor of shape {tuple(codes.shape)} ({type(error).__name__}: {error}); "
            "give the latent shape it was made for, and a condition if it needs one"
        ) from error
    if not isinstance(x, Tensor):
        raise OptionError(
            f"the network gives a {type(x).__name__}; wrap it in a function that returns the tensor of signals"
        )
    if x.shape[:1] != codes.shape[:1] or (shape is not None and x.shape[1:] != as_size(shape)):
        wanted = "(2, *shape)" if shape is None else str((2, *as_size(shape)))
        raise ShapeError(f"the network turns two codes into {tuple(x.shape)}, expected {wanted}")
    return x.shape[1:]


class Decoder(Generator):
    """x = g(z), or g(z, condition), for any network g.

    Args:
        g: a module, put into eval mode, or a function: (B, *latent_shape) -> (B, *shape). It runs in the dtype of its
            weights, whatever that of z.
        latent: the shape of one code, for z ~ N(0, I), or a Denoiser over codes.
        shape: of one signal; by default found by an evaluation.
        sphere: g gets sqrt(d) z / |z|, for a generator trained on codes that are uniform on the sphere of radius sqrt(d).
            The codes z of this prior stay standard normal.
        condition: what g gets beside z, without batch axis: a label, an embedding.
        facts: value_range, data_mean, data_std of the signals; (-1, 1), 0 and 1 if not given.

    Raises:
        ShapeError: g does not take such codes, or gives signals of another shape.
    """

    given: Tensor | None

    def __init__(
        self,
        g: Network,
        latent: int | Sequence[int] | Denoiser,
        shape: int | Sequence[int] | None = None,
        *,
        sphere: bool = False,
        condition: Tensor | int | None = None,
        **facts: Any,
    ) -> None:
        latent = latent if isinstance(latent, Denoiser) else standard_codes(latent, g)
        given = None if condition is None else torch.as_tensor(condition, device=latent.device)

        def decode(z: Tensor) -> Tensor:
            return evaluate(g, z, given)

        super().__init__(output_shape(decode, latent, shape), latent, **facts)
        self.g, self.sphere = g, bool(sphere)
        self.register_buffer("given", given)

    def forward(self, z: Tensor) -> Tensor:
        """Returns the signal of a code, differentiable: (B, *latent_shape) -> (B, *shape)."""
        if self.sphere:
            z = z * (z[0].numel() ** 0.5 / norm(z))
        return evaluate(self.g, z, self.given)

    def condition(self, condition: Tensor | int) -> "Decoder":
        """Returns p(x | condition): the same network under another condition, given without batch axis."""
        return Decoder(self.g, self.latent, self.shape, sphere=self.sphere, condition=condition, **_facts(self))


class VAE(Decoder):
    """The decoder of a variational autoencoder, with its encoder (Kingma & Welling, ICLR 2014).

    x = g(z) is the mean of p(x | z): the decoder's own noise is left out, as is usual. `encode` is the mean of q(z | x).

    Args:
        g, latent, shape, sphere, condition, facts: as for a `Decoder`.
        encoder: x -> the mean of q(z | x), or (mean, log-variance), or a torch.distributions.Distribution.
    """

    def __init__(
        self, g: Network, encoder: Encoder, latent: int | Sequence[int] | Denoiser, *args: Any, **options: Any
    ) -> None:
        super().__init__(g, latent, *args, **options)
        self.encoder = encoder
        self.encode(torch.zeros(2, *self.shape, dtype=self.dtype, device=self.device))  # fails here rather than in a run

    def encode(self, x: Tensor) -> Tensor:
        """Returns the mean of q(z | x): (B, *shape) -> (B, *latent_shape), differentiable."""
        z = code_of(evaluate(self.encoder, x, self.given)).to(x.dtype)
        if z.shape != (len(x), *self.latent_shape):
            raise ShapeError(
                f"the encoder turns {tuple(x.shape)} into {tuple(z.shape)}, expected {(len(x), *self.latent_shape)}"
            )
        return z

    def bits(self, x: Tensor, bin_width: float, *, steps: int = 16, seed: int = 0) -> tuple[Tensor, str]:
        """Returns the "bound" of the bits a value by `evidence_bound`, (B,).

        Args:
            x, bin_width, steps, seed: as for `Prior.bits`.
        """
        return bits_per_dim(self.evidence_bound(x, seed), x[0].numel(), bin_width), "bound"

    def evidence_bound(self, x: Tensor, seed: int = 0) -> Tensor:
        """Returns a lower bound of log p(x) in nats, (B,), for a Gaussian decoder of the variance that suits these signals.

        The expectation over q(z | x) is that of one draw of each; z is standard normal under the prior.

        Args:
            x: (B, *shape).
            seed: of the draws.

        Raises:
            UnsupportedError: the encoder gives no variance.
        """
        out = evaluate(self.encoder, x, self.given)
        if isinstance(out, torch.distributions.Distribution):
            out = out.mean, out.variance.log()
        if not isinstance(out, tuple | list) or len(out) != 2:
            raise UnsupportedError("a bound of the evidence needs an encoder that gives a mean and a log-variance")
        mean, log_var = (torch.as_tensor(part) for part in out)
        with torch.no_grad():
            eps = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed)).to(mean)
            error = (self(mean + (0.5 * log_var).exp() * eps) - x).square().flatten(1)
            like = torch.distributions.Normal(0.0, error.mean().sqrt()).log_prob(error.sqrt()).sum(1)
            return like - 0.5 * (mean.square() + log_var.exp() - 1 - log_var).flatten(1).sum(1)

    def condition(self, condition: Tensor | int) -> "VAE":
        return VAE(self.g, self.encoder, self.latent, self.shape, sphere=self.sphere, condition=condition, **_facts(self))


def code_of(out: Any) -> Tensor:
    """Returns the code in what an encoder returns: a tensor, a distribution's mean, or the first of a pair (mean,
    log-variance)."""
    if isinstance(out, torch.distributions.Distribution):
        return out.mean
    out = out[0] if isinstance(out, tuple | list) and out else out
    if not isinstance(out, Tensor):
        raise OptionError(
            f"the encoder gives a {type(out).__name__}; expected a tensor, a pair (mean, log-variance) or a distribution"
        )
    return out


DRAWN = 64  # samples that the facts of a decoder are measured on
UNITS = ((0.0, 1.0), (-1.0, 1.0))  # the ranges of a sigmoid and of a tanh


def measure_facts(prior: Made, given: Collection[str]) -> Made:
    """Returns the decoder with value_range, data_mean and data_std of 64 samples of it, but for those that were given.

    A decoder whose values fill four fifths of [0, 1], or of [-1, 1], without leaving it ends in a sigmoid or a tanh and has
    that range; any other has the least and the largest value drawn. `prior.measured` names what was set, and the printed
    prior shows it.
    """
    wanted = [name for name in ("value_range", "data_mean", "data_std") if name not in given]
    if not wanted or not hasattr(prior.latent, "sample"):
        return prior
    x = prior.sample(DRAWN, seed=0, max_batch=8).double()
    low, high, mean, std = (v.item() for v in (x.min(), x.max(), x.mean(), x.std()))
    if not math.isfinite(std) or not low < high:
        return prior
    unit = next(((a, b) for a, b in UNITS if a <= low and high <= b and high - low > 0.8 * (b - a)), (low, high))
    for name, value in (("value_range", unit), ("data_mean", mean), ("data_std", std)):
        if name in wanted:
            setattr(prior, name, value)
    prior.measured = tuple(wanted)
    return prior


def _facts(prior: Generator) -> dict[str, Any]:
    return {"value_range": prior.value_range, "data_mean": prior.data_mean, "data_std": prior.data_std}


@checked
def from_generator(
    g: Network, latent_shape: int | Sequence[int] | Denoiser, shape: int | Sequence[int] | None = None, **options: Any
) -> Decoder:
    """Returns the prior x = g(z), z ~ N(0, I), of a GAN's generator or any other network: see `Decoder`.

        prior = priors.from_generator(g, (128,), (3, 64, 64), data_std=0.5)
        invgen.solve(y, A, prior, noise=0.05, sampler="csgm")

    options: sphere, condition and the facts of a `Decoder`; facts that are not given are measured on 64 samples, see
    `measure_facts`. A module is put into eval mode (batch statistics of a network in training mode would couple the rows
    of a batch) and its weights lose their gradients.
    """
    return measure_facts(Decoder(frozen(g), latent_shape, shape, **options), options)


@checked
def from_vae(
    decoder: Network,
    encoder: Network | None = None,
    *,
    latent_shape: int | Sequence[int] | Denoiser,
    shape: int | Sequence[int] | None = None,
    **options: Any,
) -> Decoder:
    """Returns the prior of a variational autoencoder, x = decoder(z): a `VAE`, or without an encoder a `Decoder`.

    Args:
        decoder, encoder: the networks, functions or modules.
        latent_shape: of a code, or the prior over codes.
        shape: of one signal; by default found by one evaluation.
        options: sphere, condition and the facts of a `Decoder`; facts that are not given are measured on 64 samples, see
            `measure_facts`.
    """
    if encoder is None:
        return measure_facts(Decoder(frozen(decoder), latent_shape, shape, **options), options)
    return measure_facts(VAE(frozen(decoder), frozen(encoder), latent_shape, shape, **options), options)
