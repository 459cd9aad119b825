"""Settings that change nothing in a search; who gave them should know before it begins."""

from collections.abc import Callable, Iterator, Mapping

from orchestrator.experiment.config import Experiment
from orchestrator.experiment.dead_choices import dead_notes
from orchestrator.policies.budget import Stop
from orchestrator.policies.probe import SpaceProbe
from orchestrator.policies.samplers import UNTAUGHT
from search_spaces.cascade import CascadeDefaults
from trainables.config import CascadeConfig
from trainables.plan import stage_plans
from trainables.stages.remembered import num_views
from trainables.stages.sandwich import leaves_out


def idle_notes(experiment: Experiment) -> Iterator[str]:
    """Name what is set and does nothing, or can never be: in any cascade that the space gives, or in the search itself.

    Raises:
        InputError: if the space fails.
    """
    yield from _of_search(experiment)
    yield from dead_notes(experiment)
    given, plain = experiment.cascade, CascadeDefaults()
    keys = [key for key in _USES if getattr(given, key) != getattr(plain, key)]
    if not keys:
        return
    cascades = SpaceProbe(experiment.find_space(), given).cascades
    for key in keys:
        uses, reason = _USES[key]
        if not any(uses(cascade) for cascade in cascades):
            yield f"cascade.{key} is {getattr(given, key):g}, but does nothing in this search: {reason}"


def _of_search(experiment: Experiment) -> Iterator[str]:
    untried = len(experiment.starting_points) - experiment.num_trials
    if untried > 0:
        yield (
            f"starting_points has {len(experiment.starting_points)} points, but num_trials is {experiment.num_trials}: "
            f"{'the last is' if untried == 1 else f'the last {untried} are'} tried only if the search goes on with more"
        )
    stop = experiment.stop
    if stop.trials_without_gain is None and stop.min_gain != Stop().min_gain:
        yield f"stop.min_gain is {stop.min_gain:g}, but does nothing without stop.trials_without_gain"
    if experiment.study.warm_start and experiment.sampler in UNTAUGHT:
        yield f"study.warm_start does nothing in this search: the sampler {experiment.sampler} learns nothing of them"


def _leaves_out(cascade: CascadeConfig) -> bool:
    return cascade.schedule == "joint" and leaves_out(cascade.num_levels, cascade.levels_a_step)


def _remembers(cascade: CascadeConfig) -> bool:
    return any(num_views(cascade, plan.epochs) is not None for plan in stage_plans(cascade))


def _several(schedule: str) -> Callable[[CascadeConfig], bool]:
    return lambda cascade: cascade.schedule == schedule and cascade.num_levels > 1


_USES: Mapping[str, tuple[Callable[[CascadeConfig], bool], str]] = {
    "levels_a_step": (_leaves_out, "no cascade of the space trains more levels than that at once"),
    "level_weight_growth": (_several("joint"), "no cascade of the space trains several levels at once"),
    "epoch_growth": (_several("sequential"), "no cascade of the space trains one level after another"),
    "teacher_every": (lambda cascade: cascade.asks_larger, "no cascade of the space learns from a larger network"),
    "teacher_views": (_remembers, "no stage that learns a larger network's scores has more epochs"),
}
"""Whether a cascade makes something of a setting, and why none does."""
