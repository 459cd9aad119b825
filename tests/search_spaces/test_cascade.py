import math

import optuna
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.trial import FixedTrial

from search_spaces.cascade import CascadeDefaults, CascadeSpace
from search_spaces.presets import PRESETS, SPACES
from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe

DEFAULTS = CascadeDefaults(recipe=Recipe(epochs=9), pruning=Pruning(round_to=2))


def sampled(space, seed):
    """What a space gives for one random draw, and the trial that was drawn."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    return space(trial, DEFAULTS), trial


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(list(SPACES)), seed=st.integers(0, 10_000))
def test_every_draw_is_valid_and_round_trips(name, seed):
    config, _ = sampled(SPACES[name], seed)
    assert CascadeConfig.from_dict(config.to_dict()) == config
    assert 1 <= config.num_levels <= 5
    assert config.recipe.epochs == 9
    assert config.pruning.round_to == 2


@settings(max_examples=50, deadline=None)
@given(
    student=st.floats(0.01, 0.9),
    gaps=st.lists(st.floats(0.5, 2.0), min_size=0, max_size=4),
)
def test_sizes_fall_to_the_student_and_keep_their_distance(student, gaps):
    values = {"student_macs_kept": student, "num_assistants": len(gaps), "temperature": 2.0, "distillation_weight": 0.5}
    values |= {f"assistant_{index}_gap": gap for index, gap in enumerate(gaps, start=1)}
    space = CascadeSpace(num_assistants=(0, 4), student_macs_kept=(0.01, 0.9))
    sizes = space(FixedTrial(values), DEFAULTS).macs_kept
    assert sizes[-1] == pytest.approx(student, abs=1e-6)
    assert all(larger > smaller for larger, smaller in zip((1.0, *sizes), sizes, strict=False))


def test_equal_gaps_are_evenly_spaced_in_logarithms():
    values = {
        "student_macs_kept": 1 / 16,
        "num_assistants": 1,
        "assistant_1_gap": 1.0,
        "temperature": 2.0,
        "distillation_weight": 0.5,
    }
    sizes = CascadeSpace(num_assistants=(0, 1), student_macs_kept=(0.01, 0.9))(FixedTrial(values), DEFAULTS).macs_kept
    assert sizes == pytest.approx((1 / 4, 1 / 16))


def test_only_gaps_of_assistants_that_exist_are_suggested():
    config, trial = sampled(CascadeSpace(num_assistants=(2, 2)), seed=0)
    assert config.num_assistants == 2
    assert {name for name in trial.params if name.endswith("_gap")} == {"assistant_1_gap", "assistant_2_gap"}


def test_one_choice_is_no_parameter_and_two_are():
    _, fixed = sampled(CascadeSpace(schedule=("sequential",)), seed=0)
    _, free = sampled(CascadeSpace(schedule=("joint", "sequential"), cost=("macs", "none")), seed=0)
    assert "schedule" not in fixed.params
    assert isinstance(free.distributions["schedule"], CategoricalDistribution)
    assert isinstance(free.distributions["cost"], CategoricalDistribution)


@pytest.mark.parametrize("name", list(SPACES))
def test_starting_points_are_taken_as_they_are(name):
    space = SPACES[name]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = space.starting_points(6)
    for point in points:
        study.enqueue_trial(point)
    configs = [space(study.ask(), DEFAULTS) for _ in points]
    students = [math.log(config.macs_kept[-1]) for config in configs]
    low, high = (math.log(size) for size in space.student_macs_kept)
    places = [(student - low) / (high - low) for student in students]
    step = 0.0 if space.size_grid is None else -low / space.size_grid / (high - low)
    assert places == pytest.approx([0.0, 1.0, 1 / 4, 1 / 16, 9 / 16, 1 / 64], abs=1e-3 + step)
    fewest, most = space.num_assistants
    wanted = [most - index % (most - fewest + 1) for index in range(6)]
    assert [config.num_assistants for config in configs] == wanted
    for config in configs:
        assert (config.temperature, config.distillation_weight) == pytest.approx((4.0, 0.7), rel=0.1)
        assert config.schedule == ("joint" if "joint" in space.schedule else "sequential")


def test_starting_points_take_the_learning_rate_of_the_recipe_as_far_as_the_space_reaches():
    space = CascadeSpace(learning_rate=(0.01, 0.1), temperature=(5.0, 8.0), distillation_weight=(0.1, 0.2))
    for rate, taken in ((0.03, 0.03), (0.5, 0.1)):
        (point,) = space.starting_points(1, CascadeDefaults(recipe=Recipe(learning_rate=rate)))
        assert (point["learning_rate"], point["temperature"], point["distillation_weight"]) == (taken, 5.0, 0.2)
    assert "learning_rate" not in CascadeSpace().starting_points(1)[0]


def test_more_starting_points_leave_the_first_as_they_are():
    assert CascadeSpace().starting_points(12)[:5] == CascadeSpace().starting_points(5)
    sizes = [point["student_macs_kept"] for point in CascadeSpace().starting_points(33)]
    assert len(set(sizes)) == 33


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_assistants": (0, 5)}, r"space\.num_assistants is \[0, 5\]"),
        ({"student_macs_kept": (0.3, 0.1)}, r"space\.student_macs_kept is \[0\.3, 0\.1\]"),
        ({"student_macs_kept": (0.0, 0.1)}, r"space\.student_macs_kept"),
        ({"temperature": (-1.0, 2.0)}, r"space\.temperature"),
        ({"distillation_weight": (0.5, 1.5)}, r"space\.distillation_weight"),
        ({"learning_rate": (0.0, 0.1)}, r"space\.learning_rate"),
        ({"schedule": ()}, r"space\.schedule is empty"),
    ],
)
def test_wrong_ranges_are_named(values, message):
    with pytest.raises(InputError, match=message):
        CascadeSpace(**values)


def test_presets_name_known_spaces():
    named = [preset["space"] for preset in PRESETS.values() if isinstance(preset["space"], str)]
    assert set(named) <= set(SPACES)


GRID = CascadeSpace(num_assistants=(0, 3), student_macs_kept=(0.01, 0.1), size_grid=8, value_grid=3)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_on_a_grid_every_size_has_its_place_and_sizes_fall(seed):
    config, trial = sampled(GRID, seed)
    places = [8 * math.log(size) / math.log(0.01) for size in config.macs_kept]
    assert places == pytest.approx([round(place) for place in places], abs=1e-3)
    assert places == sorted(set(places))
    assert 4 <= round(places[-1]) <= 8
    assert config.macs_kept[-1] == pytest.approx(trial.params["student_macs_kept"], rel=0.35)  # half a place away
    assert config.temperature in (1.0, pytest.approx(math.sqrt(8)), 8.0)
    assert config.distillation_weight in (0.3, pytest.approx(0.6), 0.9)


@settings(max_examples=200, deadline=None)
@given(
    ends=st.tuples(st.floats(1e-4, 0.95), st.floats(1e-4, 0.95)).map(sorted),
    places=st.integers(2, 12),
    drawn=st.floats(0.0, 1.0),
)
def test_on_a_grid_a_student_keeps_to_its_range(ends, places, drawn):
    low, high = (round(end, 6) for end in ends)
    space = CascadeSpace(num_assistants=(0, 0), student_macs_kept=(low, high), size_grid=places)
    student = min(max(low * (high / low) ** drawn, low), high)
    values = {"student_macs_kept": student, "num_assistants": 0, "temperature": 2.0, "distillation_weight": 0.5}
    assert low <= space(FixedTrial(values), DEFAULTS).macs_kept[-1] <= high


def test_the_largest_student_may_be_a_place_of_the_grid_as_it_is_rounded():
    for high in (0.1, round(0.01 ** (3 / 8), 6), round(0.01 ** (1 / 8), 6)):  # the last one is rounded down
        space = CascadeSpace(num_assistants=(0, 0), student_macs_kept=(0.01, high), size_grid=8)
        values = {"student_macs_kept": high, "num_assistants": 0, "temperature": 2.0, "distillation_weight": 0.5}
        assert space(FixedTrial(values), DEFAULTS).macs_kept == (high,)


def rates_on_grid(ends, places):
    """Learning rates that the places of a grid give."""
    space = CascadeSpace(learning_rate=ends, value_grid=places)
    steps = [ends[0] * (ends[1] / ends[0]) ** (place / (places - 1)) for place in range(places)]
    fixed = {"student_macs_kept": 0.1, "num_assistants": 0, "temperature": 2.0, "distillation_weight": 0.5}
    return steps, [
        space(FixedTrial(fixed | {"learning_rate": min(max(step, ends[0]), ends[1])}), DEFAULTS).recipe.learning_rate
        for step in steps
    ]


@settings(max_examples=50, deadline=None)
@example(low=0.0078125, factor=1.0000000000000002, places=2)
@given(low=st.floats(1e-6, 1e-2), factor=st.floats(1.0, 1000.0), places=st.integers(2, 9))
def test_learning_rates_on_a_grid_are_within_their_range_however_small(low, factor, places):
    steps, rates = rates_on_grid((low, low * factor), places)
    assert all(low <= rate <= low * factor for rate in rates)
    assert rates == pytest.approx(steps, rel=5e-3)


def test_usual_learning_rates_on_a_grid_keep_their_six_decimals():
    """Stages of earlier searches are found again by them."""
    assert rates_on_grid((1e-4, 0.1), 7)[1] == [0.0001, 0.000316, 0.001, 0.003162, 0.01, 0.031623, 0.1]


def test_crowded_assistants_take_the_places_that_are_left():
    values = {"student_macs_kept": 0.1, "num_assistants": 3, "temperature": 2.0, "distillation_weight": 0.5}
    values |= {"assistant_1_gap": 0.5, "assistant_2_gap": 0.5, "assistant_3_gap": 2.0}
    sizes = GRID(FixedTrial(values), DEFAULTS).macs_kept
    assert sizes == pytest.approx([0.01 ** (place / 8) for place in (1, 2, 3, 4)], abs=1e-6)


def test_a_grid_without_room_for_the_assistants_is_refused():
    with pytest.raises(InputError, match=r"size_grid is 4, which leaves no 3 sizes .* above a student of 0\.1"):
        CascadeSpace(num_assistants=(0, 3), student_macs_kept=(0.01, 0.1), size_grid=4)
    # The nearest place to 0.3 is the second one, but a student is no larger than the third: two are left above it.
    CascadeSpace(num_assistants=(0, 2), student_macs_kept=(0.02, 0.3), size_grid=8)
    with pytest.raises(InputError, match=r"size_grid is 8, which leaves no 3 sizes .* above a student of 0\.3"):
        CascadeSpace(num_assistants=(0, 3), student_macs_kept=(0.02, 0.3), size_grid=8)
    with pytest.raises(InputError, match=r"value_grid is 1, but must be a whole number of at least 2"):
        CascadeSpace(value_grid=1)


def test_all_cascades_have_the_defaults_seed():
    seeded = CascadeDefaults(seed=7)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    assert {CascadeSpace()(study.ask(), seeded).seed for _ in range(3)} == {7}
    with pytest.raises(InputError, match=r"cascade\.seed is -1"):
        CascadeDefaults(seed=-1)


def test_cascades_have_what_the_defaults_say():
    trial = optuna.trial.FixedTrial(
        {
            "num_assistants": 0,
            "student_macs_kept": 0.1,
            "temperature": 4.0,
            "distillation_weight": 0.5,
            "schedule": "joint",
        }
    )
    told = {"recovery_epochs": 3, "level_weight_growth": 2.0, "feature_weight": 3.0, "levels_a_step": 4}
    cascade = CascadeSpace()(trial, CascadeDefaults(**told))
    assert {name: getattr(cascade, name) for name in told} == told
    assert cascade.num_epochs == cascade.recipe.epochs + 3
    with pytest.raises(InputError, match=r"cascade.recovery_epochs is -1, but must be"):
        CascadeDefaults(recovery_epochs=-1)
    with pytest.raises(InputError, match=r"cascade.level_weight_growth is 0, but must be a number above 0"):
        CascadeDefaults(level_weight_growth=0)
    with pytest.raises(InputError, match=r"cascade.levels_a_step is 2, but must be a whole number of at least 3"):
        CascadeDefaults(levels_a_step=2)
    with pytest.raises(InputError, match=r"cascade.feature_weight is 1, but execution is 'compile'"):
        CascadeDefaults(feature_weight=1.0, recipe=Recipe(execution="compile"))
