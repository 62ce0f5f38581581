"""Checkpoints of other codes as priors, read without running what they bring along; `networks/` has their networks."""
