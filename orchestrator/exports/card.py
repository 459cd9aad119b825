"""The facts of an exported network: what it is, how it was made, measured and verified.

They are written twice: `card.json` from here, for programs, and `README.md` for people (`orchestrator.exports.readme`).
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.data.classes import named
from orchestrator.exports.formats import CARD_FORMAT, CARD_VERSION, README_KEY
from orchestrator.exports.verify import Verification
from orchestrator.words import percent
from trainables.config import CascadeConfig
from trainables.data_config import DataConfig, Pixels
from trainables.files.input_spec import InputSpec
from trainables.hardware.latency import Comparison
from trainables.model_config import ModelConfig
from trainables.results import collapse_line, has_learnt

ONNX_RUNTIME: Mapping[str, str] = {"onnx": "ONNX Runtime", "int8": "ONNX Runtime, int8 against the teacher in float32"}
"""Runtimes of the two kinds of ONNX files, as rows of latency name them."""

_SAME_MACS = 0.01
_CLEARLY = 1.05  # times as long
_FAST_WIDTH = 8  # channels that CPU kernels compute at once, or a divisor of it


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkFacts:
    """What is known of one network.

    Attributes:
        test_accuracy: top-1 on the test images, in [0, 1]; macro mean average precision where they have several labels.
        val_accuracy: the same on the validation images, as the search measured it.
        macs: multiply-accumulates for one image.
        params: number of parameters.
        test_top5: part of the test images whose class is among the five most likely; `None` with five classes or less.
        test_class_accuracies: of each class, in the order of their names; average precisions where images have several
            labels; `None` for one without test images.
    """

    test_accuracy: float
    val_accuracy: float
    macs: int
    params: int
    test_top5: float | None = None
    test_class_accuracies: tuple[float | None, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyRow:
    """The teacher and the network, measured in one runtime.

    Attributes:
        runtime: such as `ONNX Runtime`.
        comparison: the teacher is dense, the network pruned.
    """

    runtime: str
    comparison: Comparison

    @property
    def label(self) -> str:
        """Where it was measured, such as `ONNX Runtime at batch 64`."""
        return f"{self.runtime} at batch {self.comparison.pruned.batch_size}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """What tells a file from any other.

    Attributes:
        bytes: its size.
        sha256: of its bytes, in hexadecimal digits.
    """

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """All facts of one exported network.

    Attributes:
        search_name: name of the search that found it.
        trial: number of its trial.
        level: 1 … L.
        cascade: what made it.
        model: which network the teacher is.
        data: the data set, as it was split.
        input: what the network takes.
        network: the exported network.
        teacher: the network that it was made from.
        latency: measured on `processor`; empty if it was not measured.
        verification: of the exported files.
        files: name → size and digest of the files that hold the network.
        processor: name of the CPU.
        versions: package → version.
        license_name: such as `apache-2.0`; `None` if none was given.
        fidelity: fraction of its planned epochs that went into it, in (0, 1]; below 1 if its trial was stopped early.
        search_id: tells the search from others of its name; empty if it has none.
        network_digest: of the tensors that the search found; empty if it was not taken.
        pixels: what all files but the native ones take.
        opset: version of ONNX's operators in ONNX files; `None` without any.
        num_calibration_images: training images that the int8 file's ranges are from; 0 without one.
        test_guess: test accuracy of who does not look at the images; `None` if it was not counted.
    """

    search_name: str
    trial: int
    level: int
    cascade: CascadeConfig
    model: ModelConfig
    data: DataConfig
    input: InputSpec
    network: NetworkFacts
    teacher: NetworkFacts
    latency: tuple[LatencyRow, ...]
    verification: Verification
    files: Mapping[str, FileFacts]
    processor: str
    versions: Mapping[str, str]
    license_name: str | None = None
    fidelity: float = 1.0
    search_id: str = ""
    network_digest: str = ""
    pixels: Pixels = "normalised"
    opset: int | None = None
    num_calibration_images: int = 0
    test_guess: float | None = None

    @property
    def name(self) -> str:
        """Such as `digits-search 3:2`."""
        return f"{self.search_name} {self.trial}:{self.level}"

    @property
    def metric(self) -> str:
        """What accuracies are called."""
        return "mean average precision" if self.input.multi_label else "accuracy"

    @property
    def agreement(self) -> str:
        """What a file and the network of the search are said to have in common."""
        return "same decisions" if self.input.multi_label else "same class"

    @property
    def macs_ratio(self) -> float:
        """How many times fewer MACs the network has than the teacher."""
        return self.teacher.macs / self.network.macs

    @property
    def params_ratio(self) -> float:
        """How many times fewer parameters the network has than the teacher."""
        return self.teacher.params / self.network.params

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before using the numbers, one sentence each."""
        slow = [row.label for row in self.latency if not row.comparison.is_faster]
        noisy = [row.label for row in self.latency if row.comparison.dense.is_noisy or row.comparison.pruned.is_noisy]
        slower = self._int8_slower()
        found = []
        if self.test_guess is not None and not has_learnt(self.teacher.test_accuracy, guess=self.test_guess):
            found.append(
                f"Its teacher has learnt nothing: the teacher's test {self.metric} is hardly better than guessing "
                f"({percent(self.test_guess)})."
            )
        if self.test_guess is not None and self.network.test_accuracy < collapse_line(
            guess=self.test_guess, teacher=self.teacher.test_accuracy
        ):
            found.append(
                f"It has collapsed: its test {self.metric} is nearer to guessing ({percent(self.test_guess)}) "
                "than to the teacher's."
            )
        unseen = [
            name
            for name, accuracy in zip(self.input.class_names, self.network.test_class_accuracies, strict=False)
            if accuracy is None
        ]
        if unseen:
            found.append(
                f"The test images have none of {named(unseen, len(self.input.class_names))}: the test {self.metric} "
                "says nothing of what is missing."
            )
        if self.fidelity < 1.0:
            found.append(
                f"Its trial was stopped early: {percent(self.fidelity, 0)} of the planned epochs went into it, "
                "and it would probably gain from the rest."
            )
        found += [
            f"{format} was asked for and is not delivered: {why}" for format, why in self.verification.refused.items()
        ]
        found += [
            f"`{check.file}` was counted to have {check.macs:,} MACs, and the network {self.network.macs:,}."
            for check in self.verification.files
            if abs(check.macs - self.network.macs) > _SAME_MACS * self.network.macs
        ]
        if slow:
            found.append(
                f"Fewer MACs did not make it measurably faster in {', '.join(slow)}.{self._advice_on_widths()} "
                "Measure it where it will run."
            )
        if slower:
            found.append(
                f"The int8 file is slower here than the same network's ONNX file at batch {slower}; take it for its "
                "size, or where int8 is fast."
            )
        if noisy:
            found.append(f"Times scattered by more than 10 % in {', '.join(noisy)}: other work ran on the machine.")
        return tuple(found)

    def _int8_slower(self) -> str:
        """Batches at which the int8 file takes clearly longer than the float32 one."""
        ms = {
            name: {
                row.comparison.pruned.batch_size: row.comparison.pruned.median_ms
                for row in self.latency
                if row.runtime == runtime
            }
            for name, runtime in ONNX_RUNTIME.items()
        }
        slow = [batch for batch in ms["int8"] if ms["int8"][batch] > _CLEARLY * ms["onnx"].get(batch, math.inf)]
        return " and ".join(map(str, slow))

    def _advice_on_widths(self) -> str:
        round_to = self.cascade.pruning.round_to
        if round_to % _FAST_WIDTH == 0:
            return ""
        return (
            f" Widths that are no multiple of {_FAST_WIDTH} run slowly in most runtimes, and this search allowed them "
            f"(`pruning.round_to: {round_to}`); search with {_FAST_WIDTH}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers, ready for JSON. Paths of this machine are left out."""
        return {
            "format": CARD_FORMAT,
            "version": CARD_VERSION,
            "search": self.search_name,
            "search_id": self.search_id,
            "trial": self.trial,
            "level": self.level,
            "fidelity": self.fidelity,
            "metric": self.metric,
            "num_levels": self.cascade.num_levels,
            "license": self.license_name,
            "network": asdict(self.network),
            "teacher": asdict(self.teacher),
            "macs_kept": self.network.macs / self.teacher.macs,
            "params_kept": self.network.params / self.teacher.params,
            "macs_ratio": self.macs_ratio,
            "params_ratio": self.params_ratio,
            "latency": [{"runtime": row.runtime, **row.comparison.to_dict()} for row in self.latency],
            "network_digest": self.network_digest,
            "processor": self.processor,
            "warnings": list(self.warnings),
            "verification": asdict(self.verification),
            "files": {name: asdict(facts) for name, facts in self.files.items()},
            "model": _without(self.model.to_dict(), "weights"),
            "data": _without(self.data.to_dict(), "path", "download"),
            "input": asdict(self.input),
            "pixels": self.pixels,
            "opset": self.opset,
            "num_calibration_images": self.num_calibration_images,
            "test_guess": self.test_guess,
            "cascade": self.cascade.to_dict(),
            "versions": dict(self.versions),
        }

    def to_json(self, readme: str) -> str:
        """Text of `card.json`.

        Args:
            readme: what `README.md` beside it says, by which a change of it is known.
        """
        plain = self.to_dict() | {README_KEY: hashlib.sha256(readme.encode()).hexdigest()}
        return json.dumps(plain, indent=1, ensure_ascii=False)


def _without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
