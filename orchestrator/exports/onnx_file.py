"""Networks as ONNX files, and ONNX Runtime on the CPU.

The packages are an extra: they are imported when a file is written or opened.
"""

from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from orchestrator.exports.formats import DEFAULT_OPSET, require_onnx
from orchestrator.exports.onnx_check import INPUT, OUTPUT, read_onnx
from trainables.errors import InputError, first_line
from trainables.files.deployment import reason
from trainables.hardware.latency import Call, Comparison, measure_calls

_PROVIDERS = ("CPUExecutionProvider",)
_UINT8 = "tensor(uint8)"
_ERRORS_ALONE = 3  # ONNX Runtime's log severity


def write_onnx(
    program: ExportedProgram, path: Path, *, opset: int = DEFAULT_OPSET, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a traced network as one ONNX file, for any batch size, and check it against ONNX's rules.

    Input `images` is batch x channels x height x width of the program's type; output `logits` is batch x classes.

    Args:
        program: as `trainables.files.deployment.trace` gives it.
        path: the file.
        opset: version of ONNX's operators, within `OPSETS`.
        metadata: texts that the file carries under these names.

    Raises:
        InputError: if a package is missing or the network cannot be expressed in ONNX or in this version of it.
    """
    require_onnx()
    import onnx

    try:
        # What torch prints of a network that it cannot express is a page of its graph; the error says why.
        with redirect_stderr(StringIO()):
            exported = torch.onnx.export(
                program, input_names=[INPUT], output_names=[OUTPUT], opset_version=opset, verbose=False
            )
    except Exception as error:  # the exporter's errors have no common base
        raise _inexpressible(error) from error
    assert exported is not None
    model = exported.model_proto
    given = next(item.version for item in model.opset_import if not item.domain)
    if given != opset:  # the exporter keeps what it has where it cannot convert
        raise InputError(f"the network cannot be expressed in opset {opset}, only in {given}; give --opset {given}")
    _name_batch(model)
    _strip(model)
    onnx.helper.set_model_props(model, dict(metadata or {}))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise _inexpressible(error) from error
    onnx.save_model(model, path)


def _inexpressible(error: Exception) -> InputError:
    return InputError(f"the network cannot be expressed in ONNX ({reason(error)}); export with --formats native,pt2")


def _name_batch(model: Any) -> None:  # noqa: ANN401 - onnx comes without types
    """Call the batch's dimension `batch`, which the exporter has under a name such as `s34`."""
    graph = model.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == symbol:
                dimension.dim_param = "batch"


def _strip(model: Any) -> None:  # noqa: ANN401
    """Take out what the exporter notes for its own sake: stack traces, which tell paths on this machine."""
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


def open_session(path: Path, *, num_threads: int) -> Any:  # noqa: ANN401
    """Check an ONNX file and open it in ONNX Runtime.

    Args:
        path: the file.
        num_threads: CPU threads for one operation; operations run one after the other.

    Returns:
        An `onnxruntime.InferenceSession`.

    Raises:
        InputError: if a package is missing, or the file is missing, damaged, or holds what no export holds.
    """
    require_onnx()
    import onnxruntime

    content = read_onnx(path).content
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ALONE
    try:
        return onnxruntime.InferenceSession(content, options, providers=list(_PROVIDERS))
    except Exception as error:  # its errors have no common base of their own
        raise InputError(f"{path} cannot be opened in ONNX Runtime: {first_line(error)}") from error


def session_logits(session: Any, batches: Iterable[torch.Tensor]) -> torch.Tensor:  # noqa: ANN401
    """Class scores, images x classes, of all batches of images as the file takes them."""
    return torch.cat([torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0]) for images in batches])


def compare_files(
    dense: Path,
    pruned: Path,
    input_shape: tuple[int, int, int],
    *,
    batch_size: int,
    num_threads: int,
    min_seconds: float,
) -> Comparison:
    """Measure two ONNX files in turn in ONNX Runtime; the arguments are those of `trainables.hardware.latency.compare`.

    Raises:
        InputError: if a package is missing or a number is out of range.
    """
    calls = [_call(path, input_shape, batch_size=batch_size, num_threads=num_threads) for path in (dense, pruned)]
    dense_latency, pruned_latency = measure_calls(
        calls, batch_size=batch_size, num_threads=num_threads, min_seconds=min_seconds
    )
    return Comparison(dense=dense_latency, pruned=pruned_latency)


def _call(path: Path, input_shape: tuple[int, int, int], *, batch_size: int, num_threads: int) -> Call:
    session = open_session(path, num_threads=num_threads)
    generator = torch.Generator().manual_seed(0)
    if session.get_inputs()[0].type == _UINT8:
        images = torch.randint(256, (batch_size, *input_shape), generator=generator, dtype=torch.uint8).numpy()
    else:
        images = torch.randn(batch_size, *input_shape, generator=generator).numpy()
    return lambda: session.run([OUTPUT], {INPUT: images})
