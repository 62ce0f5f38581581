"""Training of the priors that are shipped, from nothing, by a command."""
