"""Check an ONNX file before a runtime opens it, and count what is in it: multiply-accumulates and parameters.

A file must stand alone: one that points at other files, brings functions or operators of its own, or holds sizes that
no export has, is refused. ONNX Runtime is given the bytes that were checked, not the path.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.exports.onnx_shapes import UNSAID, find_shapes
from trainables.errors import InputError, first_line

INPUT = "images"
OUTPUT = "logits"

_MOST_BYTES = 2**31  # of a protocol buffer
_MOST_ELEMENTS = 2**31  # of one value, for one image
_PLAIN_DOMAINS = ("", "ai.onnx")
_SETTINGS_OF_RUNTIMES = ("ort_config",)  # metadata that a runtime may take for its own settings
_GROWING = ("ConstantOfShape", "Expand", "Pad", "RandomNormal", "RandomUniform", "Range", "Resize", "Tile", "Upsample")
_ROUNDING_OPERATORS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxFile:
    """What an ONNX file holds.

    Attributes:
        content: the bytes that were checked.
        macs: multiply-accumulates for one image: convolutions, linear layers and matrix products.
        params: numbers in its weights and biases; scales of a quantised file are none.
        opset: version of ONNX's operators.
    """

    content: bytes
    macs: int
    params: int
    opset: int


class _Refused(ValueError):
    """Why a file is not opened."""


def read_onnx(path: Path) -> OnnxFile:
    """Read and check an ONNX file.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        if not path.is_file():
            raise InputError(f"{path} is missing" if not path.exists() else f"{path} is no file")
        _require(path.stat().st_size < _MOST_BYTES, "it is larger than any ONNX file can be")
        content = path.read_bytes()
        model = onnx.ModelProto.FromString(content)
        _check_alone(model)
        _check_tensors(model.graph)
        onnx.checker.check_model(model, full_check=True)
        shapes = find_shapes(model)
        for name, shape in shapes.items():
            _require(math.prod(shape) <= _MOST_ELEMENTS, f"{name!r} of shape {list(shape)} would fill the memory")
        for node in model.graph.node:
            known = node.op_type not in _GROWING or math.prod(shapes.get(node.output[0], UNSAID)) > 0
            _require(known, f"how large {node.op_type} makes {node.output[0]!r} is not said")
        return OnnxFile(
            content=content,
            macs=sum(_macs(node, shapes) for node in model.graph.node),
            params=_params(model.graph),
            opset=next(item.version for item in model.opset_import if item.domain in _PLAIN_DOMAINS),
        )
    except _Refused as error:
        raise InputError(f"{path} is refused: {error}") from error
    except (DecodeError, OSError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputError(f"{path} is damaged or no ONNX file: {first_line(error)}") from error
    except (ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} is damaged: {type(error).__name__}: {first_line(error)}") from error


def _check_alone(model: Any) -> None:  # noqa: ANN401 - onnx comes without types
    """Nothing but one graph of ONNX's own operators, from images to logits."""
    import onnx

    _require(bool(model.graph.node), "it holds no network")
    _require(not model.functions, "it brings functions of its own")
    _require(not model.training_info, "it brings training steps")
    _require(any(item.domain in _PLAIN_DOMAINS for item in model.opset_import), "it says no version of its operators")
    for item in model.metadata_props:
        _require(item.key not in _SETTINGS_OF_RUNTIMES, f"it brings settings for a runtime ({item.key})")
    _require([value.name for value in model.graph.input] == [INPUT], f"its input is not {INPUT!r}")
    _require([value.name for value in model.graph.output] == [OUTPUT], f"its output is not {OUTPUT!r}")
    graphs = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    for node in model.graph.node:
        _require(node.domain in _PLAIN_DOMAINS, f"operator {node.op_type} of {node.domain!r} is not one of ONNX's")
        for attribute in node.attribute:
            _require(attribute.type not in graphs, f"operator {node.op_type} brings a graph of its own")


def _check_tensors(graph: Any) -> None:  # noqa: ANN401
    """Every tensor is inside, and as long as its shape says."""
    import onnx

    _require(not graph.sparse_initializer, "it holds sparse tensors")
    for tensor in _tensors(graph):
        name = tensor.name or "a constant"
        outside = tensor.data_location == onnx.TensorProto.EXTERNAL or bool(tensor.external_data)
        _require(not outside, f"{name} points at another file")
        _require(all(size >= 0 for size in tensor.dims), f"{name} has the shape {list(tensor.dims)}")
        wanted = math.prod(tensor.dims)
        _require(wanted <= _MOST_ELEMENTS, f"{name} of shape {list(tensor.dims)} would fill the memory")
        if tensor.HasField("raw_data"):
            wanted *= onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            given = len(tensor.raw_data)
            _require(wanted == given, f"{name} of shape {list(tensor.dims)} takes {wanted:,} bytes, not {given:,}")


def _tensors(graph: Any) -> Iterator[Any]:  # noqa: ANN401
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _macs(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:  # noqa: ANN401
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    first, second, out = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
    if node.op_type == "Conv":
        return math.prod(out[2:]) * math.prod(second)
    if node.op_type == "Gemm":  # either of its matrices may be transposed
        return math.prod(out) * (math.prod(second) // out[1])
    return math.prod(out) * first[-1]


def _params(graph: Any) -> int:  # noqa: ANN401
    import onnx

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    rounded: set[str] = set()
    scales: set[str] = set()
    for node in graph.node:
        if node.op_type in _ROUNDING_OPERATORS:
            rounded.add(node.input[0])
            scales.update(node.input[1:])
    return sum(
        math.prod(tensor.dims)
        for tensor in graph.initializer
        if tensor.name not in scales and (tensor.data_type in floats or tensor.name in rounded)
    )


def _require(rule_holds: bool, refusal: str) -> None:  # noqa: FBT001 - reads as a sentence where it is called
    if not rule_holds:
        raise _Refused(refusal)
