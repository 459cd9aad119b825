from dataclasses import replace

import pytest

from orchestrator.front.constraints import Bound
from orchestrator.policies.looks import BoundLook, GapLook, Looks, ReachLook, SizeLook, UnitLook, admit
from trainables.config import CascadeConfig
from trainables.pruning_config import Pruning

CASCADE = CascadeConfig(macs_kept=(0.4, 0.1), pruning=Pruning(min_channels=2))


def test_the_look_that_admits_everything():
    assert admit(CASCADE) is None


def test_a_student_below_the_smallest_size_is_refused():
    assert SizeLook(smallest_kept=lambda pruning: 0.05 * pruning.min_channels)(CASCADE) is None
    refusal = SizeLook(smallest_kept=lambda pruning: 0.06 * pruning.min_channels)(CASCADE)
    assert refusal.reason.startswith("macs_kept of level 2 is 0.1, but must be at least 0.12, as every channel group")
    assert round(refusal.violation, 6) == 0.2


@pytest.mark.parametrize(
    ("pruning", "mend"),
    [
        (Pruning(), ""),
        (Pruning(min_channels=2), ", or relax cascade.pruning.min_channels (2)"),
        (Pruning(floors={"layer4": 64}), ", or relax cascade.pruning.floors"),
        (
            Pruning(min_channels=16, round_to=8, keep=("layer4",)),
            ", or relax cascade.pruning.min_channels (16) or cascade.pruning.round_to (8) or cascade.pruning.keep",
        ),
        (Pruning(min_channels=8, round_to=8, floors={"layer4": 1}), ", or relax cascade.pruning.round_to (8)"),
    ],
)
def test_the_refusal_of_a_small_student_names_what_holds_its_channels(pruning, mend):
    refusal = SizeLook(smallest_kept=lambda _: 0.2)(CascadeConfig(macs_kept=(0.1,), pruning=pruning))
    assert refusal.reason.endswith(f"; ask for a larger size{mend}")


def test_a_size_between_those_of_whole_channels_is_refused():
    assert GapLook(nearest_kept=lambda _pruning, _asked: None)(CASCADE) is None
    refusal = GapLook(nearest_kept=lambda _pruning, asked: 0.11 if asked < 0.2 else None)(CASCADE)
    assert refusal.reason == (
        "macs_kept of level 2 is 0.1, but whole channels come no nearer than 0.11, as there are few of them; ask for "
        "that"
    )
    assert refusal.constraint is None


def test_one_level_that_meets_the_bounds_is_enough():
    for bound in (Bound(at_most=0.1), Bound(at_least=0.4), Bound(at_least=0.05)):
        assert BoundLook(bounds={"macs_kept": bound}, teacher={"macs": 1000, "params": 1000})(CASCADE) is None
    refusal = BoundLook(bounds={"macs": Bound(at_most=50)}, teacher={"macs": 1000, "params": 1000})(CASCADE)
    assert refusal.reason.startswith("constraints: macs must be at most 50, but no level is that keeps 0.4, 0.1 of")
    assert (refusal.constraint, round(refusal.violation, 6)) == ("macs", 1.0)
    between = {"macs_kept": Bound(at_most=0.3, at_least=0.2)}
    assert BoundLook(bounds=between, teacher={"macs": 1000, "params": 1000})(CASCADE).constraint == "macs_kept"


def test_sizes_in_parameters_are_held_against_bounds_on_parameters():
    in_params = replace(CASCADE, pruning=replace(CASCADE.pruning, size_in="params"))
    look = BoundLook(bounds={"params": Bound(at_most=50)}, teacher={"macs": 1000, "params": 1000})
    assert look(CASCADE) is None
    refusal = look(in_params)
    assert refusal.reason.startswith("constraints: params must be at most 50, but no level is that keeps 0.4, 0.1 of")
    assert "teacher's parameters" in refusal.reason


def test_what_is_unknown_before_training_refuses_nothing():
    assert BoundLook(bounds={"params": Bound(at_most=0)}, teacher={"macs": 1000, "params": 1000})(CASCADE) is None


@pytest.mark.parametrize(
    ("bounds", "constraint", "says"),
    [
        ({"params": Bound(at_most=199)}, "params", "at most 199, but with every channel group at its floor 200 param"),
        ({"params": Bound(at_most=200)}, None, ""),
        ({"params_kept": Bound(at_most=0.19)}, "params_kept", "at most 0.19, but with every channel group at its"),
        ({"params_kept": Bound(at_most=0.2)}, None, ""),
        ({"params": Bound(at_least=1001)}, "params", "at least 1001, but the teacher has 1,000 parameters; widen"),
        ({"params": Bound(at_least=1000)}, None, ""),
        ({"macs": Bound(at_most=1)}, None, ""),  # sizes are asked for in these, which another look knows better
        ({"val_accuracy": Bound(at_least=1)}, None, ""),
    ],
)
def test_bounds_in_the_other_unit_that_no_network_meets_are_refused(bounds, constraint, says):
    look = ReachLook(
        bounds=bounds,
        smallest=lambda pruning, unit: {"macs": 50, "params": 100}[unit] * pruning.min_channels,
        teacher={"macs": 1000, "params": 1000},
    )
    refusal = look(CASCADE)
    assert (refusal and refusal.constraint) == constraint
    if refusal is not None:
        assert f"constraints: {constraint} must be {says}" in refusal.reason
        assert refusal.violation > 0


def test_the_first_refusal_counts():
    bounds = BoundLook(bounds={"macs": Bound(at_most=50)}, teacher={"macs": 1000, "params": 1000})
    size = SizeLook(smallest_kept=lambda _: 0.5)
    assert Looks(looks=(bounds, size))(CASCADE) == bounds(CASCADE)
    assert Looks(looks=(admit, size))(CASCADE) == size(CASCADE)
    assert Looks(looks=())(CASCADE) is None


def test_sizes_in_latency_refuse_no_bound_on_other_units():
    in_latency = replace(CASCADE, pruning=replace(CASCADE.pruning, size_in="latency"))
    bounds = {"macs": Bound(at_most=0), "latency_ms": Bound(at_most=0)}
    assert BoundLook(bounds=bounds, teacher={"macs": 1000, "latency": 3.0})(in_latency) is None


def test_units_that_were_not_measured_are_refused():
    in_latency = replace(CASCADE, pruning=replace(CASCADE.pruning, size_in="latency"))
    assert UnitLook(teacher={"macs": 1000})(CASCADE) is None
    assert UnitLook(teacher={"macs": 1000, "latency": 3.0})(in_latency) is None
    refusal = UnitLook(teacher={"macs": 1000})(in_latency)
    assert refusal.reason.startswith("pruning.size_in is 'latency', but layers are timed only where")
