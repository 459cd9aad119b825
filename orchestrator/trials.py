"""Ray Tune's two ends of a search: where it asks for trials, and where it says what became of them."""

import shutil
from collections import deque
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from orchestrator.budget import Budget
from orchestrator.record import SearchRecord
from orchestrator.study import Asked, Study
from search_spaces.cascade import CascadeDefaults, Space
from trainables.checkpoint import load_state
from trainables.errors import InputError
from trainables.results import EpochProgress, LevelResult, Reused
from trainables.tune_adapter import STATE_FILE


class TrialQueue:
    """Trials to run: first those that an earlier start left unfinished, then new ones from the study."""

    def __init__(  # noqa: PLR0913
        self,
        study: Study,
        space: Space,
        defaults: CascadeDefaults,
        *,
        num_trials: int,
        budget: Budget,
        unfinished: tuple[Asked, ...],
        states: Path,
    ) -> None:
        """Take what there is to do.

        Args:
            study: to ask.
            space: from which cascades come.
            defaults: what the space builds on.
            num_trials: trials that the study is to have in the end.
            budget: says when no more new ones are to be given out, however many are left.
            unfinished: trials that were running when the driver ended.
            states: folder in which trials keep their checkpoints.
        """
        self._study = study
        self._space = space
        self._defaults = defaults
        self._num_trials = num_trials
        self._budget = budget
        self._unfinished = deque(unfinished)
        self._states = states
        self.asked: dict[int, Asked] = {}

    @property
    def remaining(self) -> int:
        """Trials that are still to run: all that were begun, and new ones while the budget lasts."""
        new = 0 if self._budget.reached() else max(0, self._num_trials - self._study.num_started)
        return len(self._unfinished) + new

    def next(self) -> dict[str, Any] | None:
        """Configuration of the next trial, or `None` when no more are to be given out."""
        if not self.remaining:
            return None
        if self._unfinished:
            asked = self._unfinished.popleft()
            state = _latest_state(self._states, asked.number)
        else:
            asked = self._study.ask(self._space, self._defaults)
            state = None
        self.asked[asked.number] = asked
        return {
            "trial": asked.number,
            "cascade": asked.cascade.to_dict(),
            "state": None if state is None else str(state),
        }

    def remove_states(self, number: int) -> None:
        """Free what a trial that has ended only needed to go on, of all starts."""
        for checkpoint in self._states.glob(f"start-*/{number:05d}/checkpoint_*"):
            shutil.rmtree(checkpoint, ignore_errors=True)

    def searcher(self) -> "TuneSearcher":
        """This queue as Tune's search algorithm."""
        return TuneSearcher(self)


def _latest_state(states: Path, number: int) -> Path | None:
    """The newest checkpoint of a trial that can be read, over all starts."""
    files = states.glob(f"start-*/{number:05d}/checkpoint_*/{STATE_FILE}")
    for file in sorted(files, key=lambda path: (path.parts[-4], path.parts[-2]), reverse=True):
        try:
            load_state(file)
        except InputError:
            continue  # half-written when the driver died
        return file
    return None


class TuneSearcher(Searcher):  # type: ignore[misc]
    """Gives out the queue's trials; what becomes of them is the `Reporter`'s business."""

    def __init__(self, queue: TrialQueue | None = None) -> None:
        """Take the queue."""
        super().__init__()
        self._queue = queue

    def suggest(self, trial_id: str) -> Any:  # noqa: ANN401 - a configuration, or a word of Tune's
        """Configuration of a new trial."""
        assert self._queue is not None
        config = self._queue.next()
        return Searcher.FINISHED if config is None else config

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,
        error: bool = False,  # noqa: FBT001, FBT002 - Tune's signature
    ) -> None:
        """Nothing: the `Reporter` hears it too, and tells the study."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a search is resumed from its study."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its configuration beside the trials; nobody reads it back.
        return {}


class Reporter(Callback):  # type: ignore[misc]
    """Hands what trials report to the search's record."""

    def __init__(self, queue: TrialQueue, record: SearchRecord) -> None:
        """Take the queue that knows the trials, and the record."""
        self._queue = queue
        self._record = record
        self._failures: dict[int, str] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        """A trial got its resources, for the first time or after its actor died."""
        self._record.started(self._queue.asked[trial.config["trial"]])

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Any],
        trial: Any,
        result: dict[str, Any],
        **info: Any,  # noqa: ANN401
    ) -> None:
        """A trial trained an epoch."""
        for epoch in result.get("progress", ()):
            self._record.epoch(trial.config["trial"], EpochProgress.from_dict(epoch))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        """A trial ended by itself."""
        number, result = trial.config["trial"], trial.last_result
        if "results" in result:
            results = [LevelResult.from_dict(level) for level in result["results"]]
            networks = {int(level): name for level, name in result["networks"].items()}
            reused = Reused.from_dict(result["reused"])
            self._record.finished(self._queue.asked[number], results, networks, reused)
        else:
            self._record.failed(number, result.get("failure", "ended without a result"))
        self._queue.remove_states(number)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        """A trial's actor died, or raised, more often than it is tried again."""
        epochs = (trial.last_result or {}).get("progress")
        where = (
            f"after epoch {epochs[-1]['epoch']} of stage {epochs[-1]['stage']}" if epochs else "before its first epoch"
        )
        self._record.failed(trial.config["trial"], f"{where}: {_cause(trial)}")
        self._queue.remove_states(trial.config["trial"])

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _cause(trial: Any) -> str:  # noqa: ANN401
    error = trial.get_error()
    lines = [line.strip() for line in str(error or "the actor died").splitlines() if line.strip()]
    return lines[-1] if lines else "the actor died"
