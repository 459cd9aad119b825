"""Lets `python -m orchestrator` be the command `cascade`."""

from orchestrator.cli import main

main()
