"""Jobs for another side that may be slow or down: done in order, in the background, again until they arrive."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future


class DeliveryThread:
    """Runs jobs one after the other in a daemon thread, and again while the other side is down."""

    def __init__(
        self, *, probe: Callable[[], None], warn: Callable[[str], None], first_delay_seconds: float = 1.0
    ) -> None:
        """Start the thread.

        Args:
            probe: raises while the other side is down; tells a refused record from one to be sent again.
            warn: takes each text once.
            first_delay_seconds: until a job is tried again; doubles each time, up to 30.
        """
        self._probe, self._warn, self._first_delay_seconds = probe, warn, first_delay_seconds
        self._warned: set[str] = set()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._num_put = self._num_done = 0
        self._closing, self._gave_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def put(self, job: Callable[[], None]) -> None:
        """Have a job done later."""
        self._num_put += 1
        self._jobs.put(job)

    def ask(self, job: Callable[[], None]) -> None:
        """Have a job done, once, and wait for it; raises what it raises."""
        done: Future[None] = Future()

        def run() -> None:
            try:
                job()
                done.set_result(None)
            except Exception as error:
                done.set_exception(error)

        self.put(run)
        done.result()

    def close(self, timeout_seconds: float) -> None:
        """Wait for all jobs, at most the timeout for each, and while the other side is down for one more try."""
        self._closing.set()
        self._jobs.put(None)
        num_done = None
        while self._thread.is_alive() and num_done != self._num_done:
            num_done = self._num_done
            self._thread.join(timeout_seconds)
        self._gave_up.set()
        if self._num_done < self._num_put:
            self._warn(f"{self._num_put - self._num_done} records could not be sent and are lost")

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not self._gave_up.is_set():
                self._do(job)

    def _do(self, job: Callable[[], None]) -> None:
        delay_seconds, was_refused = self._first_delay_seconds, False
        while not self._gave_up.is_set():
            is_last = self._closing.is_set()
            try:
                job()
            except Exception as error:
                cause = root_cause(error)
            else:
                break
            if self._answers():
                if was_refused:
                    self._warn_once(f"a record was refused: {cause}")
                    break
                was_refused = True
                continue
            self._warn_once("it does not answer; records are kept and sent when it does again")
            if is_last:
                self._gave_up.set()
                return
            self._closing.wait(delay_seconds)
            delay_seconds = min(2 * delay_seconds, 30.0)
        else:
            return
        self._num_done += 1

    def _answers(self) -> bool:
        try:
            self._probe()
        except Exception:
            return False
        return True

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._warn(text)


def root_cause(error: BaseException) -> str:
    """First line of what an error was raised from."""
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
