"""Trials on Ray Tune: where they come from, how they run, and how what comes of them is kept."""
