from orchestrator.experiment.differences import first_difference

OLD = {"a": 1, "b": {"c": [1, 2], "d": {"e": None}}}


def test_equal_values_do_not_differ():
    assert first_difference(OLD, OLD) is None
    assert first_difference(OLD, {"a": 1}) is None


def test_the_first_difference_is_named_by_its_dotted_key():
    assert first_difference(OLD, {"b": {"d": {"e": 3}}, "a": 2}) == ("b.d.e", None, 3)
    assert first_difference(OLD, {"b": {"c": [1]}}) == ("b.c", [1, 2], [1])
    assert first_difference(OLD, {"new": 0}) == ("new", None, 0)


def test_what_may_differ_is_passed_over():
    assert first_difference(OLD, {"a": 2, "b": {"c": [], "d": {"e": 1}}}, may_differ=("a", "b.c")) == ("b.d.e", None, 1)
    assert first_difference(OLD, {"a": 2, "b": {}}, may_differ=("a",)) is None
