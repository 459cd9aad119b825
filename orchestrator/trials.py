"""Ray Tune's ends of a search: where it asks for trials, may stop them, and says what came of them."""

import errno
import os
import shutil
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from orchestrator.budget import Budget
from orchestrator.record import SearchRecord
from orchestrator.study import Asked, Study
from search_spaces.cascade import CascadeDefaults, Space
from trainables.checkpoint import load_state
from trainables.errors import InputError
from trainables.results import EpochProgress, LevelResult, Reused
from trainables.tune_adapter import STATE_FILE

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        self._given: dict[int, Asked] = {}

    @property
    def remaining(self) -> int:
        """Trials that are still to run: all that were begun, and new ones while the budget lasts."""
        return self.num_waiting + self.num_new

    @property
    def num_waiting(self) -> int:
        """Trials that were begun and wait to go on; they are given out first."""
        return len(self._unfinished)

    @property
    def num_new(self) -> int:
        """New trials that are still to be asked for."""
        return 0 if self._budget.reached() else max(0, self._num_trials - self._study.num_started)

    @property
    def unfinished(self) -> frozenset[int]:
        """Numbers of trials that were begun and have not ended, whoever has them."""
        return frozenset(asked.number for asked in self._study.running())

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
        self._given[asked.number] = asked
        return {
            "trial": asked.number,
            "cascade": asked.cascade.to_dict(),
            "state": None if state is None else str(state),
        }

    def given(self, number: int) -> Asked:
        """A trial that was given out and has not ended."""
        return self._given[number]

    def take_back(self, number: int) -> None:
        """Put a trial that was given out back, to go on from its last checkpoint."""
        self._unfinished.append(self._given.pop(number))

    def ended(self, number: int) -> None:
        """Forget a trial, and free what it only needed to go on, of all starts."""
        self._given.pop(number, None)
        for folder in self._states.glob(f"start-*/{number:05d}"):
            shutil.rmtree(folder, ignore_errors=True)


def start_number(run: Path) -> int:
    """Which run of Tune a folder `start-NNN` is of, from 1."""
    return int(run.name.partition("-")[2])


def _latest_state(states: Path, number: int) -> Path | None:
    """The newest checkpoint of a trial that can be read, over all starts."""
    files = states.glob(f"start-*/{number:05d}/checkpoint_*/{STATE_FILE}")
    for file in sorted(files, key=lambda path: (start_number(path.parents[2]), path.parts[-2]), reverse=True):
        try:
            load_state(file)
        except InputError:
            continue  # half-written when the driver died
        return file
    return None


class Wave:
    """Some of a queue's trials, for one run of Tune."""

    def __init__(self, queue: TrialQueue, *, size: int) -> None:
        """Take the queue.

        Args:
            queue: where trials come from.
            size: new trials to give out, at least 0, after all that wait to go on. Those that wait do not count: else
                a wave of no more trials than run at the same time would do nothing but hand them on.
        """
        self.queue = queue
        self._left = size
        self._exhausted = False
        self._running: set[int] = set()
        self._taken_back: set[int] = set()
        self._over = False
        self.broken: OSError | None = None

    @property
    def done(self) -> bool:
        """Whether all trials were given out, and each of them has ended or was taken back."""
        return self._exhausted and not self._running

    def next(self) -> dict[str, Any] | None:
        """Configuration of the next trial, or `None` when this wave has no more."""
        is_new = not self.queue.num_waiting
        config = None if self._exhausted or (is_new and not self._left) else self.queue.next()
        if config is None:
            self._exhausted = True
            return None
        self._left -= is_new
        self._exhausted = not self._left and not self.queue.num_waiting
        self._over = self._exhausted and self.queue.num_new > 0
        self._running.add(config["trial"])
        return config

    def wants_back(self, number: int) -> bool:
        """Whether a trial that runs shall end here, so that the next wave can begin."""
        if self._over:
            self._taken_back.add(number)
        return self._over

    def ended(self, number: int) -> None:
        """A trial has ended for good."""
        self._running.discard(number)
        self.queue.ended(number)

    def takes_back(self, number: int) -> bool:
        """Put a trial back into the queue, if it ended here for that alone."""
        if number not in self._taken_back:
            return False
        self._running.discard(number)
        self.queue.take_back(number)
        return True


class WaveSearcher(Searcher):  # type: ignore[misc]
    """Gives out the wave's trials; what becomes of them is the `Reporter`'s business."""

    def __init__(self, wave: Wave | None = None) -> None:
        """Take the wave."""
        super().__init__()
        self._wave = wave

    def suggest(self, trial_id: str) -> Any:  # noqa: ANN401 - a configuration, or a word of Tune's
        """Configuration of a new trial."""
        assert self._wave is not None
        config = None
        with writing(self._wave):
            config = self._wave.next()
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


class WaveStopper(Stopper):  # type: ignore[misc]
    """Ends trials of a wave that is over; Tune keeps the checkpoint of their last epoch first."""

    def __init__(self, wave: Wave) -> None:
        """Take the wave."""
        self._wave = wave

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial shall end after this report."""
        return not result.get("done") and self._wave.wants_back(result["config"]["trial"])

    def stop_all(self) -> bool:
        """Whether the whole run shall end: nothing can be written any more."""
        return self._wave.broken is not None

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Reporter(Callback):  # type: ignore[misc]
    """Hands what trials report to the search's record."""

    def __init__(self, wave: Wave, record: SearchRecord) -> None:
        """Take the wave that knows the trials, and the record."""
        self._wave = wave
        self._record = record

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        """A trial got its resources, for the first time or after its actor died."""
        with writing(self._wave):
            self._record.started(self._wave.queue.given(trial.config["trial"]))

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Any],
        trial: Any,
        result: dict[str, Any],
        **info: Any,  # noqa: ANN401
    ) -> None:
        """A trial trained an epoch."""
        number = trial.config["trial"]
        epochs = [EpochProgress.from_dict(epoch) for epoch in result.get("progress", ())]
        for epoch in epochs[:-1]:  # of stages that were there already; the last one was trained now
            self._record.took_over(number, epoch)
        for epoch in epochs[-1:]:
            self._record.epoch(number, epoch)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        """A trial ended by itself."""
        number, result = trial.config["trial"], trial.last_result
        with writing(self._wave):
            if "results" in result:
                results = [LevelResult.from_dict(level) for level in result["results"]]
                networks = {int(level): name for level, name in result["networks"].items()}
                reused = Reused.from_dict(result["reused"])
                self._record.finished(self._wave.queue.given(number), results, networks, reused)
            elif self._wave.takes_back(number):
                return
            else:
                self._record.failed(number, result.get("failure", "ended without a result"))
            self._wave.ended(number)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        """A trial's actor died, or raised, and is to be tried again; on a full disk that would only fail again."""
        self._look_for_room(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        """A trial's actor died, or raised, more often than it is tried again."""
        if self._look_for_room(trial):
            return
        epochs = (trial.last_result or {}).get("progress")
        where = (
            f"after epoch {epochs[-1]['epoch']} of stage {epochs[-1]['stage']}" if epochs else "before its first epoch"
        )
        with writing(self._wave):
            self._record.failed(trial.config["trial"], f"{where}: {_cause(trial)}")
            self._wave.ended(trial.config["trial"])

    def _look_for_room(self, trial: Any) -> bool:  # noqa: ANN401
        """Whether a trial could not write what it had to, which is no failure of the trial's."""
        cause = _cause(trial)
        for number in _NO_ROOM:
            if os.strerror(number) in cause:
                self._wave.broken = OSError(number, os.strerror(number))
        return self._wave.broken is not None

    def __getstate__(self) -> dict[str, Any]:
        return {}


@contextmanager
def writing(wave: Wave) -> Iterator[None]:
    """Note that a wave cannot write any more: Tune would blame the trial that just happened to report."""
    try:
        yield
    except OSError as error:
        wave.broken = error


def _cause(trial: Any) -> str:  # noqa: ANN401
    """The last line of what an actor raised, from the file that Tune's driver keeps of it."""
    file = Path(trial.error_file or "")
    said = file.read_text() if file.is_file() else ""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "the actor died"
