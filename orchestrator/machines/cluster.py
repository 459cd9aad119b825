"""The cluster that a search joins: whether it has what a trial takes, and shares the storage folder."""

import os
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray._private.state import state  # what autoscaling may still bring is told nowhere else
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.experiment.machine_rules import LOCAL
from orchestrator.storage.bucket import Bucket
from trainables.errors import InputError, first_line

GPU_KIND = "accelerator_type:"
"""Begins the name of the resource that Ray gives a machine for its cards' kind."""
# A node starts a Python process for the first task that it gets; on a busy one that takes a while.
ANSWER_SECONDS = 120.0
# Machines of a kind where the autoscaler says no number.
_NO_LIMIT = 100


def machines_there() -> dict[str, Mapping[str, float]]:
    """Resources of each machine that is there, by Ray's id of it, whoever uses them now. Needs Ray."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def _all_machines() -> list[Mapping[str, float]]:
    """Resources of each machine that is there or may come."""
    return [*machines_there().values(), *may_come()]


def check_resources(asked: Mapping[str, tuple[str, float]], *, address: str) -> float:
    """See that a trial fits on some machine, one that is there or one that autoscaling may bring. Needs Ray.

    Args:
        asked: what is asked for by the key that says so: Ray's name of it (`CPU`, `GPU`), and how much.
        address: what `resources.address` says.

    Returns:
        The CPUs of the largest machine that is there.

    Raises:
        InputError: if no machine has as much.
    """
    there = list(machines_there().values())
    machines = [*there, *([] if address == LOCAL else may_come())]
    for key, (kind, number) in asked.items():
        most = max(machine.get(kind, 0.0) for machine in machines)  # a trial runs on one machine
        if number > most:
            mend = "ask for less or use a larger machine"
            if address != LOCAL:
                mend = (
                    f"ask for less, or wait for machines that are still starting: {len(there)} have joined, and "
                    "`ray status` shows the others"
                )
            raise InputError(f"{key} is {number:g}, but there are {most:g} {kind}s; {mend}")
    return float(max(machine.get("CPU", 1.0) for machine in there))


def check_kinds(asked: Mapping[str, str]) -> None:
    """See that some machine has cards of these kinds, one that is there or that autoscaling may bring. Needs Ray.

    Args:
        asked: Ray's name of a kind, by the key that asks for it.

    Raises:
        InputError: if none has.
    """
    machines = _all_machines()
    names = {name for machine in machines for name in machine if name.startswith(GPU_KIND)}
    kinds = sorted(name.removeprefix(GPU_KIND) for name in names)
    for key, kind in asked.items():
        if kind not in kinds:
            has = f"the machines have {', '.join(kinds)}" if kinds else "no machine has cards whose kind Ray knows"
            raise InputError(f"{key} is {kind!r}, but {has}; give one of these, or leave it out")


def check_together(needs: Mapping[str, Mapping[str, float]]) -> None:
    """See that some machine has all that is needed at once, one that is there or that autoscaling may bring. Needs Ray.

    Args:
        needs: numbers by Ray's names of resources, by who needs them.

    Raises:
        InputError: if none has.
    """
    machines = _all_machines()
    for who, need in needs.items():
        if not any(all(machine.get(kind, 0.0) >= number for kind, number in need.items()) for machine in machines):
            asked = [f"{number:g} {kind}s" for kind, number in need.items() if not kind.startswith(GPU_KIND)]
            asked += [f"cards of kind {kind.removeprefix(GPU_KIND)}" for kind in need if kind.startswith(GPU_KIND)]
            raise InputError(
                f"{who} takes {', '.join(asked)}, but no machine has all of these; ask for less of one of them"
            )


def may_come() -> list[Mapping[str, float]]:
    """Resources of each kind of machine that the autoscaler says it may start; as often as there may be of it."""
    config = state.get_cluster_config()
    if config is None:
        return []
    counts = ((group, group.max_count if group.max_count >= 0 else _NO_LIMIT) for group in config.node_group_configs)
    return [dict(group.resources) for group, count in counts for _ in range(count)]


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What a machine of the cluster sees.

    Attributes:
        token: what the file holds that the driver wrote; `None` if it is not there.
        writable: whether files can be made beside it.
        version: of the project there.
        reason: why a bucket cannot be used from there, if it cannot.
    """

    token: str | None
    writable: bool
    version: str
    reason: str = ""


def look(marker: str | Bucket) -> View:
    """Look from the machine that this runs on.

    Args:
        marker: path of the file that the driver wrote, or the place in a bucket that is to be used.
    """
    here = version("cascade-pruning")
    if isinstance(marker, Bucket):
        try:
            marker.require_usable()
        except InputError as error:
            return View(token=None, writable=False, version=here, reason=str(error))
        return View(token="", writable=True, version=here)
    path = Path(marker)
    try:
        token = path.read_text(encoding="utf-8")
    except OSError:
        token = None
    return View(token=token, writable=os.access(path.parent, os.W_OK | os.X_OK), version=here)


def check_nodes(storage: Path | Bucket, *, address: str, seconds: float = ANSWER_SECONDS) -> None:
    """See that every machine that is there reads and writes the storage folder, and runs this version. Needs Ray.

    Args:
        storage: folder of all searches, made if it is not there, and left as it was found; or a place in a bucket.
        address: what `resources.address` says; a machine alone has nothing to share.
        seconds: for which the machines are waited for.

    Raises:
        InputError: naming the machines that do not, and the mend.
    """
    if address == LOCAL:
        return
    nodes = {node["NodeID"]: _label(node) for node in ray.nodes() if node["Alive"]}
    if isinstance(storage, Bucket):
        _judge(*_views(nodes, storage, seconds), token="", storage=storage.address)
        return
    made = _make(storage)
    marker, token = storage.resolve() / f".shared-{uuid.uuid4().hex}", secrets.token_hex()
    try:
        marker.write_text(token, encoding="utf-8")
        views, silent = _views(nodes, str(marker), seconds)
    finally:
        marker.unlink(missing_ok=True)
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()
    _judge(views, silent, token=token, storage=str(marker.parent))


def _make(folder: Path) -> list[Path]:
    """Make a folder with its parents; those that were not there, deepest first."""
    missing = [path for path in (folder.resolve(), *folder.resolve().parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _views(nodes: Mapping[str, str], marker: str | Bucket, seconds: float) -> tuple[dict[str, View], dict[str, str]]:
    """What machines see, and why others did not say, both by label; those that have left meanwhile do not count."""
    remote = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {
        node: remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(marker)
        for node in nodes
    }
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=seconds)
    views: dict[str, View] = {}
    silent: dict[str, str] = {}
    for node, answer in asked.items():
        try:
            views[nodes[node]] = ray.get(answer, timeout=0)
        except GetTimeoutError:
            silent[nodes[node]] = f"no answer in {seconds:g} s"
        except RayError as error:
            silent[nodes[node]] = first_line(getattr(error, "cause", None) or error)
    left = {_label(node) for node in ray.nodes() if not node["Alive"]}
    return views, {label: why for label, why in silent.items() if label not in left}


def _label(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerAddress']} (node {node['NodeID'][:8]})"


def _judge(views: Mapping[str, View], silent: Mapping[str, str], *, token: str, storage: str) -> None:
    here = version("cascade-pruning")
    if silent:
        raise InputError(
            f"{_machines(list(silent))} does not run this project: {next(iter(silent.values()))}; install the same "
            "versions on all machines, as the cluster files do, or take it out of the cluster"
        )
    other = [label for label, view in views.items() if view.version != here]
    if other:
        raise InputError(
            f"{_machines(other)} runs cascade-pruning {views[other[0]].version}, but this process {here}; "
            "install the same version on all machines, with `ray up` again"
        )
    barred = [label for label, view in views.items() if view.reason]
    if barred:
        raise InputError(
            f"{_machines(barred)} cannot use --storage: {views[barred[0]].reason} that Ray was started with there"
        )
    blind = [label for label, view in views.items() if view.token != token]
    if blind:
        raise InputError(
            f"--storage is {storage}, which {_machines(blind)} does not share with this machine; give a folder that "
            "all machines mount at the same path, with --storage or CASCADE_STORAGE"
        )
    barred = [label for label, view in views.items() if not view.writable]
    if barred:
        raise InputError(
            f"--storage is {storage}, which {_machines(barred)} may not write to; mount it for writing, and let the "
            "user that Ray runs as write there"
        )


def _machines(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{labels[0]}, as {len(labels) - 1} more,"


def check_joined(bootstrap: Mapping[str, Any], *, joined: int) -> None:
    """See that workers of one's own machines have joined, which they do not under the second autoscaler.

    Args:
        bootstrap: the cluster file as the head has it.
        joined: machines that are there, the head among them.

    Raises:
        InputError: if the file names workers and there are none.
    """
    provider = bootstrap.get("provider", {})
    workers = provider.get("worker_ips", []) if provider.get("type") == LOCAL else []
    if workers and joined == 1:
        raise InputError(
            f"the cluster file names {len(workers)} workers, but none has joined; wait for them (`ray status`), and "
            "start the cluster with RAY_UP_enable_autoscaler_v2=0 ray up, as workers of one's own machines join only so"
        )
