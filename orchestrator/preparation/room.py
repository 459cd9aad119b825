"""Whether what is to be trained fits into memory: of the machine that trials run on, or of the card."""

from collections.abc import Mapping
from dataclasses import dataclass

import ray
import torch

from orchestrator.experiment.config import Experiment
from orchestrator.experiment.machine_rules import AUTO, LOCAL
from orchestrator.experiment.resources import Resources
from orchestrator.machines.cluster import machines_there
from orchestrator.machines.rank_actors import RankActors
from orchestrator.policies.looks import Look, Refusal, admit
from orchestrator.policies.probe import SpaceProbe
from orchestrator.words import counted
from search_spaces.cascade import CascadeSpace
from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.errors import InputError
from trainables.hardware.machine import gigabytes, machine_bytes
from trainables.memory import Footprint, footprint
from trainables.networks.models import build
from trainables.recipe import Precision, Recipe
from trainables.stages.remembered import remembered_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """Memory that trials find where they run.

    Attributes:
        bytes: of the largest machine, or of its card.
        trials: that share it at the same time, at least 1.
        is_card: whether it is a card's.
    """

    bytes: int
    trials: int
    is_card: bool

    @property
    def a_trial(self) -> float:
        """Bytes for each."""
        return self.bytes / self.trials

    def __str__(self) -> str:
        """For people to read."""
        what = f"the {'card' if self.is_card else 'machine'} has {gigabytes(self.bytes)}"
        return what if self.trials == 1 else f"{what} for {self.trials} trials at the same time"


def find_room(resources: Resources, *, num_trials: int) -> Room | None:
    """Memory of the machine, or the card, on which a trial finds most of it; `None` if that is not known. Needs Ray.

    Args:
        resources: what a trial takes.
        num_trials: trials of the search, of which no more run at the same time.

    Raises:
        InputError: if torch cannot use the GPU that Ray has.
    """
    nodes = list(machines_there().values())
    if resources.num_gpus > 0:
        task = ray.remote(**RankActors.of_trial(resources).options | {"num_cpus": 0})(_card_bytes)
        shared = max(1, int(resources.num_ranks / resources.num_gpus))
        size = ray.get(task.remote())
        if not size:
            raise InputError(
                f"resources.gpus_per_trial is {_asked(resources)}, but torch cannot use the GPU that Ray has; "
                "install a torch that fits its driver, or set it to 0"
            )
        return Room(bytes=size, trials=_at_once(shared, resources, num_trials, len(nodes)), is_card=True)
    rooms = []
    for node in nodes:
        fit = max(1, int(node.get("CPU", 0.0) / resources.cpus_per_trial))
        size = machine_bytes() if resources.address == LOCAL else _node_bytes(node)
        if size > 0:
            rooms.append(Room(bytes=size, trials=_at_once(fit, resources, num_trials, len(nodes)), is_card=False))
    return max(rooms, key=lambda room: room.a_trial, default=None)


def _at_once(fit: int, resources: Resources, num_trials: int, num_nodes: int) -> int:
    """Trials in one place, where so many fit and all are spread evenly."""
    return max(1, min(fit, resources.at_once(num_trials) // num_nodes))


def _asked(resources: Resources) -> str:
    gpus = resources.gpus_per_trial
    return gpus if gpus == AUTO else f"{gpus:g}"


def _card_bytes() -> int:
    """Memory of the card that Ray assigned; 0 where torch finds none."""
    return int(torch.cuda.mem_get_info()[1]) if torch.cuda.is_available() else 0


def _node_bytes(node: Mapping[str, float]) -> int:
    """What Ray found on a machine as it joined; it sets a part of it aside for objects."""
    return int(node.get("memory", 0.0) + node.get("object_store_memory", 0.0))


class Footprints:
    """The least that cascades of a search take, as shapes tell it."""

    def __init__(self, experiment: Experiment, data: DataSplits) -> None:
        """Take what is known.

        Args:
            experiment: says what network.
            data: the images.
        """
        self._network = build(experiment.model, num_classes=data.num_classes, in_channels=data.in_channels)
        self._data = data
        self._known: dict[Precision, Footprint | None] = {}

    def of(self, precision: Precision) -> Footprint | None:
        """What the network takes; `None` where its forward pass needs more than shapes."""
        if precision not in self._known:
            self._known[precision] = footprint(self._network, self._data.input_shape, precision=precision)
        return self._known[precision]

    def least(self, cascade: CascadeConfig, *, ranks: int = 1) -> int | None:
        """Bytes of one rank of a cascade as it begins, the images apart; `None` if that is not known."""
        known = self.of(cascade.recipe.precision)
        if known is None:
            return None
        data = self._data
        peak = known.cascade_peak(cascade, num_train=len(data.train), num_val=len(data.val), ranks=ranks)
        return peak + remembered_bytes(cascade, data) // ranks


class MemoryLook:
    """Refuses cascades that would not fit, however little libraries take besides."""

    def __init__(self, experiment: Experiment, data: DataSplits, room: Room) -> None:
        """Take what is known.

        Args:
            experiment: says what network.
            data: the images, which each trial copies to its card.
            room: that trials have.
        """
        self._footprints = Footprints(experiment, data)
        self._data = data
        self._room = room
        self._resources = experiment.resources
        self._images = held_bytes(data) if room.is_card else 0

    def __call__(self, cascade: CascadeConfig) -> Refusal | None:
        """Look at a cascade as it begins, with all channels in every level."""
        ranks = self._resources.num_ranks
        least = self._footprints.least(cascade, ranks=ranks)
        reason = None if least is None else self._reason(least, self._room, ranks)
        if reason is None:
            return None
        levels = counted(cascade.num_levels, "level")
        views = "" if remembered_bytes(cascade, self._data) == 0 else ", or lower cascade.teacher_views"
        return Refusal(reason=f"a cascade of {levels} {reason}{_mend('cascade.recipe')}{views}")

    def check_teacher(self, recipe: Recipe) -> None:
        """Check that the teacher can be trained, which has the machine or the card to itself.

        Raises:
            InputError: saying what it takes and what there is.
        """
        known = self._footprints.of(recipe.precision)
        if known is None:
            return
        own = self._resources.teacher
        ranks = 1 if own is None else own.num_ranks
        least = known.teacher_peak(recipe, num_train=len(self._data.train), num_val=len(self._data.val), ranks=ranks)
        reason = self._reason(least, Room(bytes=self._room.bytes, trials=1, is_card=self._room.is_card), ranks)
        if reason is not None:
            raise InputError(f"the teacher {reason}{_mend('teacher')}")

    def _reason(self, least: int, room: Room, ranks: int) -> str | None:
        """Why so many bytes of each rank do not fit, as the end of a sentence; ranks share a machine, not a card."""
        least = least + self._images if room.is_card else least * ranks
        return None if least <= room.a_trial else f"takes {gigabytes(least)} of memory or more, but {room}; "


def held_bytes(data: DataSplits) -> int:
    """Bytes of the images that a trial holds on its card."""
    return data.train.held_bytes + data.val.held_bytes


def _mend(section: str) -> str:
    fewer = ", or lower resources.max_concurrent" if section == "cascade.recipe" else ""
    return f"lower {section}.batch_size or raise {section}.accumulate{fewer}"


def check_memory(experiment: Experiment, data: DataSplits) -> Look:
    """Check that teacher and cascades fit into memory; a look for cascades that may be larger than others. Needs Ray.

    Raises:
        InputError: if the teacher does not fit, or no cascade of the space.
    """
    room = find_room(experiment.resources, num_trials=experiment.num_trials)
    if room is None:
        return admit
    look = MemoryLook(experiment, data, room)
    if experiment.model.weights is None:
        look.check_teacher(experiment.teacher)
    space = experiment.find_space()
    # The user's own may change the recipe; and what is remembered depends on the stages.
    if not isinstance(space, CascadeSpace) or experiment.cascade.teacher_views is not None:
        SpaceProbe(space, experiment.cascade, look)
        return look
    refusal = look(CascadeConfig(macs_kept=(0.5,), recipe=experiment.cascade.recipe))
    if refusal is not None:
        raise InputError(refusal.reason)
    return look
