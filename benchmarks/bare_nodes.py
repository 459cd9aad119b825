"""Nodes of Ray that are a raylet each and nothing more, so that a hundred of them fit on one machine.

A node as Ray starts it is a raylet of some 12 MB, two agents in Python of 140 MB together, and workers begun before
they are needed. Here the agents of all nodes but the head's are processes that sleep, and workers start when there is
work. The agent that prepares the environments of workers is the head's for all, as it asks nothing of a node; metrics
are off.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

_AGENTS = ("--dashboard_agent_command", "--runtime_env_agent_command")
_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
# Read by raylets as they start; a hundred workers that start at once on two cores take longer than they may.
_SETTINGS = {
    "RAY_enable_worker_prestart": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_register_timeout_seconds": "600",
}


@contextmanager
def bare_nodes() -> Iterator[None]:
    """Within it, nodes that are added to a cluster are raylets alone; its head has to be there."""
    from ray._private import services

    start: Any = services.start_ray_process

    def start_bare(command: Sequence[str], process_type: str, **options: Any) -> Any:  # noqa: ANN401 - Ray's
        if process_type == "raylet":
            _name_ports(dict(each[2:].partition("=")[::2] for each in command if each.startswith("--")))
            command = [_without_agents(each) for each in command]
        return start(command, process_type, **options)

    with mock.patch.dict(os.environ, _SETTINGS), mock.patch.object(services, "start_ray_process", start_bare):
        yield


def _without_agents(argument: str) -> str:
    name, _, value = argument.partition("=")
    if name in _AGENTS:
        value = '/bin/sh -c "exec sleep infinity"'  # the raylet ends when an agent does, and may add options
    elif name == "--num_prestart_python_workers":
        value = "0"
    return f"{name}={value}" if value else argument


def _name_ports(options: dict[str, str]) -> None:
    """Write down for a raylet where its agents listen, as these would; it waits for that."""
    session = Path(options["session_dir"])
    for name in _PORTS:
        head = next(session.glob(f"{name}_*"))
        (session / f"{name}_{options['node_id']}").write_text(head.read_text())
