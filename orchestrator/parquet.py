"""CIFAR-10 and CIFAR-100 as Parquet files of encoded images, the form in which hubs of data sets serve them.

The folder holds one or several files with `train` in their name and one or several with `test`. Columns: `img` or
`image`, a struct whose `bytes` are one encoded 32x32 image, and `label`, or `fine_label` for CIFAR-100.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from trainables.config import DataConfig
from trainables.data import ImageSet, Source
from trainables.errors import InputError, first_line
from trainables.sources import Part, data_folder, decode_image

_SHAPE = (3, 32, 32)
_ROWS_A_BATCH = 4096
_IMAGE_COLUMNS = ("img", "image")
_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Format:
    """What the files of one data set look like: names of the label's column, best first, and of the classes."""

    label_columns: tuple[str, ...]
    class_names: tuple[str, ...]


_FORMATS = {
    "cifar10": _Format(label_columns=("label",), class_names=_CIFAR10_CLASSES),
    "cifar100": _Format(
        label_columns=("fine_label", "label"), class_names=tuple(f"class-{label:02d}" for label in range(100))
    ),
}


def has_parquet(path: Path) -> bool:
    """Tell whether the folder `path` holds Parquet files; a path that is no folder holds none."""
    return path.is_dir() and any(path.glob("*.parquet"))


def read_train(config: DataConfig) -> Source:
    """All images that are not test images: validation is still among them.

    Args:
        config: of `cifar10` or `cifar100`.

    Raises:
        InputError: if files, columns or rows are missing or not what they must be; names file and row, from 0.
    """
    return _read(config, "train")


def read_test(config: DataConfig) -> Source:
    """The test images, which only export and report may see.

    Args:
        config: of `cifar10` or `cifar100`.

    Raises:
        InputError: if files, columns or rows are missing or not what they must be; names file and row, from 0.
    """
    return _read(config, "test")


def _read(config: DataConfig, part: Part) -> Source:
    expected = _FORMATS[config.name]
    images: list[torch.Tensor] = []
    labels: list[int] = []
    class_names = expected.class_names
    for file in _files(config, part):
        with _one_line_errors(file), pq.ParquetFile(file) as parquet:
            image_column, label_column = _columns(parquet.schema_arrow, expected, file)
            class_names = _names_in_metadata(parquet.schema_arrow, label_column, expected)
            first_row = 0
            columns = [f"{image_column}.bytes", label_column]
            for batch in parquet.iter_batches(batch_size=_ROWS_A_BATCH, columns=columns):
                encoded = batch.column(image_column).field("bytes")
                labels += _labels(batch.column(label_column), len(class_names), file, first_row)
                images.append(_decoded(encoded, file, first_row))
                first_row += batch.num_rows
    if not images:
        raise InputError(f"{config.path} has no rows in its {part} files of {config.name}; fetch them again")
    image_set = ImageSet(images_NCHW=torch.cat(images), labels_N=torch.tensor(labels, dtype=torch.int64))
    return Source(images=image_set, class_names=class_names)


def require_both_parts(config: DataConfig) -> None:
    """Check that test files are there too, by their names, before a search is spent on finding out.

    Raises:
        InputError: if the train or test files are missing.
    """
    _files(config, "train")
    _files(config, "test")


def _files(config: DataConfig, part: Part) -> list[Path]:
    """The part's files, sorted by name; none is of both parts, whatever name or link it goes by."""
    folder = data_folder(config)
    train, test = ({file.resolve() for file in folder.glob(f"*{name}*.parquet")} for name in ("train", "test"))
    for file in sorted(train & test):
        raise InputError(f"{file} is both a train and a test file; a file's name must hold one of the two words")
    files = train if part == "train" else test
    if not files:
        raise InputError(f"data.path is {folder}, but has no file *{part}*.parquet; put {config.name}'s there")
    return sorted(files)


@contextmanager
def _one_line_errors(file: Path) -> Iterator[None]:
    """Say in one line what Arrow could not read."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read as Parquet ({first_line(error)}); fetch it again") from error


def _columns(schema: Any, expected: _Format, file: Path) -> tuple[str, str]:
    """Names of the columns of image and label."""
    found = []
    for allowed in (_IMAGE_COLUMNS, expected.label_columns):
        names = [name for name in allowed if name in schema.names]
        if not names:
            raise InputError(f"{file} has no column {' or '.join(allowed)}; columns found: {', '.join(schema.names)}")
        found.append(names[0])
    image_type, label_type = (schema.field(name).type for name in found)
    if not (pa.types.is_struct(image_type) and image_type.get_field_index("bytes") >= 0):
        raise InputError(f"column {found[0]} of {file} is {image_type}, but must be a struct with a field bytes")
    if not pa.types.is_integer(label_type):
        raise InputError(f"column {found[1]} of {file} is {label_type}, but must hold whole numbers")
    return found[0], found[1]


def _names_in_metadata(schema: Any, label_column: str, expected: _Format) -> tuple[str, ...]:
    """Class names as the hub's metadata give them, or the usual ones where they do not."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = tuple(str(name) for name in features[label_column]["names"])
    except (KeyError, TypeError, ValueError):
        return expected.class_names
    return names if len(names) == len(expected.class_names) else expected.class_names


def _labels(column: Any, num_classes: int, file: Path, first_row: int) -> list[int]:
    labels: list[int | None] = column.to_pylist()
    checked = []
    for row, label in enumerate(labels, start=first_row):
        if label is None or not 0 <= label < num_classes:
            raise InputError(f"label of row {row} of {file} is {label}, but must be in 0 … {num_classes - 1}")
        checked.append(label)
    return checked


def _decoded(encoded: Any, file: Path, first_row: int) -> torch.Tensor:
    """uint8 images (N, 3, 32, 32) of a column of encoded bytes."""
    images_NCHW = torch.empty(len(encoded), *_SHAPE, dtype=torch.uint8)
    # One after the other: at this size threads wait for the interpreter, and take longer than one alone.
    for index in range(len(encoded)):
        name = f"image of row {first_row + index} of {file}"
        data = encoded[index].as_py()
        if data is None:
            raise InputError(f"{name} has no bytes, but must hold an encoded image; fetch the file again")
        pixels = decode_image(data, name=name)
        if pixels.shape != _SHAPE:
            raise InputError(f"{name} has shape {tuple(pixels.shape)}, but must have {_SHAPE}")
        images_NCHW[index] = pixels
    return images_NCHW
