"""The driver's side of tracking: what happens in a search, as records in its spool."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.data.described import DataSet
from orchestrator.evidence.results import RunResult
from orchestrator.front.archive import Candidate
from orchestrator.front.front_view import FrontView
from orchestrator.front.listing import readable
from orchestrator.front.repeats import Repeat
from orchestrator.searches.folder import SearchFolder
from orchestrator.tracking import records
from orchestrator.tracking.environment import environment_texts, source_tags
from orchestrator.tracking.outbox import Outbox
from orchestrator.tracking.records import SEARCH, TEACHER, Scalar, Status
from orchestrator.tracking.registering import registration
from orchestrator.tracking.spool import Record
from orchestrator.tracking.stories import (
    front_flags,
    front_story,
    network_story,
    pictures,
    repeat_opening,
    repeat_story,
    run_story,
    teacher_story,
)
from orchestrator.tracking.telling import epoch_metrics, sizes_text, trial_metrics
from trainables.results import EpochProgress, Reused, TeacherResult


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
    """Writes one search down for MLflow. All methods but `check` and `close` return at once and never raise."""

    def __init__(
        self,
        *,
        uri: str | None,
        storage: Path,
        experiment: str = "cascade",
        models: Literal["front", "none"] = "front",
        sync: str = "cascade sync",
        export: Callable[[str], str] | None = None,
        warn: Callable[[str], None],
    ) -> None:
        """Say where to; nothing is connected yet.

        Args:
            uri: MLflow's tracking address; `None` takes MLFLOW_TRACKING_URI from the environment, and if that is not
                set either, a database `mlflow.db` in `storage`.
            storage: folder of the searches; also of the artifacts unless the address is a server's.
            experiment: name of the MLflow experiment, made if it is not there.
            models: which candidates become versions of a registered model.
            sync: command that sends what waits, as people type it.
            export: gives the command that exports a network, by its label; of a search in `storage` if left out.
            warn: takes a line for people when tracking does not work; called from a thread of its own.
        """
        self._outbox = Outbox(uri=uri, storage=storage, experiment=experiment, sync=sync, warn=warn)
        self._experiment = experiment
        self._models = models
        self._storage = storage
        self._name = ""
        self._given_export = export
        self._parameters: dict[int, Mapping[str, Scalar]] = {}
        self._has_front = False
        self._collapsed_below = 0.0  # until the teacher is known

    @property
    def address(self) -> str:
        """The tracking address as it may be shown: without user, password and query."""
        return self._outbox.address

    def follow_move(self) -> None:
        """Put places of artifacts right where the storage folder was moved; while nobody works in it, nor we do."""
        self._outbox.follow_move()

    def prepare(self) -> None:
        """Start the courier, which takes some seconds to get ready, while there is other work to do; makes nothing."""
        self._outbox.prepare()

    def check(self) -> None:
        """Have the courier connect and find or make the experiment; waits for it, some seconds.

        Raises:
            InputError: if MLflow is not to be reached there, refuses us, or the experiment was deleted.
        """
        self._outbox.check()

    def start_search(
        self,
        name: str,
        parameters: Mapping[str, Scalar],
        config_text: str,
        search_id: str,
        *,
        data: Sequence[DataSet] = (),
        kind: Literal["search", "study"] = "search",
    ) -> None:
        """Open the search's run, or on resume the same one again.

        Args:
            name: of the search and of its folder in the storage folder.
            parameters: of the search; one that MLflow has already keeps its first value.
            config_text: the configuration, kept as `config.yaml`.
            search_id: what tells this search from every other, also after a resume.
            data: what it reads, logged as inputs.
            kind: `study` where the runs within are a study's, which has no networks.
        """
        self._follow(name, search_id)
        told = [
            records.opening(SEARCH, name=name, kind=kind, params=parameters, tags=source_tags(kind)),
            records.writing(SEARCH, "config.yaml", config_text),
            *(records.writing(SEARCH, path, text) for path, text in environment_texts().items()),
        ]
        self._outbox.put(*told, *([records.reading(SEARCH, data)] if data else []))

    def join_search(self, name: str, search_id: str) -> None:
        """Record beside a search that has ended; its own run is left as it is.

        Args:
            name: of the search and of its folder.
            search_id: what tells this search from every other.
        """
        self._follow(name, search_id)

    def _follow(self, name: str, search_id: str) -> None:
        self._name = name
        self._outbox.follow(name, search_id)

    def _export(self, label: str) -> str:
        export = self._given_export or SearchFolder(storage=self._storage, name=self._name).export_command
        return export(label)

    def log_parameters(self, parameters: Mapping[str, Scalar]) -> None:
        """Record what has been decided since the search's run was opened; what is known of it stays."""
        if parameters:
            self._outbox.put(records.logging(SEARCH, params=parameters))

    def start_repeat(self, repeat: Repeat) -> None:
        """Open the run of a cascade that is trained again, or the same one again after an interruption."""
        self._outbox.put(repeat_opening(self._name, repeat))

    def log_repeats(self, repeats: Iterable[Repeat]) -> None:
        """Record cascades that were trained again, a child run each; doing so again changes nothing."""
        self._put_once(repeat_story(self._name, repeat) for repeat in repeats)

    def log_runs(self, results: Iterable[RunResult]) -> None:
        """Record runs of a study that have ended, a child run each; doing so again changes nothing."""
        self._put_once(run_story(result) for result in results)

    def _put_once(self, stories: Iterable[Sequence[Record]]) -> None:
        """Write down stories of whole runs, but for those that are known to have ended so."""
        for story in stories:
            note = self._outbox.ledger.runs.get(story[0]["run"])
            if note is None or note.status != story[-1]["status"]:
                self._outbox.put(*story)

    def log_confirmed(self, text: str) -> None:
        """Record what repeats say of the front, in the search's run, as `confirm/confirm.json`."""
        self._outbox.put(records.writing(SEARCH, "confirm/confirm.json", text))

    def log_teacher(self, result: TeacherResult, epochs: Sequence[EpochProgress]) -> None:
        """Record the teacher, its figures in the search's run and its curves in one of its own; only once.

        Args:
            result: what it came to.
            epochs: its training, one record an epoch; none if it was read from a file.
        """
        self._collapsed_below = result.collapsed_below
        if TEACHER in self._outbox.ledger.runs and not self._outbox.ledger.is_open(TEACHER):
            return
        self._outbox.put(*teacher_story(result, epochs))

    def start_trial(self, trial: int, parameters: Mapping[str, Scalar]) -> None:
        """Open a trial's run, or on resume the same one again.

        Args:
            trial: its number.
            parameters: its configuration, flat.
        """
        self._parameters[trial] = dict(parameters)
        tags = {"cascade.trial": str(trial), "sizes": sizes_text(parameters), "front": "false"}
        run = records.trial_key(trial)
        self._outbox.put(
            records.opening(
                run, name=f"trial {trial} of {self._name}", kind="trial", parent=SEARCH, params=parameters, tags=tags
            )
        )

    def log_epoch(self, trial: int, progress: EpochProgress) -> None:
        """Record an epoch of a trial and of its stage; one that was recorded before, as after a resume, is left.

        Args:
            trial: its number.
            progress: the epoch; `trial_epoch` is the step.
        """
        run, stage = records.trial_key(trial), records.stage_key(trial, progress.stage)
        note = self._outbox.ledger.runs.get(run)
        if note is not None and progress.trial_epoch <= note.last_epoch:
            return
        told = []
        if not self._outbox.ledger.is_open(stage):
            tags = {"cascade.trial": str(trial), "cascade.stage": progress.stage}
            name = f"trial {trial} of {self._name}, {progress.stage}"
            told.append(records.opening(stage, name=name, kind="stage", parent=run, tags=tags))
        metrics = epoch_metrics(progress, step=progress.trial_epoch)
        told += [records.logging(run, metrics), records.logging(stage, metrics)]
        if progress.epoch == progress.num_epochs:
            told.append(records.closing(stage, "finished"))
        self._outbox.put(*told)

    def settle(self, statuses: Mapping[int, Status], closed: Callable[[int], ClosedTrial]) -> None:
        """Close runs of trials that have ended, but were not told so before the driver died; on resume.

        Args:
            statuses: of all trials that have ended, by number.
            closed: gives what there is of one of them.
        """
        for number, status in statuses.items():
            note = self._outbox.ledger.runs.get(records.trial_key(number))
            if note is None or note.status != status:
                trial = closed(number)
                self.start_trial(number, trial.parameters)
                self.finish_trial(number, trial.candidates, status, trial.reason)

    def finish_trial(
        self,
        trial: int,
        candidates: Sequence[Candidate],
        status: Status,
        reason: str | None = None,
        reused: Reused | None = None,
    ) -> None:
        """Close a trial's run with its student's figures, and a run of each candidate; doing so again changes nothing.

        Args:
            trial: its number.
            candidates: its levels; none if it failed, and those that had reached their sizes if it was stopped.
            status: how it ended.
            reason: why it failed or was stopped.
            reused: what it did not have to compute.
        """
        run = records.trial_key(trial)
        if run in self._outbox.ledger.runs and self._outbox.ledger.runs[run].status == status:
            return
        if run not in self._outbox.ledger.runs:
            self.start_trial(trial, {})
        stages = reused.stages if reused is not None else ()
        told: list[Record] = []
        for candidate in candidates:
            collapsed = candidate.val_accuracy < self._collapsed_below
            told += network_story(
                self._name,
                candidate,
                self._parameters.get(trial, {}),
                collapsed=collapsed,
                export=self._export,
            )
        told += [records.closing(stage, status, reason=reason) for stage in self._outbox.ledger.within(run)]
        told += [records.logging(records.stage_key(trial, name), tags={"cascade.reused": "true"}) for name in stages]
        told.append(records.logging(run, trial_metrics(candidates if status == "finished" else (), reused)))
        if candidates:
            text = json.dumps([readable(candidate) for candidate in candidates], indent=2)
            told.append(records.writing(run, "candidates.json", text))
        tags = {"cascade.reused_stages": ",".join(stages)} if stages else {}
        self._outbox.put(*told, records.closing(run, status, reason=reason, tags=tags))

    def log_front(
        self, view: FrontView, *, hypervolume: float, num_trials: int, figures: Sequence[Path] | None = None
    ) -> None:
        """Record the front in the search's run: figures by step, a table, pictures, the overview, a history.

        Args:
            view: the front.
            hypervolume: of the front.
            num_trials: trials that are finished; the step.
            figures: files in the search's folder as `fronts.save_front` writes them, none where it could not; `None`
                of a front that has been told before.
        """
        self._has_front = True
        told = front_story(view, hypervolume=hypervolume, num_trials=num_trials, figures=figures, export=self._export)
        if figures is not None and view.front and self._models == "front":
            told.append(registration(self._experiment, self._name, view, self._export))
        with self._outbox.together:
            self._outbox.put(*front_flags(self._outbox.ledger, view), *told)

    def log_pictures(self, figures: Sequence[Path]) -> None:
        """Record pictures of the front anew, which has been told before.

        Args:
            figures: files in the search's folder as `fronts.save_front` writes them.
        """
        self._outbox.put(*pictures(figures))

    def log_report(self, page: Path) -> None:
        """Record a study's report in its run, whose description leads there.

        Args:
            page: in the study's folder.
        """
        note = (
            f"`{page.name}` under Artifacts says what the study shows and what it does not; the runs below are its "
            "arms at each size with each seed."
        )
        self._outbox.put(
            records.copying(SEARCH, page.name), records.logging(SEARCH, tags={"mlflow.note.content": note})
        )

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Close the search's run, and as interrupted those of trials that have not been finished.

        The overview is drawn once more, as trials that did not change the front are on it too.

        Args:
            status: how the search ended.
            reason: why it ended.
        """
        told = [records.overview()] if self._has_front else []
        left = [run for run in self._outbox.ledger.open_runs() if run != SEARCH]
        self._outbox.put(*_interrupted(left), *told, records.closing(SEARCH, status, reason=reason))

    def leave(self) -> None:
        """Close runs of repeats that have not been finished, as interrupted, beside a search that was joined."""
        ledger = self._outbox.ledger
        self._outbox.put(*_interrupted(run for run in ledger.open_runs() if ledger.runs[run].kind == "confirm"))

    def close(self, timeout_seconds: float = 30.0) -> None:
        """Wait until everything is sent, at most so long without any news; what is left then stays in the spool."""
        self._outbox.close(timeout_seconds)


def _interrupted(runs: Iterable[str]) -> list[Record]:
    return [records.closing(run, "stopped", tags={"cascade.status": "interrupted"}) for run in runs]
