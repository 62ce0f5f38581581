"""Cards of the shipped weights: evaluation on held-out signals, baselines, the text."""
