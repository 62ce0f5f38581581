"""Computed tomography: parallel and fan beams, their projectors, filtered back-projection, units and phantoms."""
