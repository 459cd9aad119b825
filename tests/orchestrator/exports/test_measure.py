"""Latency is measured where it was asked for, at both batch sizes, in turn, and on a GPU where there is one."""

from pathlib import Path

import pytest
from torch import nn

from orchestrator.exports import measure as measure_module
from orchestrator.exports import onnx_file
from orchestrator.exports.formats import ExportOptions
from orchestrator.exports.measure import Arms, measure
from trainables.errors import InputError
from trainables.hardware.latency import Comparison, Latency


def comparison(batch_size: int) -> Comparison:
    one = Latency(median_ms=1.0, iqr_ms=0.0, num_threads=3, batch_size=batch_size)
    return Comparison(dense=one, pruned=one)


class Device(nn.Module):
    """Says where it was moved to, as there need be no GPU."""

    def __init__(self, where: str = "cpu") -> None:
        super().__init__()
        self.where = where

    def to(self, where: str) -> "Device":  # type: ignore[override]
        return Device(where)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    seen: list[tuple[object, ...]] = []

    def of(name: str):  # noqa: ANN202
        def compare(dense, pruned, shape, *, batch_size, num_threads, min_seconds):
            seen.append((name, getattr(dense, "where", dense), pruned, batch_size, num_threads, min_seconds))
            return comparison(batch_size)

        return compare

    names = {"eager": "PyTorch, eager", "compiled": "PyTorch, compiled"}
    monkeypatch.setattr(measure_module, "_TORCH", {key: (name, of(key)) for key, name in names.items()})
    monkeypatch.setattr(onnx_file, "compare_files", of("onnx"))
    return seen


def arms(**changed: object) -> Arms:
    files = {"onnx": Path("pruned.onnx"), "int8": Path("int8.onnx")}
    given = {"dense": Device(), "pruned": Device(), "shape": (1, 8, 8), "dense_onnx": Path("dense.onnx")}
    return Arms(**(given | {"pruned_onnx": files} | changed))  # type: ignore[arg-type]


def test_every_runtime_is_measured_at_both_batches(asked) -> None:
    options = ExportOptions(runtimes=("eager", "onnxruntime"), num_threads=3, min_seconds=0.7)
    rows = measure(arms(), options)
    assert [row.label for row in rows] == [
        "PyTorch, eager at batch 1",
        "PyTorch, eager at batch 64",
        "ONNX Runtime at batch 1",
        "ONNX Runtime at batch 64",
        "ONNX Runtime, int8 against the teacher in float32 at batch 1",
        "ONNX Runtime, int8 against the teacher in float32 at batch 64",
    ]
    assert {call[4:] for call in asked} == {(3, 0.7)}
    assert [call[1:3] for call in asked[2:]] == [
        (Path("dense.onnx"), Path(file)) for file in ("pruned.onnx", "pruned.onnx", "int8.onnx", "int8.onnx")
    ]


def test_pytorch_is_measured_on_a_gpu_too(asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module, "gpu_name", lambda: "Some GPU")
    rows = measure(arms(), ExportOptions(runtimes=("compiled",)))
    assert [row.label for row in rows[2:]] == [
        "PyTorch, compiled, Some GPU at batch 1",
        "PyTorch, compiled, Some GPU at batch 64",
    ]
    assert [call[1] for call in asked] == ["cpu", "cpu", "cuda", "cuda"]


def test_a_network_that_cannot_be_compiled_is_told_and_keeps_no_other_row_back(
    asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(*_: object, **__: object) -> Comparison:
        raise InputError("the network cannot be compiled (no g++ here)")

    torch_runtimes = measure_module._TORCH
    broken = {"compiled": (torch_runtimes["compiled"][0], no_compiler)}
    monkeypatch.setattr(measure_module, "_TORCH", {**torch_runtimes, **broken})
    monkeypatch.setattr(measure_module, "gpu_name", lambda: None)
    said: list[str] = []
    rows = measure(arms(), ExportOptions(runtimes=("compiled", "eager")), said.append)
    assert [row.label for row in rows] == ["PyTorch, eager at batch 1", "PyTorch, eager at batch 64"]
    assert said == [
        "latency in PyTorch, compiled is not measured: the network cannot be compiled (no g++ here)",
    ]


def test_nothing_is_measured_unless_it_is_asked_for(asked) -> None:
    assert measure(arms(), ExportOptions(runtimes=())) == ()
    assert measure(arms(dense_onnx=None), ExportOptions(runtimes=("onnxruntime",))) == ()
    assert asked == []
