"""The jobs of the command line, as functions: reconstruct, sample, calibrate, and the tables of what there is."""
