"""A search on a cluster: `ray submit CLUSTER.yaml orchestrator/submit.py -- EXPERIMENT [options of cascade search]`.

Ray copies this one file to the home folder of the head, joins what follows with spaces, unquoted, and runs it there;
all else is imported from the installed package. In a job it is `python -m orchestrator.submit EXPERIMENT …`.
"""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

# What a file in the current folder or beside this one must not hide.
PACKAGES = ("orchestrator", "search_spaces", "trainables", "ray", "torch", "torchvision", "optuna", "mlflow", "numpy")


def main(arguments: Sequence[str], script: Path) -> int:
    """Search on the cluster that this machine is part of; the exit code."""
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != script.parent]
    problem = hidden(script.parent) or hidden(Path.cwd())
    if problem is None and importlib.util.find_spec("orchestrator") is None:
        problem = f"the project is not installed for {sys.executable}; name it in setup_commands of the cluster file"
    if problem is not None:
        sys.stderr.write(f"cascade: {problem}\n")
        return 2
    from orchestrator.submission import run  # the installed one

    return run(arguments)


def hidden(folder: Path) -> str | None:
    """What is wrong where a file of a folder that Python looks into first is named like a package that is needed."""
    for name in PACKAGES:
        if (folder / f"{name}.py").is_file():
            return f"{folder / f'{name}.py'} hides the package {name}; rename or remove it"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve()))
