"""Where the ranks of a stage run: actors beside the one that leads them, on one machine, in its placement group."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.experiment.resources import Resources
from orchestrator.machines.cluster import GPU_KIND
from orchestrator.machines.rank_crew import ActorCrew, Follower
from trainables.hardware.ranks import Backend, Crew, Solo

if TYPE_CHECKING:
    from trainables.tune_adapter import TrialSettings

# Of the resource that Ray gives a machine for its cards' kind; whoever asks for any of it runs there.
_A_LITTLE = 0.001


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
        from ray import tune  # slow to import, and not needed where a teacher is trained

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
            ray.remote(Follower)
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

    def __call__(self, settings: "TrialSettings") -> Crew:
        """Start them from within a trial's actor."""
        from trainables.followers import TrialFollower  # which takes Tune as well

        return self.actors.start(TrialFollower, self.teacher, self.data, settings)
