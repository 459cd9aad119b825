"""Mixes rows that are more than memory holds: dealt out to files at random, each of which is then drawn from at random.

Every order is as likely as any other (Rao 1961, Sandelius 1962), whatever order the rows come in.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

_FILE_BYTES = 128 * 2**20  # about, of which pages may lie in memory
_MOST_FILES = 128  # that are open at a time
_CHUNK = 256  # rows that are dealt out together


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """An image that goes into a shard."""

    name: str
    label: int | tuple[int, ...]
    encoded: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixing:
    """How rows are mixed.

    Attributes:
        seed: of the order.
        num_bytes: of all rows, about.
    """

    seed: int
    num_bytes: int


def columns_of(rows: Sequence[Row]) -> tuple[list[Any], list[Any], list[Any]]:
    """Rows as the columns of a shard."""
    return [row.encoded for row in rows], [row.name for row in rows], [row.label for row in rows]


def batch_of(columns: Sequence[Sequence[Any]], schema: Any) -> Any:  # noqa: ANN401 - Arrow's
    """Columns as a record batch."""
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)


class MixedRows:
    """Rows that lie in files until they are drawn, once."""

    def __init__(self, rows: Iterable[Row], mixing: Mixing, folder: Path, schema: Any) -> None:  # noqa: ANN401
        """Deal them out.

        Args:
            rows: all are taken.
            mixing: how.
            folder: which is there, for the files.
            schema: of shards.

        Raises:
            OSError: if the disk takes nothing.
        """
        self._draws = np.random.default_rng(mixing.seed)
        num_files = min(_MOST_FILES, 1 + mixing.num_bytes // _FILE_BYTES)
        self._files = [folder / f"{number}.arrows" for number in range(num_files)]
        with ExitStack() as stack:
            sinks = [stack.enter_context(pa.OSFile(str(file), "wb")) for file in self._files]
            writers = [stack.enter_context(pa.ipc.new_stream(sink, schema)) for sink in sinks]
            left = iter(rows)
            while chunk := list(itertools.islice(left, _CHUNK)):
                file_N = self._draws.integers(num_files, size=len(chunk)).tolist()
                for number in sorted(set(file_N)):
                    dealt = [row for row, file in zip(chunk, file_N, strict=True) if file == number]
                    writers[number].write_batch(batch_of(columns_of(dealt), schema))

    def __iter__(self) -> Iterator[Row]:
        """Draw them; each file goes once its rows are drawn, so that mixing takes no room beside the shards."""
        for file in self._files:
            table = pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
            encoded, names, labels = table.columns
            for place in self._draws.permutation(len(table)).tolist():
                label = labels[place].as_py()
                yield Row(
                    name=names[place].as_py(),
                    label=tuple(label) if isinstance(label, list) else label,
                    encoded=encoded[place].as_py(),
                )
            file.unlink()
