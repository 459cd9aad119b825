"""Markdown of words, of names whatever marks they have, and of tables."""

import re
from collections.abc import Sequence
from typing import Literal

from orchestrator.words import printable

# What Markdown takes for more than text: `<` and `&` where a tag or a character's name begins, `_` at a word's ends.
_MARKS = re.compile(r"[\\`*\[\]|~]|<(?=[a-zA-Z/!?])|&(?=#?\w+;)|(?<!\w)_|_(?!\w)")
_PIPE = re.compile(r"(?<!\\)\|")


def as_text(text: str) -> str:
    """Words for a line that shows them as they are, and what cannot be seen as `printable` does."""
    return _MARKS.sub(r"\\\g<0>", _in_a_line(text))


def as_code(name: str) -> str:
    """A name as it is, or `printable`, in a line: between more backticks than it has in a row."""
    name = _in_a_line(name)
    ticks = "`" * (1 + max(map(len, re.findall("`+", name)), default=0))
    space = " " if name != name.strip("` ") else ""  # one at each end is not shown
    return f"{ticks}{space}{name}{space}{ticks}"


def _in_a_line(text: str) -> str:
    return printable(" ".join(text.splitlines()))


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, others: Literal["numbers", "words"] = "numbers"
) -> str:
    """A table whose first column is words.

    Args:
        head: names of the columns, in Markdown.
        rows: as many cells each, in Markdown; what would end a cell is escaped where it is not.
        others: what the other columns are; numbers stand at the right.
    """
    rule = ("---", *("---:" if others == "numbers" else "---" for _ in head[1:]))
    lines = ([_PIPE.sub(r"\|", cell) for cell in row] for row in (head, rule, *rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
