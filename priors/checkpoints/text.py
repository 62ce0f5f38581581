"""Text as a condition: embeddings, the text encoders of a pipeline, and denoisers that are conditioned on them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invgen.conditional import Conditioned
from invgen.diffusion import Sigma
from invgen.errors import MissingExtraError, OptionError, ShapeError, UnsupportedError, WeightsError
from invgen.priors.wrappers.from_network import NetworkDenoiser
from invgen.priors.wrappers.schedules import Schedule

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")  # names in pipelines of diffusers
TOKENS = (*TEXT_ENCODERS, "tokenizer", "tokenizer_2", "tokenizer_3")


class TextEmbedding(nn.Module):
    """A text as a network sees it: what the text encoders of its pipeline make of a prompt.

    Args:
        embeds: one vector per token, (tokens, width), or with a batch axis of 1, as diffusers' `encode_prompt` returns it.
        pooled: one vector of the whole text, (width,), for the networks that take one (SDXL, SD3, Flux).
        mask: 1 for the tokens that count, (tokens,), for those that take one (PixArt, Sana); all by default.
    """

    embeds: Tensor
    pooled: Tensor | None
    mask: Tensor | None

    def __init__(self, embeds: Tensor, pooled: Tensor | None = None, mask: Tensor | None = None) -> None:
        super().__init__()
        for name, value, ndim in (("embeds", embeds, 2), ("pooled", pooled, 1), ("mask", mask, 1)):
            if value is not None:
                value = value[0] if value.ndim == ndim + 1 and len(value) == 1 else value
                if value.ndim != ndim:
                    raise ShapeError(
                        f"{name} of one text must have {ndim} axes, or one more of size 1 before, got {tuple(value.shape)}"
                    )
            self.register_buffer(name, None if value is None else value.detach(), persistent=False)

    def zeros(self) -> "TextEmbedding":
        """Returns the embedding of zeros in the same sizes, which stands for no text in SDXL."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return TextEmbedding(torch.zeros_like(self.embeds), pooled, self.mask)

    def rows(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Returns embeds, pooled and mask with a row for each of x, in its dtype (the mask in its own) and on its
        device."""
        embeds = self.embeds.to(x).expand(len(x), -1, -1)
        pooled = None if self.pooled is None else self.pooled.to(x).expand(len(x), -1)
        return embeds, pooled, None if self.mask is None else self.mask.to(x.device).expand(len(x), -1)

    def extra_repr(self) -> str:
        return f"tokens={self.embeds.shape[0]}, width={self.embeds.shape[1]}"


class Prompts:
    """The text encoders of a pipeline of diffusers: prompt -> `TextEmbedding`, each prompt encoded once.

    Args:
        kind: the class of pipeline whose `encode_prompt` is used: "StableDiffusionPipeline", "StableDiffusionXLPipeline",
            "StableDiffusion3Pipeline", "FluxPipeline", "PixArtAlphaPipeline", "PixArtSigmaPipeline" or "SanaPipeline".
        source: a pipeline that has been built, or a folder or hub name; the encoders in it are read at the first prompt.
        parts: networks of the pipeline that have been loaded already, so that they are not read again.
        options: of `from_pretrained`, for a folder.
    """

    def __init__(self, kind: str, source: Any, parts: dict[str, Any] | None = None, **options: Any) -> None:
        self.kind, self.source, self.parts, self.options = kind, source, parts or {}, options
        self.known: dict[str, TextEmbedding] = {}

    def __call__(self, prompt: str) -> TextEmbedding:
        if prompt not in self.known:
            if isinstance(self.source, str | Path):
                self.source = self._load()
            with torch.no_grad():
                self.known[prompt] = ENCODE[self.kind](self.source, prompt, _device(self.source))
        return self.known[prompt]

    def empty(self) -> TextEmbedding:
        """Returns the condition that stands for no text: the empty prompt, or zeros if the pipeline says so (SDXL)."""
        empty = self("")
        return empty.zeros() if self.source.config.get("force_zeros_for_empty_prompt") else empty

    def _load(self) -> Any:
        import diffusers

        try:
            import transformers  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(
                "a prompt needs transformers: pip install 'invgen-solvers[text]', or give the embeddings of the text"
            ) from error
        cls = getattr(diffusers, self.kind)
        unused: dict[str, bool | None] = {name: None for name in cls._optional_components if name not in TOKENS}
        if self.kind == "StableDiffusionPipeline":
            unused["requires_safety_checker"] = False
        try:
            return cls.from_pretrained(self.source, use_safetensors=True, **{**unused, **self.parts}, **self.options)
        except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
            reason = str(error).strip().split("\n")[0]
            raise WeightsError(
                f"the text encoders in {self.source} could not be read ({reason}); expected the folders of a {self.kind}, "
                "with safetensors"
            ) from error


def _device(pipeline: Any) -> torch.device:
    """Returns the folder of the text encoders of a pipeline, which may differ from that of its other networks."""
    for name in TEXT_ENCODERS:
        encoder = getattr(pipeline, name, None)
        if encoder is not None:
            return next(encoder.parameters()).device
    raise OptionError(f"this {type(pipeline).__name__} has no text encoder; give the embeddings of the text instead")


def _stable_diffusion(pipeline: Any, prompt: str, device: torch.device) -> TextEmbedding:
    return TextEmbedding(pipeline.encode_prompt(prompt, device, 1, False)[0])


def _xl(pipeline: Any, prompt: str, device: torch.device) -> TextEmbedding:
    embeds, _, pooled, _ = pipeline.encode_prompt(prompt, device=device, do_classifier_free_guidance=False)
    return TextEmbedding(embeds, pooled)


def _sd3(pipeline: Any, prompt: str, device: torch.device) -> TextEmbedding:
    embeds, _, pooled, _ = pipeline.encode_prompt(prompt, None, None, device, do_classifier_free_guidance=False)
    return TextEmbedding(embeds, pooled)


def _flux(pipeline: Any, prompt: str, device: torch.device) -> TextEmbedding:
    embeds, pooled, _ = pipeline.encode_prompt(prompt, device=device)
    return TextEmbedding(embeds, pooled)


def _masked(pipeline: Any, prompt: str, device: torch.device) -> TextEmbedding:
    embeds, mask, _, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, device=device)
    return TextEmbedding(embeds, mask=mask)


ENCODE: dict[str, Callable[[Any, str, torch.device], TextEmbedding]] = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _xl,
    "StableDiffusion3Pipeline": _sd3,
    "FluxPipeline": _flux,
    "PixArtAlphaPipeline": _masked,
    "PixArtSigmaPipeline": _masked,
    "SanaPipeline": _masked,  # without the instruction that its pipeline puts before each prompt by default
}


class TextDenoiser(NetworkDenoiser):
    """A network conditioned on text, as a denoiser; unconditional, it is given the empty text.

    `condition` takes a prompt, where there are text encoders, a `TextEmbedding`, or the embeddings as a tensor.

    Args:
        net, shape, prediction, schedule, options: of a `NetworkDenoiser`; its `call` gets a `TextEmbedding`.
        width: of the embeddings.
        pooled: the width of the embedding of the whole text, 0 if the network takes none.
        empty: the embedding of the empty text, for the unconditional prior where there are no text encoders.
        prompts: the text encoders.
    """

    def __init__(
        self,
        net: nn.Module,
        shape: int | Sequence[int],
        prediction: str,
        schedule: Schedule,
        *,
        width: int,
        pooled: int = 0,
        empty: TextEmbedding | Tensor | None = None,
        prompts: Prompts | None = None,
        **options: Any,
    ) -> None:
        super().__init__(net, shape, prediction, schedule, **options)
        self.width, self.pooled, self.prompts = width, pooled, prompts
        self.empty = None if empty is None else self.embedding(empty)

    def embedding(self, text: Any) -> TextEmbedding:
        """Returns the input of the network for a prompt, an embedding or a tensor."""
        if isinstance(text, str):
            if self.prompts is None:
                raise UnsupportedError(
                    f"there are no text encoders for the prompt {text!r}; give a TextEmbedding, or load a pipeline with "
                    "its tokenizer and text encoders"
                )
            text = self.prompts(text)
        text = TextEmbedding(text) if isinstance(text, Tensor) else text
        if not isinstance(text, TextEmbedding):
            raise OptionError(f"a text is a prompt, a TextEmbedding or a tensor of embeddings, got {type(text).__name__}")
        if text.embeds.shape[1] != self.width:
            raise ShapeError(f"the network takes embeddings of width {self.width}, got {tuple(text.embeds.shape)}")
        size = None if text.pooled is None else len(text.pooled)
        if self.pooled and size != self.pooled:
            raise ShapeError(
                f"the network takes a pooled embedding of width {self.pooled} besides that of each token, got {size}: give "
                "TextEmbedding(embeds, pooled)"
            )
        return text

    def condition(self, condition: Any) -> Conditioned:
        """Returns p(z | text): a prompt, a `TextEmbedding` or a tensor (tokens, width)."""
        return super().condition(self.embedding(condition).to(self.device))

    def forward(self, x: Tensor, sigma: Sigma, condition: Any = None) -> Tensor:
        """Returns D(x, sigma) given a text, (B, *shape); None is the empty text."""
        if condition is None and self.empty is None:
            if self.prompts is None:
                raise OptionError(
                    "without a text this prior needs the embedding of the empty one: load it with "
                    "empty=TextEmbedding(...), or with its text encoders, or condition it"
                )
            self.empty = self.embedding(self.prompts.empty()).to(self.device)
        return super().forward(x, sigma, self.empty if condition is None else self.embedding(condition))


class LatentConsistency(TextDenoiser):
    """Luo et al., "Latent consistency models" (2023), equation 9: c_skip(t) x_t + c_out(t) times the predicted clean code.

    A jump to the end of the guided ODE rather than a mean: samplers that take Tweedie's formula at its word are biased.

    Args:
        time_scale: c_skip = s^2 / (u^2 + s^2) and c_out = u / sqrt(u^2 + s^2) with u = time_scale t and s = 0.5.
    """

    def __init__(self, *args: Any, time_scale: float = 10.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.time_scale, self.consistency = time_scale, True

    def _combine(self, x: Tensor, s: Tensor, scale: Tensor, o: Tensor) -> Tensor:
        time = self.time_scale * self.schedule.time(s).to(x)
        size = (time**2 + 0.25).sqrt()
        return 0.25 / size**2 * scale * x + time / size * super()._combine(x, s, scale, o)
