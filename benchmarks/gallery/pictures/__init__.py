"""Rows whose signals are pictures, scenes and clips."""
