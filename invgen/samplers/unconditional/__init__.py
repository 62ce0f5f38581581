"""Samplers of the prior itself, without a measurement."""
