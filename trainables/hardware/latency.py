"""How long one batch takes, measured: a network by itself, and a pruned one against its dense teacher.

Times mean something only while nothing else runs on the machine: never measure beside running trials.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from trainables.errors import InputError, first_line

Call = Callable[[], object]

_NOISY = 0.10  # a spread above this part of the median is said to be noisy
_ROUNDS = 2  # calls are measured in turn this often, so that a machine that grows slower is no call's loss
_WARM_UP, _FEWEST_EVENTS = 10, 30  # calls on an accelerator before the clock counts, and at least that are counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """What one forward pass takes.

    Attributes:
        median_ms: median milliseconds for one batch.
        iqr_ms: distance between the quartiles, in milliseconds.
        num_threads: CPU threads it ran on.
        batch_size: images a batch.
    """

    median_ms: float
    iqr_ms: float
    num_threads: int
    batch_size: int

    @property
    def images_per_second(self) -> float:
        """Throughput, at the median."""
        return 1e3 * self.batch_size / self.median_ms

    @property
    def is_noisy(self) -> bool:
        """Tell whether the spread is over a tenth of the median: something else was running."""
        return self.iqr_ms > _NOISY * self.median_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return asdict(self) | {"images_per_second": self.images_per_second}


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A dense and a pruned network, measured in turn in one process.

    Attributes:
        dense: the teacher's latency.
        pruned: the pruned network's latency, at the same batch size and threads.
    """

    dense: Latency
    pruned: Latency

    @property
    def speedup(self) -> float:
        """How many times faster the pruned network is; below 1 where it is slower."""
        return self.dense.median_ms / self.pruned.median_ms

    @property
    def is_faster(self) -> bool:
        """Tell whether the pruned network is faster by more than the two measurements scatter."""
        return self.dense.median_ms - self.pruned.median_ms > (self.dense.iqr_ms + self.pruned.iqr_ms) / 2

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return {"dense": self.dense.to_dict(), "pruned": self.pruned.to_dict(), "speedup": self.speedup}


def measure(
    network: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    batch_size: int,
    num_threads: int,
    min_seconds: float = 0.5,
) -> Latency:
    """Measure a network in evaluation mode, on the device it is on; the network itself is left as it was.

    Args:
        network: any network of one image tensor.
        input_shape: channels, height and width of an image.
        batch_size: images a batch, at least 1.
        num_threads: CPU threads, at least 1; restored afterwards.
        min_seconds: time to measure for, above 0; at least two blocks are measured however long they take.

    Raises:
        InputError: if a number is out of range.
    """
    (latency,) = _measured_on(_device(network))(
        [_forward(network, input_shape, batch_size)],
        batch_size=batch_size,
        num_threads=num_threads,
        min_seconds=min_seconds,
    )
    return latency


def compare(
    dense: nn.Module,
    pruned: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    batch_size: int,
    num_threads: int,
    min_seconds: float = 0.5,
) -> Comparison:
    """Measure two networks in turn; the arguments are those of `measure`, `min_seconds` is for each.

    Raises:
        InputError: if a number is out of range.
    """
    calls = [_forward(network, input_shape, batch_size) for network in (dense, pruned)]
    return _compare(calls, _device(dense), batch_size=batch_size, num_threads=num_threads, min_seconds=min_seconds)


def compare_compiled(
    dense: nn.Module,
    pruned: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    batch_size: int,
    num_threads: int,
    min_seconds: float = 0.5,
) -> Comparison:
    """Measure two networks as `torch.compile` makes them for this batch size; the arguments are those of `compare`.

    Compiling takes seconds to minutes, which are not counted.

    Raises:
        InputError: if a number is out of range, or there is no compiler to compile with.
    """
    calls = []
    torch.compiler.reset()
    try:
        for network in (dense, pruned):
            call = _forward(network, input_shape, batch_size, compiler=torch.compile)
            with torch.inference_mode():
                call()  # compiles
            calls.append(call)
        return _compare(calls, _device(dense), batch_size=batch_size, num_threads=num_threads, min_seconds=min_seconds)
    except InputError:
        raise
    except Exception as error:  # of a compiler that is missing or fails there are many kinds
        raise InputError(
            f"the network cannot be compiled ({type(error).__name__}: {first_line(error)}); it takes a C++ compiler "
            "on the CPU and Triton on a GPU; leave compiled out of --latency"
        ) from error
    finally:
        torch.compiler.reset()


def _compare(
    calls: Sequence[Call], device: torch.device, *, batch_size: int, num_threads: int, min_seconds: float
) -> Comparison:
    dense, pruned = _measured_on(device)(calls, batch_size=batch_size, num_threads=num_threads, min_seconds=min_seconds)
    return Comparison(dense=dense, pruned=pruned)


def _measured_on(device: torch.device) -> Callable[..., tuple[Latency, ...]]:
    return measure_gpu_calls if device.type == "cuda" else measure_calls


def measure_calls(
    calls: Sequence[Call], *, batch_size: int, num_threads: int, min_seconds: float
) -> tuple[Latency, ...]:
    """Measure calls of any kind in turn, in inference mode.

    Timing is that of `torch.utils.benchmark`, which warms up and fixes torch's threads.

    Args:
        calls: each runs one batch.
        batch_size: what is said of the batch; at least 1.
        num_threads: torch's CPU threads, at least 1. Another runtime's must be fixed by whoever made the call.
        min_seconds: time to measure each call for, above 0.

    Raises:
        InputError: if a number is out of range.
    """
    _check_numbers(batch_size, num_threads, min_seconds)
    # Torch looks for a CUDA toolkit as it imports this, and says on the terminal what it thinks of it.
    log = logging.getLogger("torch.utils.cpp_extension")
    level = log.level
    log.setLevel(logging.ERROR)
    from torch.utils.benchmark import Timer

    log.setLevel(level)

    def times_of(call: Call) -> list[float]:
        timer = Timer("call()", globals={"call": call}, num_threads=num_threads)
        return list(timer.blocked_autorange(min_run_time=min_seconds / _ROUNDS).times)

    return tuple(_latency(seconds, num_threads, batch_size) for seconds in _in_turn(calls, times_of))


def measure_gpu_calls(
    calls: Sequence[Call], *, batch_size: int, num_threads: int, min_seconds: float
) -> tuple[Latency, ...]:
    """Measure calls that run on a GPU in turn, in inference mode, each between two events on the GPU's own clock.

    The arguments are those of `measure_calls`.

    Raises:
        InputError: if a number is out of range.
    """
    _check_numbers(batch_size, num_threads, min_seconds)
    times = _in_turn(calls, lambda call: _event_seconds(call, min_seconds / _ROUNDS))
    return tuple(_latency(seconds, num_threads, batch_size) for seconds in times)


def _in_turn(calls: Sequence[Call], times_of: Callable[[Call], list[float]]) -> list[list[float]]:
    """Seconds of every call, as `times_of` takes them in each round."""
    times: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for _ in range(_ROUNDS):
            for call, seconds in zip(calls, times, strict=True):
                seconds += times_of(call)
    return times


def _event_seconds(call: Call, min_seconds: float) -> list[float]:
    for _ in range(_WARM_UP):
        call()
    torch.cuda.synchronize()
    seconds: list[float] = []
    while sum(seconds) < min_seconds or len(seconds) < _FEWEST_EVENTS:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        call()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return seconds


def _latency(seconds: Sequence[float], num_threads: int, batch_size: int) -> Latency:
    low, median, high = (float(quartile) * 1e3 for quartile in np.percentile(seconds, [25, 50, 75]))
    return Latency(median_ms=median, iqr_ms=high - low, num_threads=num_threads, batch_size=batch_size)


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters(), torch.empty(0)).device


def _forward(
    network: nn.Module,
    input_shape: tuple[int, int, int],
    batch_size: int,
    *,
    compiler: Callable[[nn.Module], Callable[..., object]] = lambda network: network,
) -> Call:
    _check_numbers(batch_size, 1, 1.0)
    network = copy.deepcopy(network).eval()  # the caller's own may be in training mode
    parameter = next(network.parameters(), torch.empty(0))
    # Noise, since zeros would leave whole layers without anything to compute.
    generator = torch.Generator().manual_seed(0)
    images_NCHW = torch.randn(batch_size, *input_shape, generator=generator).to(parameter.device, parameter.dtype)
    forward = compiler(network)
    return lambda: forward(images_NCHW)


def _check_numbers(batch_size: int, num_threads: int, min_seconds: float) -> None:
    for name, value in (("batch_size", batch_size), ("num_threads", num_threads)):
        if value < 1:
            raise InputError(f"{name} of a latency is {value!r}, but must be a whole number of at least 1")
    if not min_seconds > 0:
        raise InputError(f"min_seconds of a latency is {min_seconds!r}, but must be above 0; 0.5 is usual")
