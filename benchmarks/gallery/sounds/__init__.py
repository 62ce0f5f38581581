"""Rows of sound and of moving pictures."""
