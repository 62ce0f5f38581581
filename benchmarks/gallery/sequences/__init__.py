"""Rows whose signals are chains: sound, text, programs, molecules."""
