"""How far sizes in latency are from what a pruned network takes.

Layers are timed as a search times them. Then channels of drawn saliency go until the model says one half and one
quarter of the teacher's latency, and the networks run in turn with the teacher. Times are lower quartiles of the
thread's own, as in the table: what else runs on a machine only ever adds to them. Weights are drawn, as speed does not
know the difference.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from benchmarks.table import Row
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.pruning.channels import ChannelMap, Kept
from trainables.pruning.cost import SizeModel, latency_model, macs_model
from trainables.pruning.dependencies import find_groups
from trainables.pruning.layer_times import measure_layers
from trainables.pruning.levels import Level, SharedWeights
from trainables.pruning.possible_sizes import smallest_target
from trainables.pruning.selection import select
from trainables.pruning_config import Pruning

NUM_THREADS = 1
PRUNING = Pruning(size_in="latency", round_to=8)
SIZES = (0.5, 0.25)
SECONDS = 12.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A network and the images that it is timed on.

    Attributes:
        model: how it is built.
        size: pixels of an image.
    """

    model: ModelConfig
    size: int


CASES = {
    "VGG16": Case(model=ModelConfig(name="vgg16"), size=32),
    "ResNet-18": Case(model=ModelConfig(name="resnet18"), size=32),
    "MobileNetV2": Case(model=ModelConfig(name="mobilenet_v2"), size=224),
    "MobileNetV2, small images": Case(model=ModelConfig(name="mobilenet_v2"), size=32),
}


def quartiles(networks: list[nn.Module], size: int) -> list[float]:
    """Lower quartile of each network's milliseconds for one image, in turn."""
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    times: list[list[float]] = [[] for _ in networks]
    with torch.inference_mode():
        for network in networks:
            network(image)
        started = time.perf_counter()
        while time.perf_counter() - started < SECONDS:
            for network, found in zip(networks, times, strict=True):
                before = time.thread_time()
                network(image)
                found.append((time.thread_time() - before) * 1e3)
    return [float(np.quantile(found, 0.25)) for found in times]


def pruned(network: nn.Module, channel_map: ChannelMap, sizes: SizeModel, target: float) -> tuple[nn.Module, Kept]:
    """The network at a size, what stays chosen by drawn saliency."""
    generator = torch.Generator().manual_seed(1)
    scores = {g.name: 0.1 + torch.rand(g.num_channels, generator=generator) for g in channel_map.groups}
    kept = select(
        channel_map.everything(),
        scores,
        target=target,
        final=target,
        sizes=sizes,
        channel_map=channel_map,
        pruning=PRUNING,
    )
    level = Level(1, SharedWeights(network, channel_map), shared_affine=False)
    level.keep(kept)
    return level.network.eval(), kept


def rows_of(name: str, case: Case) -> Iterator[Row]:
    """The figures of one network."""
    shape = (3, case.size, case.size)
    network = build(case.model, num_classes=10, in_channels=3, seed=0).eval().requires_grad_(requires_grad=False)
    started = time.perf_counter()
    table = measure_layers(network, shape, pruning=PRUNING, num_threads=NUM_THREADS)
    took = time.perf_counter() - started
    channel_map = find_groups(network, shape)
    sizes, macs = latency_model(network, channel_map, table), macs_model(network, channel_map, shape)
    full = np.array([group.num_channels for group in channel_map.groups])
    least = smallest_target(sizes, channel_map, PRUNING) / table.full_ms
    yield Row(name=f"{name}: smallest size that can be asked for", figure=least, note=f"layers timed in {took:.1f} s")
    asked = [size for size in SIZES if size >= least]
    found = [pruned(network, channel_map, sizes, size * table.full_ms) for size in asked]
    dense, *narrow = quartiles([network, *(each for each, _ in found)], case.size)
    yield Row(name=f"{name}: the teacher, model / measured", figure=table.full_ms / dense, note=f"{dense:.2f} ms")
    for size, (_, kept), milliseconds in zip(asked, found, narrow, strict=True):
        counts = np.array([len(kept[group.name]) for group in channel_map.groups])
        modelled = sizes.total(counts)
        yield Row(
            name=f"{name}: measured part of the teacher's latency where {size:g} was asked",
            figure=milliseconds / dense,
            note=f"{milliseconds:.2f} ms, model {modelled:.2f} ms = {modelled / table.full_ms:.3f}; "
            f"{macs.total(counts) / macs.total(full):.3f} of the MACs",
        )


def run() -> list[Row]:
    """Measure it."""
    torch.set_num_threads(NUM_THREADS)
    rows: list[Row] = []
    for name, case in CASES.items():
        rows += rows_of(name, case)
        print(f"latency_sizes: {name}", file=sys.stderr)
    return rows
