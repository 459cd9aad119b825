"""Parquet files of encoded images, the form in which hubs of data sets serve them: CIFAR, and images of one's own.

The folder holds one or several files with `train` in their name and one or several with `test`. Columns: `img` or
`image`, a struct whose `bytes` are one encoded image (of 32x32 for CIFAR), and `label`, or `fine_label` for CIFAR-100.
Where images of one's own have several labels each, or none, `labels` is a list of them.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from trainables.data_config import DataConfig
from trainables.datasets.decoding import decode_image, decode_square
from trainables.datasets.images import ImageSet, Source
from trainables.datasets.sources import Part, data_folder
from trainables.errors import InputError, first_line
from trainables.hardware.machine import require_room_for_images

_SHAPE = (3, 32, 32)
_ROWS_A_BATCH = 4096
_MOST_CLASSES = 100_000  # more would rather be other numbers than labels
_IMAGE_COLUMNS = ("img", "image")
_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """What the files of a data set look like.

    Attributes:
        label_columns: names that the labels' column may have, the best first.
        class_names: where the files do not tell them; empty for as many as there are labels.
    """

    label_columns: tuple[str, ...]
    class_names: tuple[str, ...] = ()


FORMATS = {
    "cifar10": Format(label_columns=("label",), class_names=_CIFAR10_CLASSES),
    "cifar100": Format(
        label_columns=("fine_label", "label"), class_names=tuple(f"class-{label:02d}" for label in range(100))
    ),
    "parquet": Format(label_columns=("labels", "label", "fine_label")),
}


def has_parquet(path: Path) -> bool:
    """Tell whether the folder `path` holds Parquet files; a path that is no folder holds none."""
    return path.is_dir() and any(path.glob("*.parquet"))


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
                class_names = _names_in_metadata(parquet.schema_arrow, label_column, len(class_names)) or class_names
            first_row = 0
            taken = [f"{image_column}.bytes", label_column]
            for batch in parquet.iter_batches(batch_size=_ROWS_A_BATCH, columns=taken):
                encoded = batch.column(image_column).field("bytes")
                labels.append(_labels(batch.column(label_column), len(class_names), file, first_row))
                images.append(_decoded(encoded, file, first_row, size))
                first_row += batch.num_rows
    if not images:
        raise InputError(f"{config.path} has no rows in its {part} files of {config.name}; fetch them again")
    if len({part_of_labels.ndim for part_of_labels in labels}) > 1:
        raise InputError(f"{config.path} has {part} files with one label an image and others with lists of them")
    image_set = ImageSet(images_NCHW=torch.cat(images), labels_N=torch.cat(labels))
    return Source(images=image_set, class_names=class_names)


def require_both_parts(config: DataConfig) -> None:
    """Check that test files are there too, with their columns, before a search is spent on finding out.

    None of their rows is read.

    Raises:
        InputError: if the train or test files are missing, or those of test images have no columns to read.
    """
    _files(config, "train")
    for file in _files(config, "test"):
        with one_line_errors(file):
            columns(pq.read_schema(file), FORMATS[config.name], file)


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


def files_of_parts(folder: Path, parts: Sequence[Part]) -> dict[Part, list[Path]]:
    """Parquet files of each part, whose word is in their names, sorted; a part may have none.

    Raises:
        InputError: if a file is of two parts.
    """
    found: dict[Part, list[Path]] = {}
    for part in parts:
        found[part] = sorted({file.resolve() for file in folder.glob(f"*{part}*.parquet")})
        for earlier in parts[: parts.index(part)]:
            for file in sorted(set(found[earlier]) & set(found[part])):
                raise InputError(
                    f"{file} is both a {earlier} and a {part} file; a file's name must hold one of the two words"
                )
    return found


@contextmanager
def one_line_errors(file: Path) -> Iterator[None]:
    """Say in one line what Arrow could not read."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read as Parquet ({first_line(error)}); fetch it again") from error


def columns(schema: Any, expected: Format, file: Path) -> tuple[str, str]:
    """Names of the columns of image and label.

    Raises:
        InputError: if there are none, or of other types.
    """
    found = []
    for allowed in (_IMAGE_COLUMNS, expected.label_columns):
        names = [name for name in allowed if name in schema.names]
        if not names:
            raise InputError(f"{file} has no column {' or '.join(allowed)}; columns found: {', '.join(schema.names)}")
        found.append(names[0])
    image_type, label_type = (schema.field(name).type for name in found)
    # Text would be taken for the name of a file on this machine.
    if not (
        pa.types.is_struct(image_type)
        and image_type.get_field_index("bytes") >= 0
        and _is_binary(image_type.field("bytes").type)
    ):
        raise InputError(f"column {found[0]} of {file} is {image_type}, but must be a struct with binary bytes")
    several = expected.class_names == () and is_list(label_type)
    if not pa.types.is_integer(label_type.value_type if several else label_type):
        lists = "" if expected.class_names else ", or lists of them"
        raise InputError(f"column {found[1]} of {file} is {label_type}, but must hold whole numbers{lists}")
    return found[0], found[1]


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def is_list(kind: Any) -> bool:
    """Whether a column holds lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _names_in_metadata(schema: Any, label_column: str, num_classes: int | None) -> tuple[str, ...]:
    """Class names as the hub's metadata give them; none where they do not, or not of so many classes."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label_column]
        names = tuple(str(name) for name in feature.get("feature", feature)["names"])  # a list holds its element's
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()
    return names if num_classes in (None, len(names)) else ()


def own_class_names(files: Sequence[Path], expected: Format) -> tuple[str, ...]:
    """Names of the classes of the training files, or numbers up to the largest label in them.

    Raises:
        InputError: if they have fewer than two, or cannot be read.
    """
    largest, smallest = -1, 0
    for file in files:
        with one_line_errors(file), pq.ParquetFile(file) as parquet:
            _, label_column = columns(parquet.schema_arrow, expected, file)
            names = _names_in_metadata(parquet.schema_arrow, label_column, None)
            if names:
                return names
            for batch in parquet.iter_batches(batch_size=_ROWS_A_BATCH, columns=[label_column]):
                labels = batch.column(0)
                labels = labels.flatten() if is_list(labels.type) else labels
                if len(labels):
                    low, high = pc.min_max(labels).as_py().values()
                    largest, smallest = max(largest, high or 0), min(smallest, low or 0)
    if smallest < 0:
        raise InputError(f"{files[0].parent} has the label {smallest} in its train files; number the classes from 0 on")
    if largest >= _MOST_CLASSES:
        raise InputError(
            f"{files[0].parent} has the label {largest} in its train files, but labels must be below {_MOST_CLASSES}; "
            "number the classes from 0 on"
        )
    if largest < 1:
        number = "1 class" if largest == 0 else "no class"
        raise InputError(f"{files[0].parent} has {number} in its train files, but must have at least 2")
    width = len(str(largest))
    return tuple(f"class-{label:0{width}d}" for label in range(largest + 1))


def _labels(column: Any, num_classes: int, file: Path, first_row: int) -> torch.Tensor:
    """int64 labels of shape (N,), or of a column of lists bool of shape (N, K)."""
    rows = checked_labels(column, num_classes, file, first_row)
    if not is_list(column.type):
        return torch.tensor(rows, dtype=torch.int64)
    labels_NK = torch.zeros(len(rows), num_classes, dtype=torch.bool)
    for index, value in enumerate(rows):
        labels_NK[index, value] = True
    return labels_NK


def checked_labels(column: Any, num_classes: int, file: Path, first_row: int) -> list[Any]:
    """The column's labels, numbers or lists of them.

    Raises:
        InputError: if one is missing or not of a class, or a list holds a 0 or a 1 for each class.
    """
    rows: list[Any] = column.to_pylist()
    several = is_list(column.type)
    for row, value in enumerate(rows, start=first_row):
        for label in value if several and value is not None else [value]:
            if label is None or not 0 <= label < num_classes:
                raise InputError(f"label of row {row} of {file} is {label}, but must be in 0 … {num_classes - 1}")
        if several and _is_a_flag_for_each_class(value, num_classes):
            raise InputError(
                f"labels of row {row} of {file} are {value}, a 0 or a 1 for each class, but must be the numbers of the "
                "classes that the image has; list where the ones stand"
            )
    return rows


def _is_a_flag_for_each_class(labels: Sequence[int], num_classes: int) -> bool:
    """Whether a list can hardly be numbers of classes, which may stand there twice, for two objects of a kind."""
    flags = set(labels) <= {0, 1} and len(set(labels)) < len(labels)
    return flags and (num_classes == 2 or len(labels) == num_classes)  # the largest number is all that is known


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
