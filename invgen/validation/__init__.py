"""What goes in: signatures, type hints and ranges of every call, batch axes, the memory that a file may ask for."""
