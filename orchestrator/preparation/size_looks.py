"""The look at each cascade of a search: whether its sizes can be met, and what it learns is there."""

from collections.abc import Callable, Mapping
from functools import cache, partial

import numpy as np
from torch import nn

from orchestrator.experiment.config import Experiment
from orchestrator.policies.looks import (
    BoundLook,
    GapLook,
    LearningLook,
    Look,
    Looks,
    ReachLook,
    SizeLook,
    UnitLook,
    or_relax,
)
from orchestrator.policies.probe import SpaceProbe
from orchestrator.words import counted
from search_spaces.cascade import CascadeSpace
from trainables.datasets.data import DataSplits
from trainables.errors import InputError
from trainables.pruning.channels import ChannelMap
from trainables.pruning.contracts import Findings
from trainables.pruning.cost import FloatVector, LatencyTable, SizeModel, latency_model, macs_model, params_model
from trainables.pruning.held import CLASS_SCORES
from trainables.pruning.possible_sizes import floor_fraction, nearest_of_missed, possible_sizes, smallest_target
from trainables.pruning_config import UNITS, Pruning, SizeUnit
from trainables.stages.remembered import require_room_for_logits


def make_look(
    experiment: Experiment,
    network: nn.Module,
    findings: Findings,
    data: DataSplits,
    boundaries: Callable[[], tuple[str, ...]],
    table: LatencyTable | None,
) -> Look:
    """The look at each cascade; the space and the starting points are looked at now.

    Raises:
        InputError: if the space or a starting point asks for what cannot be.
    """
    pruning, space, channel_map = experiment.cascade.pruning, experiment.find_space(), findings.channel_map
    full_G = np.array([group.num_channels for group in channel_map.groups])
    sizes: dict[SizeUnit, SizeModel] = {
        "macs": macs_model(network, channel_map, data.input_shape),
        "params": params_model(network, channel_map),
    }
    if table is not None:
        sizes["latency"] = latency_model(network, channel_map, table)
    smallest = floor_fraction(sizes[pruning.size_in], channel_map, pruning)
    if isinstance(space, CascadeSpace) and space.student_macs_kept[0] < smallest:
        raise InputError(
            f"space.student_macs_kept starts at {space.student_macs_kept[0]:g}, but with each group at its floor "
            f"{smallest:.3g} of the {UNITS[pruning.size_in]} {'is' if pruning.size_in == 'latency' else 'are'} left"
            f"{_held(findings)}; start above that{or_relax(pruning)}"
        )
    teacher = {unit: model.total(full_G) for unit, model in sizes.items()}
    look = Looks(
        looks=(
            UnitLook(teacher=teacher),
            BoundLook(bounds=experiment.constraints, teacher=teacher),
            ReachLook(
                bounds=experiment.constraints,
                smallest=lambda pruning, unit: smallest_target(sizes[unit], channel_map, pruning),
                teacher=teacher,
            ),
            SizeLook(smallest_kept=partial(_smallest_kept, sizes, teacher, channel_map)),
            LearningLook(
                require_room=partial(require_room_for_logits, data=data),
                require_features=boundaries,
            ),
            GapLook(nearest_kept=_nearest_kept(sizes, teacher, channel_map)),
        )
    )
    SpaceProbe(space, experiment.cascade, look).check_points(experiment.starting_points)
    return look


def _held(findings: Findings) -> str:
    """What stays whole besides the scores, and why; the first of it."""
    reasons = held_reasons(findings)
    stay = "stays" if len(reasons) == 1 else "stay"
    return f" ({counted(len(reasons), 'group')} {stay} whole, such as {reasons[0]})" if reasons else ""


def held_reasons(findings: Findings) -> list[str]:
    """Why channels stay whole, each with its layer; that the last ones are the scores is known."""
    return [f"{layer}: {reason}" for layer, reason in findings.channel_map.held.items() if reason != CLASS_SCORES]


def _smallest_kept(
    sizes: Mapping[SizeUnit, SizeModel], teacher: Mapping[SizeUnit, float], channel_map: ChannelMap, pruning: Pruning
) -> float:
    return smallest_target(sizes[pruning.size_in], channel_map, pruning) / teacher[pruning.size_in]


def _nearest_kept(
    sizes: Mapping[SizeUnit, SizeModel], teacher: Mapping[SizeUnit, float], channel_map: ChannelMap
) -> Callable[[Pruning, float], float | None]:
    @cache  # up to 65,536 sizes, asked for at each level of each draw
    def possible(pruning: Pruning) -> FloatVector | None:
        return possible_sizes(sizes[pruning.size_in], channel_map, pruning)

    def alike(pruning: Pruning) -> Pruning:
        """One for all that have the same sizes."""
        return Pruning(
            size_in=pruning.size_in,
            round_to=pruning.round_to,
            min_channels=pruning.min_channels,
            floors=pruning.floors,
        )

    def nearest_kept(pruning: Pruning, asked: float) -> float | None:
        whole = teacher[pruning.size_in]
        nearest = nearest_of_missed(possible(alike(pruning)), asked * whole)
        return None if nearest is None else nearest / whole

    return nearest_kept
