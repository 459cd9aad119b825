"""The stages of a cascade: what each of them trains, and for how long."""

from dataclasses import dataclass
from typing import Literal

from trainables.config import CascadeConfig

StageKind = Literal["pruning", "recovery"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """What one stage of a cascade trains.

    Attributes:
        name: `cascade`, or `level-1` … of a sequential cascade; `recovery-1` … of a level's recovery.
        levels: numbers of the levels that are trained together, the largest first.
        epochs: passes over the training images.
        first_epoch: epochs of the trial that lie before this stage.
        kind: `pruning`: the levels fall to their sizes; `recovery`: one level, which has its size, is trained alone.
    """

    name: str
    levels: tuple[int, ...]
    epochs: int
    first_epoch: int
    kind: StageKind = "pruning"


def stage_plans(config: CascadeConfig) -> tuple[StagePlan, ...]:
    """The stages of a cascade, in their order.

    Joint: one for all levels, then a recovery of each, the largest first. Sequential: one a level, each followed by
    the level's recovery. Each level is recovered before the next smaller one that learns from it.
    """
    plans: list[StagePlan] = []

    def add(name: str, levels: tuple[int, ...], epochs: int, kind: StageKind = "pruning") -> None:
        first = plans[-1].first_epoch + plans[-1].epochs if plans else 0
        plans.append(StagePlan(name=name, levels=levels, epochs=epochs, first_epoch=first, kind=kind))

    numbers = tuple(range(1, config.num_levels + 1))
    if config.schedule == "joint":
        add("cascade", numbers, config.recipe.epochs)
    for level, epochs in zip(numbers, _shares(config), strict=True):
        if config.schedule == "sequential":
            add(f"level-{level}", (level,), epochs)
        if config.recovery_epochs > 0:
            add(f"recovery-{level}", (level,), config.recovery_epochs, "recovery")
    return tuple(plans)


def _shares(config: CascadeConfig) -> list[int]:
    """Epochs of each level of a sequential cascade, at least one; what does not divide goes to smaller levels first."""
    weights = [config.epoch_growth**level for level in range(config.num_levels)]
    spare = config.recipe.epochs - config.num_levels  # beyond the one that each has
    if spare < 0:  # of a joint cascade, whose levels share them
        return [1] * config.num_levels
    wanted = [max(0.0, config.recipe.epochs * weight / sum(weights) - 1.0) for weight in weights]
    scale = spare / sum(wanted) if sum(wanted) > 0 else 0.0
    shares = [1 + int(scale * epochs + 1e-9) for epochs in wanted]
    by_rest = sorted(
        range(config.num_levels), key=lambda level: (round(scale * wanted[level] - shares[level] + 1, 6), level)
    )
    for level in by_rest[len(by_rest) - (config.recipe.epochs - sum(shares)) :]:
        shares[level] += 1
    return shares
