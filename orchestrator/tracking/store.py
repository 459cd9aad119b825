"""Records in MLflow: runs found again or made, figures in batches, artifacts. Each is done twice with no harm.

A run is known by two tags, `cascade.search_id` and `cascade.run`. All runs of a search are looked up once, as making
one is the only thing that MLflow does not recognise when it is asked again. Runs of a trial that the search itself has
lost, as MLflow heard of it before its bucket did, have the tag `cascade.kind = lost`, and are known no more.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from orchestrator.addresses import mlflow_place, without_credentials
from orchestrator.searches.layout import OVERVIEW
from orchestrator.tracking.connecting import EXPERIMENT_TAGS, connected, is_own, is_server, keep_views
from orchestrator.tracking.database import is_full, refusal
from orchestrator.tracking.faults import cause_of, fault_of
from orchestrator.tracking.known_runs import LOST_TAGS, NOTE, REASON, KnownRun, find_runs
from orchestrator.tracking.records import SEARCH, now_ms
from orchestrator.tracking.spool import Record
from trainables.errors import InputError

_STATUSES: Mapping[str, str] = MappingProxyType({"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"})
_LOST_NAME = ", lost"
_MOST_LINES = 9  # of other searches in the experiment's description
_MOST_METRICS, _MOST_OTHERS = 900, 90  # MLflow takes 1,000 in all, and 100 each of parameters and tags


class RunGone(Exception):
    """A run that is to be told of was never begun there, or was deleted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchIdentity:
    """Which search records are of.

    Attributes:
        name: of the search.
        search_id: what tells it from every other.
        folder: the search's, absolute.
    """

    name: str
    search_id: str
    folder: Path


class MlflowStore:
    """One experiment at one address."""

    def __init__(self, *, uri: str, storage: Path, experiment: str) -> None:
        """Say where; nothing is connected yet.

        Args:
            uri: MLflow's tracking address.
            storage: folder of the searches; also of the artifacts unless the address is a server's.
            experiment: name of the MLflow experiment, made if it is not there.
        """
        self._uri, self._storage, self._experiment = uri, storage, experiment
        self.client: Any = None
        self.experiment_id = ""
        self._search: SearchIdentity | None = None
        self._runs: dict[str, KnownRun] | None = None
        self._lost: set[str] = set()

    @property
    def address(self) -> str:
        """The tracking address as it may be shown: without user, password and query."""
        return without_credentials(self._uri, self._uri)

    @property
    def place(self) -> str:
        """What tells this destination from others: the address and the experiment."""
        return f"{self.address} {self._experiment}"

    @property
    def is_server(self) -> bool:
        """Whether the address is a server's, which people can open too."""
        return is_server(self._uri)

    def require(self) -> None:
        """Connect, and see that the experiment can be written to.

        Raises:
            InputError: if not, with what to mend.
        """
        try:
            self.connect()
        except InputError:
            raise
        except Exception as error:  # whatever MLflow, its database driver or the network raise
            if is_own(self._uri, self._storage):
                raise InputError(refusal(error, self._storage)) from error
            cause = without_credentials(cause_of(error), self._uri)
            if fault_of(error) == "denied":
                raise InputError(f"tracking address {self.address} does not let us in: {cause}") from error
            if is_full(error):
                raise InputError(f"tracking address {self.address} does not work: {cause}; make room there") from error
            raise InputError(
                f"tracking address {self.address} does not work: {cause}; start an MLflow server there, correct the "
                "address (tracking.uri, MLFLOW_TRACKING_URI or the --uri of cascade sync), or leave it out to track in "
                f"{self._storage}"
            ) from error

    def connect(self) -> None:
        """Connect, and find or make the experiment.

        Raises:
            InputError: if the experiment was deleted, or its artifacts lie in a folder that cannot be written to.
            Exception: whatever MLflow raises.
        """
        self.client, self.experiment_id = connected(self._uri, self._storage, self._experiment)

    def follow(self, search: SearchIdentity) -> None:
        """Send records of this search from now on."""
        self._search, self._runs = search, None

    def probe(self) -> None:
        """Write something that changes nothing; raises while that is not possible."""
        if self.client is None:
            self.connect()
        experiment = self.client.get_experiment(self.experiment_id)
        if experiment.lifecycle_stage != "active":
            raise InputError(f"experiment {self._experiment!r} was deleted; restore it, and records are sent")
        for name, value in EXPERIMENT_TAGS.items():
            self.client.set_experiment_tag(self.experiment_id, name, value)

    def forget(self) -> None:
        """Look all runs up again before the next record; after a failure what was made is not known."""
        self._runs = None

    def run_ids(self) -> dict[str, str]:
        """Ids of all runs of the search, by key."""
        return {key: run.run_id for key, run in self._known().items()}

    def lost_run_ids(self) -> frozenset[str]:
        """Ids of all runs of trials that the search has lost."""
        self._known()
        return frozenset(self._lost)

    def open(self, record: Record) -> None:
        """A run begins, or goes on. A trial's that has other parameters is of one that the search has lost."""
        run = self._known().get(record["run"])
        if run is not None and record["tags"].get("cascade.kind") == "trial" and run.differs(record["params"]):
            self._lose(record["run"])
            run = None
        if run is None:
            run = self._make(record)
        elif run.status != "RUNNING":
            self._forget_end(run)
            self.client.update_run(run.run_id, status="RUNNING")
            run.status = "RUNNING"

    def log(self, key: str, *, metrics: Sequence[Any], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Figures, parameters and tags of a run; a parameter that is there already keeps its value.

        Args:
            key: of the run.
            metrics: name, value, step and time of each.
            params: by name.
            tags: by name.
        """
        from mlflow.entities import Metric, Param, RunTag

        run = self._run(key)
        new = [Param(name, value) for name, value in params.items() if name not in run.params]
        all_metrics = [Metric(name, value, time_ms, step) for name, value, step, time_ms in metrics]
        all_tags = [RunTag(name, value) for name, value in tags.items()]
        while all_metrics or new or all_tags:
            self.client.log_batch(
                run.run_id,
                metrics=all_metrics[:_MOST_METRICS],
                params=new[:_MOST_OTHERS],
                tags=all_tags[:_MOST_OTHERS],
                synchronous=True,
            )
            all_metrics, new, all_tags = all_metrics[_MOST_METRICS:], new[_MOST_OTHERS:], all_tags[_MOST_OTHERS:]
        run.params = {**params, **run.params}
        run.tags |= tags

    def close(self, key: str, status: str, time_ms: int, *, tags: Collection[str] = ()) -> None:
        """A run has ended.

        Args:
            key: of the run.
            status: how.
            time_ms: when.
            tags: names of those that say how, and have been logged; what an earlier end said beside them is removed.
        """
        run = self._run(key)
        self._forget_end(run, besides=tags)
        self.client.set_terminated(run.run_id, _STATUSES[status], end_time=time_ms)
        run.status = _STATUSES[status]

    def write(self, key: str, path: str, text: str) -> None:
        """A text as an artifact of a run."""
        self.client.log_text(self._run(key).run_id, text, path)

    def copy(self, key: str, file: Path, folder: str) -> None:
        """A file as an artifact of a run; one that is not there any more is left out."""
        if file.exists():
            self.client.log_artifact(self._run(key).run_id, str(file), folder or None)

    def read(self, key: str, sets: Sequence[Mapping[str, Any]]) -> None:
        """Data sets as inputs of a run."""
        import json

        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                dataset=Dataset(
                    name=one["name"],
                    digest=one["digest"],
                    source_type="local",
                    source=json.dumps({"uri": one["source"]}),
                    profile=json.dumps(one["profile"]),
                ),
                tags=[InputTag("mlflow.data.context", one["context"])],
            )
            for one in sets
        ]
        self.client.log_inputs(self._run(key).run_id, inputs)

    def describe(self, text: str) -> None:
        """What people read of the followed search on MLflow's first page: a line of the experiment's description."""
        assert self._search is not None
        run = self._run(SEARCH)
        place = mlflow_place(self.experiment_id, "runs", run.run_id, "artifacts", OVERVIEW)
        line = f"{self._search.name}: {text}. [Overview]({place})"
        before = self.client.get_experiment(self.experiment_id).tags.get(NOTE, "")
        others = [old for old in before.splitlines() if old and run.run_id not in old][:_MOST_LINES]
        after = "\n\n".join([line, *others])
        if after != before:
            self.client.set_experiment_tag(self.experiment_id, NOTE, after[:5000])

    def keep_views(self) -> None:
        """Save views of the runs page that fit the networks there are now."""
        keep_views(self.client, self.experiment_id)

    def interrupt(self, keys: Sequence[str]) -> None:
        """Close runs whose driver has died."""
        for key in keys:
            run = self._known().get(key)
            if run is not None and run.status == "RUNNING":
                tags = {"cascade.status": "interrupted", REASON: "the driver ended"}
                self.log(key, metrics=(), params={}, tags=tags)
                self.close(key, "stopped", now_ms(), tags=tags)

    def _forget_end(self, run: KnownRun, *, besides: Collection[str] = ()) -> None:
        """Remove what a run that was stopped or failed says of that, as it has gone on since."""
        for name in sorted(run.told_of_end - set(besides)):
            self.client.delete_tag(run.run_id, name)
            del run.tags[name]

    def _lose(self, trial: str) -> None:
        """Know the runs of a trial no more, and keep them out of what is shown of the search."""
        within = [key for key in self._known() if key.startswith(f"{trial}/")]
        for key in (*within, trial):  # the trial's is the last, as the others are found by it after a kill
            run = self._known()[key]
            if run.status == "RUNNING":
                self.client.set_terminated(run.run_id, "KILLED", end_time=now_ms())
            if not run.name.endswith(_LOST_NAME):  # as it does where MLflow failed after that
                self.client.update_run(run.run_id, name=run.name + _LOST_NAME)
            self.log(key, metrics=(), params={}, tags=LOST_TAGS)
            self._lost.add(self._known().pop(key).run_id)

    def _make(self, record: Record) -> KnownRun:
        assert self._search is not None
        own = {
            "cascade.search_id": self._search.search_id,
            "cascade.run": record["run"],
            "search": self._search.name,
        }
        parent = self._known().get(record["parent"] or "")
        if parent is not None:  # else it was deleted, which is no reason to lose what was nested in it
            own["mlflow.parentRunId"] = parent.run_id
        try:
            made = self.client.create_run(
                self.experiment_id, start_time=record["time"], tags=record["tags"] | own, run_name=record["name"]
            )
        except Exception:
            self.forget()  # it may have been made all the same
            raise
        run = self._known()[record["run"]] = KnownRun(run_id=made.info.run_id, name=record["name"], status="RUNNING")
        return run

    def _run(self, key: str) -> KnownRun:
        run = self._known().get(key)
        if run is None:
            raise RunGone(key)
        return run

    def _known(self) -> dict[str, KnownRun]:
        if self.client is None:
            self.connect()
        if self._runs is None:
            assert self._search is not None
            found = find_runs(self.client, self.experiment_id, self._search.search_id)
            self._runs, self._lost = found.by_key, found.lost
        return self._runs
