"""Networks in eight bits: an ONNX file whose weights and activations are int8, calibrated on training images.

Static quantisation in the form of QuantizeLinear and DequantizeLinear pairs, which every runtime with int8 kernels
reads: weights symmetric, a scale for each output channel; activations asymmetric, a scale for each tensor, from the
smallest and the largest value seen on the calibration images.

Weights use seven of their bits. A processor without VNNI adds products of two pairs in sixteen, where those of eight
overflow and are cut off in silence: scores of small networks were off by 0.19 to 0.37 of the largest.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from orchestrator.exports.formats import require_onnx
from orchestrator.exports.onnx_check import INPUT, read_onnx
from trainables.errors import InputError, first_line

CALIBRATION_IMAGES = 512
"""Training images that ranges of activations are taken from, at most."""
_BATCH_SIZE = 64
_NORMALISING = ("Cast", "Mul", "Add")


def write_int8(source: Path, path: Path, images_NCHW: torch.Tensor) -> None:
    """Write an ONNX file once more, in eight bits.

    Args:
        source: the ONNX file in float32.
        path: the file to write.
        images_NCHW: training images as the file takes them, at least one.

    Raises:
        InputError: if a package is missing or the network cannot be quantised.
    """
    require_onnx()
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared = Path(folder) / "prepared.onnx"
        try:
            # Shapes come with the file; what is done here is to fuse what the runtime would fuse itself.
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                path,
                _Images(images_NCHW),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=_normalisation(onnx.load_model(prepared).graph),
            )
        except Exception as error:  # onnxruntime's errors have no common base
            path.unlink(missing_ok=True)
            raise InputError(
                f"the network cannot be quantised ({type(error).__name__}: {first_line(error)}); leave int8 out of "
                "--formats"
            ) from error
    # Whatever tools noted, the file says what its source says.
    model, original = onnx.load_model(path), onnx.ModelProto.FromString(read_onnx(source).content)
    onnx.helper.set_model_props(model, {item.key: item.value for item in original.metadata_props})
    model.producer_name, model.producer_version = original.producer_name, original.producer_version
    model.graph.doc_string = model.doc_string = ""
    for item in [item for item in model.opset_import if item.domain]:  # listed by the tools, used by no operator
        model.opset_import.remove(item)
    onnx.save_model(model, path)


def _normalisation(graph: Any) -> list[str]:  # noqa: ANN401 - onnx comes without types
    """Names of the steps from pixels to normalised images, which are worth their full precision."""
    names, value = [], INPUT
    for node in graph.node:  # in the order of computation
        if value in node.input:
            if node.op_type not in _NORMALISING:
                break
            names.append(node.name)
            value = node.output[0]
    return names


class _Images:
    """Batches as onnxruntime asks for them: one a call, `None` when there is none left."""

    def __init__(self, images_NCHW: torch.Tensor) -> None:
        self._batches: Iterator[torch.Tensor] = iter(torch.split(images_NCHW, _BATCH_SIZE))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch.numpy()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep advice to people who would quantise by hand out of the log."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
