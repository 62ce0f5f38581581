"""A suite: its file, the cells that it expands to, their names, signals and metrics."""
