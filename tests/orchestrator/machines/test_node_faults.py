"""Which nodes are left out, for what, and for how long."""

import pytest
import ray

from orchestrator.machines.node_faults import LEFT_OUT_SECONDS, NodeFaults, nodes_for


class Machine:
    """A clock, and nodes that are there."""

    def __init__(self):
        self.now, self.nodes = 0.0, frozenset({"a", "b", "c"})
        self.faults = NodeFaults(lambda: self.nodes, clock=lambda: self.now)


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


def test_a_node_takes_trials_again_when_the_others_are_gone(machine):
    machine.faults.failed("a", 1)
    machine.faults.failed("a", 2)
    machine.nodes = frozenset({"a"})
    assert machine.faults.selector is None


def test_an_epoch_that_worked_starts_the_count_again(machine):
    machine.faults.failed("a", 1)
    machine.faults.worked("a", 1)
    assert not machine.faults.failed("a", 2)


def test_a_node_that_is_tried_again_and_fails_is_left_out_again(machine):
    faults = machine.faults
    faults.failed("a", 1)
    faults.failed("a", 2)
    machine.now = LEFT_OUT_SECONDS
    assert faults.failed("a", 3)
    assert faults.left_out == {"a"}


def test_a_trial_that_fails_everywhere_goes_from_node_to_node_but_once(machine):
    told = [machine.faults.failed(node, 7) for node in ("a", "a", "a", "b", "b", "b", "a", "a", "c", "c")]
    assert told == [False, True, *[False] * 8]
    assert machine.faults.left_out == frozenset()


def test_a_node_that_is_gone_is_not_to_blame_and_neither_is_the_trial_that_was_there(machine):
    machine.nodes = frozenset({"b", "c"})
    assert not any(machine.faults.failed("a", trial) for trial in (7, 8, 9))
    assert machine.faults.left_out == frozenset()
    assert machine.faults.is_gone("a")
    assert not machine.faults.is_gone(None)
    assert not machine.faults.failed("b", 7)
    assert machine.faults.failed("b", 8)


def test_a_node_that_cannot_have_what_trials_need_is_left_out_at_once(machine):
    assert machine.faults.is_unfit("a")
    assert machine.faults.left_out == {"a"}
    assert machine.faults.is_unfit("b")
    assert not machine.faults.is_unfit("c")
    machine.now = LEFT_OUT_SECONDS
    assert machine.faults.left_out == frozenset()


def test_a_trial_that_worked_elsewhere_counts_again(machine):
    machine.faults.failed("a", 7)
    machine.faults.worked("b", 7)
    machine.faults.failed("c", 7)
    assert machine.faults.failed("c", 7)


def test_only_nodes_that_have_what_a_trial_takes_could_take_it(monkeypatch):
    def node(name, *, alive=True, **resources):
        return {"NodeID": name, "Alive": alive, "Resources": resources}

    nodes = [node("head", CPU=8.0), node("cards", CPU=8.0, GPU=2.0), node("gone", alive=False, CPU=8.0, GPU=2.0)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert nodes_for({"CPU": 1.0}) == {"head", "cards"}
    assert nodes_for({"CPU": 1.0, "GPU": 2.0}) == {"cards"}
    assert nodes_for({"CPU": 9.0}) == frozenset()


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


BROKEN = """
import json, os, time
from pathlib import Path

import ray
from ray import tune
from ray.cluster_utils import Cluster

from orchestrator.policies.budget import Budget, Stop
from orchestrator.experiment.resources import Resources
from orchestrator.sampling.storages import StudyAddress
from orchestrator.sampling.study import Study
from orchestrator.trials.queue import TrialQueue
from orchestrator.trials.waves import run_waves
from search_spaces.cascade import CascadeDefaults, CascadeSpace
from trainables.results import Reused

SIGN, REUSED = str(Path("left-out").resolve()), Reused().to_dict()
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
cluster.add_node(num_cpus=1)
broken = cluster.add_node(num_cpus=1, env_vars={"BROKEN_DISK": "1"})
cluster.wait_for_nodes()
ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")


class Trial(tune.Trainable):
    # Reports as a trial does, whose process starts sooner without torch.
    def step(self):
        if "BROKEN_DISK" in os.environ:
            raise RuntimeError("this node is broken")
        while not os.path.exists(SIGN):  # so that the broken node is the only one that is free
            time.sleep(0.05)
        node = ray.get_runtime_context().get_node_id()
        return {"done": True, "results": [], "networks": {}, "reused": REUSED, "node": node}

    def reset_config(self, config):
        return True


told = {"finished": [], "failed": [], "note": []}


class Heard:
    def __getattr__(self, name):
        def hear(first, *others):
            told.get(name, []).append(first.number if name == "finished" else first)
            if name == "note":
                Path(SIGN).touch()

        return hear


study = Study(StudyAddress(place=Path("study.journal"), objectives=("val_accuracy", "macs_kept")), seed=0)
queue = TrialQueue(
    study, CascadeSpace(), CascadeDefaults(), num_trials=2, budget=Budget(Stop()), unfinished=(), states=Path("trials"),
)
storage = Path("trials").resolve()
run_waves(Trial, queue, Heard(), resources=Resources(), max_concurrent=2, storage=storage)
ray.shutdown()
cluster.shutdown()
print(json.dumps(told | {"broken": broken.node_id}))
"""


@pytest.mark.integration
def test_waves_leave_a_broken_node_out_and_lose_no_trial(told_by):
    told = told_by(BROKEN, timeout=200)
    assert (sorted(told["finished"]), told["failed"]) == ([0, 1], [])
    (note,) = told["note"]
    assert note.startswith(f"node {told['broken'][:8]} takes no trials for 15 minutes")
    assert note.endswith("RuntimeError: this node is broken")
