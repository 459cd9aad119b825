"""Latency of a teacher and an exported network, in turn, in every runtime that was asked for."""

import copy
import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from torch import nn

from orchestrator.data.shard_bucket import say_nothing
from orchestrator.exports.card import ONNX_RUNTIME, LatencyRow
from orchestrator.exports.formats import ExportOptions, Format
from trainables.errors import InputError
from trainables.hardware import latency
from trainables.hardware.latency import Comparison
from trainables.hardware.machine import gpu_name

BATCHES = (1, 64)
"""Images a batch that latency is measured at."""

_TORCH: Mapping[str, tuple[str, Callable[..., Comparison]]] = {
    "eager": ("PyTorch, eager", latency.compare),
    "compiled": ("PyTorch, compiled", latency.compare_compiled),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Arms:
    """What is compared.

    Attributes:
        dense: the teacher.
        pruned: the exported network.
        shape: channels, height and width of an image.
        dense_onnx: the teacher's ONNX file; `None` where none is measured.
        pruned_onnx: format → ONNX file of the exported network.
    """

    dense: nn.Module
    pruned: nn.Module
    shape: tuple[int, int, int]
    dense_onnx: Path | None
    pruned_onnx: Mapping[str, Path]


def measure(arms: Arms, options: ExportOptions, say: Callable[[str], None] = say_nothing) -> tuple[LatencyRow, ...]:
    """Measure both networks at batch 1 and 64: on the CPU, and in PyTorch also on a GPU if torch sees one.

    Args:
        arms: what is compared.
        options: where, and how long.
        say: told what has no rows, and why: a network that cannot be compiled.
    """
    rows: list[LatencyRow] = []
    networks, gpu = (arms.dense, arms.pruned), gpu_name()
    places = [("", networks)]
    if gpu is not None and any(runtime in _TORCH for runtime in options.runtimes):
        dense, pruned = (copy.deepcopy(network).to("cuda") for network in networks)
        places.append((f", {gpu}", (dense, pruned)))
    for runtime in options.runtimes:
        for place, pair in places:
            if runtime in _TORCH:
                name, compare = _TORCH[runtime]
                try:
                    rows += [
                        LatencyRow(runtime=name + place, comparison=compare(*pair, arms.shape, **_how(options, batch)))
                        for batch in BATCHES
                    ]
                except InputError as error:
                    say(f"latency in {name}{place} is not measured: {error}")
        if runtime == "onnxruntime" and arms.dense_onnx is not None:
            from orchestrator.exports.onnx_file import compare_files

            rows += [
                LatencyRow(
                    runtime=ONNX_RUNTIME[format],
                    comparison=compare_files(arms.dense_onnx, path, arms.shape, **_how(options, batch)),
                )
                for format, path in arms.pruned_onnx.items()
                for batch in BATCHES
            ]
    return tuple(rows)


class _How(TypedDict):
    batch_size: int
    num_threads: int
    min_seconds: float


def _how(options: ExportOptions, batch_size: int) -> _How:
    return {"batch_size": batch_size, "num_threads": options.num_threads, "min_seconds": options.min_seconds}


def versions(formats: Sequence[Format]) -> dict[str, str]:
    """Versions of what the files of these formats were made with: package → version."""
    packages = ["cascade-pruning", "torch", "safetensors"]
    if "onnx" in formats or "int8" in formats:
        packages += ["onnx", "onnxruntime", "onnxscript"]
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
