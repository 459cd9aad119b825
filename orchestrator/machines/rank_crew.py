"""The other ranks of a stage, led from the first: actors that do its work beside it.

Ray ends an actor whose leader has died. The leader, which waits for the others within a step, is told here when one of
them has.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray

from trainables.errors import InputError, StageFailure, first_line
from trainables.hardware.ranks import Backend, Ranks, RanksDiffer, join, leave

# A rank waits for another at most so long, as one may write what the others do not; its death is seen at once.
WAIT = timedelta(minutes=30)
# Over gloo a leader hears of a rank's death by itself; over NCCL it would wait for ever.
_HEARS_SECONDS = 10.0


class RankLost(RuntimeError):  # noqa: N818 - says what happened
    """A rank has ended in the midst of its work; another attempt may go well."""


class Follower:
    """The actor of a rank other than the first."""

    def join(self, rank: int, size: int, meeting: str, backend: Backend) -> None:
        """Meet the others."""
        self._ranks = join(rank, size, meeting=Path(meeting), backend=backend, wait=WAIT)

    def make(self, follower: Callable[..., Any], *shared: Any) -> None:  # noqa: ANN401 - the follower's
        """Prepare the work."""
        self._follower = follower(self._ranks, *shared)

    def do(self, work: str, *arguments: Any) -> None:  # noqa: ANN401 - of the work
        """Do it; what every rank fails at, the leader tells."""
        with suppress(StageFailure, RanksDiffer):
            getattr(self._follower, work)(*arguments)


class ActorCrew:
    """The other ranks, led from the process that this is made in.

    Attributes:
        ranks: all of them, seen from the first.
        closed: whether they have ended.
    """

    def __init__(
        self, actors: Sequence[Any], follower: Callable[..., Any], shared: Sequence[Any], *, backend: Backend
    ) -> None:
        """Meet them, and have them prepared.

        Raises:
            RankLost: if one of them cannot be.
        """
        self.ranks = Ranks(rank=0, size=len(actors) + 1)
        self.closed = False
        self._actors = dict(enumerate(actors, start=1))
        self._folder = tempfile.mkdtemp(prefix="cascade-ranks-")
        meeting = f"{self._folder}/meeting"
        with self._together("join", lambda rank: (rank, self.ranks.size, meeting, backend)):
            join(0, self.ranks.size, meeting=Path(meeting), backend=backend, wait=WAIT)
        if backend == "gloo":  # has met for good; NCCL looks there again
            shutil.rmtree(self._folder)
        with self._together("make", lambda _rank: (follower, *shared)):
            pass

    @contextmanager
    def doing(self, work: str, *arguments: Any) -> Iterator[None]:  # noqa: ANN401 - of the work
        """Within it they do some work of theirs while the leader does its own; it ends when all have.

        Raises:
            RankLost: if one of them ended in its midst; then, and after an `InputError`, the crew is closed.
        """
        with self._together("do", lambda _rank: (work, *arguments)):
            yield

    @contextmanager
    def _together(self, method: str, arguments: Callable[[int], tuple[Any, ...]]) -> Iterator[None]:
        watch = _Watch(self._actors, method, arguments)
        try:
            yield
        except (StageFailure, RanksDiffer):  # of all ranks alike
            self._require_all(watch)
            raise
        except Exception as error:
            watch.ended.wait(_HEARS_SECONDS)  # it may be that a rank has died, of which Ray tells a moment later
            lost = watch.lost
            self.close()
            if lost is None or isinstance(error, InputError):  # which says itself what to mend
                raise
            raise RankLost(lost) from error
        else:
            self._require_all(watch)
        finally:
            watch.leader_done.set()

    def _require_all(self, watch: "_Watch") -> None:
        try:
            watch.require_all()
        except RankLost:
            self.close()  # so that another attempt can meet in this very process
            raise

    def close(self) -> None:
        """Let them end; nothing of them is left."""
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors = {}
        self.closed = True
        shutil.rmtree(self._folder, ignore_errors=True)
        leave()


class _Watch:
    """Has actors do something, and ends them all if one of them ends, so that nobody waits for it.

    Attributes:
        ended: all have answered, or one of them cannot.
        lost: why one of them could not.
        leader_done: set by whoever leads them.
    """

    def __init__(self, actors: Mapping[int, Any], method: str, arguments: Callable[[int], tuple[Any, ...]]) -> None:
        self.ended = threading.Event()
        self.leader_done = threading.Event()
        self.lost: str | None = None
        self._actors = dict(actors)
        self._waits_for = {getattr(actor, method).remote(*arguments(rank)): rank for rank, actor in actors.items()}
        threading.Thread(target=self._run, daemon=True).start()

    def require_all(self) -> None:
        """Wait until all have answered.

        Raises:
            RankLost: if one of them could not.
        """
        if not self.ended.wait(WAIT.total_seconds()):
            raise RankLost(f"ranks {', '.join(map(str, self._waits_for.values()))} have not come to the end of a step")
        if self.lost is not None:
            raise RankLost(self.lost)

    def _run(self) -> None:
        while self._waits_for and self.lost is None:
            done, _ = ray.wait(list(self._waits_for), timeout=None)
            for answer in done:
                self.lost = self.lost or _why(answer, self._waits_for.pop(answer))
        self.ended.set()
        if self.lost is not None:
            for actor in self._actors.values():
                ray.kill(actor)
            if not self.leader_done.wait(_HEARS_SECONDS):
                os._exit(1)  # nothing else ends its wait; Ray goes on in another process, from the last checkpoint


def _why(answer: ray.ObjectRef, rank: int) -> str | None:
    """Why a rank could not answer, or `None` if it could."""
    try:
        ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        return f"rank {rank} failed: {type(error.cause).__name__}: {first_line(error.cause)}"
    except ray.exceptions.RayError:
        return f"the process of rank {rank} has ended"
    return None
