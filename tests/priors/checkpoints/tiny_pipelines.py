"""Tiny random pipelines of diffusers, one for each family of latent diffusion, with real (if wordless) text encoders."""

import torch

BLOCKS = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 16,
}
WIDTH = 12  # of the embeddings
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def kl(channels=4, **config):
    """An AutoencoderKL of stride 2."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(**BLOCKS, latent_channels=channels, **config).eval()


def vq(channels=3, **config):
    """A VQModel of stride 2, whose codewords lie as far apart as the codes that its encoder gives."""
    from diffusers import VQModel

    torch.manual_seed(0)
    model = VQModel(**BLOCKS, latent_channels=channels, num_vq_embeddings=32, **config).eval()
    torch.nn.init.normal_(model.quantize.embedding.weight)
    return model


def tiny(**config):
    """An AutoencoderTiny of stride 2."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    blocks = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    return AutoencoderTiny(**blocks, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), **config).eval()


def dc(**config):
    """An AutoencoderDC of stride 2."""
    from diffusers import AutoencoderDC

    torch.manual_seed(0)
    both = {
        "block_types": ("ResBlock", "EfficientViTBlock"),
        "block_out_channels": (8, 8),
        "qkv_multiscales": ((), (5,)),
        "layers_per_block": (1, 1),
    }
    sides = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in both.items()}
    return AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        **sides,
        **config,
    ).eval()


def unet(channels=3, **config):
    from diffusers import UNet2DModel

    torch.manual_seed(1)
    return UNet2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        **config,
    ).eval()


def text_unet(**config):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(1)
    options = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    return UNet2DConditionModel(**{**options, **config}).eval()


def transformer(kind, **config):
    """One of diffusers' transformers with a single block of two heads."""
    import diffusers

    torch.manual_seed(1)
    options = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, **config}
    return getattr(diffusers, kind)(**options).eval()


def clip(seed=2, width=WIDTH, projection=None, layers=2):
    """A CLIP text encoder, with a projection if it is to have one, and its tokenizer of single letters."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    letters = [chr(c) for c in range(97, 123)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *[letter + "</w>" for letter in letters]]
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=8,
        projection_dim=projection or width,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    model = (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()
    tokenizer = CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=8)
    return model, tokenizer


def t5(width=WIDTH):
    """A T5 encoder and its tokenizer of single letters."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    letters = [chr(c) for c in range(97, 123)]
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -2.0), ("▁", -1.0), *[(letter, -3.0) for letter in letters]]
    torch.manual_seed(3)
    config = T5Config(vocab_size=len(words), d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    return T5EncoderModel(config).eval(), T5Tokenizer(vocab=words, extra_ids=0, model_max_length=8)


def ldm(scheduler, autoencoder=None):
    from diffusers import LDMPipeline

    autoencoder = autoencoder or vq()
    return LDMPipeline(autoencoder, unet(autoencoder.config.latent_channels), scheduler)


def stable_diffusion(scheduler, text=False, autoencoder=None, kind="StableDiffusionPipeline", **config):
    import diffusers

    encoder, tokenizer = clip() if text else (None, None)
    return getattr(diffusers, kind)(
        vae=autoencoder or kl(),
        unet=text_unet(**config),
        scheduler=scheduler,
        tokenizer=tokenizer,
        text_encoder=encoder,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def xl_unet():
    return text_unet(
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 * 4 + 6
    )


def xl(scheduler, autoencoder=None, **options):
    from diffusers import StableDiffusionXLPipeline

    encoder, tokenizer = clip(width=WIDTH // 2)
    second, tokenizer_2 = clip(3, WIDTH // 2, projection=6)
    return StableDiffusionXLPipeline(
        vae=autoencoder or kl(),
        unet=xl_unet(),
        scheduler=scheduler,
        text_encoder=encoder,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        add_watermarker=False,
        **options,
    )


def sd3_transformer():
    return transformer(
        "SD3Transformer2DModel",
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=10,
        pos_embed_max_size=8,
    )


def sd3(scheduler):
    from diffusers import StableDiffusion3Pipeline

    first, tokenizer = clip(2, 4, projection=4)
    second, tokenizer_2 = clip(3, 6, projection=6)
    third, tokenizer_3 = t5()
    return StableDiffusion3Pipeline(
        transformer=sd3_transformer(),
        scheduler=scheduler,
        vae=kl(shift_factor=0.0609, scaling_factor=1.5305, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=first,
        tokenizer=tokenizer,
        text_encoder_2=second,
        tokenizer_2=tokenizer_2,
        text_encoder_3=third,
        tokenizer_3=tokenizer_3,
    )


def flux_transformer(guidance=True):
    return transformer(
        "FluxTransformer2DModel",
        in_channels=16,
        num_single_layers=1,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=6,
        guidance_embeds=guidance,
        axes_dims_rope=(2, 2, 4),
    )


def flux(scheduler, guidance=True):
    from diffusers import FluxPipeline

    encoder, tokenizer = clip(2, 6)
    second, tokenizer_2 = t5()
    return FluxPipeline(
        scheduler=scheduler,
        vae=kl(shift_factor=0.1159, scaling_factor=0.3611, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_encoder_2=second,
        tokenizer_2=tokenizer_2,
        transformer=flux_transformer(guidance),
    )


def pixart(scheduler, sized=True):
    import diffusers

    network = transformer(
        "PixArtTransformer2DModel",
        in_channels=4,
        out_channels=8,
        attention_head_dim=12,  # the width, 24, is split into thirds for the sizes
        cross_attention_dim=24,
        sample_size=128 if sized else 8,  # its pipeline gives the size of the image where this is 128
        patch_size=2,
        caption_channels=WIDTH,
        use_additional_conditions=sized,
        norm_num_groups=4,
    )
    encoder, tokenizer = t5()
    kind = diffusers.PixArtAlphaPipeline if sized else diffusers.PixArtSigmaPipeline
    return kind(tokenizer=tokenizer, text_encoder=encoder, vae=kl(), transformer=network, scheduler=scheduler)


def sana(scheduler):
    from diffusers import SanaPipeline

    network = transformer(
        "SanaTransformer2DModel",
        in_channels=4,
        out_channels=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=16,
        timestep_scale=0.5,
    )
    return SanaPipeline(
        tokenizer=None, text_encoder=None, vae=dc(scaling_factor=0.41407), transformer=network, scheduler=scheduler
    )


def dit(scheduler):
    from diffusers import DiTPipeline

    network = transformer(
        "DiTTransformer2DModel",
        in_channels=4,
        out_channels=8,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_num_groups=4,
    )
    return DiTPipeline(network, kl(), scheduler)
