"""Markdown of tables, and of names whatever marks they have."""

import re
from collections.abc import Sequence


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table whose first column is text, and the others numbers."""
    rule = ("---", *("---:" for _ in header[1:]))
    lines = ([cell.replace("|", r"\|") for cell in row] for row in (header, rule, *rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_code(name: str) -> str:
    """A name as it is, in a line: between more backticks than it has in a row."""
    name = " ".join(name.splitlines())
    ticks = "`" * (1 + max(map(len, re.findall("`+", name)), default=0))
    space = " " if name != name.strip("` ") else ""  # one at each end is not shown
    return f"{ticks}{space}{name}{space}{ticks}"
