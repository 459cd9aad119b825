"""Run all benchmarks, or one: `python -m benchmarks [NAME]`."""

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.table import machine, read_rows, table, write_rows

NAMES = (
    "startup",
    "engine",
    "speed",
    "kernels",
    "gradients",
    "memory_kept",
    "compiling",
    "precision",
    "saliency",
    "overhead",
    "tracking",
    "reuse_actors",
    "ranks",
    "scale",
    "bends",
    "nodes",
    "policies",
    "crash",
    "demo",
    "reuse",
    "real_search",
    "latency_sizes",
    "networks",
    "exports",
    "jpeg",
    "sharing",
)


def main() -> int:
    """Run what was asked for; 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=NAMES, help="one benchmark; all of them by default")
    parser.add_argument("--rows", type=Path, help="also write the figures to this file, as JSON")
    options = parser.parse_args()
    if options.name is not None:
        rows = importlib.import_module(f"benchmarks.{options.name}").run()
    else:
        rows = []
        for name in NAMES:  # a process each, so that none inherits another's threads, memory or modules
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "rows.json"
                command = [sys.executable, "-m", "benchmarks", name, "--rows", str(file)]
                subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
                if not file.exists():
                    print(f"{name} failed; run `python -m benchmarks {name}`", file=sys.stderr)
                    return 1
                rows += read_rows(file)
    if options.rows is not None:
        write_rows(rows, options.rows)
    print(machine())
    print(table(rows))
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
