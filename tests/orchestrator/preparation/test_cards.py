"""Which cards there are; and on Ray's own machines, whose cards are made up, what happens where torch finds none."""

import os
import sys
from types import SimpleNamespace

import pytest
import ray
import torch

from orchestrator.experiment.config import parse_experiment
from orchestrator.preparation import cards
from orchestrator.preparation.cards import gpu_machines, gpu_nodes, smallest_card
from orchestrator.preparation.packing import pack
from trainables.datasets.data import DataSplits
from trainables.datasets.images import ImageSet
from trainables.networks.models import build

L4 = {"CPU": 8.0, "GPU": 1.0, "accelerator_type:L4": 1.0}
H100 = {"CPU": 64.0, "GPU": 8.0, "accelerator_type:H100": 1.0}


@pytest.fixture
def machines(monkeypatch):
    """Say which machines there are, and which may come."""

    def are(there, come=()):
        nodes = [{"Alive": True, "NodeID": f"node-{n}", "Resources": machine} for n, machine in enumerate(there)]
        gone = {"Alive": False, "NodeID": "gone", "Resources": H100}
        monkeypatch.setattr(cards.ray, "nodes", lambda: [*nodes, gone])
        monkeypatch.setattr(cards, "may_come", lambda: list(come))

    return are


def test_machines_with_gpus_are_those_that_are_there_or_may_come(machines):
    machines([{"CPU": 4.0}])
    assert (gpu_machines(), gpu_nodes()) == ([], [])
    machines([{"CPU": 4.0}, L4, H100])
    assert (gpu_machines(), gpu_nodes()) == ([L4, H100], ["node-1", "node-2"])
    assert (gpu_machines("L4"), gpu_nodes("L4")) == ([L4], ["node-1"])
    assert (gpu_machines("A100"), gpu_nodes("A100")) == ([], [])
    machines([{"CPU": 4.0}, L4], come=[{"CPU": 4.0}] + [L4] * 8)  # the one that is there among them
    assert (gpu_machines(), gpu_nodes()) == ([L4] * 8, ["node-1"])
    machines([H100], come=[L4] * 2)
    assert gpu_machines() == [H100]


@pytest.fixture
def session(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.mark.integration
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_card_that_torch_does_not_find_is_not_measured_and_the_search_goes_on(session, tmp_path):
    pixels = torch.zeros(64, 3, 16, 16, dtype=torch.uint8)
    images = ImageSet(images_NCHW=pixels, labels_N=torch.arange(64) % 4)
    data = DataSplits(train=images, val=images, mean=(0.5,) * 3, std=(0.25,) * 3, class_names=("a", "b", "c", "d"))
    experiment = parse_experiment(
        {"model": {"name": "vgg-small", "width": 0.25}, "resources": {"gpus_per_trial": "auto"}}
    )
    network = build(experiment.model, num_classes=4, in_channels=3)
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    task = SimpleNamespace(weights=lambda: weights, latency=lambda: None)
    said = []
    assert smallest_card(gpu_nodes()) is None
    packed = pack(experiment, task, data, file=tmp_path / "packing.json", at_once=20, say=said.append)
    assert packed.experiment.resources.gpus_per_trial == 1.0
    assert said == [
        "resources.gpus_per_trial is auto: 1, as the largest cascade could not be measured (RuntimeError: the "
        "process that looks at the card has ended)"
    ]
