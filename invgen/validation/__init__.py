"""Checks of all input: signatures, type hints and ranges of every call, batch axes, the memory that a file may ask for."""
