import pytest

from orchestrator.policies.looks import Refusal, SizeLook
from orchestrator.policies.probe import SpaceProbe
from search_spaces.cascade import CascadeDefaults, CascadeSpace
from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe

SPACE = CascadeSpace(num_assistants=(0, 2), schedule=("joint", "sequential"), nested=(False, True))
DEFAULTS = CascadeDefaults()


@pytest.fixture(scope="module")
def probe():
    return SpaceProbe(SPACE, DEFAULTS)


def test_all_branches_of_a_space_are_met(probe):
    assert set(probe.distributions) == {
        "student_macs_kept",
        "num_assistants",
        "assistant_1_gap",
        "assistant_2_gap",
        "temperature",
        "distillation_weight",
        "schedule",
        "nested",
    }


@pytest.mark.parametrize(
    "point",
    [
        {},
        {"student_macs_kept": 0.02},
        {"num_assistants": 1, "assistant_1_gap": 1, "nested": True, "schedule": "sequential"},
        {"assistant_2_gap": 0.5},
    ],
)
def test_points_within_the_space_are_taken(probe, point):
    probe.check_points([point])


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"student_mac_kept": 0.1}, "no parameter 'student_mac_kept'; did you mean 'student_macs_kept'"),
        ({"xyz": 0.1}, "no parameter 'xyz'; there are nested, student_macs_kept, num_assistants"),
        (
            {"student_macs_kept": 0.5},
            r"starting_points.1.student_macs_kept is 0.5, but must be a number in 0.02 … 0.3;",
        ),
        ({"student_macs_kept": float("nan")}, "student_macs_kept is nan"),
        ({"student_macs_kept": "small"}, "student_macs_kept is 'small', but must be a number"),
        ({"student_macs_kept": [0.1]}, r"student_macs_kept is \[0.1\], but must be a number"),
        ({"num_assistants": 1.5}, "num_assistants is 1.5, but must be a whole number in 0 … 2"),
        ({"num_assistants": True}, "num_assistants is True, but must be a whole number"),
        ({"schedule": "both"}, "schedule is 'both', but must be one of joint, sequential"),
        ({"nested": 1}, "nested is 1, but must be one of False, True"),
        (
            {"num_assistants": 1, "assistant_2_gap": 1.0},
            "not suggest 'assistant_2_gap' where num_assistants is 1; leave",
        ),
    ],
)
def test_points_outside_the_space_are_refused_in_one_line(probe, point, message):
    with pytest.raises(InputError, match=message) as error:
        probe.check_points([{}, point])
    assert "starting_points.1" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_point_that_gives_no_valid_cascade_is_refused():
    probe = SpaceProbe(SPACE, CascadeDefaults(recipe=Recipe(epochs=1)))
    with pytest.raises(InputError, match=r"starting_points.0: recipe.epochs is 1, but the sequential"):
        probe.check_points([{"schedule": "sequential", "num_assistants": 2}])


def test_a_point_whose_settings_exclude_one_another_is_refused_for_that():
    probe = SpaceProbe(SPACE, CascadeDefaults(pruning=Pruning(regrowth=0.2)))
    with pytest.raises(InputError, match=r"starting_points.0: pruning.regrowth is 0.2, but pruning.nested is true"):
        probe.check_points([{"nested": True, "num_assistants": 1, "student_macs_kept": 0.25}])


class Dependent:
    """A range that depends on another parameter."""

    def __call__(self, trial, defaults):
        student = trial.suggest_float("student", 0.1, 0.4)
        return CascadeConfig(macs_kept=(trial.suggest_float("assistant", student + 0.1, 0.9), student))


def test_ranges_that_depend_on_another_parameter_are_those_of_the_point():
    probe = SpaceProbe(Dependent(), DEFAULTS)
    probe.check_points([{"student": 0.1, "assistant": 0.25}])
    with pytest.raises(InputError, match=r"assistant is 0.25, but must be a number in 0.4 … 0.9"):
        probe.check_points([{"student": 0.3, "assistant": 0.25}])


@pytest.mark.parametrize(
    ("parameters", "fits"),
    [
        ({"student": 0.1, "assistant": 0.25}, True),
        ({"student": 0.3, "assistant": 0.25}, False),
        ({"student": 0.3}, False),
        ({"student": 0.3, "assistant": 0.5, "other": 1}, False),
        ({"student": 0.05, "assistant": 0.5}, False),
    ],
)
def test_only_whole_draws_fit(parameters, fits):
    found = SpaceProbe(Dependent(), DEFAULTS).distributions_of(parameters)
    assert (found is not None) is fits
    assert not fits or found["assistant"].low == pytest.approx(0.2)


class Failing:
    def __call__(self, trial, defaults):
        raise ZeroDivisionError("no reason")


class Nothing:
    def __call__(self, trial, defaults):
        return None


class Impossible:
    def __call__(self, trial, defaults):
        return CascadeConfig(macs_kept=(0.1, 0.5))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Failing(), "your function failed with ZeroDivisionError: no reason"),
        (Nothing(), "your function gave a NoneType, but must give a CascadeConfig"),
        (Impossible(), "no valid cascade in 500 draws; the last one: macs_kept of level 2"),
    ],
)
def test_a_space_that_cannot_work_is_refused(space, message):
    with pytest.raises(InputError, match=message):
        SpaceProbe(space, DEFAULTS)


def test_points_and_spaces_that_a_look_refuses_are_refused():
    look = SizeLook(smallest_kept=lambda _: 0.05)
    probe = SpaceProbe(SPACE, DEFAULTS, look)
    with pytest.raises(InputError, match=r"starting_points.0: macs_kept of level 1 is 0.03, but must be at least 0.05"):
        probe.check_points([{"student_macs_kept": 0.03, "num_assistants": 0}])
    with pytest.raises(InputError, match=r"no valid cascade in 500 draws; the last one: macs_kept of level \d is 0"):
        SpaceProbe(SPACE, DEFAULTS, SizeLook(smallest_kept=lambda _: 0.5))


def test_a_small_part_of_a_space_that_is_left_is_found():
    def look(cascade):
        return None if cascade.macs_kept[-1] < 0.0206 else Refusal(reason="too large")

    SpaceProbe(SPACE, DEFAULTS, look).check_points([{"temperature": 2}])
