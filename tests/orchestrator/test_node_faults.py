"""Which nodes are left out, for what, and for how long."""

import pytest

from orchestrator.node_faults import LEFT_OUT_SECONDS, NodeFaults


class Machine:
    """A clock, and nodes that are there."""

    def __init__(self):
        self.now, self.nodes = 0.0, frozenset({"a", "b", "c"})
        self.faults = NodeFaults(there=lambda: self.nodes, clock=lambda: self.now)


@pytest.fixture
def machine():
    return Machine()


def test_two_failures_in_a_row_leave_a_node_out_for_a_while(machine):
    faults = machine.faults
    assert not faults.failed("a", 1)
    assert faults.selector is None
    assert faults.failed("a", 2)
    assert faults.left_out == {"a"}
    assert faults.is_left_out("a")
    assert not faults.is_left_out("b")
    assert not faults.is_left_out(None)
    assert faults.selector == {"ray.io/node-id": "!in(a)"}
    machine.now = LEFT_OUT_SECONDS
    assert faults.selector is None


def test_an_epoch_that_worked_starts_the_count_again(machine):
    machine.faults.failed("a", 1)
    machine.faults.worked("a")
    assert not machine.faults.failed("a", 2)


def test_a_trial_that_fails_elsewhere_too_is_to_blame_itself(machine):
    faults = machine.faults
    faults.failed("a", 7)
    assert faults.failed("a", 7)
    assert not faults.failed("b", 7)
    assert faults.selector is None


def test_a_node_that_failed_several_trials_stays_out_when_one_of_them_fails_elsewhere(machine):
    faults = machine.faults
    faults.failed("a", 7)
    faults.failed("a", 8)
    faults.failed("b", 7)
    assert faults.left_out == {"a"}


def test_the_last_node_that_could_take_trials_is_not_left_out(machine):
    machine.nodes = frozenset({"a", "b"})
    faults = machine.faults
    assert not any(faults.failed("a", trial) for trial in (1,))
    assert faults.failed("a", 2)
    assert not any(faults.failed("b", trial) for trial in (3, 4, 5))
    assert faults.left_out == {"a"}
