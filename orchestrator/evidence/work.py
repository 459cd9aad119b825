"""The one accounting of all arms, as `trainables.work` counts.

The unit is the teacher's forward pass over all training images. Validation and the last measurement of batch-norm
statistics, which all arms have, are left out.
"""

from collections.abc import Callable
from itertools import pairwise

from orchestrator.evidence.settings import Budget
from orchestrator.words import counted
from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.plan import StagePlan, stage_plans
from trainables.pruning.schedule import pruning_steps, size_at
from trainables.pruning_config import Pruning
from trainables.stages.sandwich import num_whole_steps
from trainables.work import BACKWARD, TRAINED, asked_level, asking_work


def training_work(size: float, epochs: int, config: CascadeConfig) -> float:
    """Work of training one network of a size for some epochs, with the teacher as a cascade would."""
    return TRAINED * size * epochs + asking_work(1.0, epochs, config)


def cascade_work(config: CascadeConfig, steps_per_epoch: int) -> float:
    """Work of a cascade with sizes as they are asked for."""
    return sum(_stage_work(config, plan, steps_per_epoch) for plan in stage_plans(config))


def _stage_work(config: CascadeConfig, plan: StagePlan, steps_per_epoch: int) -> float:
    sizes, first = (1.0, *config.macs_kept), plan.levels[0]
    above = sizes[first - 1]
    work = asking_work(sizes[asked_level(config, first)], plan.epochs, config)
    num_levels, num_between = config.levels_a_step or len(plan.levels), max(1, len(plan.levels) - 2)
    for level in plan.levels:
        size = config.macs_kept[level - 1]
        if plan.kind == "recovery":
            work += TRAINED * size * plan.epochs
            continue
        at_an_end = level in (plan.levels[0], plan.levels[-1])
        share = 1.0 if at_an_end else min(1.0, (num_levels - 2) / num_between)
        ramp, held = _falling(config.pruning, above, size, plan.epochs, steps_per_epoch, share=share)
        work += TRAINED * (ramp + held)
        if config.pruning.saliency_loss == "labels":
            work += BACKWARD * ramp
    return work


def _falling(  # noqa: PLR0913
    pruning: Pruning, start: float, end: float, epochs: int, steps_per_epoch: int, *, share: float
) -> tuple[float, float]:
    """A level's size summed over the epochs of its ramp, and over those after it.

    Of the steps in which not all levels take part, it takes part in a share. Where channels may come back, the step
    before each pruning but the last is as wide as what the level started from.
    """
    num_steps = epochs * steps_per_epoch
    events = sorted(pruning_steps(pruning, num_steps).items())
    sizes = [start, *(min(start, size_at(done, start=start, end=end, ramp=pruning.ramp)) for _, done in events)]
    edges = [0, *(step for step, _ in events), num_steps]
    found: list[float] = []
    for (first, after), size in zip(pairwise(edges), sizes, strict=True):
        left = len(events) - len(found)  # prunings from here on
        whole = num_whole_steps(first, after, steps_per_epoch=steps_per_epoch, pruned=left > 0)
        widened = start - size if left > 1 and pruning.regrowth > 0.0 else 0.0
        found.append(((whole + share * (after - first - whole)) * size + widened) / steps_per_epoch)
    return sum(found[:-1]), found[-1]


def epochs_within(  # noqa: PLR0913
    budget: Budget, work: Callable[[int], float], *, least: int = 1, share: float = 1.0, recovery: int = 0
) -> int:
    """Epochs of a recipe whose work comes closest to a budget.

    Args:
        budget: what may be spent.
        work: of so many epochs, recovery included; rises with them.
        least: fewest epochs that are possible.
        share: how many budgets may be spent, where one run serves several sizes.
        recovery: epochs beyond the recipe's.

    Raises:
        InputError: if the fewest epochs are more than it allows, or cost more than a tenth above it.
    """
    most = _most_epochs(budget, least, share=share, recovery=recovery)
    if budget.unit == "epochs":
        return most
    amount = budget.amount * share
    if work(least) > 1.1 * amount:
        raise InputError(
            f"budget.amount is {budget.amount:g}, but {counted(least + recovery, 'epoch')} would cost "
            f"{work(least) / share:.3g} teacher-passes already; give more"
        )
    low, high = least, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if work(middle) <= amount else (low, middle - 1)
    closer = low < most and abs(work(low + 1) - amount) < abs(work(low) - amount)
    return low + 1 if closer else low


def _most_epochs(budget: Budget, least: int, *, share: float, recovery: int) -> int:
    """Of a recipe, so that with recovery there are no more than a budget allows."""
    limits = {} if budget.most_epochs is None else {"most_epochs": budget.most_epochs}
    if budget.unit == "epochs":
        limits["amount"] = round(budget.amount * share)
    for key, limit in limits.items():
        if limit < least + recovery:
            beyond, lower = (f", {recovery} of them recovery", ", or lower recovery_epochs") if recovery else ("", "")
            raise InputError(
                f"budget.{key} is {getattr(budget, key):g}, which allows {counted(limit, 'epoch')}, but must allow at "
                f"least {least + recovery}{beyond}; give more{lower}"
            )
    return min([100_000, *limits.values()]) - recovery
