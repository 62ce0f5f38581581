"""The networks whose weights are read: one file an architecture, `unet` and `digits` those of invgen itself."""
