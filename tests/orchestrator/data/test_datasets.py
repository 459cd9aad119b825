import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from orchestrator.data.datasets import draws_its_test_images, load_splits, load_test, require_drawn_test_images
from trainables.data_config import DataConfig
from trainables.datasets import sources
from trainables.errors import InputError


def _write(file: Path, num_images: int) -> None:
    rows = []
    for number in range(num_images):
        buffer = io.BytesIO()
        Image.fromarray(np.full((32, 32, 3), number, dtype=np.uint8)).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    pq.write_table(pa.table({"img": rows, "label": [number % 10 for number in range(num_images)]}), file)


def test_cifar_comes_from_parquet_where_there_is_any(tmp_path: Path) -> None:
    config = DataConfig(name="cifar10", path=str(tmp_path), val_fraction=0.25)
    with pytest.raises(InputError, match="cifar-10-batches-py"):
        load_splits(config)
    _write(tmp_path / "train.parquet", 40)
    # A search must not find out at its export that there is no test.
    with pytest.raises(InputError, match=r"\*test\*\.parquet"):
        load_splits(config)
    pq.write_table(pa.table({"picture": [b"x"], "label": [0]}), tmp_path / "test.parquet")
    with pytest.raises(InputError, match=r"test\.parquet has no column img or image; columns found: picture, label"):
        load_splits(config)
    _write(tmp_path / "test.parquet", 10)
    splits = load_splits(config)
    assert (len(splits.train), len(splits.val)) == (30, 10)
    assert splits.input_shape == (3, 32, 32)
    assert load_test(config).images.labels_N.tolist() == list(range(10))


def test_digits_need_no_folder_and_share_no_image_with_the_test() -> None:
    config = DataConfig(name="digits", image_size=8)
    splits, test = load_splits(config), load_test(config)
    assert len(splits.train) + len(splits.val) + len(test.images) == 1797
    assert splits.class_names == test.class_names
    trained = {bytes(image.numpy()) for image in splits.train.images_NCHW}
    # scikit-learn's digits hold no image twice.
    assert not any(
        bytes(image.numpy()) in trained for image in torch.cat([splits.val.images_NCHW, test.images.images_NCHW])
    )


def test_only_a_folder_without_a_test_part_draws_its_test_images_from_the_same_files(tmp_path):
    photos = DataConfig(name="imagefolder", path=str(tmp_path), image_size=32)
    assert draws_its_test_images(photos)
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    assert not draws_its_test_images(photos)
    assert not draws_its_test_images(DataConfig())


@pytest.mark.parametrize(("root", "others"), [(".", 0), ("train", 1)])  # with a test part of its own nothing is drawn
def test_only_who_asks_for_it_decodes_test_images_that_are_drawn_from_training_images(
    tmp_path, monkeypatch, root, others
):
    for name in ("cat", "dog"):
        (tmp_path / root / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / root / name / f"{number}.png")
        for number in range(others):
            (tmp_path / "test" / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "test" / name / f"{number}.png")
    decoded, decode_square = [], sources.decode_square

    def counting(file, **options):
        decoded.append(file)
        return decode_square(file, **options)

    monkeypatch.setattr(sources, "decode_square", counting)
    config = DataConfig(name="imagefolder", path=str(tmp_path), image_size=8, test_fraction=0.2)
    require_drawn_test_images(config)
    tests = set(decoded)
    assert len(tests) == (0 if others else 4)
    decoded.clear()
    load_splits(config)
    assert len(decoded) == len(set(decoded)) == (20 if others else 16)
    assert tests.isdisjoint(decoded)


def test_validation_images_of_their_own_choose_networks(tmp_path):
    for part, numbers in (("train", range(4)), ("valid", range(4, 6)), ("test", range(6, 7))):
        for class_name in ("cat", "bird"):
            (tmp_path / part / class_name).mkdir(parents=True)
            for number in numbers:
                Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / part / class_name / f"{number}.png")
    config = DataConfig(name="imagefolder", path=str(tmp_path), image_size=8)
    splits, test = load_splits(config), load_test(config)
    parts = [images.images_NCHW[:, 0, 0, 0].tolist() for images in (splits.train, splits.val, test.images)]
    assert parts == [[0, 1, 2, 3] * 2, [4, 5] * 2, [6] * 2]
    (tmp_path / "parquet").mkdir()
    for name, part in (("train", "train"), ("validation", "valid"), ("test", "test")):
        files = sorted((tmp_path / part).rglob("*.png"))
        rows = [{"image": {"bytes": file.read_bytes()}, "label": int(file.parent.name == "cat")} for file in files]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "parquet" / f"{name}-0.parquet")
    splits = load_splits(DataConfig(name="parquet", path=str(tmp_path / "parquet"), image_size=8))
    assert [len(splits.train), len(splits.val)] == [8, 4]
