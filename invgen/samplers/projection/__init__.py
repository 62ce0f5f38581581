"""Replacement and projection: the measured part of a signal is put in place at each step. `base` has the projections."""
