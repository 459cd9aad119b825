"""Writes shards: every image is decoded once, and what cannot be is counted, named and left out up to a limit."""

import itertools
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from orchestrator.data.shard_mixing import MixedRows, Row, batch_of, columns_of
from orchestrator.data.shard_sources import Entry, ShardSource, SourcePart
from orchestrator.data.shards import FILE, Part, PartName, Shard, ShardSet, Skipped, label_schema_of, schema_of
from orchestrator.storage.staging import Existing, disk_full, move, require_place, staging
from orchestrator.storage.whole_files import checksum_of
from trainables.datasets.decoding import decode_rgb
from trainables.errors import InputError
from trainables.plain import require_int

_QUALITY = 92  # of the JPEGs that shrunk images become
_CHUNK = 256  # images that are looked at together
_NAMED = 5  # unreadable images that a message names


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteOptions:
    """How shards are made.

    Attributes:
        shard_bytes: encoded images a shard, about; the last of a part has less.
        shorter_side: images whose shorter side is longer are shrunk to so many pixels and stored as JPEG; `None` stores
            all as they come.
        skip_corrupt: how many unreadable images may be left out.
        existing: whether a set that is there already is kept, which is an error, or replaced.
    """

    shard_bytes: int = 64 * 2**20
    shorter_side: int | None = None
    skip_corrupt: int = 0
    existing: Existing = "keep"

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: naming the option, the rule and the value.
        """
        require_int("shard_bytes", self.shard_bytes, at_least=1)
        require_int("skip_corrupt", self.skip_corrupt, at_least=0)
        if self.shorter_side is not None:
            require_int("shorter_side", self.shorter_side, at_least=8)


def write_shards(
    source: ShardSource, out: Path, options: WriteOptions, *, told: Callable[[PartName, int], None] = lambda *_: None
) -> ShardSet:
    """Write a source as a set of shards, which appears in one step once it is whole.

    Args:
        source: what is written.
        out: the folder to make.
        options: how.
        told: hears of every part how many of its images were looked at.

    Returns:
        What was written.

    Raises:
        InputError: if `out` is taken, more images than allowed cannot be read, or a class is left without any by that.
        OSError: if the disk fills up, or an image's file may not be read.
    """
    out = out.resolve()
    check_out(out, options.existing)
    with staging(out) as scratch, disk_full(scratch):
        package = scratch / "set"
        package.mkdir()
        skipped: list[Skipped] = []
        writers = {name: _PartWriter(package, name, source, options) for name in source.parts}
        parts = {name: writers[name].write(part, skipped, told) for name, part in source.parts.items()}
        _check_skipped(skipped, sum(part.num_images for part in source.parts.values()), options)
        _check_counts(parts, source.class_names, writers["train"].unreadable)
        written = ShardSet(labels=source.labels, class_names=source.class_names, parts=parts, skipped=tuple(skipped))
        (package / FILE).write_text(written.to_json(), encoding="utf-8")
        check_out(out, options.existing)  # it may have been taken meanwhile
        move(package, out, mark=FILE)
    return written


def check_out(out: Path, existing: Existing) -> None:
    """Check that the folder can be made, or that what is there may be replaced.

    Raises:
        InputError: naming what is there.
    """
    if out.is_mount():
        raise InputError(f"{out} is where a disk is mounted, which nothing can replace; choose a folder within it")
    require_place(out, existing, mark=FILE, what="set of shards", mend="choose another folder")


def _check_skipped(skipped: Sequence[Skipped], num_images: int, options: WriteOptions) -> None:
    if len(skipped) <= options.skip_corrupt:
        return
    first = "; ".join(image.reason for image in skipped[:_NAMED])
    more = f"; and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    raise InputError(
        f"{len(skipped)} of {num_images} images cannot be used, but --skip-corrupt allows {options.skip_corrupt}: "
        f"{first}{more}; mend or remove them, or leave them out with --skip-corrupt {len(skipped)}"
    )


def _check_counts(parts: Mapping[PartName, Part], class_names: Sequence[str], unreadable: Container[int]) -> None:
    """Check that what cannot be read leaves each part, and each class that training images show, with some."""
    for part_name, part in parts.items():
        if part.num_images == 0:
            raise InputError(f"no {part_name} image can be read; mend some, or leave out all {part_name} images")
    for label, (name, count) in enumerate(zip(class_names, parts["train"].counts, strict=True)):
        if count == 0 and label in unreadable:
            raise InputError(f"class {name} has no training image that can be read; add some or leave the class out")


def _classes(label: int | tuple[int, ...]) -> tuple[int, ...]:
    return (label,) if isinstance(label, int) else label


def _looked_at(entry: Entry, shorter_side: int | None) -> Row | Skipped:
    """The image, shrunk if it is to be; or why it cannot be used."""
    if entry.data is None:
        return Skipped(name=entry.name, reason=f"{entry.name} has no bytes")
    try:
        encoded = entry.data.read_bytes() if isinstance(entry.data, Path) else entry.data
        image = decode_rgb(encoded, name=entry.name)
        if shorter_side is not None and min(image.size) > shorter_side:
            encoded = _shrunk(image, shorter_side)
    except PermissionError:  # which is no damage that --skip-corrupt may leave out
        raise
    except (InputError, OSError) as error:
        return Skipped(name=entry.name, reason=str(error).removesuffix("; mend or remove it"))
    return Row(name=entry.name, label=entry.label, encoded=encoded)


def _shrunk(image: Image.Image, shorter_side: int) -> bytes:
    scale = shorter_side / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    buffer = BytesIO()
    image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


class _PartWriter:
    """Writes one part of a set, shard by shard.

    Attributes:
        unreadable: classes of images that cannot be used.
    """

    def __init__(self, folder: Path, name: PartName, source: ShardSource, options: WriteOptions) -> None:
        self.unreadable: set[int] = set()
        self._folder = folder
        self._name: PartName = name
        self._source = source
        self._options = options
        self._counts = [0] * len(source.class_names)
        self._shards: list[Shard] = []
        self._labels: list[int | tuple[int, ...]] = []

    def write(self, part: SourcePart, skipped: list[Skipped], told: Callable[[PartName, int], None]) -> Part:
        """Write all its images; those that cannot be used are added to `skipped`.

        Once there are more of them than may be, no shard is written any more, but all images are still looked at.
        """
        rows: Iterable[Row] = self._readable(part, skipped, told)
        if part.mixing is not None:
            folder = self._folder.with_name("mixing")
            folder.mkdir(exist_ok=True)
            rows = MixedRows(rows, part.mixing, folder, schema_of(self._source.labels))
            if len(skipped) > self._options.skip_corrupt:
                rows = ()
        self._write_shards(rows)
        schema = label_schema_of(self._source.labels)
        labels = self._write_file("labels", schema, [self._labels]) if self._labels else None
        return Part(counts=tuple(self._counts), shards=tuple(self._shards), labels=labels)

    def _readable(
        self, part: SourcePart, skipped: list[Skipped], told: Callable[[PartName, int], None]
    ) -> Iterator[Row]:
        """Images that go into shards, in order."""
        for entry, seen in self._seen(part, told):
            if isinstance(seen, Skipped):
                skipped.append(seen)
                self.unreadable.update(_classes(entry.label))
            elif len(skipped) <= self._options.skip_corrupt:
                yield seen

    def _seen(self, part: SourcePart, told: Callable[[PartName, int], None]) -> Iterator[tuple[Entry, Row | Skipped]]:
        """All images in order, decoded by several threads."""
        entries = part.entries()
        num_seen = 0
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            while chunk := list(itertools.islice(entries, _CHUNK)):
                seen = pool.map(lambda entry: _looked_at(entry, self._options.shorter_side), chunk)
                yield from zip(chunk, seen, strict=True)
                num_seen += len(chunk)
                told(self._name, num_seen)

    def _write_shards(self, rows: Iterable[Row]) -> None:
        of_shard: list[Row] = []
        num_bytes = 0
        for row in rows:
            of_shard.append(row)
            num_bytes += len(row.encoded)
            if num_bytes >= self._options.shard_bytes:
                self._write_shard(of_shard)
                of_shard, num_bytes = [], 0
        if of_shard:
            self._write_shard(of_shard)

    def _write_shard(self, rows: Sequence[Row]) -> None:
        shard = self._write_file(f"{len(self._shards):05d}", schema_of(self._source.labels), columns_of(rows))
        self._shards.append(shard)
        self._labels += [row.label for row in rows]
        for row in rows:
            for label in _classes(row.label):
                self._counts[label] += 1

    def _write_file(self, name: str, schema: Any, columns: Sequence[Sequence[Any]]) -> Shard:
        batch = batch_of(columns, schema)
        path = self._folder / f"{self._name}-{name}.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            writer.write_batch(batch)
        size = path.stat().st_size
        return Shard(file=path.name, num_images=batch.num_rows, num_bytes=size, sha256=checksum_of(path))
