"""`resources.gpus_per_trial: auto`: as many trials on a card as fit there, seen by running the beginning of one.

What was measured, and what was made of it, is kept in the search's folder: a resume measures anew only where its card
is another one.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ray.exceptions import RayError

from orchestrator.experiment.config import Experiment
from orchestrator.experiment.machine_rules import AUTO, LOCAL
from orchestrator.experiment.resources import Resources
from orchestrator.policies.looks import Look, admit
from orchestrator.policies.probe import SpaceProbe
from orchestrator.preparation.cards import Measured, gpu_machines, gpu_nodes, measure, smallest_card
from orchestrator.preparation.room import Footprints, MemoryLook, Room, held_bytes
from orchestrator.preparation.teacher_task import TeacherTask
from orchestrator.storage.whole_files import write_atomically
from orchestrator.words import percent
from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.errors import InputError, first_line
from trainables.hardware.machine import gigabytes
from trainables.peak import MARGIN

_KEY = "resources.gpus_per_trial"
# Ray counts parts of a GPU in ten-thousandths.
_PARTS = 10_000
# What torch holds is foretold well if it is within these of what shapes say: a factor, and what any network takes.
_FACTOR, _ANY_BYTES = 3.0, 512 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """What trials take once that is known.

    Attributes:
        experiment: the same with a number of GPUs a trial.
        look: refuses cascades that would not fit into their part of a card.
        parameters: what to record of it; nothing if a number was given.
    """

    experiment: Experiment
    look: Look = admit
    parameters: Mapping[str, Any] = field(default_factory=dict)


def part_of_card(num_trials: int) -> float:
    """GPUs of each of so many trials on a card, rounded down to what Ray counts in, so that all of them fit."""
    return _PARTS // num_trials / _PARTS


def most_together(machines: Sequence[Mapping[str, float]], resources: Resources, *, at_once: int) -> int:
    """Trials that may share a card, whatever its memory: no card is to idle while another one is shared.

    Args:
        machines: those that have GPUs, by Ray's names of resources.
        resources: what a trial takes.
        at_once: trials that run at the same time at the most.

    Returns:
        At least 1.
    """
    cards = sum(machine["GPU"] for machine in machines)
    by_cpus = min(int(machine.get("CPU", 0.0) / resources.cpus_per_trial / machine["GPU"]) for machine in machines)
    return max(1, min(by_cpus, int(at_once / cards)))


def where_there_is_no_card(resources: Resources) -> Resources:
    """The same, but that `auto` is no GPU where no machine has one, there or to come. Needs Ray.

    Who names a kind of card does not want to do without.
    """
    if resources.gpus_per_trial != AUTO or resources.gpu_kind is not None or gpu_machines():
        return resources
    return resources.with_gpus(0.0)


def nothing_chosen() -> dict[str, Any]:
    """What to record where there is no card."""
    return {f"{_KEY}.chosen": 0.0}


def without_cards(experiment: Experiment, say: Callable[[str], None]) -> Experiment:
    """The same with what `where_there_is_no_card` makes of its resources; it is said. Needs Ray."""
    resources = where_there_is_no_card(experiment.resources)
    if resources == experiment.resources:
        return experiment
    wait = "" if resources.address == LOCAL else "; if some are still starting, stop, and --resume once they are there"
    say(f"{_KEY} is {AUTO}, and no machine has a GPU: trials run on CPUs{wait}")
    return _with_gpus(experiment, resources.num_gpus)


def pack(  # noqa: PLR0913
    experiment: Experiment,
    task: TeacherTask,
    data: DataSplits,
    *,
    file: Path,
    at_once: int,
    say: Callable[[str], None],
    look: Look = admit,
) -> Packed:
    """Find out how many trials share a card, if that is asked; the teacher must be there, and nothing else run.

    Args:
        experiment: of the search.
        task: of the teacher.
        data: the images.
        file: in which it is kept.
        at_once: trials that run at the same time at the most.
        say: takes a line for people.
        look: refuses cascades that will not be run, and need not fit.
    """
    resources = experiment.resources
    if resources.gpus_per_trial != AUTO:
        return Packed(experiment=experiment)
    most = most_together(gpu_machines(resources.gpu_kind), resources, at_once=at_once)
    if most == 1:
        say(f"{_KEY} is {AUTO}: 1, as CPUs and the number of trials that run at the same time allow no more on a card")
        return _packed(experiment, 1)
    footprints = Footprints(experiment, data)
    cascade = greediest(experiment, footprints, look)
    known = _read(file)
    try:
        measured = _measured(experiment, task, cascade, data, known)
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        say(
            f"{_KEY} is {AUTO}: 1, as the largest cascade could not be measured ({type(cause).__name__}: "
            f"{first_line(cause)})"
        )
        return _packed(experiment, 1)
    number = min(most, measured.peak.num_trials)
    _write(file, measured, number)
    say(_line(measured, number, most, when="measured before" if measured is known else "measured now"))
    least = footprints.least(cascade)
    warning = None if least is None else difference(measured.torch_bytes, least + held_bytes(data))
    if warning is not None:
        say(warning)
    packed = _packed(experiment, number, measured)
    part = MemoryLook(packed.experiment, data, Room(bytes=measured.usable_bytes, trials=number, is_card=True))
    return replace(packed, look=part)


def _measured(
    experiment: Experiment, task: TeacherTask, cascade: CascadeConfig, data: DataSplits, known: Measured | None
) -> Measured:
    """What is known already of the smallest card that there is, or what is measured on it now."""
    nodes = gpu_nodes(experiment.resources.gpu_kind)
    card = smallest_card(nodes) if nodes and (known is not None or len(nodes) > 1) else None
    if known is not None and card is not None and (known.card, known.card_bytes) == (card.name, card.bytes):
        return known
    return measure(experiment, task, cascade, data, node=None if card is None else card.node)


def greediest(experiment: Experiment, footprints: Footprints, look: Look = admit) -> CascadeConfig:
    """Of many cascades that the space gives, the one that takes most by its shapes, with most levels and the largest.

    Raises:
        InputError: if the space fails, or gives none that may be run.
    """
    drawn = SpaceProbe(experiment.find_space(), experiment.cascade, look).cascades
    return max(drawn, key=lambda cascade: (footprints.least(cascade) or 0, cascade.num_levels, sum(cascade.macs_kept)))


def difference(torch_bytes: int, least_bytes: int) -> str | None:
    """What people should know where a measurement is far from what shapes say, which is the least that it can be."""
    if least_bytes <= torch_bytes <= _FACTOR * least_bytes + _ANY_BYTES:
        return None
    when = "late" if torch_bytes > least_bytes else "early"
    return (
        f"torch held {gigabytes(torch_bytes)}, {torch_bytes / least_bytes:.2g} times the {gigabytes(least_bytes)} that "
        f"shapes alone say, so what does not fit into memory is refused too {when}"
    )


def _line(measured: Measured, number: int, most: int, *, when: str) -> str:
    fit, total = measured.peak.num_trials, gigabytes(measured.peak.total_bytes)
    alone = "one trial has a card" if number == 1 else f"{number} trials share a card"
    more = f", though {fit} would fit, as CPUs and trials allow no more" if fit > most else ""
    return (
        f"{_KEY} is {AUTO}: the largest cascade takes {total} of a card's "
        f"{gigabytes(measured.usable_bytes)} ({measured.card}, {when}); with {percent(MARGIN - 1, 0)} to spare "
        f"{alone}{more}: {part_of_card(number):g}"
    )


def _packed(experiment: Experiment, number: int, measured: Measured | None = None) -> Packed:
    gpus = part_of_card(number)
    parameters: dict[str, Any] = {f"{_KEY}.chosen": gpus}
    if measured is not None:
        parameters[f"{_KEY}.measured_gib"] = round(measured.peak.total_bytes / 2**30, 3)
        parameters[f"{_KEY}.card"] = measured.card
    return Packed(experiment=_with_gpus(experiment, gpus), parameters=parameters)


def _with_gpus(experiment: Experiment, gpus: float) -> Experiment:
    return experiment.model_copy(update={"resources": experiment.resources.with_gpus(gpus)})


def _read(file: Path) -> Measured | None:
    """What was measured before; what cannot be read is measured anew."""
    try:
        return Measured.from_dict(json.loads(file.read_text(encoding="utf-8"))["measured"])
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None


def _write(file: Path, measured: Measured, number: int) -> None:
    plain = {"measured": measured.to_dict(), "trials_a_card": number, "gpus_per_trial": part_of_card(number)}
    write_atomically(file, (json.dumps(plain, indent=1) + "\n").encode())
