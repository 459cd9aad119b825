"""Read exported files back in a process of its own, and say what is in them.

Whoever verifies an export starts `python -m orchestrator.exports.reload REQUEST`, so that a file is judged by what a
stranger finds in it and not by what is still in the memory of the process that wrote it.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.exports.formats import INT8_FILE, ONNX_FILE, PROGRAM_FILE, Format
from trainables.data_config import Pixels
from trainables.errors import InputError, first_line, told
from trainables.files.checkpoint import load_network
from trainables.files.deployment import as_taken, batches, logits_of
from trainables.files.input_spec import InputSpec
from trainables.files.programs import load_program
from trainables.imports import is_import_path
from trainables.networks.models import find_builder
from trainables.pruning.cost import count_macs, count_params
from trainables.tensors import tensors_digest

REQUEST, ANSWER, IMAGES, LOGITS = "request.json", "answer.json", "images.safetensors", "logits.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is to be read back.

    Attributes:
        package: folder with the files.
        formats: which of them.
        model: name of the network; its function is imported if it is the user's own.
        input: what the network takes.
        pixels: what all formats but `native` take.
        num_threads: CPU threads.
    """

    package: str
    formats: tuple[Format, ...]
    model: str
    input: InputSpec
    pixels: Pixels
    num_threads: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Request":
        """Make one from what `to_dict` gave."""
        spec = InputSpec.from_dict(values["input"])
        return cls(**{**values, "formats": tuple(values["formats"]), "input": spec})


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What was found in a file.

    Attributes:
        macs: multiply-accumulates for one image, counted in the file.
        params: numbers in its weights and biases.
        digest: of all tensors, where the format holds them as the search does; else empty.
        refusal: why the file cannot be read, or empty.
    """

    macs: int = 0
    params: int = 0
    digest: str = ""
    refusal: str = ""


def read_back(request: Request, format: Format, images_NCHW: torch.Tensor) -> tuple[Contents, torch.Tensor]:
    """What a file holds, and its logits of shape (images, classes) for uint8 images.

    Raises:
        InputError: if the file is refused.
    """
    package, spec, pixels = Path(request.package), request.input, request.pixels
    if format == "native":
        builder = find_builder(request.model) if is_import_path(request.model) else None
        network = load_network(package, builder=builder).network
        contents = Contents(
            macs=count_macs(network, spec.shape),
            params=count_params(network),
            digest=tensors_digest(network.state_dict()),
        )
        return contents, logits_of(network, images_NCHW, spec, "normalised")
    if format == "pt2":
        program = load_program(package / PROGRAM_FILE)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            program(as_taken(images_NCHW[:1], spec, pixels))
        contents = Contents(macs=counter.get_total_flops() // 2, params=count_params(program))
        return contents, logits_of(program, images_NCHW, spec, pixels)
    from orchestrator.exports.onnx_check import read_onnx
    from orchestrator.exports.onnx_file import open_session, session_logits

    path = package / (ONNX_FILE if format == "onnx" else INT8_FILE)
    file = read_onnx(path)
    session = open_session(path, num_threads=request.num_threads)
    return Contents(macs=file.macs, params=file.params), session_logits(session, batches(images_NCHW, spec, pixels))


def main(folder: Path) -> None:
    """Answer the request that lies in a folder; a file that is refused does not keep others from being read."""
    request = Request.from_dict(json.loads((folder / REQUEST).read_text(encoding="utf-8")))
    torch.set_num_threads(request.num_threads)
    images_NCHW = load_file(folder / IMAGES)["images"]
    answer: dict[str, Any] = {}
    logits: dict[str, torch.Tensor] = {}
    for format in request.formats:
        try:
            contents, found_NK = read_back(request, format, images_NCHW)
            logits[format] = found_NK.contiguous()
        except InputError as error:
            contents = Contents(refusal=told(error, Path(request.package)))
        except Exception as error:  # a file that fails in its runtime is not delivered, whatever the reason
            contents = Contents(refusal=f"{type(error).__name__}: {first_line(error)}")
        answer[format] = dataclasses.asdict(contents)
    save_file(logits, folder / LOGITS)
    (folder / ANSWER).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
