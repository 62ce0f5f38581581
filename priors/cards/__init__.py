"""What a card says of the weights that are shipped: evaluation on held-out signals, baselines, the text."""
