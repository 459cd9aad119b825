"""How many trials run at the same time, and how many are drawn before they can.

A trial that is drawn early is drawn knowing less. But one at a time would start a cluster's machines, and the processes
on them, one after the other; that is what Tune does with a searcher if it is not told otherwise.
"""

import math
import time
from collections.abc import Callable, Mapping

from orchestrator.machines.cluster import machines_there, may_come

LOOK_SECONDS = 5.0  # between two looks at the cluster, as Tune asks many times a second


def trials_that_fit(needs: Mapping[str, float]) -> int:
    """How many trials the nodes that are alive take at the same time, each with so much of Ray's resources."""
    asked = {kind: number for kind, number in needs.items() if number > 0}
    fits = (
        min(int(machine.get(kind, 0.0) / number + 1e-6) for kind, number in asked.items())
        for machine in machines_there().values()
    )
    return sum(fits) if asked else 0


class Places:
    """Where trials can run, looked at now and then."""

    def __init__(
        self, needs: Mapping[str, float], most: int | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Nobody has looked yet.

        Args:
            needs: what a trial takes of a node, by Ray's resources.
            most: trials at the same time, if they are limited.
            clock: in seconds.
        """
        self._needs = needs
        self._most = math.inf if most is None else most
        self._clock = clock
        self._looked = -math.inf
        self._there = 0
        self._more_may_come = False

    def may_wait(self, num_running: int) -> int:
        """Trials that may have been drawn and wait to start, beside so many that run; at least 1.

        As many as have a place now. Where autoscaling may bring more machines, as many again as run, if that is more:
        what waits is what it starts machines for, and so a cluster doubles until it is whole.
        """
        if self._clock() - self._looked >= LOOK_SECONDS:
            self._there, self._more_may_come = trials_that_fit(self._needs), bool(may_come())
            self._looked = self._clock()
        free = self._there - num_running
        wanted = max(free, num_running) if self._more_may_come else free
        return int(max(1, min(wanted, self._most - num_running)))
