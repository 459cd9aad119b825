"""Where exports go: a destination is checked, its disk too, and a finished folder appears there in one step."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from orchestrator.exports.formats import CARD_FILE, Format
from orchestrator.storage.staging import Existing, move, require_local, require_place
from trainables.datasets.images import ImageSet
from trainables.errors import InputError

ELSEWHERE = "choose another place with --out"
"""The mend where an export cannot be where it was to be."""
_BYTES_A_PARAM = {"native": 4, "onnx": 4, "pt2": 4, "int8": 1}
# Beside weights and images: graphs, cards and what the file system keeps for itself; graphs grow with the networks.
_LEAST_MARGIN, _MARGIN = 4 * 2**20, 0.25


def check_destination(destination: Path, existing: Existing) -> None:
    """Check that a folder can be made, or that what is there may be replaced.

    Raises:
        InputError: naming what is there, or an address.
    """
    require_local(destination)
    require_place(destination, existing, mark=CARD_FILE, what="export", mend=ELSEWHERE)


def check_room(
    destination: Path, formats: Sequence[Format], params: Sequence[int], teacher_params: int, images: ImageSet
) -> None:
    """Check that the disk has room for exports, and for what is written on the way.

    Args:
        destination: somewhere on the disk.
        formats: of every export.
        params: parameters of each.
        teacher_params: of the teacher, whose ONNX file is measured.
        images: test images, which another process reads.

    Raises:
        InputError: with what is free and what is needed.
    """
    folder = destination
    while not folder.is_dir():
        folder = folder.parent
    a_param = sum(_BYTES_A_PARAM[format] for format in formats)
    exports = sum(params) * a_param
    scratch = 4 * (teacher_params + max(params)) + images.images_NCHW.numel()
    needed = (exports + scratch) * (1 + _MARGIN) + _LEAST_MARGIN
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"the disk of {folder} has {free / 1e6:,.1f} MB left, but must have {needed / 1e6:,.1f} MB: about "
            f"{exports / 1e6:,.1f} MB for weights that stay, the rest for what is written beside them and on the way; "
            f"make room, or {ELSEWHERE}"
        )


def deliver(package: Path, destination: Path, existing: Existing) -> None:
    """Move a finished folder to its destination; what is replaced stays until then.

    Raises:
        InputError: if the destination was taken meanwhile.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        move(package, destination, mark=CARD_FILE if existing == "replace" else None)
    except OSError as error:
        raise InputError(f"{destination} was taken while the export ran; {ELSEWHERE}") from error
