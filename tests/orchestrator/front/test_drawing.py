"""The axis that pictures of a front share."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.front.drawing import axis_range, axis_ticks


@pytest.mark.parametrize("cost", ["latency_ms", "macs_kept"])
@given(costs=st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=4))
def test_an_axis_has_three_ticks_at_least_and_not_too_many(cost: str, costs: list[float]) -> None:
    low, high = axis_range(costs)
    assert low < min(costs) <= max(costs) < high
    shown = [tick for tick in axis_ticks(cost, costs) if low <= tick <= high]
    assert 3 <= len(shown) <= 3 * math.log10(high / low) + 6
