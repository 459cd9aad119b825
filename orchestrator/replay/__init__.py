"""Searches replayed from recorded curves, and policies held against one another."""
