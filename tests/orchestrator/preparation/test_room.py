"""What does not fit into memory is refused before anything is trained; no Ray, whose nodes are made up."""

import dataclasses

import pytest
import torch

from orchestrator.experiment.config import parse_experiment
from orchestrator.experiment.resources import Resources
from orchestrator.preparation import room
from orchestrator.preparation.room import MemoryLook, Room, check_memory, find_room
from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.memory import footprint
from trainables.networks.models import build
from trainables.recipe import Recipe

NODE = {"CPU": 4.0, "memory": 6e9, "object_store_memory": 2e9}


@pytest.fixture
def nodes(monkeypatch):
    """Say which machines there are."""

    def are(*resources, machine=8_000_000_000):
        there = [{"NodeID": str(n), "Alive": True, "Resources": each} for n, each in enumerate(resources)]
        monkeypatch.setattr(room.ray, "nodes", lambda: there)
        monkeypatch.setattr(room, "machine_bytes", lambda: machine)

    return are


def experiment(**others):
    return parse_experiment({"model": {"name": "vgg-small", "width": 0.25}} | others)


def least(data, cascade):
    network = build(experiment().model, num_classes=4, in_channels=3)
    known = footprint(network, data.input_shape, precision="fp32")
    return known.cascade_peak(cascade, num_train=64, num_val=64)


def test_a_cascade_fits_to_the_byte_or_is_refused_with_both_numbers(data):
    cascade = CascadeConfig(macs_kept=(0.5, 0.1))
    needed = least(data, cascade)
    machine = Room(bytes=2 * needed, trials=2, is_card=False)
    assert MemoryLook(experiment(), data, machine)(cascade) is None
    refusal = MemoryLook(experiment(), data, dataclasses.replace(machine, bytes=2 * needed - 2))(cascade)
    assert refusal.reason == (
        f"a cascade of 2 levels takes {needed / 2**30:.3g} GiB of memory or more, but the machine has "
        f"{2 * needed / 2**30:.3g} GiB for 2 trials at the same time; lower cascade.recipe.batch_size or raise "
        "cascade.recipe.accumulate, or lower resources.max_concurrent"
    )


def test_of_cascades_those_are_refused_that_take_too_much(data):
    one, two = (CascadeConfig(macs_kept=sizes) for sizes in ((0.1,), (0.5, 0.1)))
    look = MemoryLook(experiment(), data, Room(bytes=least(data, one), trials=1, is_card=False))
    assert look(one) is None
    assert look(two) is not None
    assert look(dataclasses.replace(two, schedule="sequential")) is None
    assert look(dataclasses.replace(two, recipe=Recipe(accumulate=16))) is None


def test_a_card_holds_the_images_too(data):
    cascade = CascadeConfig(macs_kept=(0.1,))
    card = Room(bytes=least(data, cascade), trials=1, is_card=True)
    assert "but the card has" in MemoryLook(experiment(), data, card)(cascade).reason
    images = 2 * 64 * 3 * 16 * 16
    assert MemoryLook(experiment(), data, dataclasses.replace(card, bytes=card.bytes + images))(cascade) is None


def test_what_is_remembered_takes_memory_too_a_part_of_it_on_each_rank(data, nodes):
    cascade = CascadeConfig(macs_kept=(0.5,), teacher_views=10)
    needed, logits = least(data, cascade), 10 * 64 * 4 * 4
    machine = Room(bytes=needed + logits, trials=1, is_card=False)
    assert MemoryLook(experiment(), data, machine)(cascade) is None
    refusal = MemoryLook(experiment(), data, dataclasses.replace(machine, bytes=machine.bytes - 1))(cascade)
    assert refusal.reason.endswith("or lower resources.max_concurrent, or lower cascade.teacher_views")
    footprints = room.Footprints(experiment(), data)
    plain = dataclasses.replace(cascade, teacher_views=None)
    assert footprints.least(cascade, ranks=2) - footprints.least(plain, ranks=2) == logits // 2
    nodes({"CPU": 1.0}, machine=needed)
    weights = {"name": "vgg-small", "width": 0.25, "weights": "there.pt"}
    check_memory(experiment(model=weights, space={"num_assistants": [0, 0]}), data)
    with pytest.raises(
        InputError, match=r"the last one: a cascade of 1 level takes .*or lower cascade\.teacher_views$"
    ):
        check_memory(experiment(model=weights, space={"num_assistants": [0, 0]}, cascade={"teacher_views": 10}), data)


def test_what_cannot_be_known_refuses_nothing(data, monkeypatch):
    monkeypatch.setattr(room, "footprint", lambda *_, **__: None)
    look = MemoryLook(experiment(), data, Room(bytes=1, trials=1, is_card=False))
    look.check_teacher(Recipe())
    assert look(CascadeConfig(macs_kept=(0.1,))) is None


def test_a_search_that_does_not_fit_is_refused_and_one_that_does_is_not(data, nodes):
    nodes(NODE)
    assert check_memory(experiment(), data)(CascadeConfig(macs_kept=(0.1,))) is None
    nodes(NODE, machine=1_000_000)
    with pytest.raises(InputError, match=r"^the teacher takes .* the machine has .*; lower teacher\.batch_size or"):
        check_memory(experiment(), data)
    with pytest.raises(InputError, match=r"^a cascade of 1 level takes .*lower cascade\.recipe\.batch_size or"):
        check_memory(experiment(model={"name": "vgg-small", "width": 0.25, "weights": "there.pt"}), data)


def small_batches(trial, defaults):
    return CascadeConfig(macs_kept=(trial.suggest_float("size", 0.1, 0.9),), recipe=Recipe(accumulate=16))


def test_a_space_of_ones_own_may_train_otherwise(data, nodes, monkeypatch):
    monkeypatch.setattr("torchvision.space_of_this_test", small_batches, raising=False)
    own = {"space": "torchvision:space_of_this_test", "teacher": {"accumulate": 16}}
    needed = least(data, CascadeConfig(macs_kept=(0.5,), recipe=Recipe(accumulate=16)))
    nodes({"CPU": 1.0}, machine=needed)
    look = check_memory(experiment(**own), data)
    assert look(CascadeConfig(macs_kept=(0.5,))) is not None
    nodes({"CPU": 1.0}, machine=needed - 1)
    with pytest.raises(InputError, match=r"the space gives no valid cascade in 500 draws; the last one: a cascade of"):
        check_memory(experiment(**own), data)


@pytest.mark.parametrize(
    ("resources", "num_trials", "trials"),
    [
        ({}, 20, 4),
        ({"cpus_per_trial": 3}, 20, 1),
        ({"cpus_per_trial": 0.5}, 20, 8),
        ({"max_concurrent": 2}, 20, 2),
        ({}, 3, 3),
    ],
)
def test_trials_that_run_at_the_same_time_share_the_machine(nodes, resources, num_trials, trials):
    nodes(NODE)
    found = find_room(Resources(**resources), num_trials=num_trials)
    assert found == Room(bytes=8_000_000_000, trials=trials, is_card=False)


def test_of_a_cluster_the_machine_counts_where_a_trial_finds_most(nodes):
    nodes(NODE, NODE | {"CPU": 2.0}, {"CPU": 64.0})
    found = find_room(Resources(address="auto"), num_trials=100)
    assert (found.bytes, found.trials) == (8_000_000_000, 2)
    nodes({"CPU": 64.0})
    assert find_room(Resources(address="auto"), num_trials=100) is None


@pytest.fixture
def task_here(monkeypatch):
    """Run Ray's tasks in this process; what they asked for."""
    asked = {}

    class Remote:
        def __init__(self, task):
            self.task = task

        def remote(self):
            return self.task()

    def remote(**options):
        asked.update(options)
        return Remote

    monkeypatch.setattr(room.ray, "remote", remote)
    monkeypatch.setattr(room.ray, "get", lambda value: value)
    return asked


@pytest.mark.parametrize(("gpus", "trials"), [(0.25, 4), (1, 1), (2, 1)])
def test_trials_that_share_a_card_share_its_memory(nodes, monkeypatch, task_here, gpus, trials):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1, 80_000_000_000))
    nodes(NODE | {"GPU": 1.0})
    found = find_room(Resources(gpus_per_trial=gpus), num_trials=20)
    assert found == Room(bytes=80_000_000_000, trials=trials, is_card=True)
    assert task_here == {"num_cpus": 0, "num_gpus": min(1, gpus)}


def test_a_card_that_torch_cannot_use_is_said(nodes, monkeypatch, task_here):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    nodes(NODE | {"GPU": 1.0})
    with pytest.raises(InputError, match=r"gpus_per_trial is 1, but torch cannot use the GPU that Ray has; install"):
        find_room(Resources(gpus_per_trial=1), num_trials=20)


def test_ranks_of_a_trial_share_a_machine_but_not_a_card(data, nodes):
    cascade = CascadeConfig(macs_kept=(0.5, 0.1), recipe=Recipe(batch_size=64))
    network = build(experiment().model, num_classes=4, in_channels=3)
    a_rank = footprint(network, data.input_shape, precision="fp32").cascade_peak(
        cascade, num_train=64, num_val=64, ranks=2
    )
    assert a_rank < least(data, cascade) < 2 * a_rank
    images = 2 * data.train.images_NCHW.nbytes
    two = experiment(resources={"ranks_per_trial": 2})
    for room_, enough in (
        (Room(bytes=0, trials=1, is_card=False), 2 * a_rank),
        (Room(bytes=0, trials=1, is_card=True), a_rank + images),
    ):
        assert MemoryLook(two, data, dataclasses.replace(room_, bytes=enough))(cascade) is None
        assert MemoryLook(two, data, dataclasses.replace(room_, bytes=enough - 1))(cascade) is not None
