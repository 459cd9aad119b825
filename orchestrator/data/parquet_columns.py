"""What Parquet files of images hold, as far as their columns tell: which files are of which part, classes, labels.

Read by searches, and by `cascade data`, which makes shards of them. No image is decoded here.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainables.datasets.sources import Part, is_hidden
from trainables.errors import InputError, first_line, forbidden

ROWS_A_BATCH = 4096
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
    """Tell whether the folder `path` holds Parquet files, hidden ones aside; a path that is no folder holds none."""
    return path.is_dir() and any(_shown(path, "*.parquet"))


def _shown(folder: Path, pattern: str) -> Iterator[Path]:
    return (file for file in folder.glob(pattern) if not is_hidden(file.name))


def files_of_parts(folder: Path, parts: Sequence[Part]) -> dict[Part, list[Path]]:
    """Parquet files of each part, whose word is in their names, sorted, hidden ones aside; a part may have none.

    Raises:
        InputError: if a file is of two parts.
    """
    found: dict[Part, list[Path]] = {}
    for part in parts:
        found[part] = sorted({file.resolve() for file in _shown(folder, f"*{part}*.parquet")})
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
    except PermissionError as error:
        raise forbidden(file) from error
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


def names_in_metadata(schema: Any, label_column: str, num_classes: int | None) -> tuple[str, ...]:
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
            names = names_in_metadata(parquet.schema_arrow, label_column, None)
            if names:
                return names
            for batch in parquet.iter_batches(batch_size=ROWS_A_BATCH, columns=[label_column]):
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
                raise InputError(
                    f"label of row {row} of {file} is {label}, but must be in 0 … {num_classes - 1}; mend it or remove "
                    "the row"
                )
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
