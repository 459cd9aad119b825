"""Intervals and tests against SciPy's, and how often a difference is found where there is none."""

import itertools
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orchestrator.evidence.statistics import LEVEL, Difference, Estimate, estimate, holm, paired

N = 500
hits = st.integers(0, N)


@given(st.lists(hits, min_size=2, max_size=8))
def test_the_interval_is_students(counts: list[int]) -> None:
    values = [count / N for count in counts]
    found = estimate(values, num_test=N)
    assert found.mean == pytest.approx(sum(values) / len(values))
    scale = max(stats.sem(values), 1 / (N * math.sqrt(12 * len(values))))
    low, high = stats.t.interval(0.95, len(values) - 1, loc=found.mean, scale=scale)
    assert (found.low, found.high) == (pytest.approx(max(0.0, low)), pytest.approx(min(1.0, high)))


@given(st.lists(st.tuples(hits, hits), min_size=2, max_size=8))
def test_the_test_is_the_paired_t_test(pairs: list[tuple[int, int]]) -> None:
    own, other = ({seed: value / N for seed, value in enumerate(column)} for column in zip(*pairs, strict=True))
    found = paired(own, other, num_test=N)
    assert found is not None
    if len({a - b for a, b in pairs}) > 2:  # with two the spread may be below that of rounding
        wanted = stats.ttest_rel(list(own.values()), list(other.values()))
        assert found.p_value == pytest.approx(wanted.pvalue, abs=1e-9)


def test_only_common_seeds_count() -> None:
    found = paired({1: 0.9, 2: 0.8, 5: 0.1}, {1: 0.8, 2: 0.6, 4: 1.0}, num_test=N)
    assert found is not None
    assert (found.estimate.number, found.estimate.mean) == (2, pytest.approx(0.15))
    assert paired({1: 0.9}, {2: 0.9}, num_test=N) is None
    single = paired({1: 0.9}, {1: 0.8}, num_test=N)
    assert single is not None
    assert (single.p_value, single.estimate.low, single.verdict) == (None, None, "not told apart")


def test_no_difference_is_beyond_a_whole_accuracy() -> None:
    found = paired({1: 1.0, 2: 0.9}, {1: 0.0, 2: 0.6}, num_test=N)
    assert found is not None
    assert (found.estimate.mean, found.estimate.high) == (pytest.approx(0.65), 1.0)
    assert found.estimate.low == -1.0


def test_no_difference_on_any_seed_is_no_finding() -> None:
    same = paired({1: 0.5, 2: 0.5}, {1: 0.5, 2: 0.5}, num_test=N)
    assert same is not None
    assert same.p_value == 1.0


@pytest.mark.parametrize("num_seeds", [2, 3])
def test_equal_differences_are_as_sure_as_counts_of_hits_can_be(num_seeds: int) -> None:
    other = {seed: 0.9 + seed / N for seed in range(num_seeds)}
    own = {seed: value + 1 / N for seed, value in other.items()}  # one image more, on every seed
    found = paired(own, other, num_test=N)
    assert found is not None
    wanted = 2 * stats.t.sf(math.sqrt(6 * num_seeds), num_seeds - 1)
    assert found.p_value == pytest.approx(wanted, rel=1e-6)
    assert found.p_value > LEVEL
    assert found.estimate.low is not None
    assert found.estimate.low < 0 < found.estimate.mean


@pytest.mark.parametrize("num_seeds", [2, 3])
def test_chance_alone_is_found_no_more_often_than_the_level_says(num_seeds: int) -> None:
    most = 14  # images that arms differ by
    found = {}
    for differences in itertools.combinations_with_replacement(range(-most, most + 1), num_seeds):
        own = {seed: (100 + difference) / N for seed, difference in enumerate(differences)}
        found[differences] = paired(own, dict.fromkeys(own, 100 / N), num_test=N)
    for mean, spread in itertools.product((0.0, 0.5), (0.2, 0.5, 1.0, 2.0)):  # of the hits of an arm over seeds
        chances = _chances_of_differences(mean, spread)
        false = sum(
            math.prod(chances[difference] for difference in differences) * _orders(differences)
            for differences, verdict in found.items()
            if verdict is not None and verdict.p_value is not None and verdict.p_value < LEVEL
        )
        assert false <= LEVEL


def _chances_of_differences(mean: float, spread: float) -> Counter[int]:
    """Of two arms whose hits are normal with this mean, counted in whole images."""
    one = stats.norm(mean, spread)
    chances = {count: one.cdf(count + 0.5) - one.cdf(count - 0.5) for count in range(-20, 21)}
    both: Counter[int] = Counter()
    for (own, chance), (other, its_chance) in itertools.product(chances.items(), repeat=2):
        both[own - other] += chance * its_chance
    return both


def _orders(differences: tuple[int, ...]) -> int:
    number = math.factorial(len(differences))
    return number // math.prod(map(math.factorial, Counter(differences).values()))


def test_holm_takes_the_smallest_first() -> None:
    # By hand: 3·0.01; then 2·0.02; then 0.03, but not below what comes before it.
    assert holm([0.03, 0.01, None, 0.02]) == [pytest.approx(0.04), pytest.approx(0.03), None, pytest.approx(0.04)]
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("mean", "adjusted", "verdict"),
    [(0.1, 0.01, "better"), (-0.1, 0.049, "worse"), (0.1, 0.05, "not told apart"), (0.1, None, "not told apart")],
)
def test_a_verdict_needs_the_corrected_test(mean: float, adjusted: float | None, verdict: str) -> None:
    found = Difference(estimate=Estimate(mean=mean, low=None, high=None, number=5), p_value=0.0, adjusted=adjusted)
    assert found.verdict == verdict
