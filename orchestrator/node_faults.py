"""Nodes on which trials fail again and again, which are left out for a while.

A trial that raises, or whose process dies, is tried again; on a node with a broken disk or card it fails there again,
as such a node is free sooner than any other. So a node on which two attempts in a row have failed is left out, if
another one that is there could take a trial. It is tried again after a quarter of an hour; at once where the blame was
a trial's, which has failed elsewhere since.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import ray
from ray._private.state import state  # on which node an actor was that is dead is told nowhere else

FAILURES_IN_A_ROW = 2
LEFT_OUT_SECONDS = 900.0
_ACTOR = re.compile(r"actor_id[:=]\s*([0-9a-f]{32,})")


def node_of(said: str) -> str | None:
    """The node of an actor that failed, by what Ray said of it; `None` where that cannot be known."""
    found = _ACTOR.findall(said)
    if not found:
        return None
    told = state.actor_table(found[-1]) or {}
    node: str | None = told.get("Address", {}).get("NodeID") or None
    return node


def nodes_there() -> frozenset[str]:
    """Nodes that are alive and could take a trial: those that have a processor to give."""
    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0)


@dataclass(slots=True)
class _Blame:
    """What a node has failed.

    Attributes:
        trials: whose attempts failed there since one last worked, in their order.
        until: when it is tried again; `None` while it is not left out.
    """

    trials: list[int] = field(default_factory=list)
    until: float | None = None


class NodeFaults:
    """Counts failed attempts by node."""

    def __init__(
        self, *, there: Callable[[], frozenset[str]] = nodes_there, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing has failed.

        Args:
            there: gives the nodes that could take a trial.
            clock: in seconds.
        """
        self._there = there
        self._clock = clock
        self._blames: dict[str, _Blame] = {}

    def worked(self, node: str) -> None:
        """A trial trained an epoch on a node."""
        self._blames.pop(node, None)

    def failed(self, node: str, trial: int) -> bool:
        """An attempt at a trial failed on a node; whether the node is left out from now on."""
        for other, blame in list(self._blames.items()):
            if other != node and set(blame.trials) == {trial}:
                del self._blames[other]  # it is the trial, and not the node
        blame = self._blames.setdefault(node, _Blame())
        blame.trials.append(trial)
        if len(blame.trials) < FAILURES_IN_A_ROW or blame.until is not None:
            return False
        if not self._there() - self.left_out - {node}:
            return False  # there is no other
        blame.until = self._clock() + LEFT_OUT_SECONDS
        return True

    def is_left_out(self, node: str | None) -> bool:
        """Whether a node takes no trials."""
        return node is not None and node in self.left_out

    @property
    def left_out(self) -> frozenset[str]:
        """Nodes that take no trials for now."""
        now = self._clock()
        return frozenset(node for node, blame in self._blames.items() if blame.until is not None and now < blame.until)

    @property
    def selector(self) -> dict[str, str] | None:
        """Ray's label selector of the nodes that take trials; `None` where all do."""
        left_out = sorted(self.left_out)
        return {"ray.io/node-id": f"!in({','.join(left_out)})"} if left_out else None
