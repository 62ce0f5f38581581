"""Methods beside the samplers in a suite: classical reconstructions, the exact posterior, methods of peers."""
