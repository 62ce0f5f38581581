"""Projectors of tomography, products with a matrix and its transpose: kernels, sparse matrices, ASTRA."""
