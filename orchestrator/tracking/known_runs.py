"""Runs that MLflow has of a search: those that records are of, and those of trials that the search has lost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

REASON = "cascade.reason"
NOTE = "mlflow.note.content"
LOST = "lost"
LOST_TAGS: Mapping[str, str] = MappingProxyType(
    {
        "cascade.kind": LOST,
        "front": "false",
        NOTE: "Of a trial that its search has lost: its driver's machine was gone before the bucket knew of it, "
        "and another trial has its number.",
    }
)
"""What runs of a trial say that MLflow has heard of, and that the search has lost."""
_PAGE = 1000


@dataclass(kw_only=True, slots=True)
class KnownRun:
    """One run, as far as it matters to what is sent next.

    Attributes:
        run_id: MLflow's.
        name: for people.
        status: MLflow's.
        params: that it has.
        tags: that it has.
    """

    run_id: str
    name: str
    status: str
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def differs(self, params: Mapping[str, str]) -> bool:
        """Whether it has one of these parameters with another value."""
        return any(self.params.get(name, value) != value for name, value in params.items())

    @property
    def told_of_end(self) -> set[str]:
        """Names of the tags that say why it was stopped or failed; a description that says something else is none."""
        if REASON not in self.tags:
            return set()
        names = {REASON, "failure"} | ({NOTE} if self.tags.get(NOTE) == self.tags[REASON] else set())
        return names & self.tags.keys()


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundRuns:
    """All runs of a search.

    Attributes:
        by_key: those that records are of, by `cascade.run`.
        lost: ids of the others.
    """

    by_key: dict[str, KnownRun]
    lost: set[str]


def find_runs(client: Any, experiment_id: str, search_id: str) -> FoundRuns:  # noqa: ANN401 - MLflow comes without types
    """Look all runs of a search up.

    Args:
        client: MLflow's.
        experiment_id: where they are.
        search_id: of the search.

    Raises:
        Exception: whatever MLflow raises.
    """
    found = FoundRuns(by_key={}, lost=set())
    which, token = f"tags.`cascade.search_id` = '{search_id}'", None
    while True:
        page = client.search_runs([experiment_id], which, max_results=_PAGE, page_token=token)
        for run in page:
            info, data = run.info, run.data
            if data.tags.get("cascade.kind") == LOST:
                found.lost.add(info.run_id)
                continue
            found.by_key[data.tags.get("cascade.run", "")] = KnownRun(
                run_id=info.run_id,
                name=info.run_name,
                status=info.status,
                params=dict(data.params),
                tags=dict(data.tags),
            )
        token = page.token
        if not token:
            return found
