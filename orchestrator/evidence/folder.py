"""A study's folder: how it is told from a search's, and what lies in it."""

from pathlib import Path

RESULTS = "results.jsonl"
REPORT = "report.html"


def is_study(folder: Path) -> bool:
    """Whether a study was begun in a folder."""
    return (folder / RESULTS).exists()
