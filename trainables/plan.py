"""The stages of a cascade: what each of them trains, and for how long."""

from dataclasses import dataclass

from trainables.config import CascadeConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """What one stage of a cascade trains.

    Attributes:
        name: `cascade`, or `level-1` … of a sequential cascade.
        levels: numbers of the levels that are trained together, the largest first.
        epochs: passes over the training images.
        first_epoch: epochs of the trial that lie before this stage.
    """

    name: str
    levels: tuple[int, ...]
    epochs: int
    first_epoch: int


def stage_plans(config: CascadeConfig) -> tuple[StagePlan, ...]:
    """The stages of a cascade: one for all levels (joint), or one a level, which share the epochs out (sequential).

    Where the epochs do not divide evenly, the smaller levels, which lose more, get one more.
    """
    epochs = config.recipe.epochs
    if config.schedule == "joint":
        levels = tuple(range(1, config.num_levels + 1))
        return (StagePlan(name="cascade", levels=levels, epochs=epochs, first_epoch=0),)
    plans = []
    first = 0
    for level in range(1, config.num_levels + 1):
        share = (epochs - first) // (config.num_levels - level + 1)
        plans.append(StagePlan(name=f"level-{level}", levels=(level,), epochs=share, first_epoch=first))
        first += share
    return tuple(plans)
