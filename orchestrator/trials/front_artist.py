"""Pictures of a search's front as it grows, drawn beside the loop that runs the trials."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from orchestrator.front.archive import Candidate
from orchestrator.front.front_view import FrontView
from orchestrator.searches.fronts import save_front
from orchestrator.searches.layout import FRONT_PAGE, FRONT_PICTURE
from orchestrator.storage.staging import disk_full
from orchestrator.tracking import Tracker
from trainables.errors import InputError, first_line

# Rest after a picture of the front, against the time that it took.
_REST, _LONGEST_REST_SECONDS = 19.0, 20.0


class FrontArtist:
    """Draws fronts into the search's folder and MLflow; of those that come in quick succession the newest."""

    def __init__(
        self,
        folder: Path,
        tracker: Tracker,
        fetch: Callable[[Sequence[str]], None],
        note: Callable[[str], None],
    ) -> None:
        """Take the parts.

        Args:
            folder: the search's.
            tracker: MLflow.
            fetch: brings networks of the front, by their folders in the search's, to this machine.
            note: hears, from a thread, that pictures cannot be drawn.
        """
        self._folder = folder
        self._tracker = tracker
        self._fetch = fetch
        self._note = note
        self._is_noted = False
        self._drawn: tuple[Candidate, ...] | None = None
        self._num_drawn = 0
        self._told: tuple[Candidate, ...] | None = None
        self._newest: FrontView | None = None
        self._last: Future[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="front")
        self._closing = threading.Event()

    def show(self, view: FrontView, volume: float, *, num_trials: int) -> None:
        """Have a front drawn soon, which takes most of a second; the next trial should not wait for it.

        Args:
            view: the front.
            volume: its hypervolume.
            num_trials: trials that have ended.
        """
        self._newest = view
        self._last = self._thread.submit(self._draw, view, volume, num_trials)

    def hurry(self) -> None:
        """Rest no more between pictures."""
        self._closing.set()

    def finish(self) -> None:
        """Wait until the newest front is drawn, or noted not to be; whatever else went wrong with it is raised.

        Networks that came after the last picture and left the front as it is are drawn with it here.
        """
        self._thread.shutdown(wait=True)
        if self._last is not None:
            self._last.result()
        if self._newest is not None and len(self._newest.candidates) != self._num_drawn:
            self._tracker.log_pictures(self._pictures(self._newest) or ())

    def _draw(self, view: FrontView, volume: float, num_trials: int) -> None:
        if view is not self._newest:
            return  # trials end faster than fronts are drawn, and a newer one waits
        started = time.monotonic()
        front = tuple(view.front)
        pictures = None if front == self._drawn else self._pictures(view)
        if front != self._told:
            with suppress(InputError):  # who misses one says so
                self._fetch([candidate.network for candidate in view.front])
            pictures = pictures or ()
        self._tracker.log_front(view, hypervolume=volume, num_trials=num_trials, figures=pictures)
        self._told = front
        # Pictures take the processor from the loop that runs the trials, where these end in quick succession.
        self._closing.wait(min(_REST * (time.monotonic() - started), _LONGEST_REST_SECONDS))

    def _pictures(self, view: FrontView) -> Sequence[Path] | None:
        """Files that show a front; `None` where they cannot be made, which is noted once: the search goes on."""
        try:
            with disk_full(self._folder, mend="make room"):
                figures = save_front(view, self._folder)
        except Exception as error:  # of the disk or of what draws
            if not self._is_noted:
                self._is_noted = True
                self._note(
                    f"{FRONT_PAGE} and {FRONT_PICTURE} in {self._folder} cannot be drawn: {first_line(error)}; they "
                    "are tried again with each trial, and the front itself is kept without them"
                )
            return None
        self._drawn, self._num_drawn = tuple(view.front), len(view.candidates)
        return figures
