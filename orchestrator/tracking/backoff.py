"""When to try again what did not work."""

import time
from collections.abc import Callable

_FIRST_DELAY, _LONGEST_DELAY = 1.0, 30.0  # seconds


class Backoff:
    """How long to wait before the next try; twice as long each time, up to half a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with none."""
        self._clock, self._delay, self._due = clock, _FIRST_DELAY, 0.0

    @property
    def is_over(self) -> bool:
        """Whether it is time for another try."""
        return self._clock() >= self._due

    def failed(self) -> None:
        """A try failed."""
        self._due = self._clock() + self._delay
        self._delay = min(2 * self._delay, _LONGEST_DELAY)

    def worked(self) -> None:
        """A try worked."""
        self._delay, self._due = _FIRST_DELAY, 0.0
