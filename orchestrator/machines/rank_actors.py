"""The other ranks of a stage: actors beside the one that leads them, on the same machine, in its placement group.

Ray ends an actor whose leader has died. The leader, which waits for the others within a step, is told here when one of
them has.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import ray
from ray import tune
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.experiment.resources import Resources
from orchestrator.machines.cluster import GPU_KIND
from trainables.errors import InputError, StageFailure, first_line
from trainables.followers import TrialFollower
from trainables.hardware.ranks import Backend, Crew, Ranks, RanksDiffer, Solo, join, leave
from trainables.tune_adapter import TrialSettings

# A rank waits for another at most so long, as one may write what the others do not; its death is seen at once.
WAIT = timedelta(minutes=30)
# Over gloo a leader hears of a rank's death by itself; over NCCL it would wait for ever.
_HEARS_SECONDS = 10.0
# Of the resource that Ray gives a machine for its cards' kind; whoever asks for any of it runs there.
_A_LITTLE = 0.001


class RankLost(RuntimeError):  # noqa: N818 - says what happened
    """A rank has ended in the midst of its work; another attempt may go well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankActors:
    """How the ranks of a stage are placed, and the others started.

    Attributes:
        size: number of ranks, the leader among them.
        num_cpus: of each.
        num_gpus: of each; at most 1.
        gpu_kind: Ray's name of the cards; `None` for any.
    """

    size: int
    num_cpus: float
    num_gpus: float
    gpu_kind: str | None = None

    @classmethod
    def of_trial(cls, resources: Resources) -> Self:
        """Of a trial: what it takes is theirs in equal parts."""
        size = resources.num_ranks
        return cls(
            size=size,
            num_cpus=resources.cpus_per_trial / size,
            num_gpus=resources.num_gpus / size,
            gpu_kind=resources.gpu_kind,
        )

    @classmethod
    def of_teacher(cls, resources: Resources) -> Self:
        """Of training the teacher; one with a GPU of its own, if trials have any, where nothing else is said."""
        own = resources.teacher
        if own is None:
            gpus = 1.0 if resources.num_gpus > 0 else 0.0
            cpus = float(max(1, int(resources.cpus_per_trial)))
            return cls(size=1, num_cpus=cpus, num_gpus=gpus, gpu_kind=resources.gpu_kind)
        size = own.num_ranks
        return cls(size=size, num_cpus=own.cpus / size, num_gpus=own.gpus / size, gpu_kind=own.gpu_kind)

    @property
    def num_threads(self) -> int:
        """CPU threads of each."""
        return max(1, int(self.num_cpus))

    @property
    def bundles(self) -> list[dict[str, float]]:
        """What Ray reserves, on one machine: the leader's part, and one for each of the others."""
        each = {"CPU": self.num_cpus} | ({"GPU": self.num_gpus} if self.num_gpus > 0 else {}) | self._kind
        return [dict(each) for _ in range(self.size)]

    @property
    def needs(self) -> dict[str, float]:
        """What all of them take together, of one machine; rounded, as thirds of a machine are to make one."""
        return {kind: round(number * self.size, 6) for kind, number in self.bundles[0].items()}

    @property
    def options(self) -> dict[str, Any]:
        """Ray's options for a process of one rank."""
        kind = {"resources": self._kind} if self._kind else {}
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus} | kind

    @property
    def _kind(self) -> dict[str, float]:
        return {} if self.gpu_kind is None else {f"{GPU_KIND}{self.gpu_kind}": _A_LITTLE}

    def for_tune(self, nodes: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401 - Ray's
        """What Tune reserves for a trial.

        Args:
            nodes: Ray's label selector of the machines that take trials; all where it is `None`.
        """
        if nodes is not None:
            selectors = [dict(nodes)] * self.size
            return tune.PlacementGroupFactory(self.bundles, strategy="STRICT_PACK", bundle_label_selector=selectors)
        if self.size == 1:
            return {"cpu": self.num_cpus, "gpu": self.num_gpus} | self._kind
        return tune.PlacementGroupFactory(self.bundles, strategy="STRICT_PACK")

    @contextmanager
    def placed(self) -> Iterator[dict[str, Any]]:
        """Ray's options for a task that leads the ranks, within which the others can be started."""
        if self.size == 1:
            yield self.options
            return
        group = ray.util.placement_group(self.bundles, strategy="STRICT_PACK")
        place = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
        try:
            yield self.options | {"scheduling_strategy": place}
        finally:
            ray.util.remove_placement_group(group)  # and so what runs in it ends

    def start(self, follower: Callable[..., Any], *shared: Any) -> Crew:  # noqa: ANN401 - the follower's
        """Start the others from within the leader.

        Args:
            follower: made by each of them of its `Ranks` and what is shared; its methods are the work.
            shared: values, or references to them.
        """
        if self.size == 1:
            return Solo()
        group = ray.util.get_current_placement_group()
        assert group is not None
        actors = [
            ray.remote(_Follower)
            .options(
                **self.options,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
            )
            .remote()
            for rank in range(1, self.size)
        ]
        # NCCL takes one rank a card.
        backend: Backend = "nccl" if self.num_gpus == 1 else "gloo"
        return ActorCrew(actors, follower, shared, backend=backend)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRanks:
    """Starts the other ranks of a trial.

    Attributes:
        actors: how.
        teacher: reference to arrays of the teacher's weights.
        data: reference to arrays of a `DataSplits`.
    """

    actors: RankActors
    teacher: ray.ObjectRef
    data: ray.ObjectRef

    def __call__(self, settings: TrialSettings) -> Crew:
        """Start them from within a trial's actor."""
        return self.actors.start(TrialFollower, self.teacher, self.data, settings)


class _Follower:
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
