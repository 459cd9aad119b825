"""Searches: composed from spaces and trainables, run on Ray, kept on disk, shown and exported."""
