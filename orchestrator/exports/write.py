"""Write a network in the formats that were asked for; one that cannot be written does not keep the others back."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch.export import ExportedProgram

from orchestrator.exports.formats import FILES, INT8_FILE, ONNX_FILE, PROGRAM_FILE, ExportOptions, Format
from orchestrator.exports.originals import Original
from trainables.errors import InputError, told
from trainables.files.checkpoint import save_network
from trainables.files.deployment import trace
from trainables.files.input_spec import InputSpec


def write_files(
    original: Original, package: Path, options: ExportOptions, *, spare: Path, calibration_NCHW: torch.Tensor
) -> dict[Format, str]:
    """Write the files of all formats into a new folder.

    Args:
        original: the network.
        package: the folder to make.
        options: the formats, and how.
        spare: a folder for files that are not delivered.
        calibration_NCHW: training images as the int8 file takes them; empty without that format.

    Returns:
        Format → why it cannot be written; empty if all are.

    Raises:
        InputError: if the native files cannot be written.
    """
    network, spec = original.saved.network, original.saved.input
    if "native" in options.formats:
        # The path of old weights is of no use elsewhere.
        save_network(package, network, model=replace(original.saved.model, weights=None), input_spec=spec)
    else:
        package.mkdir()
    unwritten: dict[Format, str] = {}
    if not options.needs_trace:
        return unwritten
    with _left_out(("pt2", "onnx", "int8"), package, unwritten):
        program = trace(network, spec, pixels=options.pixels)
        if "pt2" in options.formats:
            from trainables.files.programs import write_program

            write_program(program, package / PROGRAM_FILE)
        if options.needs_onnx:
            # What eight bits are made from need not be delivered.
            path = (package if "onnx" in options.formats else spare) / ONNX_FILE
            with _left_out(("onnx", "int8"), package, unwritten):
                _write_onnx(program, spec, path, options)
                if "int8" in options.formats:
                    from orchestrator.exports.int8_file import write_int8

                    with _left_out(("int8",), package, unwritten):
                        write_int8(path, package / INT8_FILE, calibration_NCHW)
    return {format: why for format, why in unwritten.items() if format in options.formats}


def _write_onnx(program: ExportedProgram, spec: InputSpec, path: Path, options: ExportOptions) -> None:
    from orchestrator.exports.onnx_file import write_onnx

    metadata = {
        "class_names": list(spec.class_names),
        "pixels": options.pixels,
        "mean": list(spec.mean),
        "std": list(spec.std),
    }
    texts = {name: json.dumps(values, ensure_ascii=False) for name, values in metadata.items()}
    write_onnx(program, path, opset=options.opset, metadata=texts)


@contextmanager
def _left_out(formats: Sequence[Format], package: Path, unwritten: dict[Format, str]) -> Iterator[None]:
    """Where a file cannot be written, note why for these formats, and go on without them."""
    try:
        yield
    except InputError as error:
        unwritten |= dict.fromkeys(formats, told(error, package))
        remove_files(package, formats)


def remove_files(package: Path, formats: Iterable[Format]) -> None:
    """Remove what a folder holds in these formats."""
    for format in formats:
        for name in FILES[format]:
            (package / name).unlink(missing_ok=True)
