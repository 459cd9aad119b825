"""The search in MLflow. No other package imports it.

`Tracker` is the driver's side: it turns what happens into records and appends them to a spool in the search's folder,
and never waits. A courier, a process of its own, takes records from the spool to MLflow in their order, so a server
that is slow, down or full costs the search nothing; what is left is taken along later, by the next start or by
`cascade sync`.
"""

from orchestrator.tracking.records import Status
from orchestrator.tracking.tracker import ClosedTrial, Tracker

__all__ = ["ClosedTrial", "Status", "Tracker"]
