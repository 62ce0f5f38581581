"""Training data: where it is fetched from, how it is read and split, and the views that are drawn of it."""
