"""Ranks as Ray's actors: they do the same as one process, and nobody waits for one that is gone."""

import os
import sys
from dataclasses import replace

import pytest
import ray
import torch

from orchestrator.machines.rank_actors import RankActors, TrialRanks
from orchestrator.preparation.teacher import prepare_teacher
from orchestrator.preparation.teacher_task import TeacherTask
from tests.orchestrator.machines import rank_work
from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.datasets.images import ImageSet
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe
from trainables.stages.teacher import TeacherStage
from trainables.tune_adapter import TrialSettings

TWO = RankActors(size=2, num_cpus=1, num_gpus=0)
RECIPE = Recipe(epochs=2, batch_size=33, learning_rate=0.05)
MODEL = ModelConfig(name="vgg-small", width=0.25)


@pytest.fixture(scope="module")
def session():
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


def led(work, *arguments):
    """Have a task lead two ranks; what it returns."""
    with TWO.placed() as options:
        return ray.get(ray.remote(work).options(**options).remote(*arguments))


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (80, 1, 8, 8), generator=generator).to(torch.uint8)
    part = ImageSet(images_NCHW=images, labels_N=torch.arange(80) % 4)
    return DataSplits(train=part, val=part, mean=(0.5,), std=(0.25,), class_names=("a", "b", "c", "d"))


@pytest.mark.integration
def test_a_leader_works_with_its_crew_and_is_told_of_a_rank_that_is_lost(session):
    given, closed = led(rank_work.lead, TWO, [ray.put(10)], ["fail", "die", "refuse"])
    assert given == [
        11,
        "rank 1 failed: MemoryError: no room on the card",
        11,
        "the process of rank 1 has ended",
        11,
        "no such image",  # of all ranks, so that it is no rank that was lost
    ]
    assert closed == [True, True, True]


@pytest.mark.integration
def test_a_trial_of_two_ranks_comes_to_what_one_comes_to(session, data, tmp_path):
    teacher = build(MODEL, num_classes=4, in_channels=1, seed=1)
    weights = {name: tensor.numpy() for name, tensor in teacher.state_dict().items()}
    settings = TrialSettings(
        model=MODEL,
        augmentation="none",
        candidates=str(tmp_path / "candidates"),
        num_threads=1,
        num_gpus=0.0,
        measure_latency=False,
    )
    cascade = CascadeConfig(macs_kept=(0.6, 0.3), recipe=RECIPE, pruning=Pruning(num_prunings=2)).to_dict()
    arrays = data.to_arrays()
    one = rank_work.lead_trial(cascade, weights, arrays, settings, tmp_path / "one")
    crew = TrialRanks(actors=TWO, teacher=ray.put(weights), data=ray.put(arrays))
    two = led(rank_work.lead_trial, cascade, weights, arrays, replace(settings, crew=crew), tmp_path / "two")
    for losses, expected in zip(two[0], one[0], strict=True):
        assert losses == pytest.approx(expected, rel=0, abs=1e-5)
    assert two[1:] == one[1:]
    assert two[2] == ["0-1", "0-2"]


@pytest.mark.integration
def test_a_teacher_of_two_ranks_is_that_of_one(session, data, tmp_path):
    task = TeacherTask(
        folder=tmp_path,
        model=MODEL,
        recipe=RECIPE,
        augmentation="crop",
        seed=0,
        actors=TWO,
        timed_on=None,
        finished_stages=None,
        identity={},
    )
    losses = []
    prepare_teacher(task, ray.put(data.to_arrays()), told=lambda progress: losses.append(progress.levels[0].train_loss))
    network = build(MODEL, num_classes=4, in_channels=1, seed=0)
    stage = TeacherStage(network, recipe=RECIPE, data=data, augmentation="crop", seed=0)
    alone = [stage.train_epoch().levels[0].train_loss for _ in range(2)]
    assert losses == pytest.approx(alone, rel=0, abs=1e-5)
    for name, tensor in network.state_dict().items():
        assert task.weights()[name] == pytest.approx(tensor.numpy(), rel=0, abs=1e-5)
