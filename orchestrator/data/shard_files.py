"""The files of a data set in shards, on this machine: looked at, memory-mapped, and read by number.

A shard is memory-mapped, so that any image is read by itself, and processes of a machine share what was read. What
`shards.json` says of the files is looked at before they are used. Shape legend as in `trainables.datasets.images`.
"""

import platform
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch

from orchestrator.data.shards import FILE, PartName, Shard, ShardSet
from trainables.errors import InputError, first_line, forbidden

_OPEN_SHARDS = 64  # maps that a process keeps; a window of a pass has fewer
_MEND = "make the set again with `cascade data`"


def read_set(folder: Path) -> ShardSet:
    """What a folder holds, once every file was found as `shards.json` says.

    Raises:
        InputError: naming the file that is missing, cut short, or of another schema.
    """
    path = folder / FILE
    try:
        found = ShardSet.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{folder} has no {FILE}, so it is no set of shards; make one with `cascade data`") from error
    except PermissionError as error:
        raise forbidden(path) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}); {_MEND}") from error
    for shard, schema in found.files():
        check_file(folder / shard.file, shard, schema)
    return found


def check_file(path: Path, shard: Shard, schema: Any) -> None:  # noqa: ANN401 - Arrow's
    """See that a file is what `shards.json` says, and can be mapped; its images are not read.

    Raises:
        InputError: naming what is amiss.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} is missing, but {FILE} names it; put it back, or {_MEND}") from error
    if size != shard.num_bytes:
        raise InputError(f"{path} has {size:,} bytes, but {FILE} says {shard.num_bytes:,}; copy it again, or {_MEND}")
    batch = _mapped(path)
    if batch.schema != schema:
        found, wanted = (", ".join(f"{field.name}: {field.type}" for field in each) for each in (batch.schema, schema))
        raise InputError(f"{path} has the columns {found}, but must have {wanted}; put its own back, or {_MEND}")
    if batch.num_rows != shard.num_images:
        raise InputError(f"{path} has {batch.num_rows} images, but {FILE} says {shard.num_images}; {_MEND}")
    try:
        batch.validate(full=True)  # or an offset might point anywhere; images themselves are not read
    except pa.ArrowException as error:
        raise InputError(f"{path} is damaged ({first_line(error)}); copy it again, or {_MEND}") from error
    empty = [name for name, column in zip(batch.schema.names, batch.columns, strict=True) if _lacks(column)]
    if empty:
        raise InputError(f"{path} lacks values in its column {empty[0]}; {_MEND}")


def _lacks(column: Any) -> bool:
    """Whether there is no value in some row, or in some row's list."""
    return bool(column.null_count or (pa.types.is_list(column.type) and column.flatten().null_count))


def _mapped(path: Path) -> Any:
    """The one record batch of a shard, memory-mapped."""
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is not there on {platform.node()}; every machine must see data.path under the same name"
        ) from error
    except PermissionError as error:
        raise forbidden(path) from error
    except (pa.ArrowException, OSError, ValueError) as error:  # the last of a file without batches
        raise InputError(f"{path} cannot be read as Arrow ({first_line(error)}); copy it again, or {_MEND}") from error


class ShardPlace(Protocol):
    """Where a set is; goes to other processes, on other machines too."""

    def found(self) -> ShardSet:
        """What the set holds; its files need not be on this machine.

        Raises:
            InputError: if there is no set, or a file that it names is not there.
        """

    def holding(self, files: Sequence[Shard]) -> Path:
        """A folder on this machine in which some files of the set are; they stay for as long as this object is there.

        Raises:
            InputError: if they cannot be there.
        """


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """A set in a folder that every machine sees under the same name.

    Attributes:
        folder: its path.
    """

    folder: Path

    def found(self) -> ShardSet:
        """What the folder holds, once every file was found as `shards.json` says."""
        return read_set(self.folder)

    def holding(self, files: Sequence[Shard]) -> Path:
        """The folder."""
        return self.folder


class ShardRows:
    """Encoded images of a part by their number, which goes on from shard to shard; each process maps files itself."""

    def __init__(self, place: ShardPlace, shards: Sequence[Shard]) -> None:
        """Nothing is opened yet.

        Args:
            place: of the set.
            shards: in the order of their images.
        """
        self.digest = ",".join(shard.sha256 for shard in shards)
        self.first_rows = np.cumsum([0, *(shard.num_images for shard in shards[:-1])], dtype=np.int64)
        self._place = place
        self._shards = tuple(shards)
        self._folder: Path | None = None
        self._open: OrderedDict[int, tuple[Any, Any]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_folder": None, "_open": OrderedDict()}

    def bring(self) -> None:
        """Have all shards on this machine.

        Raises:
            InputError: if they cannot be there.
        """
        if self._folder is None:
            self._folder = self._place.holding(self._shards)

    def encoded(self, row: int) -> tuple[bytes, str]:
        """The encoded image, and what an error calls it.

        Raises:
            InputError: if its shard is gone, or another machine's.
        """
        number = int(np.searchsorted(self.first_rows, row, side="right")) - 1
        images, names = self._columns(number)
        place = row - int(self.first_rows[number])
        return images[place].as_py(), f"image {names[place].as_py()} in {self._path(number)}"

    def _path(self, number: int) -> Path:
        self.bring()
        assert self._folder is not None
        return self._folder / self._shards[number].file

    def _columns(self, number: int) -> tuple[Any, Any]:
        if number not in self._open:
            batch = _mapped(self._path(number))
            self._open[number] = batch.column("image"), batch.column("name")
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]


def read_labels(place: ShardPlace, found: ShardSet, part: PartName) -> torch.Tensor:
    """Labels of all images of a part, from its file of labels where it has one: int64 of shape (N,), or bool (N, K).

    Raises:
        InputError: if one is not of a class, naming the file.
    """
    num_classes, own = len(found.class_names), found.parts[part].labels
    files = found.parts[part].shards if own is None else (own,)
    folder = place.holding(files)
    labels: list[torch.Tensor] = []
    for shard in files:
        path = folder / shard.file
        column = _mapped(path).columns[-1]
        several = found.labels == "several"
        classes_M = np.asarray(column.flatten() if several else column)
        if ((classes_M < 0) | (classes_M >= num_classes)).any():
            raise InputError(f"{path} has labels that are not in 0 … {num_classes - 1}; {_MEND}")
        if not several:
            labels.append(torch.tensor(classes_M, dtype=torch.int64))
            continue
        labels_NK = torch.zeros(shard.num_images, num_classes, dtype=torch.bool)
        rows_M = np.repeat(np.arange(shard.num_images), np.diff(np.asarray(column.offsets)))
        labels_NK[torch.from_numpy(rows_M), torch.tensor(classes_M)] = True
        labels.append(labels_NK)
    return torch.cat(labels)
