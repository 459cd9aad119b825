"""A file is judged by what another process found in it; that process may fail, and a file may lose too much."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from orchestrator.exports import verify as verify_module
from orchestrator.exports.reload import ANSWER, LOGITS, Contents, Request
from orchestrator.exports.verify import verify
from trainables.errors import StageFailure
from trainables.files.input_spec import InputSpec

SPEC = InputSpec(channels=1, image_size=2, mean=(0.5,), std=(0.25,), class_names=("a", "b"))
REQUEST = Request(package="p", formats=("native",), model="m", input=SPEC, pixels="normalised", num_threads=1)
EXPECTED = torch.tensor([[4.0, 0.0]] * 60 + [[0.0, 4.0]] * 40)
LABELS = torch.tensor([0] * 60 + [1] * 40)


def judged(  # noqa: ANN201
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    format: str,
    logits: torch.Tensor,
    labels: torch.Tensor = LABELS,
    **contents: object,
):
    """What becomes of a file in which the other process finds these logits."""

    def answer(arguments: list[str]) -> None:
        assert arguments[:2] == ["-m", "orchestrator.exports.reload"]
        save_file({format: logits}, folder / LOGITS)
        (folder / ANSWER).write_text(json.dumps({format: dataclasses.asdict(Contents(**contents))}))

    monkeypatch.setattr(verify_module, "_run", answer)
    request = dataclasses.replace(REQUEST, formats=(format,))
    return verify(request, folder, expected_NK=EXPECTED, digest="same", labels=labels)


@pytest.mark.parametrize(("format", "digest"), [("native", "same"), ("onnx", ""), ("pt2", ""), ("int8", "")])
def test_what_agrees_is_delivered(tmp_path, monkeypatch, format, digest) -> None:
    found = judged(tmp_path, monkeypatch, format, EXPECTED + 1e-5, digest=digest, macs=7, params=3)
    (check,) = found.files
    assert found.refused == {}
    assert check.format == format
    assert (check.macs, check.params, check.test_accuracy, check.agreement) == (7, 3, 1.0, 1.0)
    assert check.max_difference == pytest.approx(1e-5, rel=0.1)
    assert check.identical is (True if digest else None)


def flipped(count: int) -> torch.Tensor:
    """Logits in which this many images have the other class."""
    return torch.cat([EXPECTED[:count].flip(1), EXPECTED[count:]])


@pytest.mark.parametrize(
    ("format", "logits", "contents", "reason"),
    [
        ("onnx", EXPECTED + 1e-3, {}, r"model\.onnx gives logits that differ by 0\.001 .* largest is 4"),
        ("pt2", EXPECTED * torch.nan, {}, r"model\.pt2 gives logits that are not finite"),
        ("native", EXPECTED, {"digest": "other"}, r"weights\.safetensors holds other tensors"),
        ("native", EXPECTED, {"refusal": "it is refused"}, "it is refused"),
        ("int8", flipped(3), {}, r"test accuracy of 97\.00 %, the network in float32 100\.00 %; more than 2 points"),
        ("int8", EXPECTED * torch.inf, {}, "not finite"),
    ],
)
def test_what_does_not_is_refused_with_the_reason(tmp_path, monkeypatch, format, logits, contents, reason) -> None:
    found = judged(tmp_path, monkeypatch, format, logits, **contents)
    assert found.files == ()
    with pytest.raises(StageFailure, match=reason):
        raise StageFailure(found.refused[format], stage="export")


def test_eight_bits_may_lose_two_points(tmp_path, monkeypatch) -> None:
    (check,) = judged(tmp_path, monkeypatch, "int8", flipped(2)).files
    assert (check.test_accuracy, check.agreement) == (pytest.approx(0.98), pytest.approx(0.98))


def test_of_several_labels_each_yes_and_no_is_compared(tmp_path, monkeypatch) -> None:
    labels = torch.stack([LABELS == 0, LABELS == 1], dim=1)
    shifted = EXPECTED + torch.tensor([3.0, 0.0])  # the likelier class stays, but the first of 40 images becomes a yes
    (check,) = judged(tmp_path, monkeypatch, "int8", shifted, labels=labels).files
    assert check.agreement == pytest.approx(1 - 40 / 200)


@pytest.mark.integration
def test_a_process_that_dies_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(StageFailure, match=r"ended with code 1: FileNotFoundError: .*images\.safetensors"):
        verify(REQUEST, tmp_path, expected_NK=EXPECTED, digest="", labels=LABELS)


def test_a_request_comes_back_from_json() -> None:
    assert Request.from_dict(json.loads(json.dumps(REQUEST.to_dict()))) == REQUEST
