"""Tests of the rows of the gallery."""
