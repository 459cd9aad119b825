"""How long each layer takes, measured once on the machine that trains, so that sizes can be asked for in milliseconds.

The dense network and some narrow ones run in turn, and a moment is noted whenever a layer with parameters begins. What
lies between two moments counts for the layer that began, with whatever has no parameters and follows it: activations,
pooling, additions. A layer's times are then fitted by `fixed + output · outputs + product · outputs · inputs`, no part
below zero; a blockwise layer, whose inputs go with its outputs, has no last part.

Shape legend: S networks that were measured.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from trainables.pruning.channels import ChannelMap, is_blockwise, layer_widths
from trainables.pruning.cost import FloatVector, IntVector, LatencyTable, LayerTime
from trainables.pruning.dependencies import find_groups
from trainables.pruning.levels import Level, SharedWeights
from trainables.pruning.selection import channel_multiple, possible_counts
from trainables.pruning_config import Pruning

LATENCY_BATCH = 1
"""Images a batch, as everywhere where `latency_ms` is measured."""

_Moment = float | torch.cuda.Event
_EVEN = (1.0, 0.5, 0.25)  # parts of every group's channels
_NUM_UNEVEN = 5  # networks of which each group keeps a part of its own
_LEAST = 0.1  # of those parts
_LEAST_ROUNDS = 9
_QUANTILE = 0.25  # what else runs on a machine only ever adds to a time


def measure_layers(
    network: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    pruning: Pruning,
    num_threads: int,
    min_seconds: float = 5.0,
) -> LatencyTable:
    """Time a network's layers in evaluation mode, on the device that it is on; it is left as it was.

    Args:
        network: any network of one image tensor; its weights do not matter.
        input_shape: channels, height and width of an image.
        pruning: says what is kept whole, and what widths are rounded to.
        num_threads: CPU threads, at least 1; restored afterwards.
        min_seconds: time to measure for; every network runs some times however long that takes.

    Raises:
        InputError: if the network's channels cannot be traced.
    """
    channel_map = find_groups(network, input_shape, keep=pruning.keep)
    networks = [_narrow(network, channel_map, counts_G) for counts_G in _counts(channel_map, pruning)]
    device = next(network.parameters()).device
    images_NCHW = torch.randn(LATENCY_BATCH, *input_shape, generator=torch.Generator().manual_seed(0)).to(device)
    # One thread's own time leaves out what else runs; several wait for one another.
    now = time.thread_time if num_threads == 1 and device.type == "cpu" else time.perf_counter
    clocks = [_Clock(each, images_NCHW, now) for each in networks]
    threads = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        _run(clocks, min_seconds)
    finally:
        torch.set_num_threads(threads)
    return _table(clocks, channel_map, num_threads)


def _counts(channel_map: ChannelMap, pruning: Pruning) -> Iterator[IntVector]:
    """How many channels each group keeps in the networks that are measured; first all of them."""
    full_G = np.array([group.num_channels for group in channel_map.groups])
    multiple_G = np.array([channel_multiple(group, pruning) for group in channel_map.groups])
    possible = [possible_counts(group, pruning) for group in channel_map.groups]
    least_G, most_G = (np.array([counts[end] for counts in possible]) for end in (0, -1))
    generator = np.random.default_rng(0)
    uneven = [generator.uniform(_LEAST, 1.0, len(full_G)) for _ in range(_NUM_UNEVEN)]
    for kept in [np.full(len(full_G), part) for part in _EVEN] + uneven:
        counts_G = np.round(full_G * kept / multiple_G).astype(np.int64) * multiple_G
        yield np.where(kept == 1.0, full_G, np.clip(counts_G, least_G, most_G))


def _narrow(network: nn.Module, channel_map: ChannelMap, counts_G: IntVector) -> nn.Module:
    level = Level(1, SharedWeights(network, channel_map), shared_affine=False)
    level.keep({group.name: torch.arange(count) for group, count in zip(channel_map.groups, counts_G, strict=True)})
    return level.network.eval()


class _Clock:
    """Runs a network and keeps what the whole and each of its layers took, in milliseconds."""

    def __init__(self, network: nn.Module, images_NCHW: torch.Tensor, now: Callable[[], float]) -> None:  # noqa: N803
        self.network = network
        self._now = now
        self._images_NCHW = images_NCHW
        self._wholes: list[float] = []
        self._layers: dict[str, list[float]] = {}
        self._moments: list[tuple[str, _Moment]] | None = None
        for name, layer in network.named_modules():
            if next(layer.parameters(recurse=False), None) is not None:
                layer.register_forward_pre_hook(lambda _layer, _inputs, name=name: self._begins(name))

    def run(self) -> None:
        """Once as it is, and once noting when layers begin, which costs a little itself."""
        self._wait()
        started = self._now()
        self.network(self._images_NCHW)
        self._wait()
        self._wholes.append((self._now() - started) * 1e3)
        self._moments = []
        self.network(self._images_NCHW)
        self._begins("")
        self._wait()
        spent: dict[str, float] = {}
        for (name, start), (_, end) in itertools.pairwise(self._moments):
            spent[name] = spent.get(name, 0.0) + _milliseconds(start, end)
        self._moments = None
        for name, milliseconds in spent.items():
            self._layers.setdefault(name, []).append(milliseconds)

    def forget(self) -> None:
        """Forget what was measured so far."""
        self._wholes, self._layers = [], {}

    @property
    def whole(self) -> float:
        """Milliseconds of the whole network."""
        return float(np.quantile(self._wholes, _QUANTILE))

    @property
    def layers(self) -> dict[str, float]:
        """Milliseconds from the beginning of each layer to that of the next."""
        return {name: float(np.quantile(spent, _QUANTILE)) for name, spent in self._layers.items()}

    def _begins(self, name: str) -> None:
        if self._moments is None:
            return
        if self._images_NCHW.is_cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._moments.append((name, event))
        else:
            self._moments.append((name, self._now()))

    def _wait(self) -> None:
        if self._images_NCHW.is_cuda:
            torch.cuda.synchronize()


def _milliseconds(start: _Moment, end: _Moment) -> float:
    if isinstance(start, float) and isinstance(end, float):
        return (end - start) * 1e3
    assert isinstance(start, torch.cuda.Event)
    assert isinstance(end, torch.cuda.Event)
    return float(start.elapsed_time(end))


@torch.inference_mode()
def _run(clocks: Sequence[_Clock], min_seconds: float) -> None:
    for clock in clocks:  # warm up
        clock.run()
        clock.forget()
    started, rounds = time.perf_counter(), 0
    while rounds < _LEAST_ROUNDS or time.perf_counter() - started < min_seconds:
        for clock in clocks:
            clock.run()
        rounds += 1


def _table(clocks: Sequence[_Clock], channel_map: ChannelMap, num_threads: int) -> LatencyTable:
    wholes_S = np.array([clock.whole for clock in clocks])
    weights_S = 1 / wholes_S  # errors count by what they are of each network
    spent = [clock.layers for clock in clocks]
    layers = {}
    for name in sorted(spent[0].keys() & channel_map.widths.keys()):
        found = [clock.network.get_submodule(name) for clock in clocks]
        out_S, in_S = np.array([layer_widths(layer) for layer in found], np.float64).T
        terms = [np.ones_like(out_S), out_S]
        if not is_blockwise(found[0]):
            terms.append(out_S * in_S)
        parts = fit(np.stack(terms, axis=1), np.array([times[name] for times in spent]), weights_S)
        layers[name] = LayerTime(fixed_ms=parts[0], output_ms=parts[1], product_ms=parts[2] if len(terms) > 2 else 0.0)
    bare = LatencyTable(layers=layers, fixed_ms=0.0, full_ms=0.0, num_threads=num_threads, batch_size=LATENCY_BATCH)
    rests_S = wholes_S - [bare.total(clock.network) for clock in clocks]
    table = replace(bare, fixed_ms=float(np.average(rests_S, weights=weights_S)))
    return replace(table, full_ms=table.total(clocks[0].network))


def fit(terms_ST: npt.NDArray[np.float64], values_S: FloatVector, weights_S: FloatVector) -> tuple[float, ...]:  # noqa: N803
    """Factors of a few terms, none below zero, with the least squared weighted error.

    Args:
        terms_ST: terms by sample.
        values_S: what their weighted sum should be.
        weights_S: of the samples' errors.
    """
    from scipy.optimize import nnls  # here, as most that read the engine time no layers

    scale_T = terms_ST.max(axis=0)
    scaled_T, _ = nnls(terms_ST / scale_T * weights_S[:, None], values_S * weights_S)
    return tuple(float(factor) for factor in scaled_T / scale_T)
