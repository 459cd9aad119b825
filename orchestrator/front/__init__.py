"""Candidates, the front of them, and pictures of it."""
