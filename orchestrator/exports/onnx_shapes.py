"""How large every value of an ONNX file is for one image, by ONNX's own inference and what it does not follow.

ONNX infers shapes from shapes, but loses a size on its way through such steps as the reshape of a list of sizes, which
exporters write for a variance or a repetition. Lists of sizes are short: what is computed from known ones alone is
computed here and put in the place of its steps, until nothing more becomes known.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_ROUNDS = 8  # sizes of values whose sizes were computed; networks need one or two
_MOST_SIZES = 64  # in a list of them
_MOST = 2**31  # that a size may be: products of two do not overflow
_LAID_OUT_ANEW = ("Identity", "Reshape", "Squeeze", "Unsqueeze")  # the same numbers in the same order
_ARITHMETIC = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}
UNSAID = (0,)
"""Shape of a value of which not even the number of dimensions is known."""

Shapes = Mapping[str, tuple[int, ...]]
Sizes = NDArray[np.int64]


def find_shapes(model: Any) -> dict[str, tuple[int, ...]]:  # noqa: ANN401 - onnx comes without types
    """The shape of every value for one image; a size that is not known is 0. The model is left as it is.

    Raises:
        Exception: of onnx, if shapes contradict each other.
    """
    import onnx

    single = onnx.ModelProto()
    single.CopyFrom(model)
    del single.graph.value_info[:]
    for value in single.graph.output:
        value.type.tensor_type.ClearField("shape")
    single.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    known = _infer(single)
    shapes = dict(known)
    for _ in range(_MOST_ROUNDS):
        if all(math.prod(shape) for shape in known.values()) or not _compute_sizes(single.graph, known):
            break
        known = _infer(single)
        shapes |= known
    return shapes


def _infer(model: Any) -> dict[str, tuple[int, ...]]:  # noqa: ANN401
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        kind = value.type.tensor_type
        sizes = tuple(int(item.dim_value) for item in kind.shape.dim)
        shapes[value.name] = sizes if kind.HasField("shape") else UNSAID
    return shapes


def _compute_sizes(graph: Any, shapes: Shapes) -> int:  # noqa: ANN401
    """Put lists of sizes in the place of the steps that compute them; gives how many."""
    import onnx

    given = {value.name for value in graph.input}  # what is given there may be other than what the file says
    known: dict[str, Sizes] = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64
        and math.prod(tensor.dims) <= _MOST_SIZES
        and tensor.name not in given
    }
    kept = []
    for node in graph.node:  # in the order of computation
        sizes = _sizes(node, known, shapes)
        if sizes is None or sizes.size > _MOST_SIZES or (np.abs(sizes) > _MOST).any():
            kept.append(node)
            continue
        known[node.output[0]] = sizes
        graph.initializer.append(onnx.numpy_helper.from_array(sizes, node.output[0]))
    num_computed = len(graph.node) - len(kept)
    kept = [type(node).FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(kept)
    return num_computed


def _sizes(node: Any, known: Mapping[str, Sizes], shapes: Shapes) -> Sizes | None:  # noqa: ANN401
    """What a step gives for one image, if it is a list of sizes, or one, and known."""
    if node.op_type == "Shape":
        shape = shapes.get(node.input[0], UNSAID)
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        return np.array(shape[bounds.get("start") : bounds.get("end")], np.int64) if math.prod(shape) else None
    if any(name not in known for name in node.input if name):
        return None
    values = [known[name] for name in node.input if name]
    if node.op_type in _LAID_OUT_ANEW:
        shape = shapes.get(node.output[0], UNSAID)
        return values[0].reshape(shape) if math.prod(shape) == values[0].size else None
    if node.op_type == "Concat" and all(value.ndim == 1 for value in values):
        return np.concatenate(values)
    if node.op_type in _ARITHMETIC and all(np.abs(value).max(initial=0) <= _MOST for value in values):
        first, second = values
        return np.asarray(_ARITHMETIC[node.op_type](first, second), np.int64)
    return None
