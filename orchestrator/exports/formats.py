"""What an export can be asked for: formats, what they take, in which runtimes they are measured. Light: no torch."""

import importlib.util
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from trainables.data_config import Pixels
from trainables.errors import InputError
from trainables.plain import require_int, require_number, require_one_of

Format = Literal["native", "onnx", "pt2", "int8"]
FORMATS: tuple[Format, ...] = get_args(Format)
DEFAULT_FORMATS: tuple[Format, ...] = ("native", "onnx")

Runtime = Literal["eager", "compiled", "onnxruntime"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
DEFAULT_RUNTIMES: tuple[Runtime, ...] = ("eager", "onnxruntime")

PIXELS: tuple[Pixels, ...] = get_args(Pixels)

OPSETS = range(18, 26)
"""Versions of ONNX's operators that networks are written in."""
DEFAULT_OPSET = 18

ONNX_FILE = "model.onnx"
INT8_FILE = "model.int8.onnx"
PROGRAM_FILE = "model.pt2"
NATIVE_FILES = ("architecture.json", "weights.safetensors")
FILES: Mapping[Format, tuple[str, ...]] = {
    "native": NATIVE_FILES,
    "onnx": (ONNX_FILE,),
    "pt2": (PROGRAM_FILE,),
    "int8": (INT8_FILE,),
}
"""The files of each format."""

CARD_FILE = "card.json"
README_FILE = "README.md"
README_KEY = "readme_sha256"  # of the card for programs, about the one for people
CARD_FORMAT = "cascade-card"
CARD_VERSION = 2

_LICENSE = re.compile(r"[A-Za-z0-9][\w.+-]{0,60}")
_ONNX_FORMATS = ("onnx", "int8")
_ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """How candidates are exported.

    Attributes:
        formats: `native` (`trainables.load` reads it), `onnx`, `pt2` (`torch.export`), `int8` (ONNX in eight bits).
        pixels: what all but `native` take: `normalised` float32 images, or `raw` uint8 pixels, normalised inside.
        opset: version of ONNX's operators, within `OPSETS`.
        runtimes: where latency is measured; empty for nowhere.
        num_threads: CPU threads that latency is measured on, at least 1.
        min_seconds: time that each of the latencies is measured for, above 0.
        license_name: for the card, such as `apache-2.0`.
    """

    formats: tuple[Format, ...] = DEFAULT_FORMATS
    pixels: Pixels = "normalised"
    opset: int = DEFAULT_OPSET
    runtimes: tuple[Runtime, ...] = DEFAULT_RUNTIMES
    num_threads: int = 1
    min_seconds: float = 0.5
    license_name: str | None = None

    def __post_init__(self) -> None:
        """Check every value, and that what the formats need is installed.

        Raises:
            InputError: naming the option, the rule and the value, or the missing package and how to install it.
        """
        if self.license_name is not None and _LICENSE.fullmatch(self.license_name) is None:
            raise InputError(f"license is {self.license_name!r}, but must be an identifier such as apache-2.0 or other")
        _require_some("formats", self.formats, FORMATS)
        if self.runtimes:
            _require_some("latency", self.runtimes, RUNTIMES, otherwise="; or none alone")
        require_one_of("input", self.pixels, PIXELS)
        require_int("threads", self.num_threads, at_least=1)
        require_number("min_seconds", self.min_seconds, above=0)
        if self.opset not in OPSETS:
            raise InputError(
                f"opset is {self.opset!r}, but must be within {OPSETS[0]} … {OPSETS[-1]}; "
                f"{DEFAULT_OPSET} runs in most runtimes"
            )
        if self.runtimes == ("onnxruntime",) and not self.needs_onnx:
            raise InputError(
                f"latency is onnxruntime alone, but formats are {', '.join(self.formats)}, and none of them is an ONNX "
                "file; add onnx to --formats, or measure in eager or none"
            )
        if self.needs_onnx:
            require_onnx()

    @property
    def needs_onnx(self) -> bool:
        """Whether any format is an ONNX file."""
        return any(name in self.formats for name in _ONNX_FORMATS)

    @property
    def needs_trace(self) -> bool:
        """Whether any format is made from a traced network."""
        return self.formats != ("native",)


def listed(texts: Iterable[str]) -> tuple[str, ...]:
    """The words of lists with commas, each once; `none` is the empty list."""
    words = tuple(dict.fromkeys(word.strip() for text in texts for word in text.split(",") if word.strip()))
    return () if words == ("none",) else words


def _require_some(name: str, given: Iterable[str], known: tuple[str, ...], *, otherwise: str = "") -> None:
    words = tuple(given)
    if not words or any(word not in known for word in words):
        raise InputError(f"{name} are {', '.join(words) or 'empty'}, but must be some of {', '.join(known)}{otherwise}")
    if len(set(words)) < len(words):
        raise InputError(f"{name} are {', '.join(words)}, but each must be there once")


def require_onnx() -> None:
    """Check that what ONNX needs is installed, and have its runtime tell nobody of its use; before that is imported.

    Raises:
        InputError: naming what is missing and how to install it.
    """
    # ONNX Runtime, as it is imported, would number the machine in the user's home, and queue events for its maker.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{' and '.join(missing)} not installed, but needed to export ONNX; "
            'run: pip install "cascade-pruning[export]", or export with --formats native,pt2'
        )
