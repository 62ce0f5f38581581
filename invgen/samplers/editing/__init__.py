"""Editing: a signal is noised part of the way and denoised again, as a whole or inside a region."""
