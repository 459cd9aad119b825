"""Batch-norm statistics measured anew against plain averages."""

import copy

import torch
from torch import nn

from trainables.datasets.data import DataSplits
from trainables.pruning.channels import BATCH_NORMS
from trainables.stages.recalibration import recalibrate


def test_recalibration_is_the_cumulative_average_over_batches(architecture, networks, data: DataSplits) -> None:
    network, _ = networks(architecture)
    before = copy.deepcopy(network.state_dict())
    norms = {name: layer for name, layer in network.named_modules() if isinstance(layer, BATCH_NORMS)}
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {name: [] for name in norms}

    def watch(name: str):
        def hook(_layer: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            x = inputs[0].detach().double()
            seen[name].append((x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=True)))

        return hook

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in norms.items()]
    recalibrate(network, data, batch_size=24, seed=3)
    for hook in hooks:
        hook.remove()
    for name, layer in norms.items():
        assert len(seen[name]) == 2  # 64 images: two whole batches
        for number, buffer in enumerate((layer.running_mean, layer.running_var)):
            naive = torch.stack([batch[number] for batch in seen[name]]).mean(0)
            torch.testing.assert_close(buffer.double(), naive, rtol=1e-3, atol=1e-4)
        assert layer.momentum == 0.1
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name, tensor in network.state_dict().items():
        assert name.endswith(statistics) or torch.equal(tensor, before[name])
    assert not any(layer.training for layer in network.modules())


def test_recalibration_depends_on_its_seed_alone(networks, data: DataSplits) -> None:
    found = []
    for seed, noise in ((1, 0), (1, 1), (2, 0)):
        network, _ = networks("own")  # has dropout, which must not draw
        torch.manual_seed(noise)
        recalibrate(network, data, batch_size=24, seed=seed)
        found.append(network.stem[1].running_mean)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
