"""What `shards.json` says of a data set in shards, as `cascade data` writes it: Arrow files of images and of labels."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pyarrow as pa

from trainables.errors import InputError, first_line
from trainables.plain import PlainConfig, require, require_int, require_one_of

FILE = "shards.json"
VERSION = 1
PartName = Literal["train", "val", "test"]
PARTS: tuple[PartName, ...] = ("train", "val", "test")
Labels = Literal["one", "several"]
"""Whether an image has one label, or several or none."""

_FILE_NAME = re.compile(r"[a-z]+-([0-9]{5,}|labels)\.arrow")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
        labels: a file of the labels alone, of all images in their order, for who needs no image; sets that were made
            before there was one have `None`.
    """

    counts: tuple[int, ...]
    shards: tuple[Shard, ...]
    labels: Shard | None = None

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
            labelled = part.num_images if part.labels is None else part.labels.num_images
            require(labelled == part.num_images, f"part {name} has {part.num_images} images, but {labelled} labels")
        files = [shard.file for shard, _ in self.files()]
        require(len(set(files)) == len(files), "a file is named twice")  # its images would be in two parts

    def files(self) -> Iterator[tuple[Shard, Any]]:
        """All files of all parts, with the schema of each."""
        schema, label_schema = schema_of(self.labels), label_schema_of(self.labels)
        for part in self.parts.values():
            yield from ((shard, schema) for shard in part.shards)
            if part.labels is not None:
                yield part.labels, label_schema

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
                name: Part(
                    counts=tuple(part["counts"]),
                    shards=tuple(Shard.from_dict(each) for each in part["shards"]),
                    labels=None if part.get("labels") is None else Shard.from_dict(part["labels"]),
                )
                for name, part in values["parts"].items()
            }
            skipped = tuple(Skipped.from_dict(image) for image in values["skipped"])
            return cls(labels=values["labels"], class_names=tuple(values["class_names"]), parts=parts, skipped=skipped)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{type(error).__name__} {first_line(error)}: a key is missing or of another type"
            ) from error


def is_file_name(name: str) -> bool:
    """Whether a shard or a file of labels has such a name."""
    return bool(_FILE_NAME.fullmatch(name))


def schema_of(labels: Labels) -> Any:  # noqa: ANN401 - Arrow's
    """Columns of shards: the encoded image, what an error calls it, and its label or labels."""
    label = pa.field("label", pa.int64()) if labels == "one" else pa.field("labels", pa.list_(pa.int64()))
    return pa.schema([pa.field("image", pa.binary()), pa.field("name", pa.string()), label])


def label_schema_of(labels: Labels) -> Any:  # noqa: ANN401 - Arrow's
    """The column of a file of labels."""
    return pa.schema([schema_of(labels).field(2)])
