"""The cluster files that come with the package, ready for `ray up` and `kubectl`."""

import json
import sys
from importlib.resources import files
from typing import Literal

from trainables.errors import InputError

# What each is for, by the name under which it is printed.
CLUSTERS = {
    "local": "your own machines, over SSH",
    "aws": "a CPU head and GPU workers on spot, on AWS",
    "gcp": "a CPU head and GPU workers on spot, on Google Cloud",
    "kuberay": "a job on Kubernetes, under KubeRay",
}


def cluster_file(name: str) -> str:
    """The text of a cluster file.

    Raises:
        InputError: if there is none of this name.
    """
    if name not in CLUSTERS:
        raise InputError(f"{name!r} is no cluster file; there are {', '.join(CLUSTERS)}")
    return (files("orchestrator") / "clusters" / f"{name}.yaml").read_text(encoding="utf-8")


def print_clusters(name: str | None, *, format: Literal["text", "json"]) -> None:
    """List the cluster files, or print one.

    Raises:
        InputError: if there is no such file.
    """
    if name is None:
        lines = [f"{cluster:8} {purpose}" for cluster, purpose in CLUSTERS.items()]
        sys.stdout.write((json.dumps(CLUSTERS) if format == "json" else "\n".join(lines)) + "\n")
    else:
        text = cluster_file(name)
        sys.stdout.write(json.dumps(text) + "\n" if format == "json" else text)
