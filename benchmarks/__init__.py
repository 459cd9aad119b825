"""Measurements of what the documentation promises; each figure is a ratio or a time measured within one run."""
