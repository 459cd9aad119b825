"""Which runs come next: those that choose learning rates, then arm against arm, one seed after the other."""

from collections.abc import Collection, Iterator, Mapping

from orchestrator.evidence.plan import StudyPlan
from orchestrator.evidence.results import RunResult
from orchestrator.evidence.settings import Run


def chosen_rate(plan: StudyPlan, arm: str, size: float, results: Mapping[str, RunResult]) -> float | None:
    """The learning rate of an arm at a size: the best on validation images; `None` while tries are missing.

    The best is that of the student, or the mean over all levels where one run gives all sizes. A rate at which training
    failed loses; where all failed, it is the first.
    """
    tries = plan.tuning_runs(arm, size)
    if not tries:
        return plan.learning_rates(plan.arms[arm])[0]
    if any(run.key not in results for run in tries):
        return None
    several = plan.arms[arm].method == "one-cascade"
    return max(tries, key=lambda run: _worth(results[run.key], several=several)).learning_rate


def _worth(result: RunResult, *, several: bool) -> float:
    accuracies = [found.val_accuracy for found in result.found]
    if not accuracies:
        return -1.0
    return sum(accuracies) / len(accuracies) if several else accuracies[-1]


def measured_runs(plan: StudyPlan, results: Mapping[str, RunResult]) -> Iterator[Run]:
    """Measured runs whose learning rate is known, one seed of everything after the other."""
    for seed in plan.seeds:
        for size in sorted(plan.sizes):
            for name, arm in plan.arms.items():
                if size in plan.sizes_of(arm):
                    rate = chosen_rate(plan, name, size, results)
                    if rate is not None:
                        yield plan.run(name, size, seed, rate, "measured")


def next_run(plan: StudyPlan, results: Mapping[str, RunResult], running: Collection[str] = ()) -> Run | None:
    """The next run that is neither done nor running; `None` where there is none, for now or for good."""
    tuning = list(plan.all_tuning_runs())
    for run in (*tuning, *measured_runs(plan, results)):
        if run.key not in results and run.key not in running:
            return run
    return None


def all_runs(plan: StudyPlan, results: Mapping[str, RunResult]) -> dict[str, Run]:
    """All runs that are known so far, by their keys."""
    return {run.key: run for run in (*plan.all_tuning_runs(), *measured_runs(plan, results))}


def num_runs(plan: StudyPlan) -> int:
    """Runs of the whole study, equal ones once."""
    rates = {name: plan.learning_rates(arm)[0] for name, arm in plan.arms.items()}
    keys = {run.key for run in plan.all_tuning_runs()}
    for name, arm in plan.arms.items():
        for size in plan.sizes_of(arm):
            keys |= {plan.run(name, size, seed, rates[name], "measured").key for seed in plan.seeds}
    return len(keys)
