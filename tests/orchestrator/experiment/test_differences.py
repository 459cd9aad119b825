import pytest

from orchestrator.experiment.differences import Difference, differences, told

OLD = {"a": 1, "b": {"c": [1, 2], "d": {"e": None}}}


def found(new, **how):
    return [(each.key, each.there, each.here) for each in differences(OLD, new, **how)]


def test_equal_values_do_not_differ():
    assert found(OLD) == []


def test_all_differences_are_named_by_their_dotted_keys():
    assert found({"b": {"c": [1, 2], "d": {"e": 3}}, "a": 2}) == [("b.d.e", None, 3), ("a", 1, 2)]
    assert found({**OLD, "new": 0}) == [("new", None, 0)]


def test_what_is_left_out_differs_too():
    assert found({"b": {"c": [1], "d": {}}}) == [("b.c", [1, 2], [1]), ("a", 1, None)]
    assert found({"a": 1, "b": {"c": [1, 2]}}) == [("b.d", {"e": None}, None)]


def test_what_may_differ_is_passed_over():
    new = {"a": 2, "b": {"c": [], "d": {"e": 1}}}
    assert found(new, may_differ=("a", "b.c")) == [("b.d.e", None, 1)]
    assert found({}, may_differ=("a", "b")) == []


@pytest.mark.parametrize(
    ("number", "end"),
    [
        (1, "k0 is 0 there and 'x' here"),
        (5, "k4 is 4 there and 'x' here"),
        (6, "k4 is 4 there and 'x' here, and one more differs"),
        (8, "k4 is 4 there and 'x' here, and 3 more keys differ"),
    ],
)
def test_many_differences_are_counted(number, end):
    words = told([Difference(key=f"k{index}", there=index, here="x") for index in range(number)])
    assert words.startswith("k0 is 0 there and 'x' here")
    assert words.endswith(end)
