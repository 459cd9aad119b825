"""What runs are told in words."""

import pytest

from orchestrator.tracking.telling import front_note


@pytest.mark.parametrize(
    ("accuracy", "words"),
    [(0.99, "as accurate as"), (0.98999, "as accurate as"), (0.97, "2.00 points below"), (0.995, "0.50 points above")],
)
def test_a_fronts_description_says_how_the_knee_stands_to_the_teacher(make_view, accuracy, words):
    note = front_note(make_view((0, 2, accuracy, 0.2)), lambda label: f"export {label}")
    assert f"with 20.00 % of the teacher's MACs, {words} the teacher. `export 0:2`" in note.splitlines()[0]
