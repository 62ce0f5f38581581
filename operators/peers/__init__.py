"""Operators and noises of deepinv, both ways."""
