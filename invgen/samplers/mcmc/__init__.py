"""Markov chains on the signal, on a sequence of noise levels, or on the code of a generator. `base` has the moves."""
