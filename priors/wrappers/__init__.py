"""A network of yours as a prior: denoisers, flows, decoders, latents, tokens; its noise schedule and trusted range."""
