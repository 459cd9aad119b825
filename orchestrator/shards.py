"""Data sets in shards, as `cascade data` writes them: Arrow files of encoded images, and `shards.json` that names them.

A shard is memory-mapped, so that any image is read by itself, and processes of a machine share what was read. What
`shards.json` says of the files is looked at before a search starts. Shape legend as in `trainables.images`.
"""

import dataclasses
import json
import platform
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import pyarrow as pa
import torch

from trainables.errors import InputError, first_line
from trainables.plain import PlainConfig, require, require_int, require_one_of

FILE = "shards.json"
VERSION = 1
PartName = Literal["train", "val", "test"]
PARTS: tuple[PartName, ...] = ("train", "val", "test")
Labels = Literal["one", "several"]
"""Whether an image has one label, or several or none."""

_FILE_NAME = re.compile(r"[a-z]+-[0-9]{5,}\.arrow")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_OPEN_SHARDS = 64  # maps that a process keeps; a window of a pass has fewer
_MEND = "make the set again with `cascade data`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard(PlainConfig):
    """One file.

    Attributes:
        file: its name in the folder.
        num_images: rows.
        num_bytes: of the file.
        sha256: of the file.
    """

    file: str
    num_images: int
    num_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        """Check that the file is one of the folder's.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        for name, value, pattern in (("file", self.file, _FILE_NAME), ("sha256", self.sha256, _SHA256)):
            require(isinstance(value, str) and bool(pattern.fullmatch(value)), f"{name} of a shard is {value!r}")
        require_int("num_images of a shard", self.num_images, at_least=1)
        require_int("num_bytes of a shard", self.num_bytes, at_least=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Training, validation or test images.

    Attributes:
        counts: images of each class, in the order of labels.
        shards: the files.
    """

    counts: tuple[int, ...]
    shards: tuple[Shard, ...]

    @property
    def num_images(self) -> int:
        """Images in all shards."""
        return sum(shard.num_images for shard in self.shards)


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped(PlainConfig):
    """An image that could not be used when the set was made.

    Attributes:
        name: where it was.
        reason: what was wrong, with the name.
    """

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSet:
    """What `shards.json` says.

    Attributes:
        labels: whether an image has `one` label, or `several` or none.
        class_names: in the order of labels.
        parts: images by the part that they are for.
        skipped: images that were left out.
    """

    labels: Labels
    class_names: tuple[str, ...]
    parts: Mapping[PartName, Part]
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        """Check that it can be trained on.

        Raises:
            InputError: naming the rule.
        """
        require_one_of("labels", self.labels, get_args(Labels))
        names = self.class_names
        require(len(names) >= 2 and all(isinstance(name, str) for name in names), "fewer than two classes are named")
        require("train" in self.parts and set(self.parts) <= {*PARTS}, f"parts are {', '.join(self.parts)}")
        for name, part in self.parts.items():
            require(len(part.shards) > 0, f"part {name} has no shards")
        files = [shard.file for part in self.parts.values() for shard in part.shards]
        require(len(set(files)) == len(files), "a file is named twice")  # its images would be in two parts

    @property
    def schema(self) -> Any:  # noqa: ANN401 - Arrow's
        """Of every shard."""
        return schema_of(self.labels)

    def to_json(self) -> str:
        """The content of `shards.json`."""
        return json.dumps({"version": VERSION, **dataclasses.asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "ShardSet":
        """Make one from such a content.

        Raises:
            InputError: naming what is wrong.
        """
        values = json.loads(text)
        version = values.get("version") if isinstance(values, dict) else None
        require(version == VERSION, f"version is {version!r}, but must be {VERSION}")
        try:
            parts = {
                name: Part(counts=tuple(part["counts"]), shards=tuple(Shard.from_dict(each) for each in part["shards"]))
                for name, part in values["parts"].items()
            }
            skipped = tuple(Skipped.from_dict(image) for image in values["skipped"])
            return cls(labels=values["labels"], class_names=tuple(values["class_names"]), parts=parts, skipped=skipped)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{type(error).__name__} {first_line(error)}: a key is missing or of another type"
            ) from error


def schema_of(labels: Labels) -> Any:  # noqa: ANN401 - Arrow's
    """Columns of shards: the encoded image, what an error calls it, and its label or labels."""
    label = pa.field("label", pa.int64()) if labels == "one" else pa.field("labels", pa.list_(pa.int64()))
    return pa.schema([pa.field("image", pa.binary()), pa.field("name", pa.string()), label])


def read_set(folder: Path) -> ShardSet:
    """What a folder holds, once every file was found as `shards.json` says.

    Raises:
        InputError: naming the file that is missing, cut short, or of another schema.
    """
    path = folder / FILE
    try:
        found = ShardSet.from_json(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{folder} has no {FILE}, so it is no set of shards; make one with `cascade data`") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}); {_MEND}") from error
    for part in found.parts.values():
        for shard in part.shards:
            _check_shard(folder / shard.file, shard, found.schema)
    return found


def _check_shard(path: Path, shard: Shard, schema: Any) -> None:
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
    except (pa.ArrowException, OSError, ValueError) as error:  # the last of a file without batches
        raise InputError(f"{path} cannot be read as Arrow ({first_line(error)}); copy it again, or {_MEND}") from error


class ShardPlace(Protocol):
    """Where a set is; goes to other processes, on other machines too."""

    def here(self) -> Path:
        """The folder of the set on this machine.

        Raises:
            InputError: if it cannot be there.
        """


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """A set in a folder that every machine sees under the same name.

    Attributes:
        folder: its path.
    """

    folder: Path

    def here(self) -> Path:
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
        self._files = tuple(shard.file for shard in shards)
        self._open: OrderedDict[int, tuple[Any, Any]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

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
        return self._place.here() / self._files[number]

    def _columns(self, number: int) -> tuple[Any, Any]:
        if number not in self._open:
            batch = _mapped(self._path(number))
            self._open[number] = batch.column("image"), batch.column("name")
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]


def read_labels(folder: Path, found: ShardSet, part: PartName) -> torch.Tensor:
    """Labels of all images of a part: int64 of shape (N,), or bool of shape (N, K).

    Raises:
        InputError: if one is not of a class, naming the file.
    """
    num_classes = len(found.class_names)
    labels: list[torch.Tensor] = []
    for shard in found.parts[part].shards:
        path = folder / shard.file
        column = _mapped(path).column(2)
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
