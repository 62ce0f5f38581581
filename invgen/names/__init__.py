"""Texts to objects: `DPS(steps=25)`, `Blur(kernel=...)`, `module:Name`, and what a text may reach."""
