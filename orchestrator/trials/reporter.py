"""Where Ray Tune says what came of trials."""

import re
from collections.abc import Mapping, Sequence
from itertools import dropwhile
from pathlib import Path
from typing import Any, Protocol

from ray.tune import Callback

from orchestrator.machines.node_faults import LEFT_OUT_SECONDS, NodeFaults, last_attempt, lost_its_process, node_of
from orchestrator.searches.asked import Asked
from orchestrator.storage.staging import no_room
from orchestrator.trials.wave import Wave, breaks_the_wave
from trainables.errors import MachineError
from trainables.results import EpochProgress, LevelResult, Reused

_TRACEBACK = re.compile(r"ray::.*\(pid=\d+")  # Ray's words for "Traceback (most recent call last)"


class Listener(Protocol):
    """Who hears what trials report."""

    def started(self, asked: Asked) -> None:
        """A trial begins, or goes on."""

    def trained(self, number: int, epochs: int) -> None:
        """A trial has trained so many epochs of its own, over all starts."""

    def epoch(self, number: int, progress: EpochProgress) -> None:
        """A trial trained an epoch, or took it over."""

    def finished(
        self, asked: Asked, results: Sequence[LevelResult], networks: Mapping[int, str], reused: Reused
    ) -> None:
        """A trial gave a network of every level."""

    def stopped(
        self, asked: Asked, results: Sequence[LevelResult], networks: Mapping[int, str], reused: Reused, reason: str
    ) -> None:
        """A trial was stopped early, and gave networks of the levels that had reached their sizes."""

    def failed(self, number: int, reason: str) -> None:
        """A trial gave nothing."""

    def note(self, text: str) -> None:
        """Something about all trials that people should know."""


class Reporter(Callback):  # type: ignore[misc]
    """Hands what trials report to the search's record."""

    def __init__(self, wave: Wave, record: Listener, faults: NodeFaults) -> None:
        """Take the wave that knows the trials, the record, and what is known of the nodes."""
        self._wave = wave
        self._record = record
        self._faults = faults

    @breaks_the_wave()
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        """A trial got its resources, for the first time or after its actor died."""
        self._wave.starts(trial.config["trial"])
        self._record.started(self._wave.queue.given(trial.config["trial"]))

    @breaks_the_wave()
    def on_trial_result(
        self,
        iteration: int,
        trials: list[Any],
        trial: Any,
        result: dict[str, Any],
        **info: Any,  # noqa: ANN401
    ) -> None:
        """A trial trained an epoch, or a part of one."""
        number = trial.config["trial"]
        if result.get("node"):
            self._faults.worked(result["node"], number)
        if "epochs_done" in result:
            self._record.trained(number, int(result["epochs_done"]) - result["reused"]["epochs"])
        for epoch in result.get("progress", ()):
            self._record.epoch(number, EpochProgress.from_dict(epoch))

    @breaks_the_wave()
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        """A trial ended by itself."""
        number, result = trial.config["trial"], trial.last_result
        if "results" in result:
            results = [LevelResult.from_dict(level) for level in result["results"]]
            networks = {int(level): name for level, name in result["networks"].items()}
            reused = Reused.from_dict(result["reused"])
            asked = self._wave.queue.given(number)
            if "stopped" in result:
                self._record.stopped(asked, results, networks, reused, result["stopped"])
            else:
                self._record.finished(asked, results, networks, reused)
        elif "unfit" in result:
            self._leave_out(result["unfit"]["node"], result["unfit"]["reason"])
            self._wave.moves(number)
            return
        elif self._wave.takes_back(number):
            return
        else:
            self._record.failed(number, result.get("failure", "ended without a result"))
        self._wave.ended(number)

    @breaks_the_wave()
    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        """A trial's actor died, or raised, and is to be tried again; on a full disk that would only fail again."""
        _require_room(trial)
        self._blame_node(trial)

    @breaks_the_wave()
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        """A trial's actor died, or raised, more often than it is tried again."""
        _require_room(trial)
        node = self._blame_node(trial)
        last = trial.last_result or {}
        epochs, epochs_done = last.get("progress", []), last.get("epochs_done", 0.0)
        was_lost = epochs_done > 0 and lost_its_process(_said(trial))
        if was_lost and self._faults.goes_on(trial.config["trial"], epochs_done):
            self._wave.moves(trial.config["trial"])
            return
        if self._faults.is_left_out(node) and self._faults.taking:
            self._wave.moves(trial.config["trial"])
            return
        where = f"within epoch {int(epochs_done) + 1}" if epochs_done else "before its first epoch"
        if epochs:
            where = f"after epoch {epochs[-1]['epoch']} of stage {epochs[-1]['stage']}"
        self._record.failed(trial.config["trial"], f"{where}: {_cause(trial)}")
        self._wave.ended(trial.config["trial"])

    def _leave_out(self, node: str, reason: str) -> None:
        """Give a node no more trials, as none could be trained there; where there is no other, the search ends."""
        was_told = self._faults.is_left_out(node)
        if not self._faults.is_unfit(node):
            self._wave.unfit = MachineError(reason)
        elif not was_told:
            self._record.note(
                f"node {node[:8]} takes no trials for {LEFT_OUT_SECONDS / 60:.0f} minutes, and its trials go on "
                f"elsewhere: {reason}"
            )

    def _blame_node(self, trial: Any) -> str | None:  # noqa: ANN401
        """Count a failed attempt against the node on which it was, and end the wave where that is enough; the node."""
        node = node_of(_said(trial))
        if node is not None and self._faults.failed(node, trial.config["trial"]):
            self._record.note(
                f"node {node[:8]} takes no trials for {LEFT_OUT_SECONDS / 60:.0f} minutes, as two in a row failed "
                f"there; the last: {_cause(trial)}"
            )
            self._wave.end_early()
        return node

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _require_room(trial: Any) -> None:  # noqa: ANN401
    """Raise what kept a trial from writing what it had to, which is no failure of the trial's."""
    full = no_room("\n".join(_error(trial)))
    if full is not None:
        raise full


def _cause(trial: Any) -> str:  # noqa: ANN401
    """The kind and the first line of what an actor raised last."""
    lines = _error(trial)
    return lines[0] if lines else "the actor died"


def _error(trial: Any) -> list[str]:  # noqa: ANN401
    """The lines of what an actor raised last, from the file that Tune's driver keeps of it.

    It follows the frames of the last of Ray's tracebacks, which are indented; what Ray says without one ends with it.
    """
    lines = [line.rstrip() for line in last_attempt(_said(trial)).splitlines() if line.strip()]
    begins = max((number for number, line in enumerate(lines) if _TRACEBACK.search(line)), default=len(lines))
    error = list(dropwhile(lambda line: line[0].isspace(), lines[begins + 1 :]))
    return [line.strip() for line in error or lines[-1:]]


def _said(trial: Any) -> str:  # noqa: ANN401
    """All that an actor raised, over its attempts."""
    file = Path(trial.error_file or "")
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
