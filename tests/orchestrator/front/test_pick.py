"""A candidate is picked by name or by rule, and where none fits the message says what there is."""

import pytest

from orchestrator.front.archive import Candidate
from orchestrator.front.constraints import Bound
from orchestrator.front.front_view import FrontView, front_view
from orchestrator.front.pick import pick, pick_all, pick_each, pick_front
from trainables.errors import InputError

OBJECTIVES = ("val_accuracy", "macs_kept")
TEACHER = 0.98


def candidate(trial: int, level: int, val_accuracy: float, macs_kept: float, params_kept: float = 0.1) -> Candidate:
    return Candidate(
        trial=trial,
        level=level,
        num_assistants=1,
        val_accuracy=val_accuracy,
        val_accuracy_before_recalibration=val_accuracy,
        macs=round(macs_kept * 1e6),
        macs_kept=macs_kept,
        params=round(params_kept * 1e4),
        params_kept=params_kept,
        latency_ms=None,
        network=f"candidates/{trial}-{level}",
        cascade="{}",
    )


EVERYTHING = (
    candidate(0, 1, 0.975, 0.5),
    candidate(0, 2, 0.965, 0.1),
    candidate(3, 1, 0.90, 0.04),
    candidate(3, 2, 0.70, 0.02),
    candidate(10, 1, 0.60, 0.6, 0.01),  # dominated
)
VIEW = front_view(EVERYTHING, OBJECTIVES, teacher_val_accuracy=TEACHER)


def picked(how: str, max_drop: float | None = None) -> str:
    return pick(VIEW, how, max_drop=max_drop).label


@pytest.mark.parametrize(
    ("how", "max_drop", "label"),
    [
        ("smallest", None, "3:2"),
        ("smallest", 0.08, "3:1"),
        ("smallest", 0.015, "0:2"),  # 0.98 - 0.015 is above 0.965 in floating point
        ("most-accurate", None, "0:1"),
        ("most-accurate", 0.01, "0:1"),
        ("knee", None, "3:1"),
        ("knee", 0.02, "0:1"),  # of two left the more accurate
        ("10:1", None, "10:1"),  # not on the front
        ("0:2", 0.015, "0:2"),
    ],
)
def test_picks(how: str, max_drop: float | None, label: str) -> None:
    assert picked(how, max_drop) == label


def test_smallest_is_in_the_objective_that_was_searched_for() -> None:
    objectives = ("val_accuracy", "params_kept")
    view = front_view(EVERYTHING, objectives, teacher_val_accuracy=TEACHER)
    assert pick(view, "smallest").label == "10:1"


def test_ties_go_to_the_cheaper_then_the_earlier() -> None:
    tied = (candidate(5, 1, 0.9, 0.3), candidate(2, 1, 0.9, 0.2), candidate(1, 1, 0.9, 0.2))
    view = FrontView(candidates=tied, front=tied, knee=None, teacher_val_accuracy=TEACHER, objectives=OBJECTIVES)
    assert pick(view, "most-accurate").label == "1:1"


@pytest.mark.parametrize(
    ("how", "max_drop", "message"),
    [
        ("best", None, r"is 'best', but must be one of knee, smallest, most-accurate, front or TRIAL:LEVEL"),
        ("3", None, "is '3', but must be one of"),
        ("3:-1", None, "is '3:-1', but must be one of"),
        ("٣:١", None, "but must be one of"),
        ("", None, "is '', but must be one of"),
        ("7:1", None, r"trial 7 has no candidate; trials that have some: 0, 3, 10"),
        ("3:9", None, r"trial 3 has no level 9; its levels: 1, 2"),
        ("knee", 0.001, r"at least 0\.9790 .* best to be had is 0\.9750, of 0:1"),
        ("3:2", 0.1, r"at least 0\.8800 .* best to be had is 0\.7000, of 3:2"),
        ("knee", 1.5, r"max_drop is 1\.5, but must be in \[0, 1\]"),
        ("knee", -0.1, r"max_drop is -0\.1, but must be"),
        ("knee", float("nan"), "max_drop is nan, but must be"),
    ],
)
def test_what_does_not_fit_is_named(how: str, max_drop: float | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        picked(how, max_drop)


@pytest.mark.parametrize(("how", "message"), [("knee", "no candidate to export yet"), ("0:1", "have some: none")])
def test_an_empty_archive_is_named(how: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pick(front_view((), OBJECTIVES, teacher_val_accuracy=TEACHER), how)


def test_a_front_that_constraints_leave_empty_is_said() -> None:
    view = front_view(EVERYTHING, OBJECTIVES, teacher_val_accuracy=TEACHER, bounds={"macs_kept": Bound(at_most=0.01)})
    with pytest.raises(InputError, match="no candidate meets the constraints; name one as TRIAL:LEVEL"):
        pick(view, "knee")


def test_a_whole_front_is_picked_but_for_what_loses_too_much() -> None:
    def labels(max_drop: float | None) -> list[str]:
        return sorted(member.label for member in pick_front(VIEW, max_drop=max_drop))

    assert labels(None) == ["0:1", "0:2", "3:1", "3:2"]
    assert labels(0.02) == ["0:1", "0:2"]
    with pytest.raises(InputError, match="best to be had"):
        labels(0.001)


def test_several_ways_pick_each_candidate_once() -> None:
    def labels(*ways: str, max_drop: float | None = None) -> list[str]:
        return [member.label for member in pick_all(VIEW, ways, max_drop=max_drop)]

    assert labels("knee", "10:1", "3:1") == ["3:1", "10:1"]
    assert labels("10:1", "front") == ["10:1", *(member.label for member in pick_front(VIEW))]
    assert labels("smallest", "most-accurate", max_drop=0.02) == ["0:2", "0:1"]
    with pytest.raises(InputError, match="best to be had"):
        labels("knee", "10:1", max_drop=0.02)


@pytest.mark.parametrize(
    ("max_drop", "accuracy", "fits"),
    [
        (0.0, 0.75, True),
        (0.25, 0.5, True),
        (0.25, 0.5 - 1e-9, True),  # as far as quotients round
        (0.25, 0.5 - 1e-8, False),
        (1.0, 0.0, True),
    ],
)
def test_a_drop_includes_its_end(max_drop: float, accuracy: float, fits: bool) -> None:  # noqa: FBT001
    view = front_view([candidate(0, 1, accuracy, 0.5)], OBJECTIVES, teacher_val_accuracy=0.75)
    if fits:
        assert len(pick_front(view, max_drop=max_drop)) == 1
    else:
        with pytest.raises(InputError, match="best to be had"):
            pick_front(view, max_drop=max_drop)


def test_every_way_picks_of_a_front_and_none_of_an_empty_one() -> None:
    assert {how: found.label for how, found in pick_each(VIEW).items()} == {
        "knee": "3:1",
        "smallest": "3:2",
        "most-accurate": "0:1",
    }
    assert pick_each(front_view((), OBJECTIVES, teacher_val_accuracy=TEACHER)) == {}
