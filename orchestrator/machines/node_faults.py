"""Nodes on which trials fail again and again, which are left out for a while.

A trial that raises, or whose process dies, is tried again; on a node with a broken disk or card it fails there again,
as such a node is free sooner than any other. So a node on which two attempts in a row have failed is left out, if
another one that is there could take a trial. The first wave that begins a quarter of an hour later tries it again, and
one more failure is enough then. A trial that has failed on several nodes is itself to blame, and counts against none of
them: else it would go from node to node for ever. A node that is gone, as a machine that was reclaimed, is not to blame
either, nor is a trial whose process it took along: that goes on as often as it has come farther. A node that cannot
have what trials need, as images that were replaced since others fetched them, is left out at the first trial, which
says so.
"""

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ray._private.state import state  # on which node an actor was that is dead is told nowhere else

from orchestrator.machines.cluster import machines_there

FAILURES_IN_A_ROW = 2
LEFT_OUT_SECONDS = 900.0
_ACTOR = re.compile(r"actor_id[:=]\s*([0-9a-f]{32,})")
# In the words of Ray's exceptions, which it hands over as text; the second comes before the node is known to be dead.
_LOST = re.compile(r"The actor (died unexpectedly|[0-9a-f]{32,} is unavailable)")


def node_of(said: str) -> str | None:
    """The node of an actor that failed, by what Ray said of it; `None` where that cannot be known."""
    found = _ACTOR.findall(said)
    if not found:
        return None
    told = state.actor_table(found[-1]) or {}
    node: str | None = told.get("Address", {}).get("NodeID") or None
    return node


def lost_its_process(said: str) -> bool:
    """Whether an actor failed as its process was gone, and did not raise, by what Ray said last of it."""
    return _LOST.match(last_attempt(said)) is not None


def last_attempt(said: str) -> str:
    """What Ray said of the last of a trial's attempts, without the line that Tune puts before it."""
    _, number, last = said.rpartition("Failure #")
    return last.partition("\n")[2] if number else said


def nodes_for(needs: Mapping[str, float]) -> frozenset[str]:
    """Nodes that are alive and have so much of each of Ray's resources, whoever uses it now."""
    return frozenset(
        node
        for node, machine in machines_there().items()
        if all(machine.get(kind, 0.0) >= number for kind, number in needs.items())
    )


@dataclass(slots=True)
class _Blame:
    """What a node has failed.

    Attributes:
        trials: whose attempts failed there since one last worked, in their order.
        until: when it may be tried again; in the past where it was not left out, or was and has not worked since.
    """

    trials: list[int] = field(default_factory=list)
    until: float = -math.inf


class NodeFaults:
    """Counts failed attempts by node."""

    def __init__(self, there: Callable[[], frozenset[str]], *, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing has failed.

        Args:
            there: gives the nodes that could take a trial.
            clock: in seconds.
        """
        self._there = there
        self._clock = clock
        self._blames: dict[str, _Blame] = {}
        self._failed_on: dict[int, set[str]] = {}  # nodes of trials that have not worked since
        self._reached: dict[int, float] = {}  # epochs of trials that have gone on

    def worked(self, node: str, trial: int) -> None:
        """A trial trained an epoch on a node."""
        self._blames.pop(node, None)
        self._failed_on.pop(trial, None)

    def failed(self, node: str, trial: int) -> bool:
        """An attempt at a trial failed on a node; whether the node is left out from now on."""
        if self.is_gone(node):
            return False
        nodes = self._failed_on.setdefault(trial, set())
        nodes.add(node)
        if len(nodes) > 1:  # it is the trial, and not the nodes
            self._blames = {name: blame for name, blame in self._blames.items() if set(blame.trials) != {trial}}
            return False
        blame = self._blames.setdefault(node, _Blame())
        blame.trials.append(trial)
        if len(blame.trials) < FAILURES_IN_A_ROW or self.is_left_out(node):
            return False
        if not self.taking - {node}:
            return False  # there is no other
        blame.until = self._clock() + LEFT_OUT_SECONDS
        return True

    def is_unfit(self, node: str) -> bool:
        """A node cannot have what trials need: it is left out at once; whether another one could take them."""
        self._blames.setdefault(node, _Blame()).until = self._clock() + LEFT_OUT_SECONDS
        return bool(self.taking)

    def goes_on(self, trial: int, epochs: float) -> bool:
        """Whether a trial has more epochs than when this was last asked, so that it does not go on for ever."""
        reached, self._reached[trial] = self._reached.get(trial, 0), epochs
        return epochs > reached

    def is_gone(self, node: str | None) -> bool:
        """Whether a node is no longer there."""
        return node is not None and node not in self._there()

    def is_left_out(self, node: str | None) -> bool:
        """Whether a node takes no trials."""
        return node is not None and node in self.left_out

    @property
    def left_out(self) -> frozenset[str]:
        """Nodes that take no trials for now."""
        now = self._clock()
        return frozenset(node for node, blame in self._blames.items() if now < blame.until)

    @property
    def taking(self) -> frozenset[str]:
        """Nodes that are there and take trials."""
        return self._there() - self.left_out

    @property
    def selector(self) -> dict[str, str] | None:
        """Ray's label selector of the nodes that take trials; `None` where all do, as no other is left."""
        left_out = self.left_out
        if not left_out or not self.taking:
            return None
        return {"ray.io/node-id": f"!in({','.join(sorted(left_out))})"}
