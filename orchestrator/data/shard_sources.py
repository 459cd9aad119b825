"""What `cascade data` reads: folders of images, CIFAR's binary files, and Parquet files of encoded images.

Sources have images class by class. Those that are read by name or number come in an order that a seed shuffles; rows of
Parquet files come as they are stored, and are mixed as they are written.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from orchestrator.data.left_out import left_out_notes
from orchestrator.data.parquet_columns import (
    FORMATS,
    checked_labels,
    columns,
    files_of_parts,
    has_parquet,
    is_list,
    one_line_errors,
    own_class_names,
)
from orchestrator.data.shard_mixing import Mixing
from orchestrator.data.shards import FILE, PARTS, Labels, PartName
from orchestrator.words import counted, printable, storable
from trainables.datasets.sources import class_folders, image_files, part_folders
from trainables.errors import InputError

_ROWS_A_BATCH = 64  # of Parquet files: photographs, which may be large
_BUFFER_BYTES = 2**20  # of a Parquet file that are read at a time, or a whole row group is, which may be the file
_PIXELS = 3 * 32 * 32
_PICKLES = ("cifar-10-batches-py", "cifar-100-python")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One image of a source.

    Attributes:
        name: where it is, for messages.
        label: its class; or its classes where it may have several.
        data: encoded, or the file that holds it; `None` where the source has nothing.
    """

    name: str
    label: int | tuple[int, ...]
    data: bytes | Path | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePart:
    """Training, validation or test images of a source.

    Attributes:
        num_images: that `entries` gives.
        entries: reads them, in an order that is always the same.
        mixing: that they need, as they come in the order of their source; `None` where they come shuffled.
    """

    num_images: int
    entries: Callable[[], Iterator[Entry]]
    mixing: Mixing | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSource:
    """A data set to be turned into shards.

    Attributes:
        kind: for messages.
        class_names: in the order of labels.
        labels: whether an image has one label, or several or none.
        parts: training images, and the other parts that it has.
        notes: what people should know of it.
    """

    kind: str
    class_names: tuple[str, ...]
    labels: Labels
    parts: Mapping[PartName, SourcePart]
    notes: tuple[str, ...] = ()


def open_source(folder: Path, *, seed: int) -> ShardSource:
    """See what a folder holds; images are not read yet.

    Args:
        folder: of class folders, or of `train`, `val` and `test` with these; of CIFAR's binary files; or of Parquet
            files.
        seed: of the order.

    Raises:
        InputError: if it is not there, holds none of these, or they are incomplete.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} must be a folder that exists; images are read from it")
    if (folder / FILE).exists():
        raise InputError(f"{folder} is a set of shards already; give data.path to a search")
    if folder.name in _PICKLES or any((folder / name).is_dir() for name in _PICKLES):
        raise InputError(
            f"{folder} holds CIFAR as pickles, which can run code and are not opened; fetch the binary version, "
            "cifar-10-binary.tar.gz or cifar-100-binary.tar.gz, or Parquet files"
        )
    for name, read in (("cifar-10-batches-bin", _cifar10), ("cifar-100-binary", _cifar100)):
        if folder.name == name or (folder / name).is_dir():
            return read(folder if folder.name == name else folder / name, seed)
    return _parquet(folder, seed) if has_parquet(folder) else _imagefolder(folder, seed)


# Folders of images


def _imagefolder(folder: Path, seed: int) -> ShardSource:
    roots = part_folders(folder) or {"train": folder}
    class_names = tuple(item.name for item in class_folders(roots["train"]))
    if len(class_names) < 2:
        raise InputError(
            f"{roots['train']} has {counted(len(class_names), 'class folder')}, but must have at least 2; "
            "put images in one folder a class"
        )
    parts: dict[PartName, SourcePart] = {}
    for part, root in roots.items():
        files, labels_N = image_files(root, class_names)
        entries = tuple(
            Entry(name=printable(str(file.relative_to(folder))), label=label, data=file)
            for file, label in zip(files, labels_N.tolist(), strict=True)
        )
        parts[part] = SourcePart(num_images=len(entries), entries=_Shuffled(entries, seed))
    return ShardSource(
        kind="folders of images",
        class_names=tuple(map(storable, class_names)),
        labels="one",
        parts=parts,
        notes=tuple(left_out_notes(folder)),
    )


class _Shuffled:
    """Entries that are known already, in a shuffled order."""

    def __init__(self, entries: Sequence[Entry], seed: int) -> None:
        self._entries = entries
        self._seed = seed

    def __call__(self) -> Iterator[Entry]:
        order = np.random.default_rng(self._seed).permutation(len(self._entries))
        return (self._entries[index] for index in order.tolist())


# CIFAR


def _cifar10(folder: Path, seed: int) -> ShardSource:
    train = [folder / f"data_batch_{number}.bin" for number in range(1, 6)]
    return _cifar(folder, train, folder / "test_batch.bin", names="batches.meta.txt", num_labels=1, seed=seed)


def _cifar100(folder: Path, seed: int) -> ShardSource:
    train = [folder / "train.bin"]
    return _cifar(folder, train, folder / "test.bin", names="fine_label_names.txt", num_labels=2, seed=seed)


def _cifar(folder: Path, train: Sequence[Path], test: Path, *, names: str, num_labels: int, seed: int) -> ShardSource:
    """Rows of labels, the finest last, and 3072 bytes of pixels, channel by channel."""
    for file in (folder / names, *train, test):
        if not file.is_file():
            raise InputError(f"{file} is missing; fetch CIFAR's binary version again")
    class_names = tuple((folder / names).read_text(encoding="utf-8").split())
    if len(class_names) < 2:
        raise InputError(f"{folder / names} names {len(class_names)} classes, but must name at least 2")
    read = {"train": [_cifar_rows(file, num_labels, len(class_names)) for file in train]}
    read["test"] = [_cifar_rows(test, num_labels, len(class_names))]
    files: dict[PartName, Sequence[Path]] = {"train": train, "test": [test]}
    parts = {
        part: SourcePart(
            num_images=sum(len(rows) for rows in read[part]),
            entries=_CifarEntries(files[part], read[part], num_labels, seed),
        )
        for part in files
    }
    return ShardSource(kind="CIFAR's binary files", class_names=class_names, labels="one", parts=parts)


def _cifar_rows(file: Path, num_labels: int, num_classes: int) -> np.ndarray[Any, Any]:
    row = num_labels + _PIXELS
    size = file.stat().st_size
    if size == 0 or size % row:
        raise InputError(f"{file} has {size:,} bytes, but must have a multiple of {row:,}; fetch it again")
    rows_NB = np.memmap(file, dtype=np.uint8, mode="r").reshape(-1, row)
    largest = int(rows_NB[:, num_labels - 1].max())
    if largest >= num_classes:
        raise InputError(f"{file} has the label {largest}, but labels must be in 0 … {num_classes - 1}; fetch it again")
    return rows_NB


class _CifarEntries:
    """Pixels as PNG, which loses nothing."""

    def __init__(self, files: Sequence[Path], rows: Sequence[np.ndarray[Any, Any]], num_labels: int, seed: int) -> None:
        self._files = files
        self._rows = rows
        self._num_labels = num_labels
        self._seed = seed

    def __call__(self) -> Iterator[Entry]:
        places = [(number, row) for number, rows in enumerate(self._rows) for row in range(len(rows))]
        for index in np.random.default_rng(self._seed).permutation(len(places)).tolist():
            number, row = places[index]
            values = self._rows[number][row]
            pixels_HWC = values[self._num_labels :].reshape(3, 32, 32).transpose(1, 2, 0)
            encoded = BytesIO()
            Image.fromarray(np.ascontiguousarray(pixels_HWC)).save(encoded, "PNG")
            yield Entry(
                name=f"row {row} of {self._files[number].name}",
                label=int(values[self._num_labels - 1]),
                data=encoded.getvalue(),
            )


# Parquet


def _parquet(folder: Path, seed: int) -> ShardSource:
    files: dict[PartName, list[Path]] = {}
    found = files_of_parts(folder, PARTS)
    for part in PARTS:
        if found[part]:
            files[part] = found[part]
    if "train" not in files:
        raise InputError(f"{folder} has Parquet files, but none with train in its name; name the training files so")
    expected = FORMATS["parquet"]
    class_names = own_class_names(files["train"], expected)
    kinds: set[Labels] = set()
    parts: dict[PartName, SourcePart] = {}
    for part, of_part in files.items():
        num_images, num_bytes = 0, 0
        for file in of_part:
            with one_line_errors(file), pq.ParquetFile(file) as parquet:
                _, label_column = columns(parquet.schema_arrow, expected, file)
                kinds.add("several" if is_list(parquet.schema_arrow.field(label_column).type) else "one")
                about = parquet.metadata
                num_images += about.num_rows
                num_bytes += sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
        if num_images:
            entries = _ParquetEntries(of_part, len(class_names))
            mixing = Mixing(seed=seed, num_bytes=num_bytes)
            parts[part] = SourcePart(num_images=num_images, entries=entries, mixing=mixing)
    if "train" not in parts:
        raise InputError(f"{folder} has no rows in its train files; fetch them again")
    if len(kinds) > 1:
        raise InputError(f"{folder} has files with one label an image and others with lists of them")
    return ShardSource(kind="Parquet files", class_names=class_names, labels=kinds.pop(), parts=parts)


class _ParquetEntries:
    """Rows as files have them, some at a time: files are larger than memory, and often one row group each."""

    def __init__(self, files: Sequence[Path], num_classes: int) -> None:
        self._files = files
        self._num_classes = num_classes

    def __call__(self) -> Iterator[Entry]:
        for file in self._files:
            with (
                one_line_errors(file),
                pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False) as parquet,
            ):
                image_column, label_column = columns(parquet.schema_arrow, FORMATS["parquet"], file)
                taken, first_row = [f"{image_column}.bytes", label_column], 0
                for batch in parquet.iter_batches(batch_size=_ROWS_A_BATCH, columns=taken):
                    yield from self._of_batch(batch, image_column, label_column, file, first_row)
                    first_row += batch.num_rows

    def _of_batch(
        self, batch: Any, image_column: str, label_column: str, file: Path, first_row: int
    ) -> Iterator[Entry]:
        labels = checked_labels(batch.column(label_column), self._num_classes, file, first_row)
        encoded = batch.column(image_column).to_pylist()
        for row, (image, label) in enumerate(zip(encoded, labels, strict=True), start=first_row):
            yield Entry(
                name=f"row {row} of {file.name}",
                label=tuple(sorted(set(label))) if isinstance(label, list) else label,
                data=image and image["bytes"],
            )
