"""Variational methods: an approximation of the posterior is fitted by gradient descent."""
