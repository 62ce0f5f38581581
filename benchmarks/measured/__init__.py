"""Real measurements of instruments, in place of simulations: a file an instrument, run by `invgen bench study measured`."""
