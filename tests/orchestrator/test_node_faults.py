"""Which nodes are left out, for what, and for how long."""

import json
import os
import subprocess
import sys

import pytest
import ray
import yaml

from orchestrator.node_faults import LEFT_OUT_SECONDS, NodeFaults, nodes_for


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
import json, os, sys, time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from orchestrator import search
from orchestrator.config import parse_experiment
from orchestrator.folder import SearchFolder
from orchestrator.tracking import Tracker
from trainables.tune_adapter import CascadeTrainable

os.environ["SIGN"] = str(Path("left-out").resolve())
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
cluster.add_node(num_cpus=1)
broken = cluster.add_node(num_cpus=1, env_vars={"BROKEN_DISK": "1"})
cluster.wait_for_nodes()
os.environ["RAY_ADDRESS"] = cluster.address


class Trial(CascadeTrainable):
    def step(self):
        if "BROKEN_DISK" in os.environ:
            raise RuntimeError("this node is broken")
        while not Path(os.environ["SIGN"]).exists():  # so that the broken node is the only one that is free
            time.sleep(0.05)
        return super().step()


notes, failed = [], []


class Heard:
    def __getattr__(self, name):
        into = {"note": notes, "trial_failed": failed}.get(name, [])

        def hear(*told):
            into.append(told)
            if name == "note" and told[0].startswith("node "):
                Path(os.environ["SIGN"]).touch()

        return hear


search.CascadeTrainable = Trial
folder = SearchFolder(storage=Path("runs"), name="tiny")
tracker = Tracker(uri=None, storage=folder.storage, models="none", warn=print)
experiment = parse_experiment(json.loads(sys.argv[1]))
outcome = search.run_search(experiment, folder, resume=False, watcher=Heard(), tracker=tracker)
tracker.close()
cluster.shutdown()
print(json.dumps({"status": outcome.status, "ended": outcome.num_ended, "failed": failed, "notes": notes,
                  "broken": broken.node_id}))
"""


@pytest.mark.integration
def test_a_search_leaves_a_broken_node_out_and_loses_no_trial(tmp_path, tiny_yaml):
    experiment = yaml.safe_load(tiny_yaml) | {"num_trials": 2, "resources": {"address": "auto", "max_concurrent": 2}}
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, json.dumps(experiment)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["status"], found["ended"], found["failed"]) == ("finished", 2, [])
    (note,) = (text for (text,) in found["notes"] if text.startswith("node "))
    assert note.startswith(f"node {found['broken'][:8]} takes no trials for 15 minutes")
    assert note.endswith("RuntimeError: this node is broken")
