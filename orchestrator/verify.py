"""Check that exported files compute what the network of the search computes.

Shape legend: N images, K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from orchestrator import onnx_file
from trainables.checkpoint import InputSpec
from trainables.data import ImageSet, normalise
from trainables.errors import StageFailure
from trainables.evaluation import score

# Of float32 with some hundred layers a few 1e-6 of the largest logit are to be expected, of a wrong file far more.
_TOLERANCE = 1e-4
_FIRST_BATCHES = (1, 3)  # one image, which runtimes treat apart, and an odd number
_BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """How the exported files were checked against the network that the search found.

    Attributes:
        num_images: test images that they were compared on.
        max_logit: largest absolute logit, which differences are to be compared with.
        native_identical: every tensor that was read back equals the search's bit for bit; `None` without that format.
        onnx_max_difference: largest absolute difference of a logit in ONNX Runtime; `None` without that format.
        onnx_top1_agreement: part of the images with the same most likely class in ONNX Runtime, in [0, 1].
        onnx_test_accuracy: on the test images in ONNX Runtime, in [0, 1].
    """

    num_images: int
    max_logit: float
    native_identical: bool | None = None
    onnx_max_difference: float | None = None
    onnx_top1_agreement: float | None = None
    onnx_test_accuracy: float | None = None


def logits_of(network: nn.Module, images: ImageSet, spec: InputSpec) -> torch.Tensor:
    """Class scores, float32 of shape (N, K), of a network on the CPU in evaluation mode."""
    with torch.inference_mode():
        return torch.cat([network(batch_NCHW) for batch_NCHW in _batches(images, spec)])


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


def check_tensors(found: nn.Module, read_back: nn.Module) -> None:
    """Check that two networks hold the same tensors, bit for bit.

    Raises:
        StageFailure: naming the first tensor that differs.
    """
    wanted, given = found.state_dict(), read_back.state_dict()
    for name in sorted(wanted.keys() | given.keys()):
        if name not in wanted or name not in given or not _identical(wanted[name], given[name]):
            raise StageFailure(f"{name} was not written as it was; is the disk full or failing?", stage="export")


def _identical(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    # As bytes, since NaN does not equal itself.
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def verify_onnx(
    path: Path, expected_NK: torch.Tensor, images: ImageSet, spec: InputSpec, *, num_threads: int
) -> Verification:
    """Compare an ONNX file in ONNX Runtime with the network's own logits on the same images.

    Raises:
        StageFailure: if a logit differs by more than 1e-4 of the largest one.
    """
    logits_NK = onnx_file.session_logits(onnx_file.open_session(path, num_threads=num_threads), _batches(images, spec))
    max_logit = expected_NK.abs().max().item()
    difference = (logits_NK - expected_NK).abs().max().item()
    if not difference <= _TOLERANCE * max_logit:  # also true of NaN
        raise StageFailure(
            f"{path.name} gives logits that differ by {difference:.2g} from the network's own, of which the largest "
            f"is {max_logit:.2g}; at most {_TOLERANCE:g} of that is rounding; export with --only-native",
            stage="export",
        )
    return Verification(
        num_images=len(images),
        max_logit=max_logit,
        onnx_max_difference=difference,
        onnx_top1_agreement=(logits_NK.argmax(1) == expected_NK.argmax(1)).double().mean().item(),
        onnx_test_accuracy=score(logits_NK, images.labels_N),
    )


def _batches(images: ImageSet, spec: InputSpec) -> Iterator[torch.Tensor]:
    """All images in order, normalised, in batches of 1, 3, 64, 64, … and what is left."""
    pixels_NCHW = images.images_NCHW
    for size in _FIRST_BATCHES:
        if len(pixels_NCHW):
            yield normalise(pixels_NCHW[:size], spec.mean, spec.std)
        pixels_NCHW = pixels_NCHW[size:]
    for start in range(0, len(pixels_NCHW), _BATCH_SIZE):
        yield normalise(pixels_NCHW[start : start + _BATCH_SIZE], spec.mean, spec.std)
