"""Methods on the code of a generator or in the latent space of an autoencoder."""
