"""Networks as ONNX files, and ONNX Runtime on the CPU: the only file that knows either.

The packages are an extra: they are imported when a file is written or opened.
"""

import importlib.util
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainables.errors import InputError
from trainables.latency import Comparison, measure_calls

INPUT = "images"
OUTPUT = "logits"

_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
_PROVIDERS = ("CPUExecutionProvider",)
_ERRORS_ALONE = 3  # ONNX Runtime's log severity


def require_packages() -> None:
    """Check that what ONNX needs is installed.

    Raises:
        InputError: naming what is missing and how to install it.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{' and '.join(missing)} not installed, but needed to export ONNX; "
            'run: pip install "cascade-pruning[export]", or export with --only-native'
        )


def write_onnx(
    network: nn.Module, input_shape: tuple[int, int, int], path: Path, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a network as one ONNX file, for any batch size, and check it against ONNX's rules.

    Input `images` is float32, batch x channels x height x width; output `logits` is batch x classes.

    Args:
        network: on the CPU, in evaluation mode.
        input_shape: channels, height and width of an image.
        path: the file.
        metadata: texts that the file carries under these names.

    Raises:
        InputError: if a package is missing or the network cannot be expressed in ONNX.
    """
    require_packages()
    import onnx

    try:
        # What torch prints of a network that it cannot trace is a page of its graph; the error says why.
        with redirect_stderr(StringIO()):
            # Two images: with one, the batch would be taken for a constant.
            program = torch.export.export(
                network, (torch.zeros(2, *input_shape),), dynamic_shapes=({0: torch.export.Dim("batch")},)
            )
            exported = torch.onnx.export(program, input_names=[INPUT], output_names=[OUTPUT], verbose=False)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"this {type(network).__name__} cannot be exported to ONNX ({_reason(error)}); its forward pass must not "
            "depend on the images' values or on their number; mend it, or export with --only-native"
        ) from error
    assert exported is not None
    model = exported.model_proto
    _name_batch(model)
    _strip(model)
    onnx.helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)


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


def _reason(error: BaseException) -> str:
    """First line of what went wrong at the bottom; the exporter's own text is a page of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def open_session(path: Path, *, num_threads: int) -> Any:  # noqa: ANN401
    """Open an ONNX file in ONNX Runtime.

    Args:
        path: the file.
        num_threads: CPU threads for one operation; operations run one after the other.

    Returns:
        An `onnxruntime.InferenceSession`.
    """
    require_packages()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ALONE
    return onnxruntime.InferenceSession(str(path), options, providers=list(_PROVIDERS))


def session_logits(session: Any, batches: Iterable[torch.Tensor]) -> torch.Tensor:  # noqa: ANN401
    """Class scores, images x classes, of all batches of normalised images."""
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
    """Measure two ONNX files in turn in ONNX Runtime; the arguments are those of `trainables.latency.compare`.

    Raises:
        InputError: if a package is missing or a number is out of range.
    """
    images = torch.randn(batch_size, *input_shape, generator=torch.Generator().manual_seed(0)).numpy()
    sessions = [open_session(path, num_threads=num_threads) for path in (dense, pruned)]
    calls = [lambda session=session: session.run([OUTPUT], {INPUT: images}) for session in sessions]
    dense_latency, pruned_latency = measure_calls(
        calls, batch_size=batch_size, num_threads=num_threads, min_seconds=min_seconds
    )
    return Comparison(dense=dense_latency, pruned=pruned_latency)
