"""When a search has done enough: by wall time, by epochs trained, or because its front grows no more.

Pure logic; what ended trials took is handed in and out as plain values, so that it lasts from start to start.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Stop(BaseModel):
    """What ends a search before `num_trials`: no new trial is given out then, and what runs is run to its end.

    Attributes:
        max_minutes: wall time of this start, the teacher included.
        max_epochs: epochs of all trials together, over all starts.
        trials_without_gain: trials over which the front's hypervolume has to grow.
        min_gain: by how much it has to grow over them, as a fraction of itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_epochs: Annotated[int, Field(ge=1)] | None = None
    trials_without_gain: Annotated[int, Field(ge=1)] | None = None
    min_gain: Annotated[float, Field(ge=0, lt=1)] = 0.001


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """What is kept of a trial that has ended.

    Attributes:
        order: trials that had ended with it, from 1.
        epochs: that it trained.
        hypervolume: of the front after it, at least 0.
    """

    order: int
    epochs: int
    hypervolume: float


class Budget:
    """Counts what trials take and says when no new one is to be given out. A limit that was reached stays reached."""

    def __init__(self, limits: Stop, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the clock.

        Args:
            limits: what ends the search.
            clock: seconds from any origin that never run backwards: what people set their clocks to must not count.
        """
        self._limits = limits
        self._clock = clock
        self._started = clock()
        self._ended: list[Ended] = []
        self._running: dict[int, int] = {}
        self._reached: str | None = None

    def recall(self, past: Iterable[Ended]) -> None:
        """Take in what trials took that had ended before this start, in any order."""
        self._ended = sorted(past, key=lambda trial: trial.order)

    @property
    def num_ended(self) -> int:
        """Trials that have ended, those of earlier starts included."""
        return len(self._ended)

    @property
    def epochs(self) -> int:
        """Epochs trained so far, those of running trials and of earlier starts included."""
        return sum(trial.epochs for trial in self._ended) + sum(self._running.values())

    def trained(self, number: int, epochs: int) -> None:
        """A running trial has trained so many epochs, over all starts; those trained again after a crash count once."""
        self._running[number] = max(epochs, self.trained_by(number))

    def trained_by(self, number: int) -> int:
        """Epochs that a running trial has trained, as far as that was heard."""
        return self._running.get(number, 0)

    @contextmanager
    def ending(self, number: int, *, hypervolume: float) -> Iterator[Ended]:
        """A trial ends: gives what to keep of it, and counts it as ended once that is kept, unless it cannot be.

        Args:
            number: of the trial.
            hypervolume: of the front now.
        """
        order = self._ended[-1].order + 1 if self._ended else 1
        ended = Ended(order=order, epochs=self.trained_by(number), hypervolume=hypervolume)
        yield ended
        self._running.pop(number, None)
        self._ended.append(ended)

    def reached(self) -> str | None:
        """Which limit has been reached, for people to read; `None` while there is none."""
        if self._reached is None:
            self._reached = self._out_of_time() or self._out_of_epochs() or self._standing_still()
        return self._reached

    def _out_of_time(self) -> str | None:
        limit = self._limits.max_minutes
        if limit is None or self._clock() - self._started < 60 * limit:
            return None
        return f"stop.max_minutes: {limit:g} minutes have passed"

    def _out_of_epochs(self) -> str | None:
        limit = self._limits.max_epochs
        if limit is None or self.epochs < limit:
            return None
        return f"stop.max_epochs: {limit} epochs or more have been trained"

    def _standing_still(self) -> str | None:
        limit = self._limits.trials_without_gain
        if limit is None or len(self._ended) <= limit:
            return None
        before, now = self._ended[-limit - 1].hypervolume, self._ended[-1].hypervolume
        if now > before * (1 + self._limits.min_gain):
            return None
        growth = f"{100 * (now / before - 1):.2g} %" if before else "nothing"
        return f"stop.trials_without_gain: the hypervolume grew by {growth} over the last {limit} trials"
