"""Intervals and tests against SciPy's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orchestrator.evidence.statistics import Difference, Estimate, estimate, holm, paired

accuracies = st.lists(st.integers(0, 500).map(lambda n: n / 500), min_size=2, max_size=8)


@given(accuracies)
def test_the_interval_is_students(values: list[float]) -> None:
    found = estimate(values)
    assert found.mean == pytest.approx(sum(values) / len(values))
    if len(set(values)) > 1:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=found.mean, scale=stats.sem(values))
        assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=8))
def test_the_test_is_the_paired_t_test(pairs: list[tuple[int, int]]) -> None:
    own, other = ({seed: value / 500 for seed, value in enumerate(column)} for column in zip(*pairs, strict=True))
    found = paired(own, other)
    assert found is not None
    if len({a - b for a, b in pairs}) > 1:
        wanted = stats.ttest_rel(list(own.values()), list(other.values()))
        assert found.p_value == pytest.approx(wanted.pvalue, abs=1e-9)


def test_only_common_seeds_count() -> None:
    found = paired({1: 0.9, 2: 0.8, 5: 0.1}, {1: 0.8, 2: 0.6, 4: 1.0})
    assert found is not None
    assert (found.estimate.number, found.estimate.mean) == (2, pytest.approx(0.15))
    assert paired({1: 0.9}, {2: 0.9}) is None
    single = paired({1: 0.9}, {1: 0.8})
    assert single is not None
    assert (single.p_value, single.estimate.low, single.verdict) == (None, None, "not told apart")


def test_equal_differences_need_no_test() -> None:
    same, more = paired({1: 0.5, 2: 0.5}, {1: 0.5, 2: 0.5}), paired({1: 0.75, 2: 0.75}, {1: 0.5, 2: 0.5})
    assert same is not None
    assert more is not None
    assert (same.p_value, more.p_value) == (1.0, 0.0)


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
