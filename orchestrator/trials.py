"""Trials to run, and where Ray Tune takes them from."""

import shutil
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ray.tune import Stopper
from ray.tune.search import Searcher

from orchestrator.budget import Budget
from orchestrator.looks import Look, admit
from orchestrator.study import Asked, SpaceExhausted, Study
from search_spaces.cascade import CascadeDefaults, Space
from trainables.checkpoint import load_state
from trainables.errors import InputError, MachineError
from trainables.tune_adapter import STATE_FILE, stop_note


class Queue(Protocol):
    """Where trials to run come from, and what becomes of them."""

    @property
    def num_waiting(self) -> int:
        """Trials that were begun and wait to go on; they are given out first."""

    @property
    def num_new(self) -> int:
        """New trials that are still to be given out."""

    @property
    def unfinished(self) -> frozenset[int]:
        """Numbers of trials whose checkpoints are to stay."""

    def next(self) -> dict[str, Any] | None:
        """Configuration of the next trial, or `None` when no more are to be given out."""

    def given(self, number: int) -> Asked:
        """A trial that was given out and has not ended."""

    def take_back(self, number: int) -> None:
        """Put a trial that was given out back, to go on from its last checkpoint."""

    def ended(self, number: int) -> None:
        """Forget a trial, and free what it only needed to go on."""


class TrialQueue:
    """Trials to run: first those that an earlier start left unfinished, then new ones from the study.

    Attributes:
        asked: trials that were given out, by number.
        exhausted: why the space gives no more trials, once it does not.
    """

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
        look: Look = admit,
        told: Callable[[int], None] = lambda _number: None,
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
            look: refuses cascades that are not worth a trial.
            told: called with the number of each trial that has ended.
        """
        self._study = study
        self._space = space
        self._defaults = defaults
        self._num_trials = num_trials
        self._budget = budget
        self._unfinished = deque(unfinished)
        self._states = states
        self._look = look
        self._told = told
        self.exhausted: str | None = None
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
        if self.exhausted or self._budget.reached():
            return 0
        return max(0, self._num_trials - self._study.num_started)

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
            state = latest_state(self._states, asked.number)
        else:
            try:
                asked = self._study.ask(self._space, self._defaults, self._look)
            except SpaceExhausted as error:
                self.exhausted = str(error)
                return None
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
        remove_states(self._states, number)
        self._told(number)


def start_number(run: Path) -> int:
    """Which run of Tune a folder `start-NNN` is of, from 1."""
    return int(run.name.partition("-")[2])


def remove_states(states: Path, number: int) -> None:
    """Remove all checkpoints of a trial, of all starts."""
    for folder in states.glob(f"start-*/{number:05d}"):
        shutil.rmtree(folder, ignore_errors=True)
    stop_note(states, number).unlink(missing_ok=True)


def latest_state(states: Path, number: int) -> Path | None:
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
    """Some of a queue's trials, for one run of Tune.

    Attributes:
        broken: why nothing more can be written, if nothing can.
        unfit: why no machine that is there can train, if none can.
    """

    def __init__(self, queue: Queue, *, size: int, may_wait: Callable[[int], int] = lambda _num_running: 1) -> None:
        """Take the queue.

        Args:
            queue: where trials come from.
            size: new trials to give out, at least 0, after all that wait to go on. Those that wait do not count: else
                a wave of no more trials than run at the same time would do nothing but hand them on.
            may_wait: says how many trials may have been given out and wait for a place, beside so many that run.
        """
        self.queue = queue
        self._left = size
        self._may_wait = may_wait
        self._exhausted = False
        self._running: set[int] = set()
        self._waiting: set[int] = set()  # of those that run: were given out, and have not started yet
        self._taken_back: set[int] = set()
        self._over = False
        self.broken: OSError | None = None
        self.unfit: MachineError | None = None

    @property
    def done(self) -> bool:
        """Whether all trials were given out, and each of them has ended or was taken back."""
        return self._exhausted and not self._running

    @property
    def enough_wait(self) -> bool:
        """Whether the next trial is not to be given out yet, as one that is drawn later knows more."""
        return not self._exhausted and len(self._waiting) >= self._may_wait(len(self._running) - len(self._waiting))

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
        self._waiting.add(config["trial"])
        return config

    def starts(self, number: int) -> None:
        """A trial has got its place."""
        self._waiting.discard(number)

    def wants_back(self, number: int) -> bool:
        """Whether a trial that runs shall end here, so that the next wave can begin."""
        if self._over:
            self._taken_back.add(number)
        return self._over

    def end_early(self) -> None:
        """Give out no more, and have those that run back after their next epoch."""
        self._exhausted = self._over = True

    def moves(self, number: int) -> None:
        """Put a trial back that failed for no fault of its own, to go on in another wave."""
        self._taken_back.add(number)
        self.takes_back(number)

    def ended(self, number: int) -> None:
        """A trial has ended for good."""
        self._leaves(number)
        self.queue.ended(number)

    def takes_back(self, number: int) -> bool:
        """Put a trial back into the queue, if it ended here for that alone."""
        if number not in self._taken_back:
            return False
        self._leaves(number)
        self.queue.take_back(number)
        return True

    def _leaves(self, number: int) -> None:
        self._running.discard(number)
        self._waiting.discard(number)


@contextmanager
def writing(wave: Wave) -> Iterator[None]:
    """Note that a wave cannot write any more: Tune would blame the trial that just happened to report."""
    try:
        yield
    except OSError as error:
        wave.broken = error


class WaveSearcher(Searcher):  # type: ignore[misc]
    """Gives out the wave's trials; what becomes of them is the `Reporter`'s business."""

    def __init__(self, wave: Wave | None = None) -> None:
        """Take the wave."""
        super().__init__()
        self._wave = wave

    def suggest(self, trial_id: str) -> Any:  # noqa: ANN401 - a configuration, or a word of Tune's
        """Configuration of a new trial; `None` where Tune is to ask again later."""
        assert self._wave is not None
        if self._wave.enough_wait:
            return None
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
