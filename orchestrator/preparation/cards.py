"""The cards that trials run on: which there are, and what a trial takes of one. Needs Ray."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.experiment.config import Experiment
from orchestrator.machines.cluster import ANSWER_SECONDS, GPU_KIND, machines_there, may_come
from orchestrator.machines.rank_actors import RankActors
from orchestrator.preparation.teacher_task import TeacherTask
from trainables.config import CascadeConfig
from trainables.data_config import Augmentation
from trainables.datasets.data import DataSplits
from trainables.model_config import ModelConfig
from trainables.peak import Peak, measure_peak
from trainables.plain import PlainConfig
from trainables.pruning.cost import LatencyTable
from trainables.tune_adapter import build_teacher

# A card's name and memory are looked at beside whatever runs there.
_A_LITTLE = 0.001


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured(PlainConfig):
    """What the cascade that takes most took of a card.

    Attributes:
        card: name of the card.
        card_bytes: all of its memory.
        torch_bytes: as of `Peak`, like the others.
        other_bytes: likewise.
        usable_bytes: likewise.
    """

    card: str
    card_bytes: int
    torch_bytes: int
    other_bytes: int
    usable_bytes: int

    @property
    def peak(self) -> Peak:
        """The same without the card."""
        return Peak(torch_bytes=self.torch_bytes, other_bytes=self.other_bytes, usable_bytes=self.usable_bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A card that trials may run on.

    Attributes:
        name: as its driver says.
        bytes: all of its memory.
        node: Ray's id of its machine.
    """

    name: str
    bytes: int
    node: str


def gpu_machines(kind: str | None = None) -> list[Mapping[str, float]]:
    """Resources of each machine that has GPUs: of those that are there or, where these have more, of all that may come.

    Args:
        kind: Ray's name of a kind of card; any where it is `None`.
    """
    there, come = machines_there().values(), may_come()
    return max(
        ([machine for machine in machines if _has_gpus(machine, kind)] for machines in (there, come)),
        key=lambda machines: sum(machine["GPU"] for machine in machines),
    )


def gpu_nodes(kind: str | None = None) -> list[str]:
    """Ray's ids of the machines that are there and have GPUs; the argument is that of `gpu_machines`."""
    return [node for node, machine in machines_there().items() if _has_gpus(machine, kind)]


def _has_gpus(resources: Mapping[str, float], kind: str | None) -> bool:
    return resources.get("GPU", 0.0) > 0 and (kind is None or f"{GPU_KIND}{kind}" in resources)


def smallest_card(nodes: Sequence[str]) -> Card | None:
    """Of the cards of these machines the one with the least memory; `None` if none of them answers. Needs Ray.

    All cards of a machine are taken to be alike.
    """
    asked = {_on(node, num_cpus=0, num_gpus=_A_LITTLE)(_look_at_card).remote(): node for node in nodes}
    ready, waiting = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
    for answer in waiting:
        ray.cancel(answer)
    cards = []
    for answer in ready:
        try:
            name, size = ray.get(answer)
        except RayError:
            continue
        cards.append(Card(name=name, bytes=size, node=asked[answer]))
    return min(cards, key=lambda card: card.bytes, default=None)


def measure(
    experiment: Experiment, task: TeacherTask, cascade: CascadeConfig, data: DataSplits, *, node: str | None
) -> Measured:
    """Measure a cascade on a card that it has to itself. Needs Ray.

    Args:
        experiment: of the search.
        task: of the teacher, which is there.
        cascade: what is trained.
        data: the images.
        node: Ray's id of the machine; any that has a card where it is `None`.

    Raises:
        RayError: if it cannot be, with the cause.
    """
    actors = RankActors.of_trial(experiment.resources)
    values = _on(node, **actors.options)(_measure).remote(
        experiment.model,
        task.weights(),
        cascade.to_dict(),
        data.to_arrays(),
        experiment.data.augmentation,
        task.latency(),
        actors.num_threads,
    )
    return Measured.from_dict(ray.get(values))


def _on(node: str | None, **options: Any) -> Callable[..., Any]:  # noqa: ANN401 - Ray's
    """A task of Ray's on a machine, in a process that ends with it."""
    place = {} if node is None else {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
    remote: Callable[..., Any] = ray.remote(max_retries=0, max_calls=1, **place, **options)
    return remote


def _look_at_card() -> tuple[str, int]:
    return torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1]


def _measure(  # noqa: PLR0913
    model: ModelConfig,
    weights: dict[str, Any],
    cascade: dict[str, Any],
    arrays: dict[str, Any],
    augmentation: Augmentation,
    latency: LatencyTable | None,
    num_threads: int,
) -> dict[str, Any]:
    torch.set_num_threads(num_threads)
    data = DataSplits.from_arrays(arrays)
    peak = measure_peak(
        build_teacher(model, data, weights),
        CascadeConfig.from_dict(cascade),
        data,
        augmentation=augmentation,
        latency=latency,
    )
    name, size = _look_at_card()
    return {"card": name, "card_bytes": size, **asdict(peak)}
