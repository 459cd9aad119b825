"""The card of an exported network for people: `README.md`, in the form that hubs of models show."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from orchestrator.exports.card import Card
from orchestrator.exports.formats import CARD_FILE, INT8_FILE, ONNX_FILE, PROGRAM_FILE
from orchestrator.exports.making import made
from orchestrator.markdown import as_code, table
from orchestrator.words import percent
from trainables.data_config import DataName, Pixels
from trainables.files.checkpoint import WEIGHTS_FILE
from trainables.files.input_spec import InputSpec
from trainables.imports import is_import_path

_MAX_NAMES_SHOWN = 20
_SQUARE = "RGB images, of which the largest central square is brought to size (bilinear, antialiased)"
_OWN_IMAGES: tuple[DataName, ...] = ("imagefolder", "parquet", "shards")
HOW_IMAGES_ARE_MADE: Mapping[DataName, str] = {
    "digits": "Grey images of 8x8 with values 0 … 16, enlarged bilinearly and scaled to 0 … 255",
    "cifar10": "RGB images as they come",
    "cifar100": "RGB images as they come",
    "imagefolder": _SQUARE,
    "parquet": _SQUARE,
    "shards": _SQUARE,
}


def markdown(card: Card) -> str:
    """Text of `README.md`: YAML front matter, then results, files, use, verification and origin."""
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(card), sort_keys=False, allow_unicode=True)}---",
        f"# {card.name}",
        _summary(card),
        *(f"> **Note:** {warning}" for warning in card.warnings),
        f"## Results\n\n{_results(card)}",
    ]
    if card.network.test_class_accuracies:
        parts.append(f"## Classes\n\n{_classes(card)}")
    if card.latency:
        parts.append(f"## Latency\n\n{_latency(card)}")
    parts += [
        f"## Input\n\n{_input(card)}",
        f"## Use\n\n{_use(card)}",
        f"## Verification\n\n{_verification(card)}",
        f"## How it was made\n\n{_origin(card)}",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(card: Card) -> dict[str, Any]:
    metric = "mean_average_precision" if card.input.multi_label else "accuracy"
    name = "macro mAP" if card.input.multi_label else "top-1"
    accuracy = {"type": metric, "name": name, "value": round(card.network.test_accuracy, 6)}
    dataset = {"name": card.data.name, "type": card.data.name, "split": "test"}
    task = "image-classification"
    kinds = {"safetensors": WEIGHTS_FILE, "onnx": ONNX_FILE, "pt2": PROGRAM_FILE, "int8": INT8_FILE}
    tags = [task, "pruning", "distillation", "cascade-pruning"]
    tags += [tag for tag, file in kinds.items() if file in card.files]
    return {
        **({"license": card.license_name} if card.license_name else {}),
        "pipeline_tag": task,
        "tags": tags,
        **({} if card.data.name in _OWN_IMAGES else {"datasets": [card.data.name]}),
        "metrics": [metric],
        "model-index": [
            {
                "name": card.name,
                "results": [{"task": {"type": task}, "dataset": dataset, "metrics": [accuracy]}],
            }
        ],
    }


def _summary(card: Card) -> str:
    gained = card.network.test_accuracy - card.teacher.test_accuracy
    return (
        f"A `{card.model.name}` for {card.input.num_classes} classes of `{card.data.name}`, made physically smaller: "
        f"{card.macs_ratio:.1f}x fewer multiply-accumulates (MACs) and {card.params_ratio:.1f}x fewer parameters than "
        f"its teacher, at a test {card.metric} of {percent(card.network.test_accuracy, 2)} "
        f"against {percent(card.teacher.test_accuracy, 2)} ({gained * 100:+.2f} points, "
        f"{card.verification.num_images:,} images)."
    )


def _results(card: Card) -> str:
    network, teacher = card.network, card.teacher
    rows = [
        (f"test {card.metric}", percent(network.test_accuracy, 2), percent(teacher.test_accuracy, 2), ""),
        *_top5(card),
        (f"validation {card.metric}", percent(network.val_accuracy, 2), percent(teacher.val_accuracy, 2), ""),
        ("MACs for one image", f"{network.macs:,}", f"{teacher.macs:,}", percent(network.macs / teacher.macs, 2)),
        ("parameters", f"{network.params:,}", f"{teacher.params:,}", percent(network.params / teacher.params, 2)),
    ]
    return (
        table(("", "this network", "teacher", "kept"), rows)
        + f"\n\nThe network was chosen on validation {card.metric}. The test images were read for this card alone."
    )


def _top5(card: Card) -> list[tuple[str, ...]]:
    network, teacher = card.network.test_top5, card.teacher.test_top5
    if network is None or teacher is None:
        return []
    return [("test accuracy, five most likely classes", percent(network, 2), percent(teacher, 2), "")]


def _classes(card: Card) -> str:
    """Test accuracy of each class, those first that lose most against the teacher."""
    known = [
        (name, network, teacher)
        for name, network, teacher in zip(
            card.input.class_names, card.network.test_class_accuracies, card.teacher.test_class_accuracies, strict=True
        )
        if network is not None and teacher is not None
    ]
    known.sort(key=lambda row: (row[1] - row[2], row[1]))
    rows = [
        (as_code(name), percent(network, 2), percent(teacher, 2), f"{(network - teacher) * 100:+.2f}")
        for name, network, teacher in known[:_MAX_NAMES_SHOWN]
    ]
    losses = table(("class", "this network", "teacher", "points"), rows)
    more = len(known) - len(rows)
    what = "average precision" if card.input.multi_label else "accuracy"
    return f"Test {what} of each class, the greatest losses first.\n\n{losses}" + (
        f"\n\n{more} more are in `{CARD_FILE}`." if more else ""
    )


def _latency(card: Card) -> str:
    rows = []
    for row in card.latency:
        dense, pruned = row.comparison.dense, row.comparison.pruned
        times = (f"{latency.median_ms:.3g} ± {latency.iqr_ms:.1g}" for latency in (pruned, dense))
        throughput = f"{pruned.images_per_second:,.0f}"
        rows.append((row.runtime, str(pruned.batch_size), *times, f"{row.comparison.speedup:.2f}x", throughput))
    threads = ", ".join(sorted({str(row.comparison.pruned.num_threads) for row in card.latency}))
    return (
        f"Milliseconds for one batch, median ± distance between the quartiles, on {threads} CPU thread(s) of "
        f"{card.processor}; both networks measured in turn in one process, after warming up. On a GPU the times are "
        "those between events on its own clock.\n\n"
        + table(("runtime", "batch", "this network", "teacher", "speed-up", "images/s"), rows)
    )


def _input(card: Card) -> str:
    spec = card.input
    names = ", ".join(as_code(name) for name in spec.class_names[:_MAX_NAMES_SHOWN])
    several = ", each a yes or no of its own by its sigmoid" if spec.multi_label else ""
    more = f" … ({spec.num_classes} in all, in `{CARD_FILE}`)" if spec.num_classes > _MAX_NAMES_SHOWN else ""
    return (
        f"{HOW_IMAGES_ARE_MADE[card.data.name]}; batch x {spec.channels} x {spec.image_size} x {spec.image_size}. "
        f"{_normalised(card)}, and gives one logit a class{several}.\n\n"
        f"- mean: `{list(spec.mean)}`\n- standard deviation: `{list(spec.std)}`\n- classes: {names}{more}"
    )


def _normalised(card: Card) -> str:
    how = "divided by 255, the mean is taken from them, and the rest is divided by the standard deviation"
    if card.pixels == "normalised":
        return f"Pixels are {how}; the network takes the result as float32"
    native = f"; that of `{WEIGHTS_FILE}` takes what comes of that, as float32" if WEIGHTS_FILE in card.files else ""
    return f"The network takes pixels as uint8, 0 … 255. Inside, they are {how}{native}"


def _use(card: Card) -> str:
    parts = []
    if WEIGHTS_FILE in card.files:
        own = _own_code(card) if is_import_path(card.model.name) else ""
        parts.append(f"With PyTorch, where this project is installed{own}:\n\n```python\n{native_snippet(card)}```")
    if PROGRAM_FILE in card.files:
        parts.append(
            "With PyTorch alone, if you trust where the file is from: `torch.export.load` may run what a file says. "
            f'Where this project is installed, `trainables.load("{PROGRAM_FILE}")` checks the file first and gives the '
            f"same module.\n\n```python\n{program_snippet(card)}```"
        )
    onnx = [file for file in (ONNX_FILE, INT8_FILE) if file in card.files]
    if onnx:
        both = f"; `{INT8_FILE}` is used likewise" if len(onnx) > 1 else ""
        parts.append(
            f"With ONNX Runtime (`pip install onnxruntime numpy`){both}:\n\n```python\n{onnx_snippet(card, onnx[0])}```"
        )
    return "\n\n".join(parts)


def _own_code(card: Card) -> str:
    """Whose the function is that builds the network, and which files do without it."""
    module, function = card.model.name.split(":")
    others = [f"`{file}`" for file in (PROGRAM_FILE, ONNX_FILE, INT8_FILE) if file in card.files]
    without = f"; {', '.join(others)} {'need' if len(others) > 1 else 'needs'} no such code" if others else ""
    return f". `{function}` is of the author's own module `{module}`, which is needed and not in this folder{without}"


def native_snippet(card: Card) -> str:
    """Python that loads the network and classifies one batch; it runs in the exported folder."""
    name = card.model.name
    imports, load = "import trainables\n", 'trainables.load(".")  # this folder'
    if is_import_path(name):
        module, function = name.split(":")
        imports += f"from {module} import {function}\n"
        load = f'trainables.load(".", builder={function})  # this folder'
    return _torch_snippet(card.input, f"{imports}\n", load, pixels="normalised")


def program_snippet(card: Card) -> str:
    """Python that classifies one batch in PyTorch, without this project; it runs in the exported folder."""
    return _torch_snippet(card.input, "", f'torch.export.load("{PROGRAM_FILE}").module()', pixels=card.pixels)


def _torch_snippet(spec: InputSpec, imports: str, load: str, *, pixels: Pixels) -> str:
    raw = pixels == "raw"
    constants = (
        f"mean = torch.tensor({list(spec.mean)}).view(-1, 1, 1)\nstd = torch.tensor({list(spec.std)}).view(-1, 1, 1)\n"
    )
    return (
        f"import torch\n\n{imports}{'' if raw else constants}"
        f"pixels = torch.zeros(1, {spec.channels}, {spec.image_size}, {spec.image_size}, dtype=torch.uint8)"
        "  # your images, 0 … 255\n\n"
        f"network = {load}\n"
        "with torch.inference_mode():\n"
        f"    logits = network({'pixels' if raw else '(pixels / 255 - mean) / std'})\n"
        f"print({'logits.sigmoid() > 0.5' if spec.multi_label else 'logits.argmax(1)'})\n"
    )


def onnx_snippet(card: Card, file: str = ONNX_FILE) -> str:
    """Python that classifies one batch in ONNX Runtime; it runs in the exported folder."""
    spec = card.input
    raw = card.pixels == "raw"
    constants = (
        f"mean = np.array({list(spec.mean)}, np.float32).reshape(-1, 1, 1)\n"
        f"std = np.array({list(spec.std)}, np.float32).reshape(-1, 1, 1)\n"
    )
    return (
        f"import numpy as np\nimport onnxruntime\n\n{'' if raw else constants}"
        f"pixels = np.zeros((1, {spec.channels}, {spec.image_size}, {spec.image_size}), np.uint8)"
        "  # your images, 0 … 255\n\n"
        f'session = onnxruntime.InferenceSession("{file}")\n'
        f"images = {'pixels' if raw else '(pixels.astype(np.float32) / 255 - mean) / std'}\n"
        '(logits,) = session.run(["logits"], {"images": images})\n'
        f"print({'logits > 0' if spec.multi_label else 'logits.argmax(1)'})"
        f"{'  # where the sigmoid is above one half' if spec.multi_label else ''}\n"
    )


def _verification(card: Card) -> str:
    checked = card.verification
    rows = [
        (
            f"`{check.file}`",
            f"{check.max_difference:.1e}" + (", tensors equal bit for bit" if check.identical else ""),
            percent(check.agreement, 2),
            percent(check.test_accuracy, 2),
            f"{check.macs:,}",
            f"{check.params:,}",
        )
        for check in checked.files
    ]
    header = ("file", "largest difference", card.agreement, f"test {card.metric}", "MACs", "parameters")
    calibrated = (
        f" `{INT8_FILE}` has weights in seven bits and activations in eight, their ranges from "
        f"{card.num_calibration_images} training images."
        if INT8_FILE in card.files
        else ""
    )
    return (
        "Each file was read back by a process of its own and compared with the network that the search found, on "
        f"{checked.num_images:,} test images in batches of 1, 3, 64 and what is left. The largest logit is "
        f"{checked.max_logit:.3g}. MACs and parameters were counted in the file; batch norm is folded into the "
        f"convolutions before it in all but `{WEIGHTS_FILE}`.{calibrated}\n\n" + table(header, rows)
    )


def _origin(card: Card) -> str:
    files = "\n".join(
        f"- `{name}`: {facts.bytes:,} bytes, SHA-256 `{facts.sha256}`" for name, facts in card.files.items()
    )
    versions = ", ".join(f"{name} {version}" for name, version in card.versions.items())
    cascade = json.dumps(card.cascade.to_dict(), indent=1)
    return (
        f"Level {card.level} of {card.cascade.num_levels} of the cascade of trial {card.trial} of the search "
        f"`{card.search_name}`: {made(card.cascade)}.\n\n```json\n{cascade}\n```\n\nFiles:\n\n{files}\n\n"
        f"Versions: {versions}."
    )
