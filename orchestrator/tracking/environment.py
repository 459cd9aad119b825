"""With what a search ran: versions, machine, and the commit of the folder that it was started in."""

import getpass
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

_PROGRAM = "cascade-pruning"
_SHOWN = ("torch", "torchvision", "ray", "optuna", "mlflow", "pyarrow", "numpy", "torch-pruning")


def environment_texts() -> dict[str, str]:
    """Artifacts that say with what a search ran, by their path. No environment variable is among them."""
    from trainables.hardware.machine import processor_name  # with torch, which the courier does without

    described = (found.metadata for found in importlib.metadata.distributions())  # each read once
    installed = sorted({f"{about['Name']}=={about['Version']}" for about in described}, key=str.lower)
    machine = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "versions": {name: version for name in (_PROGRAM, *_SHOWN) if (version := _version(name)) is not None},
        "git": _git(Path.cwd()),
    }
    return {
        "environment/requirements.txt": "\n".join(installed) + "\n",
        "environment/environment.json": json.dumps(machine, indent=2) + "\n",
    }


def source_tags(command: str) -> dict[str, str]:
    """Tags by which MLflow shows who started what, and at which commit."""
    tags = {"mlflow.source.name": f"cascade {command}", "mlflow.source.type": "LOCAL", "mlflow.user": _user()}
    version, git = _version(_PROGRAM), _git(Path.cwd())
    if version is not None:
        tags["cascade.version"] = version
    if git is not None:
        tags["mlflow.source.git.commit"] = str(git["commit"])
    return tags


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user has no name
        return "unknown"


def _git(folder: Path) -> dict[str, object] | None:
    """Commit of the repository that a folder is in, and whether files differ from it; `None` where there is none."""
    commit = _asked("git", "-C", str(folder), "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _asked("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": bool(changed)}


def _asked(*words: str) -> str | None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
