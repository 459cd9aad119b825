"""Networks as `.pt2` files of `torch.export`: torch alone loads them, on any machine, without this project."""

import io
import zipfile
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from trainables.errors import InputError, first_line
from trainables.files import program_check

_FOLDER = "model"


def write_program(program: ExportedProgram, path: Path) -> None:
    """Write a traced network as a `.pt2` file.

    Args:
        program: as `deployment.trace` gives it.
        path: the file, whose name ends in `.pt2`.
    """
    torch.export.save(program, path)


def load_program(path: Path) -> nn.Module:
    """Read a network back as a module, on the CPU. What the file holds is checked before torch sees it.

    The module takes one tensor of any number of images, of the type that the file says, and gives class scores.

    Raises:
        InputError: if the file is missing, damaged, or holds what no export holds.
    """
    members = program_check.read_members(path)
    # Torch gets an archive that is written here: two readers of one file need not see the same.
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as out:
        for name, content in members.items():
            out.writestr(f"{_FOLDER}/{name}", content)
        out.writestr(f"{_FOLDER}/{program_check.SAMPLE_INPUTS}", _no_inputs())
    archive.seek(0)
    try:
        # Guards would be checked by code that is made of what the file says.
        module: nn.Module = torch.export.load(archive).module(check_guards=False)
    except Exception as error:  # whatever torch's reader stumbles over
        raise InputError(f"{path} is damaged: {type(error).__name__}: {first_line(error)}") from error
    return module


def _no_inputs() -> bytes:
    file = io.BytesIO()
    torch.save(((), {}), file)
    return file.getvalue()
