"""What a benchmark found, and the table that shows it with its target."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One figure.

    Attributes:
        name: what was measured.
        figure: what came out.
        unit: of the figure and the target, such as `s`; empty for a ratio.
        rule: how the target bounds the figure; `none` for a figure that only explains others.
        target: the bound.
        note: what a reader needs to judge the figure.
    """

    name: str
    figure: float
    unit: str = ""
    rule: Literal["at most", "at least", "below", "none"] = "none"
    target: float = 0.0
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure keeps to its target; true where there is none."""
        return {
            "at most": self.figure <= self.target,
            "at least": self.figure >= self.target,
            "below": self.figure < self.target,
            "none": True,
        }[self.rule]


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Keep rows for another process to read."""
    path.write_text(json.dumps([asdict(row) for row in rows]))


def read_rows(path: Path) -> list[Row]:
    """Read what `write_rows` wrote."""
    return [Row(**row) for row in json.loads(path.read_text())]


def machine() -> str:
    """The processor, its cores and the versions that count."""
    import torch

    from trainables.hardware.machine import processor_name

    return f"{processor_name()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def table(rows: Sequence[Row]) -> str:
    """Plain text, one line a row: name, target, figure, whether it is met, note."""
    cells = [("what", "target", "figure", "", "note")]
    for row in rows:
        unit = f" {row.unit}" if row.unit else ""
        target = "" if row.rule == "none" else f"{row.rule} {row.target:g}{unit}"
        verdict = "" if row.rule == "none" else "met" if row.met else "MISSED"
        cells.append((row.name, target, f"{row.figure:.3g}{unit}", verdict, row.note))
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )
