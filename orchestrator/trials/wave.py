"""Some of a queue's trials, and how one run of Ray Tune takes them."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from ray.tune import Stopper
from ray.tune.search import Searcher

from orchestrator.trials.queue import Queue
from trainables.errors import MachineError


class Wave:
    """Some of a queue's trials, for one run of Tune.

    Attributes:
        queue: where its trials come from.
        broken: what kept it from drawing a trial, or from keeping what one came to, if anything did; it ends then.
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
        self.broken: Exception | None = None
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
        """Put a trial back that failed for no fault of its own, to go on in another wave; this one ends early."""
        self.end_early()
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


def breaks_the_wave(otherwise: Any = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:  # noqa: ANN401 - Tune's
    """Have the wave keep what a callback of Tune's raises, and do nothing from then on.

    Tune would blame the trial that just happened to report, and train it again.

    Args:
        otherwise: what Tune is given where nothing is done.
    """

    def decorate(callback: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(callback)
        def call(self: Any, *words: Any, **named: Any) -> Any:  # noqa: ANN401 - Tune's
            if self._wave.broken is None:
                try:
                    return callback(self, *words, **named)
                except Exception as error:
                    self._wave.broken = error
            return otherwise

        return call

    return decorate


class WaveSearcher(Searcher):  # type: ignore[misc]
    """Gives out the wave's trials; what becomes of them is the `Reporter`'s business."""

    def __init__(self, wave: Wave | None = None) -> None:
        """Take the wave."""
        super().__init__()
        self._wave = wave

    @breaks_the_wave(otherwise=Searcher.FINISHED)
    def suggest(self, trial_id: str) -> Any:  # noqa: ANN401 - a configuration, or a word of Tune's
        """Configuration of a new trial; `None` where Tune is to ask again later."""
        assert self._wave is not None
        if self._wave.enough_wait:
            return None
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
        """Whether the whole run shall end: nothing can be kept any more."""
        return self._wave.broken is not None

    def __getstate__(self) -> dict[str, Any]:
        return {}
