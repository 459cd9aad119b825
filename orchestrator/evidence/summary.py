"""What the runs of a study come to: a line for each arm at each size, and what they say against one another."""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.evidence.plan import StudyPlan
from orchestrator.evidence.results import Found, RunResult
from orchestrator.evidence.schedule import chosen_rate
from orchestrator.evidence.settings import Method
from orchestrator.evidence.statistics import Difference, Estimate, estimate, holm, paired


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One arm at one size.

    Attributes:
        arm: its name.
        method: of the arm.
        size: that was asked.
        accuracies: on test images, by seed.
        accuracy: mean and interval; `None` where nothing is done.
        against: the arm less the reference on the same seeds; `None` for the reference itself.
        macs_kept: mean of what was got.
        epochs: mean.
        work: mean, in teacher-passes for each size.
        learning_rate: that was chosen; `None` while it is not.
        num_failed: runs that gave nothing.
    """

    arm: str
    method: Method
    size: float
    accuracies: Mapping[int, float]
    accuracy: Estimate | None
    against: Difference | None
    macs_kept: float | None
    epochs: float | None
    work: float | None
    learning_rate: float | None
    num_failed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Duel:
    """The best of some arms against the best of others at a size, by their means among those with most seeds.

    Attributes:
        size: of the networks.
        own: name of an arm.
        other: name of another.
        difference: own less other on the same seeds.
    """

    size: float
    own: str
    other: str
    difference: Difference


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """All of it.

    Attributes:
        lines: by size, the smallest last, and by arm.
        duels: the best cascade against the best of Torch-Pruning, at each size where both are.
    """

    lines: tuple[Line, ...]
    duels: tuple[Duel, ...]


def summarise(plan: StudyPlan, results: Mapping[str, RunResult], *, num_test: int) -> Summary:
    """Gather the results of a study's own runs; Holm's correction is over all comparisons together.

    Args:
        plan: the study.
        results: of its runs, and perhaps of others, which do not count.
        num_test: test images that each accuracy is on.
    """
    sizes = sorted(plan.sizes, reverse=True)
    lines = [_line(plan, name, size, results, num_test) for size in sizes for name in plan.arms]
    by_place = {(line.arm, line.size): line for line in lines}
    against: dict[_Pair, Difference] = {}
    for line in lines:
        reference = by_place[plan.reference, line.size]
        difference = None if line is reference else paired(line.accuracies, reference.accuracies, num_test=num_test)
        if difference is not None:
            against[_pair(line.size, line.arm, plan.reference)] = difference
    duels = list(_duels(lines, num_test))
    # The reference may be the best of its kind: its duel is then the test of a line, and is counted once.
    tests = {_pair(duel.size, duel.own, duel.other): duel.difference for duel in duels} | against
    adjusted = dict(zip(tests, holm([difference.p_value for difference in tests.values()]), strict=True))

    def told(difference: Difference, pair: _Pair) -> Difference:
        return dataclasses.replace(difference, adjusted=adjusted[pair])

    return Summary(
        lines=tuple(
            dataclasses.replace(line, against=told(against[pair], pair)) if pair in against else line
            for line, pair in ((line, _pair(line.size, line.arm, plan.reference)) for line in lines)
        ),
        duels=tuple(
            dataclasses.replace(duel, difference=told(duel.difference, _pair(duel.size, duel.own, duel.other)))
            for duel in duels
        ),
    )


_Pair = tuple[float, frozenset[str]]


def _pair(size: float, own: str, other: str) -> _Pair:
    """What two tests have in common that are of the same arms at the same size."""
    return size, frozenset((own, other))


def _line(plan: StudyPlan, name: str, size: float, results: Mapping[str, RunResult], num_test: int) -> Line:
    arm = plan.arms[name]
    own = size if arm.method != "one-cascade" else min(plan.sizes)
    rate = chosen_rate(plan, name, own, results)
    runs = [] if rate is None else [plan.run(name, own, seed, rate, "measured") for seed in plan.seeds]
    done = {run.seed: results[run.key] for run in runs if run.key in results}
    good = {seed: (result, _closest(result.found, size)) for seed, result in done.items() if result.found}
    accuracies = {seed: found.test_accuracy for seed, (_, found) in good.items()}
    share = len(plan.sizes) if arm.method == "one-cascade" else 1
    return Line(
        arm=name,
        method=arm.method,
        size=size,
        accuracies=accuracies,
        accuracy=estimate([*accuracies.values()], num_test=num_test) if accuracies else None,
        against=None,
        macs_kept=_mean(found.macs_kept for _, found in good.values()),
        epochs=_mean(result.epochs for result, _ in good.values()),
        work=_mean(result.work / share for result, _ in good.values()),
        learning_rate=rate,
        num_failed=len(done) - len(good),
    )


def _closest(found: Sequence[Found], size: float) -> Found:
    return min(found, key=lambda level: abs(level.macs_kept - size))


def _mean(values: Iterable[float]) -> float | None:
    given = [*values]
    return statistics.fmean(given) if given else None


def _duels(lines: Sequence[Line], num_test: int) -> Iterable[Duel]:
    for size in dict.fromkeys(line.size for line in lines):
        here = [line for line in lines if line.size == size and line.accuracy is not None]
        cascades = [line for line in here if line.method in ("cascade", "one-cascade")]
        peers = [line for line in here if line.method == "torch-pruning"]
        if not cascades or not peers:
            continue
        # Of those with the most seeds: a mean of few seeds is soon the best.
        own, other = (
            max((line for line in kind if len(line.accuracies) == max(len(k.accuracies) for k in kind)), key=_accuracy)
            for kind in (cascades, peers)
        )
        difference = paired(own.accuracies, other.accuracies, num_test=num_test)
        if difference is not None:
            yield Duel(size=size, own=own.arm, other=other.arm, difference=difference)


def _accuracy(line: Line) -> float:
    assert line.accuracy is not None
    return line.accuracy.mean
