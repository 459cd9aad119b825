"""How long `cascade --help` takes to answer."""

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.table import Row

ROUNDS = 5


def cascade_command() -> str:
    """Path of the installed command, beside this interpreter or on the PATH."""
    beside = Path(sys.executable).with_name("cascade")
    found = str(beside) if beside.exists() else shutil.which("cascade")
    if found is None:
        raise SystemExit("the command `cascade` is not installed; pip install -e . first")
    return found


def run() -> list[Row]:
    """Measure it; once before, so that files are in the page cache."""
    command = [cascade_command(), "--help"]
    times = []
    for _ in range(1 + ROUNDS):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    note = f"median of {ROUNDS}, {min(times[1:]):.2f} … {max(times[1:]):.2f} s"
    return [
        Row(name="cascade --help", figure=statistics.median(times[1:]), unit="s", rule="below", target=0.5, note=note)
    ]
