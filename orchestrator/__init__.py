"""Searches: composed from spaces and trainables, run on Ray, kept on disk, shown and exported."""

import os

# Read when Ray is imported: no loggers of its own (tracking is ours), no hook into the terminal.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Tune need not write its own snapshots: a search goes on from its study, and nobody would read them.
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")
# Why a trial failed is in the study and on the terminal, in one line.
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
# Trials stay in the current folder, so that paths in the user's own functions mean what they meant.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
