"""The search in MLflow: one run for the search and one child run a trial. No other file knows MLflow.

Records go to one background thread that sends them in order, so the search never waits for a tracking server. What a
server that is down does not take is kept, and sent when it is back.
"""

import json
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import urlsplit

from orchestrator.addresses import database_uri, without_credentials
from orchestrator.archive import Candidate
from orchestrator.deliveries import DeliveryThread, root_cause
from orchestrator.plots import FrontView, front_json, front_table, readable
from orchestrator.repeats import Repeat
from trainables.errors import InputError
from trainables.results import EpochProgress, Reused, TeacherResult

Status = Literal["finished", "failed", "stopped"]
Scalar = str | int | float | bool | None

_MLFLOW_STATUS: Mapping[str, str] = MappingProxyType({"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"})
# Set where the user has not: by default one call to a server that is down blocks for minutes.
_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
)
_MAX_TEXT = 5000  # characters; MLflow refuses longer parameters and tags


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosedTrial:
    """A trial that has ended, for a run that does not say so.

    Attributes:
        parameters: its configuration, flat.
        candidates: its levels; none if it failed or was stopped.
        reason: why it failed or was stopped.
    """

    parameters: Mapping[str, Scalar]
    candidates: Sequence[Candidate]
    reason: str | None


class Tracker:
    """Sends one search to MLflow. All methods but `check` and `close` return at once and never raise for MLflow."""

    def __init__(
        self,
        *,
        uri: str | None,
        storage: Path,
        experiment: str = "cascade",
        warn: Callable[[str], None],
    ) -> None:
        """Say where to; nothing is connected yet.

        Args:
            uri: MLflow's tracking address; `None` takes MLFLOW_TRACKING_URI from the environment, and if that is not
                set either, a database `mlflow.db` in `storage`.
            storage: folder of the searches; also of the artifacts unless the address is a server's.
            experiment: name of the MLflow experiment, made if it is not there.
            warn: takes a line for people when tracking does not work; called from the background thread.
        """
        self._storage = storage.resolve()
        self._uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or database_uri(self._storage)
        self._experiment = experiment
        self._experiment_id: str | None = None
        self._made_client: Any = None
        self._search_id, self._search_name = "", ""
        self._search_run_id: str | None = None
        self._trial_runs: dict[int, str] = {}
        self._last_epochs: dict[int, int] = {}
        self._thread = DeliveryThread(
            probe=self._probe,
            warn=lambda text: warn(f"tracking at {self.address}: {without_credentials(text, self._uri)}"),
        )

    @property
    def address(self) -> str:
        """The tracking address as it may be shown: without user, password and query."""
        return without_credentials(self._uri, self._uri)

    def check(self) -> None:
        """Connect and find or make the experiment; waits for it, some seconds.

        Raises:
            InputError: if MLflow is not to be reached there, or the experiment was deleted.
        """
        try:
            self._thread.ask(self._connect)
        except InputError:
            raise
        except Exception as error:  # whatever MLflow, its database driver or the network raise
            cause = without_credentials(root_cause(error), self._uri)
            raise InputError(
                f"tracking address {self.address} does not work: {cause}; start an MLflow server there, correct the "
                f"address (tracking.uri or MLFLOW_TRACKING_URI), or leave both out to track in {self._storage}"
            ) from error

    def start_search(self, name: str, parameters: Mapping[str, Scalar], config_text: str, search_id: str) -> None:
        """Open the search's run, or on resume the same one again.

        Args:
            name: what people call the search.
            parameters: of the search; one that MLflow has already keeps its first value.
            config_text: the configuration, kept as `config.yaml`.
            search_id: what tells this search from every other, also after a resume.
        """
        self._search_id, self._search_name = search_id, name

        def send() -> None:
            run_id = self._search_run()
            self._reopen(run_id, parameters)
            self._client().log_text(run_id, config_text, "config.yaml")

        self._thread.put(send)

    def join_search(self, name: str, search_id: str) -> None:
        """Record beside a search that has ended; its own run is left as it is.

        Args:
            name: what people call the search.
            search_id: what tells this search from every other.
        """
        self._search_id, self._search_name = search_id, name

    def log_repeats(self, repeats: Sequence[Repeat]) -> None:
        """Record cascades that were trained again, a child run each; doing so again changes nothing."""
        now = _now_ms()

        def send() -> None:
            parent = {"mlflow.parentRunId": self._search_run()}
            for repeat in repeats:
                tags = {"cascade.kind": "confirm", "cascade.trial": str(repeat.trial)}
                tags["cascade.repeat"] = str(repeat.index)
                run = self._find_or_create(f"confirm {repeat.trial}, seed {repeat.index}", tags, parent)
                if "cascade.status" not in run.data.tags:
                    self._close_repeat(run.info.run_id, repeat, now)

        self._thread.put(send)

    def log_confirmed(self, text: str) -> None:
        """Record what repeats say of the front, in the search's run, as `confirm/confirm.json`."""
        self._thread.put(lambda: self._client().log_text(self._search_run(), text, "confirm/confirm.json"))

    def log_teacher(self, result: TeacherResult, epochs: Sequence[EpochProgress]) -> None:
        """Record the teacher in the search's run; on resume it is there already and nothing is done.

        Args:
            result: what it came to.
            epochs: its training, one record an epoch; none if it was read from a file.
        """
        now = _now_ms()
        curves = [
            (f"teacher_epoch_{name}", value, epoch.epoch)
            for epoch in epochs
            for level in epoch.levels
            for name, value in (
                ("val_accuracy", level.val_accuracy),
                ("val_top5", level.val_top5),
                ("train_loss", level.train_loss),
            )
        ]
        finals = [(f"teacher_{name}", value, 0) for name, value in result.to_dict().items()]

        def send() -> None:
            run_id = self._search_run()
            if "teacher_val_accuracy" not in self._client().get_run(run_id).data.metrics:
                self._log_metrics(run_id, curves + finals, now)

        self._thread.put(send)

    def start_trial(self, trial: int, parameters: Mapping[str, Scalar]) -> None:
        """Open a trial's run, or on resume the same one again.

        Args:
            trial: its number.
            parameters: its configuration, flat.
        """
        self._thread.put(lambda: self._reopen(self._trial_run(trial), parameters))

    def log_epoch(self, trial: int, progress: EpochProgress) -> None:
        """Record an epoch of a trial; one that was recorded before, as after a resume, is left as it is.

        Args:
            trial: its number.
            progress: the epoch; `trial_epoch` is the step.
        """
        now, step = _now_ms(), progress.trial_epoch
        metrics = [
            ("epoch", step, step),
            ("epoch_seconds", progress.seconds, step),
            ("learning_rate", progress.learning_rate, step),
        ]
        for level in progress.levels:
            for name in ("val_accuracy", "val_top5", "train_loss", "macs_kept"):
                metrics.append((f"level_{level.level}_{name}", getattr(level, name), step))

        def send() -> None:
            run_id = self._trial_run(trial)
            if step > self._last_epochs[trial]:
                self._log_metrics(run_id, metrics, now)
                self._last_epochs[trial] = step

        self._thread.put(send)

    def settle(self, statuses: Mapping[int, Status], closed: Callable[[int], ClosedTrial]) -> None:
        """Close runs of trials that have ended, but were not told so before the driver died; on resume.

        Args:
            statuses: of all trials that have ended, by number.
            closed: gives what there is of one of them; called in the background.
        """
        now = _now_ms()

        def send() -> None:
            told: dict[int, str | None] = {}
            for run in self._find({"cascade.kind": "trial"}):
                number = int(run.data.tags["cascade.trial"])
                told[number] = run.data.tags.get("cascade.status")
                self._know_trial(number, run)
            for number, status in statuses.items():
                if told.get(number) != status:
                    trial = closed(number)
                    self._reopen(self._trial_run(number), trial.parameters)
                    self._close_trial(number, trial.candidates, status, trial.reason, None, now)

        self._thread.put(send)

    def finish_trial(
        self,
        trial: int,
        candidates: Sequence[Candidate],
        status: Status,
        reason: str | None = None,
        reused: Reused | None = None,
    ) -> None:
        """Close a trial's run with its student's figures and all its candidates; doing so again changes nothing.

        Args:
            trial: its number.
            candidates: its levels; none if it failed, and those that had reached their sizes if it was stopped.
            status: how it ended.
            reason: why it failed or was stopped.
            reused: what it did not have to compute.
        """
        now = _now_ms()
        self._thread.put(lambda: self._close_trial(trial, candidates, status, reason, reused, now))

    def log_front(self, view: FrontView, *, hypervolume: float, num_trials: int, figures: Sequence[Path] = ()) -> None:
        """Record the front in the search's run: two metrics, a table, and figures, under `front/`.

        Args:
            view: the front.
            hypervolume: of the front.
            num_trials: trials that are finished; the step.
            figures: files as `plots.save_front` writes them; they may be replaced later, not removed.
        """
        now = _now_ms()
        texts = {
            "front/front.md": front_table(view),
            "front/front.json": front_json(view, hypervolume),
        }
        metrics = [("hypervolume", hypervolume, num_trials), ("front_size", len(view.front), num_trials)]

        def send() -> None:
            client, run_id = self._client(), self._search_run()
            self._log_metrics(run_id, metrics, now)
            for name, text in texts.items():
                client.log_text(run_id, text, name)
            for path in figures:
                client.log_artifact(run_id, str(path), "front")

        self._thread.put(send)

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Close the search's run, and as interrupted those of trials that have not been finished.

        Args:
            status: how the search ended.
            reason: why it ended.
        """
        now = _now_ms()

        def send() -> None:
            client, run_id = self._client(), self._search_run()
            for child in self._find({"cascade.kind": "trial"}, "attributes.status = 'RUNNING'"):
                client.set_terminated(child.info.run_id, "KILLED", end_time=now)
                self._set_tags(child.info.run_id, {"cascade.status": "interrupted"})
            client.set_terminated(run_id, _MLFLOW_STATUS[status], end_time=now)
            self._set_tags(run_id, {"cascade.status": status} | ({"cascade.reason": reason} if reason else {}))

        self._thread.put(send)

    def close(self, timeout_seconds: float = 30.0) -> None:
        """Wait until everything is sent, at most so long for a record; what is left then is dropped with a warning."""
        self._thread.close(timeout_seconds)

    # All below runs in the background thread.

    def _client(self) -> Any:  # noqa: ANN401 - MLflow's client
        if self._experiment_id is None:
            self._connect()
        return self._made_client

    def _connect(self) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        # The SQLAlchemy that MLflow brings calls one of MLflow's own mappings out of date.
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
        from mlflow import MlflowClient

        # MLflow announces each migration of a new database, and prints what it raises, which is told in a line of ours.
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        served = urlsplit(self._uri).scheme in ("http", "https", "databricks", "uc")
        if not served:
            self._storage.mkdir(parents=True, exist_ok=True)
        self._made_client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        found = self._made_client.get_experiment_by_name(self._experiment)
        if found is not None and found.lifecycle_stage != "active":
            raise InputError(
                f"experiment {self._experiment!r} was deleted at {self.address}; restore it or choose another name"
            )
        self._experiment_id = (
            found.experiment_id
            if found
            else self._made_client.create_experiment(
                self._experiment, artifact_location=None if served else (self._storage / "mlartifacts").as_uri()
            )
        )

    def _probe(self) -> None:
        self._client().search_experiments(max_results=1)

    def _find(self, tags: Mapping[str, str], further: str = "") -> list[Any]:
        clauses = [f"tags.`{key}` = '{value}'" for key, value in self._own(tags).items()]
        found, token = [], None
        while True:
            page = self._made_client.search_runs(
                [self._experiment_id], " and ".join([*clauses, *filter(None, [further])]), page_token=token
            )
            found += page
            token = page.token
            if not token:
                return found

    def _own(self, tags: Mapping[str, str]) -> dict[str, str]:
        return {"cascade.search_id": self._search_id, **tags}

    def _find_or_create(self, name: str, tags: Mapping[str, str], further: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401
        client = self._client()
        # Creating is not idempotent in MLflow: a run may be there from before a kill or a lost answer.
        for run in self._find(tags):
            return run
        return client.create_run(self._experiment_id, tags=self._own(tags) | dict(further or {}), run_name=name)

    def _search_run(self) -> str:
        if self._search_run_id is None:
            self._search_run_id = self._find_or_create(self._search_name, {"cascade.kind": "search"}).info.run_id
        return self._search_run_id

    def _trial_run(self, trial: int) -> str:
        if trial not in self._trial_runs:
            parent = {"mlflow.parentRunId": self._search_run()}
            run = self._find_or_create(f"trial {trial}", {"cascade.kind": "trial", "cascade.trial": str(trial)}, parent)
            self._know_trial(trial, run)
        return self._trial_runs[trial]

    def _know_trial(self, trial: int, run: Any) -> None:  # noqa: ANN401
        self._last_epochs[trial] = int(run.data.metrics.get("epoch", 0))
        self._trial_runs[trial] = run.info.run_id

    def _reopen(self, run_id: str, parameters: Mapping[str, Scalar]) -> None:
        from mlflow.entities import Param

        client = self._client()
        known = client.get_run(run_id).data.params
        params = [Param(name, str(value)[:_MAX_TEXT]) for name, value in parameters.items() if name not in known]
        client.log_batch(run_id, params=params)
        client.update_run(run_id, status="RUNNING")
        self._set_tags(run_id, {"cascade.status": "running"})

    def _close_trial(  # noqa: PLR0913
        self,
        trial: int,
        candidates: Sequence[Candidate],
        status: Status,
        reason: str | None,
        reused: Reused | None,
        now: int,
    ) -> None:
        metrics: list[tuple[str, float | None, int]] = []
        if status == "finished" and candidates:
            student = max(candidates, key=lambda candidate: candidate.level)
            for name in ("val_accuracy", "val_top5", "macs_kept", "params_kept", "macs", "params", "latency_ms"):
                metrics.append((name, getattr(student, name), 0))
        tags = {"cascade.status": status} | (
            {"cascade.reason": reason, "mlflow.note.content": reason} if reason else {}
        )
        if reused is not None and reused.stages:
            metrics += [("reused_epochs", reused.epochs, 0), ("reused_seconds", reused.seconds, 0)]
            tags["cascade.reused_stages"] = ",".join(reused.stages)
        client, run_id = self._client(), self._trial_run(trial)
        if client.get_run(run_id).data.tags.get("cascade.status") == status:
            return
        self._log_metrics(run_id, metrics, now)
        if candidates:
            client.log_text(run_id, json.dumps([readable(c) for c in candidates], indent=2), "candidates.json")
        client.set_terminated(run_id, _MLFLOW_STATUS[status], end_time=now)
        # Last, as it is what says that all of the above was sent.
        self._set_tags(run_id, tags)

    def _close_repeat(self, run_id: str, repeat: Repeat, now: int) -> None:
        accuracies = enumerate(repeat.val_accuracies, start=1)
        self._log_metrics(run_id, [(f"level_{level}_val_accuracy", value, 0) for level, value in accuracies], now)
        self._client().log_param(run_id, "seed", repeat.seed)
        status: Status = "failed" if repeat.failure else "finished"
        self._client().set_terminated(run_id, _MLFLOW_STATUS[status], end_time=now)
        reason = {"cascade.reason": repeat.failure} if repeat.failure else {}
        self._set_tags(run_id, {"cascade.status": status} | reason)

    def _log_metrics(self, run_id: str, metrics: Iterable[tuple[str, float | None, int]], timestamp: int) -> None:
        from mlflow.entities import Metric

        finite = [
            Metric(name, float(value), timestamp, step)
            for name, value, step in metrics
            if value is not None and math.isfinite(value)
        ]
        # MLflow takes at most 1,000 a batch.
        for start in range(0, len(finite), 1000):
            self._client().log_batch(run_id, metrics=finite[start : start + 1000])

    def _set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client().log_batch(run_id, tags=[RunTag(key, value[:_MAX_TEXT]) for key, value in tags.items()])


def _now_ms() -> int:
    return int(time.time() * 1000)
