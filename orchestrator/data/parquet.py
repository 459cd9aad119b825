"""Parquet files of encoded images, the form in which hubs of data sets serve them: CIFAR, and images of one's own.

The folder holds one or several files with `train` in their name and one or several with `test`. Columns: `img` or
`image`, a struct whose `bytes` are one encoded image (of 32x32 for CIFAR), and `label`, or `fine_label` for CIFAR-100.
Where images of one's own have several labels each, or none, `labels` is a list of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import torch

from orchestrator.data.parquet_columns import (
    FORMATS,
    ROWS_A_BATCH,
    checked_labels,
    columns,
    files_of_parts,
    is_list,
    names_in_metadata,
    one_line_errors,
    own_class_names,
)
from trainables.data_config import DataConfig
from trainables.datasets.decoding import decode_image, decode_square
from trainables.datasets.images import ImageSet, Source
from trainables.datasets.sources import Part, data_folder
from trainables.errors import InputError
from trainables.hardware.machine import require_room_for_images

_SHAPE = (3, 32, 32)


def read_train(config: DataConfig) -> Source:
    """All images that are not test images: validation is still among them, unless it has files of its own.

    Args:
        config: of `cifar10`, `cifar100` or `parquet`.

    Raises:
        InputError: if files, columns or rows are missing or not what they must be; names file and row, from 0.
    """
    return _read(config, "train")


def read_val(config: DataConfig) -> ImageSet | None:
    """The validation images, where there are files of them; `None` where they are held out of the training's.

    Args:
        config: of `cifar10`, `cifar100` or `parquet`.

    Raises:
        InputError: if files, columns or rows are missing or not what they must be; names file and row, from 0.
    """
    return _read(config, "val").images if _found(config)["val"] else None


def read_test(config: DataConfig) -> Source:
    """The test images, which only export and report may see.

    Args:
        config: of `cifar10`, `cifar100` or `parquet`.

    Raises:
        InputError: if files, columns or rows are missing or not what they must be; names file and row, from 0.
    """
    return _read(config, "test")


def _read(config: DataConfig, part: Part) -> Source:
    expected = FORMATS[config.name]
    images: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    class_names = expected.class_names or own_class_names(_files(config, "train"), expected)
    size = None if expected.class_names else config.image_size
    if size is not None:
        _require_room(_files(config, part), size)
    for file in _files(config, part):
        with one_line_errors(file), pq.ParquetFile(file) as parquet:
            image_column, label_column = columns(parquet.schema_arrow, expected, file)
            if expected.class_names:
                class_names = names_in_metadata(parquet.schema_arrow, label_column, len(class_names)) or class_names
            first_row = 0
            taken = [f"{image_column}.bytes", label_column]
            for batch in parquet.iter_batches(batch_size=ROWS_A_BATCH, columns=taken):
                encoded = batch.column(image_column).field("bytes")
                labels.append(_labels(batch.column(label_column), len(class_names), file, first_row))
                images.append(_decoded(encoded, file, first_row, size))
                first_row += batch.num_rows
    if not images:
        raise _no_rows(config, part)
    if len({part_of_labels.ndim for part_of_labels in labels}) > 1:
        raise InputError(f"{config.path} has {part} files with one label an image and others with lists of them")
    image_set = ImageSet(images_NCHW=torch.cat(images), labels_N=torch.cat(labels))
    return Source(images=image_set, class_names=class_names)


def require_both_parts(config: DataConfig) -> None:
    """Check that test files are there too, with their columns, labels and rows, before a search is spent on it.

    None of their images is read.

    Raises:
        InputError: if the train or test files are missing, or those of test images have no columns to read, no rows or
            labels of no class.
    """
    train, expected = _files(config, "train"), FORMATS[config.name]
    num_classes = len(expected.class_names or own_class_names(train, expected))
    num_rows = 0
    for file in _files(config, "test"):
        with one_line_errors(file), pq.ParquetFile(file) as parquet:
            _, label_column = columns(parquet.schema_arrow, expected, file)
            first_row = 0
            for batch in parquet.iter_batches(batch_size=ROWS_A_BATCH, columns=[label_column]):
                checked_labels(batch.column(0), num_classes, file, first_row)
                first_row += batch.num_rows
            num_rows += first_row
    if num_rows == 0:
        raise _no_rows(config, "test")


def _no_rows(config: DataConfig, part: Part) -> InputError:
    return InputError(f"{config.path} has no rows in its {part} files of {config.name}; fetch them again")


def _require_room(files: Sequence[Path], size: int) -> None:
    num_images = 0
    for file in files:
        with one_line_errors(file):
            num_images += pq.read_metadata(file).num_rows
    require_room_for_images(num_images, channels=3, size=size)


def _files(config: DataConfig, part: Part) -> list[Path]:
    """The part's files, sorted by name; none is of both parts, whatever name or link it goes by."""
    files = _found(config)[part]
    if not files:
        mend = f"put the {part} images there"
        if part == "test" and config.name == "parquet":
            mend += f", or make shards of the folder, of which some are held out: cascade data {config.path} shards"
        raise InputError(f"data.path is {config.path}, but has no file *{part}*.parquet; {mend}")
    return files


def _found(config: DataConfig) -> dict[Part, list[Path]]:
    return files_of_parts(data_folder(config), get_args(Part))


def _labels(column: Any, num_classes: int, file: Path, first_row: int) -> torch.Tensor:
    """int64 labels of shape (N,), or of a column of lists bool of shape (N, K)."""
    rows = checked_labels(column, num_classes, file, first_row)
    if not is_list(column.type):
        return torch.tensor(rows, dtype=torch.int64)
    labels_NK = torch.zeros(len(rows), num_classes, dtype=torch.bool)
    for index, value in enumerate(rows):
        labels_NK[index, value] = True
    return labels_NK


def _decoded(encoded: Any, file: Path, first_row: int, size: int | None) -> torch.Tensor:
    """uint8 images (N, 3, size, size) of a column of encoded bytes; without a size they must be of 32x32."""
    shape = _SHAPE if size is None else (3, size, size)
    images_NCHW = torch.empty(len(encoded), *shape, dtype=torch.uint8)
    # One after the other: at this size threads wait for the interpreter, and take longer than one alone.
    for index in range(len(encoded)):
        name = f"image of row {first_row + index} of {file}"
        data = encoded[index].as_py()
        if data is None:
            raise InputError(f"{name} has no bytes, but must hold an encoded image; fetch the file again")
        if size is not None:
            images_NCHW[index] = decode_square(data, name=name, size=size)
            continue
        pixels = decode_image(data, name=name)
        if pixels.shape != _SHAPE:
            raise InputError(f"{name} has shape {tuple(pixels.shape)}, but must have {_SHAPE}")
        images_NCHW[index] = pixels
    return images_NCHW
