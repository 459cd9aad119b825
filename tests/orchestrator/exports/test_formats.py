"""What an export is asked for is checked before anything starts, and named with its rule."""

import sys

import pytest

from orchestrator.exports.formats import FORMATS, ExportOptions, listed
from trainables.errors import InputError


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"formats": ()}, "formats are empty, but must be some of native, onnx, pt2, int8"),
        ({"formats": ("native", "tflite")}, "formats are native, tflite, but must be some of"),
        ({"formats": ("native", "native")}, "each must be there once"),
        ({"runtimes": ("tensorrt",)}, "but must be some of eager, compiled, onnxruntime; or none alone"),
        ({"opset": 17}, r"opset is 17, but must be within 18 … 25"),
        ({"opset": 99}, r"opset is 99, but must be within"),
        ({"pixels": "bgr"}, "input is 'bgr', but must be one of normalised, raw"),
        (
            {"formats": ("native", "pt2"), "runtimes": ("onnxruntime",)},
            "latency is onnxruntime alone, but formats are native, pt2, and none of them is an ONNX file; add onnx",
        ),
        ({"num_threads": 0}, "threads is 0, but must be a whole number of at least 1"),
        ({"min_seconds": 0.0}, "min_seconds is 0.0, but must be a number above 0"),
    ],
)
def test_what_cannot_be_had_is_named(changed, message):
    with pytest.raises(InputError, match=message):
        ExportOptions(**changed)


@pytest.mark.parametrize("formats", [("onnx",), ("native", "int8")])
def test_a_missing_package_is_named_with_the_extra(monkeypatch, formats):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(InputError, match=r'^onnxruntime not installed.* pip install "cascade-pruning\[export\]"'):
        ExportOptions(formats=formats)
    assert not ExportOptions(formats=("native", "pt2")).needs_onnx


def test_a_list_is_written_with_commas():
    assert listed(["native, onnx,,pt2", "onnx"]) == ("native", "onnx", "pt2")
    assert listed(["none", "none"]) == ()
    assert ExportOptions(formats=FORMATS, runtimes=listed(["none"])).runtimes == ()
