"""Trials to run: where they come from, and what they leave on disk."""

import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from orchestrator.policies.budget import Budget
from orchestrator.policies.looks import Look, admit
from orchestrator.sampling.refused import RefusedDraws
from orchestrator.sampling.study import SpaceExhausted, Study
from orchestrator.searches.asked import Asked
from search_spaces.cascade import CascadeDefaults, Space
from trainables.errors import InputError
from trainables.files.states import load_state
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
        say: Callable[[str], None] = lambda _text: None,
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
            say: tells people which draws are refused.
        """
        self._study = study
        self._say = say
        self._refused = RefusedDraws(say)
        self._space, self._look = self._refused.watch(space, look)
        self._defaults = defaults
        self._num_trials = num_trials
        self._budget = budget
        self._unfinished = deque(unfinished)
        self._states = states
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

    def sum_up(self) -> None:
        """Say how many draws were refused for what, and that the space gives no more trials, where it does not."""
        self._refused.sum_up()
        if self.exhausted:
            self._say(self.exhausted)

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
