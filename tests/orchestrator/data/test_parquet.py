import errno
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from orchestrator.data.parquet import read_test, read_train, require_both_parts
from tests import pictures
from trainables.data_config import DataConfig
from trainables.errors import InputError

_MEND = "; mend it or remove the row"


def _pixels(num_images: int, *, size: tuple[int, int] = (32, 32), seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (num_images, *size, 3), dtype=np.uint8)


def _write(
    file: Path,
    images: Sequence[bytes | None],
    labels: Sequence[int | None],
    *,
    image: str = "img",
    label: str = "label",
    **more: Any,
) -> None:
    rows = [{"bytes": data, "path": f"{number}.png"} for number, data in enumerate(images)]
    column = pa.array(rows, type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = pa.table({"extra": pa.array(range(len(rows))), image: column, label: pa.array(labels, pa.int64()), **more})
    pq.write_table(table, file, row_group_size=3)


def _config(path: Path, name: Any = "cifar10") -> DataConfig:
    return DataConfig(name=name, path=str(path))


def _message(path: Path, name: Any = "cifar10") -> str:
    with pytest.raises(InputError) as error:
        read_train(_config(path, name))
    text = str(error.value)
    assert "\n" not in text
    return text


def test_images_of_all_files_are_read_in_order_and_parts_kept_apart(tmp_path: Path) -> None:
    pixels = _pixels(9)
    encoded = [pictures.encoded(image) for image in pixels]
    _write(tmp_path / "train-00001.parquet", encoded[4:7], [4, 5, 6])
    _write(tmp_path / "train-00000.parquet", encoded[:4], [0, 1, 2, 3])
    _write(tmp_path / "test.parquet", encoded[7:], [9, 8])
    train, test = read_train(_config(tmp_path)), read_test(_config(tmp_path))
    assert torch.equal(train.images.images_NCHW, torch.from_numpy(pixels[:7]).permute(0, 3, 1, 2))
    assert train.images.labels_N.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert torch.equal(test.images.images_NCHW, torch.from_numpy(pixels[7:]).permute(0, 3, 1, 2))
    assert test.images.labels_N.tolist() == [9, 8]
    assert train.class_names[0] == "airplane"
    assert len(train.class_names) == 10


def test_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    coarse = pa.array([1, 2], pa.int64())
    encoded = [pictures.encoded(image) for image in _pixels(2)]
    _write(tmp_path / "train.parquet", encoded, [99, 0], image="image", label="fine_label", label_=coarse)
    source = read_train(_config(tmp_path, "cifar100"))
    assert source.images.labels_N.tolist() == [99, 0]
    assert source.class_names[:2] == ("class-00", "class-01")
    assert len(source.class_names) == 100


@pytest.mark.parametrize(
    ("names", "first"),
    [([f"n{i}" for i in range(10)], "n0"), (["too", "few"], "airplane"), (None, "airplane")],
)
def test_class_names_come_from_metadata_that_fits(tmp_path: Path, names: list[str] | None, first: str) -> None:
    _write(tmp_path / "train.parquet", [pictures.encoded(_pixels(1)[0])], [0])
    table = pq.read_table(tmp_path / "train.parquet")
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "train.parquet")
    assert read_train(_config(tmp_path)).class_names[0] == first


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    good = pictures.encoded(_pixels(1)[0])
    file = tmp_path / "train.parquet"
    _write(file, [good, good, good, good, pictures.encoded(_pixels(1, size=(32, 16))[0])], [0] * 5)
    assert _message(tmp_path) == f"image of row 4 of {file} has shape (3, 32, 16), but must have (3, 32, 32)"


def test_an_image_without_readable_bytes_is_named(tmp_path: Path) -> None:
    good = pictures.encoded(_pixels(1)[0])
    file = tmp_path / "train.parquet"
    _write(file, [good, good[:100]], [0, 0])
    assert _message(tmp_path).startswith(f"image of row 1 of {file} cannot be read as an image")
    _write(file, [good, None], [0, 0])
    assert _message(tmp_path).startswith(f"image of row 1 of {file} has no bytes")


@pytest.mark.parametrize(("name", "label", "last"), [("cifar10", 10, 9), ("cifar10", -1, 9), ("cifar100", 100, 99)])
def test_a_label_out_of_range_is_named(tmp_path: Path, name: str, label: int, last: int) -> None:
    file = tmp_path / "train.parquet"
    _write(file, [pictures.encoded(image) for image in _pixels(4)], [0, 1, 2, label])
    assert _message(tmp_path, name) == f"label of row 3 of {file} is {label}, but must be in 0 … {last}{_MEND}"


def test_a_missing_label_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "train.parquet", [pictures.encoded(_pixels(1)[0])], [None])
    assert "label of row 0 of" in _message(tmp_path)


def test_rows_are_counted_across_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.data.parquet.ROWS_A_BATCH", 2)
    images = [pictures.encoded(image) for image in _pixels(5)]
    _write(tmp_path / "train.parquet", images, [0, 1, 2, 3, 4])
    assert read_train(_config(tmp_path)).images.labels_N.tolist() == [0, 1, 2, 3, 4]
    _write(tmp_path / "train.parquet", images, [0, 1, 2, 77, 4])
    assert "label of row 3 of" in _message(tmp_path)
    _write(tmp_path / "train.parquet", [*images[:4], b"no image"], [0] * 5)
    assert "image of row 4 of" in _message(tmp_path)


def test_missing_or_wrong_columns_are_named(tmp_path: Path) -> None:
    file, image = tmp_path / "train.parquet", [pictures.encoded(_pixels(1)[0])]
    _write(file, image, [0], image="picture")
    assert _message(tmp_path) == f"{file} has no column img or image; columns found: extra, picture, label"
    _write(file, image, [0], label="target")
    assert _message(tmp_path) == f"{file} has no column label; columns found: extra, img, target"
    pq.write_table(pa.table({"img": ["a"], "label": [0]}), file)
    assert "column img of" in _message(tmp_path)
    # A name is not opened, as if it were the image.
    pq.write_table(pa.table({"img": [{"bytes": str(tmp_path / "secret.png")}], "label": [0]}), file)
    assert "but must be a struct with binary bytes" in _message(tmp_path)
    pq.write_table(pa.table({"img": [{"bytes": b"a"}], "label": ["cat"]}), file)
    assert "is string, but must hold whole numbers" in _message(tmp_path)


def test_a_damaged_file_gives_one_line(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    _write(file, [pictures.encoded(image) for image in _pixels(6)], [0] * 6)
    whole = file.read_bytes()
    start = pq.ParquetFile(file).metadata.row_group(1).column(1).data_page_offset
    bad_page = whole[:start] + b"\xff" * 50 + whole[start + 50 :]
    for damaged in (whole[: len(whole) // 2], b"", bad_page):
        file.write_bytes(damaged)
        assert _message(tmp_path).startswith(f"{file} cannot be read as Parquet (")


def test_a_file_that_may_not_be_read_is_not_taken_for_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "train.parquet"
    _write(file, [pictures.encoded(image) for image in _pixels(6)], [0] * 6)

    def forbidden(file: Path) -> None:
        raise PermissionError(errno.EACCES, f"Failed to open local file '{file}'")  # as Arrow has it

    monkeypatch.setattr(pq, "ParquetFile", forbidden)
    assert _message(tmp_path) == f"{file} cannot be read (Permission denied); change its permissions"


def test_missing_files_are_named(tmp_path: Path) -> None:
    assert "must be a folder that exists" in _message(tmp_path / "nowhere")
    assert "has no file *train*.parquet" in _message(tmp_path)
    _write(tmp_path / "train.parquet", [], [])
    assert "has no rows in its train files" in _message(tmp_path)
    with pytest.raises(InputError, match=r"has no file \*test\*\.parquet"):
        read_test(_config(tmp_path))


def test_no_image_is_both_trained_on_and_tested_on(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    _write(file, [pictures.encoded(_pixels(1)[0])], [0])
    (tmp_path / "train-again.parquet").symlink_to(file)
    assert len(read_train(_config(tmp_path)).images) == 1
    (tmp_path / "test.parquet").symlink_to(file)
    assert "is both a train and a test file" in _message(tmp_path)
    (tmp_path / "test.parquet").unlink()
    file.rename(tmp_path / "latest-train.parquet")
    assert "is both a train and a test file" in _message(tmp_path)


# Images of one's own


def _write_own(file: Path, labels: Sequence[Any], kind: pa.DataType, *, names: Any = None, seed: int = 0) -> None:
    images = [pictures.encoded(image) for image in _pixels(len(labels), size=(20, 30), seed=seed)]
    rows = pa.array([{"bytes": data} for data in images], type=pa.struct([("bytes", pa.binary())]))
    column = "labels" if pa.types.is_list(kind) else "label"
    table = pa.table({"image": rows, column: pa.array(labels, kind)})
    if names is not None:
        features = {"label": {"names": names}, "labels": {"feature": {"names": names}, "_type": "List"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file)


def _own(path: Path) -> DataConfig:
    return DataConfig(name="parquet", path=str(path), image_size=16)


_LISTS = pa.list_(pa.int64())


@pytest.mark.parametrize("names", [None, ["cat", "dog", "sky"]])
def test_lists_of_labels_say_which_classes_an_image_shows(tmp_path: Path, names: list[str] | None) -> None:
    _write_own(tmp_path / "train-0.parquet", [[0, 2], [], [1]], _LISTS, names=names)
    _write_own(tmp_path / "train-1.parquet", [[0, 1, 2]], pa.list_(pa.int32()), names=names)
    _write_own(tmp_path / "test.parquet", [[1], [0]], _LISTS)
    train, test = read_train(_own(tmp_path)), read_test(_own(tmp_path))
    assert train.images.images_NCHW.shape == (4, 3, 16, 16)
    assert train.images.multi_label
    assert train.images.labels_N.int().tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]]
    assert test.images.labels_N.int().tolist() == [[0, 1, 0], [1, 0, 0]]
    assert train.class_names == test.class_names == tuple(names or ("class-0", "class-1", "class-2"))


def test_one_label_an_image_is_read_too(tmp_path: Path) -> None:
    _write_own(tmp_path / "train.parquet", [3, 0, 1], pa.int64())
    source = read_train(_own(tmp_path))
    assert not source.images.multi_label
    assert source.images.labels_N.tolist() == [3, 0, 1]
    assert len(source.class_names) == 4


def test_what_is_wrong_with_ones_own_labels_is_named(tmp_path: Path) -> None:
    def message(read: Any = read_train) -> str:
        with pytest.raises(InputError) as error:
            read(_own(tmp_path))
        assert "\n" not in str(error.value)
        return str(error.value)

    train, test = tmp_path / "train.parquet", tmp_path / "test.parquet"
    _write_own(train, [[0], [1, 5]], _LISTS, names=["a", "b"])
    assert message() == f"label of row 1 of {train} is 5, but must be in 0 … 1{_MEND}"
    _write_own(train, [[0, 1], None], _LISTS)
    assert message() == f"label of row 1 of {train} is None, but must be in 0 … 1{_MEND}"
    _write_own(train, [[0, 1], [1, 0, 0]], _LISTS)
    assert message().startswith(f"labels of row 1 of {train} are [1, 0, 0], a 0 or a 1 for each class, but must be")
    _write_own(train, [[0, 0, 1], [1]], _LISTS, names=["a", "b", "c"])
    assert message().startswith(f"labels of row 0 of {train} are [0, 0, 1], a 0 or a 1 for each class")
    _write_own(train, [[1, 1, 3], [0, 0]], _LISTS)  # two objects of a kind
    assert read_train(_own(tmp_path)).images.labels_N.sum(1).tolist() == [2, 1]
    _write_own(train, [[0], []], _LISTS)
    assert message() == f"{tmp_path} has 1 class in its train files, but must have at least 2"
    _write_own(train, [[-1], [0]], _LISTS)
    assert message() == f"{tmp_path} has the label -1 in its train files; number the classes from 0 on"
    _write_own(train, [[0], [10**12]], _LISTS)
    assert "has the label 1000000000000 in its train files, but labels must be below 100000" in message()
    _write_own(train, [["a"]], pa.list_(pa.string()))
    assert "must hold whole numbers, or lists of them" in message()
    _write_own(train, [[0], [1]], _LISTS)
    _write_own(test, [[2]], _LISTS)
    assert message(read_test) == f"label of row 0 of {test} is 2, but must be in 0 … 1{_MEND}"
    _write_own(tmp_path / "train-more.parquet", [0, 1], pa.int64())
    assert message() == f"{tmp_path} has train files with one label an image and others with lists of them"


@pytest.mark.parametrize("label", [7, None])
def test_a_wrong_label_of_a_test_image_is_known_before_a_search(tmp_path: Path, label: int | None) -> None:
    _write_own(tmp_path / "train.parquet", [0, 1, 1], pa.int64())
    test = tmp_path / "test-1.parquet"
    _write_own(tmp_path / "test-0.parquet", [1, 0], pa.int64())
    _write_own(test, [0, label], pa.int64())
    with pytest.raises(InputError) as error:
        require_both_parts(_own(tmp_path))
    assert pictures.one_line(error) == f"label of row 1 of {test} is {label}, but must be in 0 … 1{_MEND}"
    _write(test, [b"no image is looked at"], [9])
    require_both_parts(_config(tmp_path))


def test_test_files_without_a_row_are_known_before_a_search(tmp_path: Path) -> None:
    _write_own(tmp_path / "train.parquet", [0, 1, 1], pa.int64())
    for number in range(2):
        _write_own(tmp_path / f"test-{number}.parquet", [], pa.int64())
    with pytest.raises(InputError, match="has no rows in its test files of parquet"):
        require_both_parts(_own(tmp_path))
    _write_own(tmp_path / "test-1.parquet", [0], pa.int64())
    require_both_parts(_own(tmp_path))
