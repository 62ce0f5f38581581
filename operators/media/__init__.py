"""Operators of media: spectrograms of sound, frames of clips, holes that people paint."""
