"""Methods that only evaluate the forward operator: ensembles and candidates instead of gradients."""
