"""Card and README state the same facts, warn where they must, and keep this machine's paths to themselves."""

import dataclasses
import json
from typing import Any

import pytest
import yaml

from orchestrator.exports.card import ONNX_RUNTIME, Card, FileFacts, LatencyRow, NetworkFacts
from orchestrator.exports.readme import markdown, native_snippet, onnx_snippet, program_snippet
from orchestrator.exports.verify import FileCheck, Verification
from trainables.config import CascadeConfig
from trainables.data_config import DataConfig
from trainables.files.input_spec import InputSpec
from trainables.hardware.latency import Comparison, Latency
from trainables.model_config import ModelConfig
from trainables.pruning_config import Pruning


def row(runtime: str, dense_ms: float, pruned_ms: float, iqr_ms: float = 0.0, batch_size: int = 1) -> LatencyRow:
    dense, pruned = (
        Latency(median_ms=median, iqr_ms=iqr_ms, num_threads=2, batch_size=batch_size)
        for median in (dense_ms, pruned_ms)
    )
    return LatencyRow(runtime=runtime, comparison=Comparison(dense=dense, pruned=pruned))


CARD = Card(
    search_name="cifar",
    trial=3,
    level=2,
    cascade=CascadeConfig(macs_kept=(0.3, 0.04)),
    model=ModelConfig(name="vgg16", weights="/secret/weights.safetensors"),
    data=DataConfig(name="cifar10", path="/secret/cifar"),
    input=InputSpec(
        channels=3, image_size=32, mean=(0.5, 0.25, 0.125), std=(1.0, 0.5, 0.25), class_names=("cat", "dog")
    ),
    network=NetworkFacts(test_accuracy=0.9, val_accuracy=0.91, macs=4_000, params=100),
    teacher=NetworkFacts(test_accuracy=0.925, val_accuracy=0.93, macs=100_000, params=1_000),
    latency=(row("ONNX Runtime", 8.0, 2.0, batch_size=64),),
    verification=Verification(
        num_images=1234,
        max_logit=20.0,
        files=(
            FileCheck(
                format="native",
                file="weights.safetensors",
                max_difference=0.0,
                agreement=1.0,
                test_accuracy=0.9,
                macs=4_000,
                params=100,
                identical=True,
            ),
            FileCheck(
                format="onnx",
                file="model.onnx",
                max_difference=3e-6,
                agreement=1.0,
                test_accuracy=0.9,
                macs=4_000,
                params=90,
            ),
        ),
    ),
    files={
        "model.onnx": FileFacts(bytes=5000, sha256="ab" * 32),
        "weights.safetensors": FileFacts(bytes=4000, sha256="cd" * 32),
    },
    processor="Some CPU",
    versions={"torch": "9.9"},
)


def changed(**values: Any) -> Card:  # noqa: ANN401
    return dataclasses.replace(CARD, **values)


def front_matter(card: Card) -> dict[str, Any]:
    _, head, _ = markdown(card).split("---\n", 2)
    parsed: dict[str, Any] = yaml.safe_load(head)
    return parsed


def test_readme_states_results_in_percent_and_ratios() -> None:
    text = markdown(CARD)
    assert "25.0x fewer multiply-accumulates (MACs) and 10.0x fewer parameters" in text
    assert "a test accuracy of 90.00 % against 92.50 % (-2.50 points, 1,234 images)" in text
    assert "| MACs for one image | 4,000 | 100,000 | 4 % |" in text
    assert "| ONNX Runtime | 64 | 2 ± 0 | 8 ± 0 | 4.00x | 32,000 |" in text
    assert "on 2 CPU thread(s) of Some CPU" in text
    assert "- mean: `[0.5, 0.25, 0.125]`" in text
    assert "Level 2 of 2 of the cascade of trial 3" in text
    assert '"distillation_weight": 0.7' in text
    assert "torch 9.9" in text


def test_classes_are_told_the_greatest_loss_first() -> None:
    facts = {"test_top5": 0.99, "test_class_accuracies": (0.9, 0.5)}
    network, teacher = (dataclasses.replace(side, **facts) for side in (CARD.network, CARD.teacher))
    card = changed(
        network=dataclasses.replace(network, test_class_accuracies=(0.9, 0.4)),
        teacher=dataclasses.replace(teacher, test_top5=1.0),
    )
    text = markdown(card)
    assert "| `dog` | 40.00 % | 50.00 % | -10.00 |\n| `cat` | 90.00 % | 90.00 % | +0.00 |" in text
    assert "| test accuracy, five most likely classes | 99.00 % | 100.00 % |" in text
    assert json.loads(card.to_json(markdown(card)))["network"]["test_class_accuracies"] == [0.9, 0.4]
    assert "five most likely" not in markdown(CARD)


def test_names_of_classes_are_shown_whatever_marks_they_have() -> None:
    names = ("a|b", "x`y", "``z`", "two\nlines", "plain_*name*")
    facts = {"test_class_accuracies": (0.5,) * len(names)}
    network, teacher = (dataclasses.replace(side, **facts) for side in (CARD.network, CARD.teacher))
    card = changed(input=dataclasses.replace(CARD.input, class_names=names), network=network, teacher=teacher)
    rows = [line for line in markdown(card).splitlines() if line.endswith("| +0.00 |")]
    assert [row.removesuffix(" | 50.00 % | 50.00 % | +0.00 |") for row in rows] == [
        r"| `a\|b`",
        "| ``x`y``",
        "| ``` ``z` ```",
        "| `two lines`",
        "| `plain_*name*`",
    ]
    assert "- classes: `a|b`, ``x`y``, ``` ``z` ```, `two lines`, `plain_*name*`\n" in markdown(card)


def test_of_several_labels_the_mean_average_precision_is_told() -> None:
    several = changed(
        input=dataclasses.replace(CARD.input, multi_label=True),
        data=DataConfig(name="parquet", path="/secret", image_size=32),
        network=dataclasses.replace(CARD.network, test_class_accuracies=(0.9, 0.4)),
        teacher=dataclasses.replace(CARD.teacher, test_class_accuracies=(0.9, 0.5)),
    )
    text = markdown(several)
    assert "at a test mean average precision of 90.00 %" in text
    assert "| validation mean average precision | 91.00 % | 93.00 % |" in text
    assert "Test average precision of each class" in text
    assert "accuracy" not in text
    assert "same decisions" in text
    assert "same class" in markdown(CARD)
    assert json.loads(several.to_json(markdown(several)))["metric"] == "mean average precision"
    (result,) = front_matter(several)["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "mean_average_precision", "name": "macro mAP", "value": 0.9}]
    assert "datasets" not in front_matter(several)
    for snippet in (onnx_snippet(several), native_snippet(several)):
        compile(snippet, "snippet", "exec")
        assert "argmax" not in snippet


def test_of_many_classes_the_worst_are_shown() -> None:
    names = tuple(f"class-{index}" for index in range(30))
    accuracies = (None, *(index / 30 for index in range(1, 30)))
    card = changed(
        input=dataclasses.replace(CARD.input, class_names=names),
        network=dataclasses.replace(CARD.network, test_class_accuracies=accuracies),
        teacher=dataclasses.replace(CARD.teacher, test_class_accuracies=(1.0,) * 30),
    )
    section = markdown(card).partition("## Classes")[2].partition("\n## ")[0]
    assert section.count("| `class-") == 20
    assert "`class-1`" in section
    assert "`class-0`" not in section
    assert "9 more are in `card.json`" in section


def test_card_json_states_fractions_and_comes_back() -> None:
    facts = json.loads(CARD.to_json(markdown(CARD)))
    assert len(facts.pop("readme_sha256")) == 64
    assert facts == json.loads(json.dumps(CARD.to_dict()))
    assert (facts["trial"], facts["level"], facts["num_levels"]) == (3, 2, 2)
    assert facts["network"]["test_accuracy"] == 0.9
    assert facts["macs_kept"] == pytest.approx(0.04)
    assert facts["macs_ratio"] == pytest.approx(25)
    assert facts["latency"][0]["speedup"] == pytest.approx(4)
    assert CascadeConfig.from_dict(facts["cascade"]) == CARD.cascade
    assert InputSpec.from_dict(facts["input"]) == CARD.input


def test_no_path_of_this_machine_is_told() -> None:
    assert "/secret" not in CARD.to_json(markdown(CARD)) + markdown(CARD)


def test_front_matter_is_what_hubs_read() -> None:
    head = front_matter(CARD)
    assert "license" not in head
    assert head["pipeline_tag"] == "image-classification"
    assert head["datasets"] == ["cifar10"]
    assert "onnx" in head["tags"]
    (result,) = head["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "name": "top-1", "value": 0.9}]
    assert front_matter(changed(license_name="apache-2.0"))["license"] == "apache-2.0"
    assert front_matter(changed(search_name="a: b\n---"))["model-index"][0]["name"] == "a: b\n--- 3:2"


def test_a_network_that_is_not_faster_is_said_to_be_so() -> None:
    slow = changed(latency=(row("PyTorch, eager", 2.0, 2.1), row("ONNX Runtime", 8.0, 2.0)))
    (warning,) = slow.warnings
    assert warning.startswith("Fewer MACs did not make it measurably faster in PyTorch, eager at batch 1. Widths that")
    assert "(`pruning.round_to: 1`); search with 8. Measure" in warning
    assert f"> **Note:** {warning}" in markdown(slow)
    assert slow.to_dict()["warnings"] == [warning]
    assert CARD.warnings == ()
    assert "Note" not in markdown(CARD)


def test_widths_are_not_blamed_where_they_were_rounded() -> None:
    rounded = CascadeConfig(macs_kept=(0.3, 0.04), pruning=Pruning(round_to=16))
    (warning,) = changed(latency=(row("PyTorch, eager", 2.0, 2.1),), cascade=rounded).warnings
    assert "round_to" not in warning


def test_noise_is_said() -> None:
    (warning,) = changed(latency=(row("ONNX Runtime", 8.0, 2.0, iqr_ms=0.5),)).warnings
    assert "scattered by more than 10 % in ONNX Runtime at batch 1" in warning


def test_a_network_of_a_stopped_trial_says_so() -> None:
    card = changed(fidelity=0.75)
    (warning,) = card.warnings
    assert "stopped early: 75 % of the planned epochs" in warning
    assert warning in markdown(card)
    assert (card.to_dict()["fidelity"], CARD.to_dict()["fidelity"]) == (0.75, 1.0)


def test_an_int8_file_that_is_slower_than_the_float_one_says_so() -> None:
    rows = [row("ONNX Runtime", 8.0, 2.0, batch_size=batch) for batch in (1, 64)]
    rows += [row(ONNX_RUNTIME["int8"], 8.0, ms, batch_size=batch) for batch, ms in ((1, 3.0), (64, 2.05))]
    (warning,) = changed(latency=tuple(rows)).warnings
    assert warning.startswith("The int8 file is slower here than the same network's ONNX file at batch 1; take")
    assert changed(latency=(*rows[:2], rows[3])).warnings == ()


def test_classes_that_were_not_tested_are_told() -> None:
    both = {
        side: dataclasses.replace(getattr(CARD, side), test_class_accuracies=(None, 0.4))
        for side in ("network", "teacher")
    }
    card = changed(**both)
    (warning,) = card.warnings
    assert warning.startswith("The test images have none of 1 of 2 classes (cat): the test accuracy says nothing")
    assert warning in markdown(card)


def test_a_network_that_has_collapsed_says_so() -> None:
    (warning,) = changed(test_guess=0.88).warnings
    assert warning == "It has collapsed: its test accuracy is nearer to guessing (88.0 %) than to the teacher's."
    assert changed(test_guess=0.87).warnings == ()


def test_a_teacher_that_has_learnt_nothing_is_told() -> None:
    (warning,) = changed(test_guess=CARD.teacher.test_accuracy).warnings
    assert warning.startswith("Its teacher has learnt nothing: the teacher's test accuracy is hardly better than")


def test_one_format_alone_tells_nothing_of_the_other() -> None:
    native = changed(
        verification=dataclasses.replace(CARD.verification, files=CARD.verification.files[:1]),
        files={"weights.safetensors": CARD.files["weights.safetensors"]},
    )
    assert "import onnxruntime" not in markdown(native)
    assert "model.onnx" not in markdown(native)
    assert "onnx" not in front_matter(native)["tags"]
    onnx = changed(
        verification=dataclasses.replace(CARD.verification, files=CARD.verification.files[1:]),
        files={"model.onnx": CARD.files["model.onnx"]},
    )
    assert "trainables.load" not in markdown(onnx)
    assert "bit for bit" not in markdown(onnx)


def test_many_classes_are_counted_and_left_to_the_json() -> None:
    names = tuple(f"class-{index}" for index in range(100))
    many = changed(input=dataclasses.replace(CARD.input, class_names=names))
    assert "`class-19` … (100 in all, in `card.json`)" in markdown(many)
    assert "class-20" not in markdown(many)
    assert many.to_dict()["input"]["class_names"][-1] == "class-99"


def test_snippets_are_python_and_name_a_users_own_function() -> None:
    own = changed(model=ModelConfig(name="my.package:build"))
    compile(onnx_snippet(own), "onnx", "exec")
    compile(native_snippet(own), "native", "exec")
    assert "from my.package import build\n" in native_snippet(own)
    assert 'trainables.load(".", builder=build)' in native_snippet(own)
    assert 'trainables.load(".")' in native_snippet(CARD)


def test_a_users_own_module_is_said_to_be_needed_where_it_is() -> None:
    said = ". `build` is of the author's own module `my.package`, which is needed and not in this folder"
    own = changed(model=ModelConfig(name="my.package:build"))
    assert f"{said}; `model.onnx` needs no such code:\n\n```python\nimport torch" in markdown(own)
    weights = {"weights.safetensors": CARD.files["weights.safetensors"]}
    assert f"{said}:\n\n```python" in markdown(dataclasses.replace(own, files=weights))
    program = FileFacts(bytes=5000, sha256="ef" * 32)
    programs = dataclasses.replace(own, files={**CARD.files, "model.pt2": program})
    assert f"{said}; `model.pt2`, `model.onnx` need no such code:" in markdown(programs)
    assert "author's own" not in markdown(CARD)


def test_each_file_is_told_with_what_was_counted_in_it() -> None:
    text = markdown(CARD)
    assert "| `weights.safetensors` | 0.0e+00, tensors equal bit for bit | 100.00 % | 90.00 % | 4,000 | 100 |" in text
    assert "| `model.onnx` | 3.0e-06 | 100.00 % | 90.00 % | 4,000 | 90 |" in text
    assert f"- `model.onnx`: 5,000 bytes, SHA-256 `{'ab' * 32}`" in text
    assert CARD.to_dict()["files"]["model.onnx"] == {"bytes": 5000, "sha256": "ab" * 32}


def test_what_is_not_delivered_is_said_with_the_reason() -> None:
    refused = {"int8": "model.int8.onnx has a test accuracy of 50.00 %"}
    card = changed(verification=dataclasses.replace(CARD.verification, refused=refused))
    (warning,) = card.warnings
    assert warning == "int8 was asked for and is not delivered: model.int8.onnx has a test accuracy of 50.00 %"
    assert f"> **Note:** {warning}" in markdown(card)


def test_a_file_with_other_macs_than_the_network_is_pointed_at() -> None:
    native, onnx = CARD.verification.files
    files = (native, dataclasses.replace(onnx, macs=4_400))
    (warning,) = changed(verification=dataclasses.replace(CARD.verification, files=files)).warnings
    assert warning == "`model.onnx` was counted to have 4,400 MACs, and the network 4,000."


def test_where_normalisation_is_inside_nobody_is_told_to_do_it() -> None:
    files = {"model.onnx": CARD.files["model.onnx"], "model.pt2": CARD.files["model.onnx"]}
    raw = changed(pixels="raw", files=files)
    assert "The network takes pixels as uint8, 0 … 255. Inside, they are divided by 255" in markdown(raw)
    for snippet in (onnx_snippet(raw), program_snippet(raw)):
        compile(snippet, "snippet", "exec")
        assert "mean" not in snippet
    assert "mean" in program_snippet(CARD)


def test_the_int8_file_says_how_it_was_calibrated() -> None:
    files = {"model.int8.onnx": CARD.files["model.onnx"]}
    text = markdown(changed(files=files, num_calibration_images=512))
    assert "their ranges from 512 training images" in text
    assert 'InferenceSession("model.int8.onnx")' in text
    assert "eight bits" not in markdown(CARD)
