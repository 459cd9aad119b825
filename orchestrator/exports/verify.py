"""Check that exported files compute what the network of the search computes: read back by another process.

Shape legend: N images, K classes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from orchestrator.exports.formats import FILES, Format
from orchestrator.exports.reload import ANSWER, IMAGES, LOGITS, REQUEST, Contents, Request
from orchestrator.words import percent
from trainables.datasets.images import ImageSet
from trainables.errors import StageFailure
from trainables.stages.evaluation import score

# Of float32 with some hundred layers a few 1e-6 of the largest logit are to be expected, of a wrong file far more.
_TOLERANCE = 1e-4
_INT8_MOST_LOST = 0.02
"""Accuracy that eight bits may cost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileCheck:
    """How one format was checked against the network that the search found.

    Attributes:
        format: which.
        file: name of the file that holds the weights.
        max_difference: largest absolute difference of a logit.
        agreement: part of what is decided alike, in [0, 1]: the most likely class of each image, or where an image may
            have several, whether it has each of them.
        test_accuracy: on the test images, in [0, 1].
        macs: multiply-accumulates for one image, counted in the file.
        params: numbers in its weights and biases, counted in the file.
        identical: every tensor equals the search's bit for bit; `None` where the format holds others.
    """

    format: Format
    file: str
    max_difference: float
    agreement: float
    test_accuracy: float
    macs: int
    params: int
    identical: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """How the exported files were checked.

    Attributes:
        num_images: test images that they were compared on.
        max_logit: largest absolute logit of the network, which differences are to be compared with.
        files: of each format that is delivered.
        refused: format → why it is not delivered.
    """

    num_images: int
    max_logit: float
    files: tuple[FileCheck, ...]
    refused: Mapping[Format, str] = field(default_factory=dict)


def check_finite(logits_NK: torch.Tensor) -> None:
    """Check that a network gives numbers.

    Raises:
        StageFailure: if a logit is infinite or no number.
    """
    bad = int((~logits_NK.isfinite()).any(1).sum())
    if bad:
        raise StageFailure(
            f"the network gives logits that are not finite for {bad} of {len(logits_NK)} test images; "
            "choose another candidate",
            stage="export",
        )


def save_images(folder: Path, images: ImageSet) -> None:
    """Lay out the images that files are compared on, for all exports of a folder."""
    save_file({"images": images.images_NCHW.contiguous()}, folder / IMAGES)


def verify(
    request: Request, folder: Path, *, expected_NK: torch.Tensor, digest: str, labels: torch.Tensor
) -> Verification:
    """Read files back in a fresh process and compare them with the network's own logits on the same images.

    Args:
        request: which files.
        folder: a folder for what the two processes tell each other, with the images that `save_images` laid there.
        expected_NK: the network's logits.
        digest: of the network's tensors.
        labels: of the images.

    Raises:
        StageFailure: if the process ends without an answer.
    """
    contents, found = _ask(request, folder)
    largest = expected_NK.abs().max().item()
    accuracy = score(expected_NK, labels)
    checks: list[FileCheck] = []
    refused: dict[Format, str] = {}
    for format in request.formats:
        held = contents[format]
        if held.refusal:
            refused[format] = held.refusal
            continue
        logits_NK = found[format]
        check = FileCheck(
            format=format,
            file=FILES[format][-1],
            max_difference=(logits_NK - expected_NK).abs().max().item(),
            agreement=(_decided(logits_NK, labels) == _decided(expected_NK, labels)).double().mean().item(),
            test_accuracy=score(logits_NK, labels),
            macs=held.macs,
            params=held.params,
            identical=held.digest == digest if held.digest else None,
        )
        reason = _fault(check, logits_NK, largest=largest, accuracy=accuracy)
        if reason:
            refused[format] = reason
        else:
            checks.append(check)
    return Verification(num_images=len(labels), max_logit=largest, files=tuple(checks), refused=refused)


def _decided(logits_NK: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits_NK.argmax(1) if labels.ndim == 1 else logits_NK > 0.0


def _fault(check: FileCheck, logits_NK: torch.Tensor, *, largest: float, accuracy: float) -> str:
    """Why a file does not verify; empty if it does."""
    if not logits_NK.isfinite().all():
        return f"{check.file} gives logits that are not finite"
    if check.identical is False:
        return f"{check.file} holds other tensors than were written; is the disk full or failing?"
    if check.format == "int8":
        if check.test_accuracy < accuracy - _INT8_MOST_LOST:
            return (
                f"{check.file} has a test accuracy of {percent(check.test_accuracy, 2)}, the network in float32 "
                f"{percent(accuracy, 2)}; more than {100 * _INT8_MOST_LOST:g} points is too much to lose to eight bits"
            )
    elif check.max_difference > _TOLERANCE * largest:
        return (
            f"{check.file} gives logits that differ by {check.max_difference:.2g} from the network's own, of which the "
            f"largest is {largest:.2g}; at most {_TOLERANCE:g} of that is rounding"
        )
    return ""


def _ask(request: Request, folder: Path) -> tuple[dict[str, Contents], dict[str, torch.Tensor]]:
    (folder / REQUEST).write_text(json.dumps(request.to_dict()), encoding="utf-8")
    for name in (ANSWER, LOGITS):
        (folder / name).unlink(missing_ok=True)
    _run(["-m", "orchestrator.exports.reload", str(folder)])
    answer = json.loads((folder / ANSWER).read_text(encoding="utf-8"))
    return {format: Contents(**values) for format, values in answer.items()}, load_file(folder / LOGITS)


def _run(arguments: Sequence[str]) -> None:
    # Functions of the user's own are found where this process finds them.
    path = os.pathsep.join(folder for folder in sys.path if folder)
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise StageFailure(
            f"the process that reads the files back ended with code {done.returncode}: {said}", stage="export"
        )
