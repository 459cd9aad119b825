"""The process that takes records to MLflow, as the driver sees it.

It is a process of its own, so that nothing that MLflow does holds up the driver, and so that someone is left to tell
MLflow when the driver is killed. It reads a line of JSON when it has something to do, answers in lines of JSON, and
ends when its input does: once it has sent what is to be sent, or sees that the server does not take it.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

_MOST_STARTS = 3


class Courier:
    """A running courier, started again if it dies."""

    def __init__(self, *, uri: str, storage: Path, experiment: str, sync: str, warn: Callable[[str], None]) -> None:
        """Start it; it gets ready, and connects when it is asked or is to follow a search.

        Args:
            uri: MLflow's tracking address.
            storage: folder of the searches.
            experiment: name of the MLflow experiment.
            sync: command that sends what waits, as people type it.
            warn: takes a line for people, from a thread.
        """
        self._order = {"uri": uri, "storage": str(storage), "experiment": experiment, "sync": sync}
        self._sync = sync
        self._warn = warn
        self._search: dict[str, str] | None = None
        self._answered = threading.Event()
        self._refusal: str | None = None
        self._num_news = self._num_starts = 0
        self._closing = False
        self._lock = threading.Lock()  # of starting it again, and of letting it end
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the courier
        self._process = self._start()
        self._reader = threading.Thread(target=self._read, name="tracking", daemon=True)
        self._reader.start()

    def ask(self) -> str | None:
        """Have it connect, and wait for that; why it could not, or `None`."""
        if not self._answered.is_set():
            self._say({"begin": "now"})
        self._answered.wait()
        return self._refusal

    def follow(self, *, name: str, search_id: str) -> None:
        """Have it send the spool of a search from now on."""
        self._search = {"name": name, "search_id": search_id}
        self._say(self._search)

    def close(self, timeout_seconds: float) -> None:
        """Let it end: wait as long as there is news of it, and no longer than the timeout without.

        Ctrl-C ends the wait alone: it sends what is left all the same, as its group is not the driver's.
        """
        with self._lock:
            self._closing = True
            _close(self._process.stdin)
            if not self._answered.is_set() and self._search is None:  # nothing was begun
                self._process.kill()
        try:
            self._wait(timeout_seconds)
        except KeyboardInterrupt:
            self._warn("what is left is sent in the background")
            return
        self._reader.join(timeout_seconds)
        self._log.close()
        if self._refusal is not None and self._search is not None:
            self._warn(f"{self._refusal}; records wait in the search's folder, and `{self._sync}` sends them")

    def _wait(self, timeout_seconds: float) -> None:
        num_news = -1
        while num_news != self._num_news:
            num_news = self._num_news
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_seconds)
                break
        else:
            if self._refusal is None:
                self._warn(f"it takes too long; what is left waits in the search's folder, and `{self._sync}` sends it")
            self._process.kill()
            self._process.wait()

    def _start(self) -> "subprocess.Popen[str]":
        self._num_starts += 1
        root = str(Path(__file__).parents[2])
        python_path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "orchestrator.tracking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | {"PYTHONPATH": python_path},
            start_new_session=True,  # Ctrl-C is for the driver, which then says how the search ended
        )
        self._process = process
        self._say(self._order)
        if self._search is not None:
            self._say(self._search)
        return process

    def _say(self, message: dict[str, str]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has died, and is told again when it is started again
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        while True:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                with contextlib.suppress(ValueError):
                    self._hear(json.loads(line))
            code = self._process.wait()
            _close(self._process.stdout)
            if not self._answered.is_set():
                self._refusal = f"tracking cannot start: its courier ended with exit code {code}: {self._last_words()}"
                self._answered.set()
                return
            if not self._go_on(code):
                return

    def _go_on(self, code: int) -> bool:
        """Start it again where it was not to end; whether that was done."""
        with self._lock:
            if self._closing or self._refusal is not None:
                return False
            if self._num_starts == _MOST_STARTS:
                self._warn(
                    f"its courier ended with exit code {code} ({self._last_words()}); records are kept in the "
                    f"search's folder, and `{self._sync}` sends them"
                )
                return False
            _close(self._process.stdin)
            self._start()
            return True

    def _hear(self, news: dict[str, Any]) -> None:
        self._num_news += 1
        if "ready" in news:
            self._answered.set()
        elif "refusal" in news:
            self._refusal = news["refusal"]
            self._answered.set()
        elif "waiting" in news:
            self._warn(
                f"{news['waiting']:,} records are on their way; Ctrl-C ends the wait, and they are sent all the same"
            )
        elif "warning" in news:
            self._warn(news["warning"])

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "it said nothing"


def _close(pipe: IO[str] | None) -> None:
    assert pipe is not None
    with contextlib.suppress(OSError):
        pipe.close()
