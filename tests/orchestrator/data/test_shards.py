"""`cascade data` and what a search makes of its shards: sources, bad images, files that miss or differ."""

import errno
import io
import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from orchestrator.data import shard_mixing, shard_splits
from orchestrator.data.classes import class_notes
from orchestrator.data.datasets import draws_its_test_images, load_splits, load_test, training_images
from orchestrator.data.shard_files import FolderPlace, ShardRows, read_labels, read_set
from orchestrator.data.shard_sources import open_source
from orchestrator.data.shard_writer import WriteOptions, write_shards
from orchestrator.data.shards import ShardSet, schema_of
from orchestrator.exports.readme import HOW_IMAGES_ARE_MADE
from trainables.data_config import DataConfig, DataName
from trainables.datasets.images import ImageSet
from trainables.datasets.streaming import StreamedSet
from trainables.errors import InputError
from trainables.identity import data_digest

SMALL = WriteOptions(shard_bytes=600)


def encoded(number, kind="PNG", size=(24, 20)):
    """An image whose colour is its number."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (number, 255 - number, 128)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path):
    """Class folders `cat` and `dog`: 12 training, 4 validation and 3 test images each, numbered through."""
    number = 0
    for part, count in (("train", 12), ("val", 4), ("test", 3)):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for _ in range(count):
                (folder / f"{number:02d}.png").write_bytes(encoded(number))
                number += 1
    return tmp_path / "photos"


@pytest.fixture
def shards(photos, tmp_path):
    """The same as shards."""
    write_shards(open_source(photos, seed=0), tmp_path / "shards", SMALL)
    return tmp_path / "shards"


def config(path, **others):
    return DataConfig(**{"name": "shards", "path": str(path), "image_size": 16, "workers": 0} | others)


def numbers(images):
    """The numbers of images, by their colour."""
    return images.pixels(torch.arange(len(images)))[:, 0, 8, 8].tolist()


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_validation_images_may_be_in_folders_of_other_names(photos, name):
    (photos / "val").rename(photos / name)
    found = open_source(photos, seed=0)
    assert {part: source.num_images for part, source in found.parts.items()} == {"train": 24, "val": 8, "test": 6}


def test_every_image_is_in_one_shard_with_its_label_in_a_mixed_order(photos, shards):
    found = read_set(shards)
    assert found.class_names == ("cat", "dog")
    assert {name: part.num_images for name, part in found.parts.items()} == {"train": 24, "val": 8, "test": 6}
    assert found.parts["train"].counts == (12, 12)
    assert len(found.parts["train"].shards) > 1
    rows, labels = (
        ShardRows(FolderPlace(shards), found.parts["train"].shards),
        read_labels(FolderPlace(shards), found, "train"),
    )
    seen = {}
    for row, label in enumerate(labels.tolist()):
        data, name = rows.encoded(row)
        file = photos / name.split(" ")[1]
        assert data == file.read_bytes()
        assert file.parent.name == found.class_names[label]
        seen[file] = label
    assert len(seen) == 24
    assert list(seen.values()) != sorted(seen.values())


def test_the_same_source_gives_the_same_shards(photos, shards, tmp_path):
    again = write_shards(open_source(photos, seed=0), tmp_path / "again", SMALL)
    assert again == read_set(shards)
    other = write_shards(open_source(photos, seed=1), tmp_path / "other", SMALL)
    assert other.parts["train"].shards != again.parts["train"].shards
    assert ShardSet.from_json(again.to_json()) == again


def test_readers_go_to_other_processes(shards):
    rows = ShardRows(FolderPlace(shards), read_set(shards).parts["train"].shards)
    first = rows.encoded(0)
    there = pickle.loads(pickle.dumps(rows))
    assert there.encoded(0) == first
    shutil.rmtree(shards)
    assert there.encoded(0) == first  # which is mapped
    with pytest.raises(InputError, match=r"train-00000\.arrow is not there on .*; every machine must see data\.path"):
        pickle.loads(pickle.dumps(rows)).encoded(0)


@pytest.mark.parametrize(("memory_gb", "kind"), [(1.0, ImageSet), (0.0, StreamedSet)])
def test_few_images_are_held_in_memory_and_many_are_streamed(shards, memory_gb, kind):
    data = load_splits(config(shards, memory_gb=memory_gb))
    assert isinstance(data.train, kind)
    assert isinstance(data.val, kind)
    assert data.input_shape == (3, 16, 16)
    assert sorted(numbers(data.train)) == list(range(24))  # the set's own validation images are these
    assert sorted(numbers(data.val)) == list(range(24, 32))
    assert data.mean == pytest.approx((11.5 / 255, 243.5 / 255, 128 / 255), abs=1e-6)
    test = load_test(config(shards, memory_gb=memory_gb))
    assert isinstance(test.images, ImageSet)
    assert sorted(numbers(test.images)) == list(range(32, 38))
    assert test.class_names == data.class_names


def test_both_ways_give_equal_pixels_and_labels(shards):
    held, streamed = (load_splits(config(shards, memory_gb=memory_gb)) for memory_gb in (1.0, 0.0))
    assert torch.equal(held.train.pixels(torch.arange(24)), streamed.train.pixels(torch.arange(24)))
    assert torch.equal(held.train.labels_N, streamed.train.labels_N)
    assert (held.mean, held.std) == (streamed.mean, streamed.std)


class _AsStored:
    """Entries in the order of their source, as sets were written that are not mixed."""

    def __init__(self, entries, name):
        self._entries, self._name = entries, name

    def __call__(self):
        return iter(sorted(self._entries(), key=self._name))


def shards_of(folder, images, out):
    """A set of class folders of images, which are numbers, mixed or as they are sorted by name."""
    for name, numbers_of_class in images.items():
        (folder / name).mkdir(parents=True)
        for place, number in enumerate(numbers_of_class):
            (folder / name / f"{place:03d}.png").write_bytes(encoded(number, size=(16, 16)))
    source = open_source(folder, seed=0)
    write_shards(source, out / "mixed", WriteOptions(shard_bytes=4000))
    part = source.parts["train"]
    stored = replace(part, entries=_AsStored(part.entries, lambda entry: entry.name))
    write_shards(replace(source, parts={"train": stored}), out / "sorted", WriteOptions(shard_bytes=4000))
    return out / "mixed", out / "sorted"


def test_what_stands_for_all_images_is_the_beginning_of_a_mixed_set_and_drawn_of_a_sorted_one(tmp_path, monkeypatch):
    images = {"cat": [0] * 150, "dog": [100] * 150, "emu": [200] * 150}
    mixed, sorted_by_class = shards_of(tmp_path / "photos", images, tmp_path)
    monkeypatch.setattr(shard_splits, "_STATISTICS_IMAGES", 90)
    for folder in (mixed, sorted_by_class):
        settings = config(folder, memory_gb=0.0, val_fraction=0.2, test_fraction=0.2)
        data = load_splits(settings)
        whole = load_splits(replace(settings, memory_gb=1.0))
        assert data.mean == pytest.approx(whole.mean, abs=0.06)
        assert data.std == pytest.approx(whole.std, rel=0.15)
        calibration = training_images(settings, 90, seed=7)
        seen = torch.bincount(calibration[:, 0, 8, 8].long() // 100, minlength=3)
        assert seen.min() >= 20
        first = data.train.pixels(torch.arange(90))
        assert torch.equal(calibration, first) == (folder == mixed)
        assert torch.equal(calibration, training_images(settings, 90, seed=7))
        assert torch.equal(calibration, training_images(settings, 90, seed=8)) == (folder == mixed)


@pytest.mark.parametrize("kind", ["one", "several"])
def test_shares_of_classes_tell_whether_a_set_is_mixed(kind):
    sorted_N = torch.arange(1000) // 100
    labels = torch.eye(11, dtype=torch.bool)[:, :10][1 + sorted_N] if kind == "several" else sorted_N  # some have none
    order_N, drawn_N = (torch.randperm(1000, generator=torch.Generator().manual_seed(seed)) for seed in (3, 0))
    assert shard_splits._begins_mixed(labels[order_N], drawn_N[:200])
    assert not shard_splits._begins_mixed(labels, drawn_N[:200])
    assert shard_splits._begins_mixed(labels, drawn_N)


def test_the_digest_of_streamed_images_is_that_of_the_shards(shards, photos, tmp_path):
    digest = data_digest(load_splits(config(shards, memory_gb=0)))
    assert data_digest(load_splits(config(shards, memory_gb=0, workers=3))) == digest
    assert data_digest(load_splits(config(shards, memory_gb=0, image_size=12))) != digest
    (photos / "train/cat/00.png").write_bytes(encoded(99))
    write_shards(open_source(photos, seed=0), tmp_path / "other", SMALL)
    assert data_digest(load_splits(config(tmp_path / "other", memory_gb=0))) != digest


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_parts_that_a_set_lacks_are_held_out_of_its_training_images(photos, tmp_path, memory_gb):
    shutil.rmtree(photos / "val")
    shutil.rmtree(photos / "test")
    write_shards(open_source(photos, seed=0), tmp_path / "shards", SMALL)
    settings = config(tmp_path / "shards", val_fraction=0.25, test_fraction=0.25, memory_gb=memory_gb)
    assert draws_its_test_images(settings)
    data, test = load_splits(settings), load_test(settings)
    parts = [set(numbers(images)) for images in (data.train, data.val, test.images)]
    assert [len(part) for part in parts] == [14, 4, 6]
    assert set.union(*parts) == set(range(24))
    assert torch.bincount(test.images.labels_N).tolist() == [3, 3]


def test_a_set_with_test_images_draws_none(shards):
    assert not draws_its_test_images(config(shards))


# Sources


def test_folders_without_parts_are_training_images(photos):
    source = open_source(photos / "train", seed=0)
    assert {name: part.num_images for name, part in source.parts.items()} == {"train": 24}


def cifar10(folder, rows):
    """CIFAR-10's binary files with so many rows each; pixels of row r of file f are 10 f + r."""
    folder.mkdir()
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\nbird\n\n")
    for number in range(6):
        file = folder / ("test_batch.bin" if number == 5 else f"data_batch_{number + 1}.bin")
        file.write_bytes(b"".join(bytes([row % 3, *[10 * number + row] * 3072]) for row in range(rows)))


def test_cifar_is_read_from_its_binary_files(tmp_path):
    cifar10(tmp_path / "cifar-10-batches-bin", 4)
    write_shards(open_source(tmp_path, seed=0), tmp_path / "shards", SMALL)
    data = load_splits(config(tmp_path / "shards", image_size=32, val_fraction=0.3))
    assert data.class_names == ("airplane", "automobile", "bird")
    test = load_test(config(tmp_path / "shards", image_size=32)).images
    assert sorted(numbers(test)) == [50, 51, 52, 53]
    for number, label in zip(numbers(data.train), data.train.labels_N.tolist(), strict=True):
        assert label == number % 10 % 3


def test_cifar_100_takes_the_fine_labels(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    (folder / "fine_label_names.txt").write_text("apple\nbear\n")
    for name in ("train", "test"):
        (folder / f"{name}.bin").write_bytes(b"".join(bytes([9, row % 2, *[row] * 3072]) for row in range(4)))
    written = write_shards(open_source(folder, seed=0), tmp_path / "shards", SMALL)
    assert written.class_names == ("apple", "bear")
    assert written.parts["train"].counts == (2, 2)


def table(label_column, labels, first=0):
    images = [{"bytes": encoded(first + row), "path": None} for row in range(len(labels))]
    return pa.table({"image": images, label_column: labels})


def parquet(folder, label_column, labels):
    folder.mkdir()
    pq.write_table(table(label_column, labels), folder / "train-0.parquet", row_group_size=2)
    pq.write_table(table(label_column, labels, 20), folder / "validation.parquet")
    pq.write_table(table(label_column, labels, 40), folder / "test.parquet")


def test_parquet_is_read_with_its_parts(tmp_path):
    parquet(tmp_path / "hub", "label", [0, 1, 2] * 4)
    write_shards(open_source(tmp_path / "hub", seed=0), tmp_path / "shards", SMALL)
    data = load_splits(config(tmp_path / "shards"))
    assert data.class_names == ("class-0", "class-1", "class-2")
    assert sorted(numbers(data.train)) == list(range(12)) != numbers(data.train)
    assert sorted(numbers(data.val)) == list(range(20, 32))
    assert [number % 3 for number in numbers(data.train)] == data.train.labels_N.tolist()


@pytest.mark.parametrize("rows_a_group", [15, 240])
def test_parquet_that_is_sorted_gives_mixed_shards(tmp_path, monkeypatch, rows_a_group):
    monkeypatch.setattr(shard_mixing, "_FILE_BYTES", 2000)
    (tmp_path / "hub").mkdir()
    rows = table("label", [row // 60 for row in range(240)])
    pq.write_table(rows, tmp_path / "hub/train.parquet", row_group_size=rows_a_group)
    write_shards(open_source(tmp_path / "hub", seed=0), tmp_path / "shards", SMALL)
    data = load_splits(config(tmp_path / "shards", val_fraction=0.1, test_fraction=0.1))
    assert [number // 60 for number in numbers(data.train)] == data.train.labels_N.tolist()
    assert torch.bincount(data.train.labels_N[:60], minlength=4).min() >= 8
    assert {item.name for item in tmp_path.iterdir()} == {"hub", "shards"}


def test_of_a_row_group_a_part_is_in_memory(tmp_path):
    content = os.urandom(2**23)
    images = [{"bytes": content[start : start + 2**14], "path": None} for start in range(0, 2**23, 2**13)]
    rows = pa.table({"image": images, "label": [0, 1] * (len(images) // 2)})
    pq.write_table(rows, tmp_path / "train.parquet", use_dictionary=False, write_batch_size=32)
    num_bytes = rows.nbytes
    del images, rows
    before = pa.total_allocated_bytes()
    entries = open_source(tmp_path, seed=0).parts["train"].entries()
    assert max(pa.total_allocated_bytes() - before for _ in entries) < num_bytes / 3


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_images_of_several_classes_stay_so(tmp_path, memory_gb):
    parquet(tmp_path / "hub", "labels", [[0, 2], [], [1], [2]])
    write_shards(open_source(tmp_path / "hub", seed=0), tmp_path / "shards", SMALL)
    data = load_splits(config(tmp_path / "shards", memory_gb=memory_gb))
    assert data.multi_label
    found = dict(zip(numbers(data.train), data.train.labels_N.int().tolist(), strict=True))
    assert found == {0: [1, 0, 1], 1: [0, 0, 0], 2: [0, 1, 0], 3: [0, 0, 1]}


# Unreadable images


@pytest.fixture
def damaged(photos):
    """Two training images and a test image that cannot be read."""
    (photos / "train/cat/03.png").write_bytes(b"no image")
    (photos / "train/dog/14.png").write_bytes(encoded(14)[:60])
    (photos / "test/dog/36.png").write_bytes(b"")
    return photos


def test_unreadable_images_are_counted_and_named(damaged, tmp_path):
    with pytest.raises(InputError, match="3 of 38 images cannot be used, but --skip-corrupt allows 2") as raised:
        write_shards(open_source(damaged, seed=0), tmp_path / "shards", WriteOptions(skip_corrupt=2))
    for name in ("train/cat/03.png", "train/dog/14.png", "test/dog/36.png"):
        assert name in str(raised.value)
    assert not (tmp_path / "shards").exists()
    assert {item.name for item in tmp_path.iterdir()} == {"photos"}


def test_unreadable_images_are_left_out_up_to_the_limit(damaged, tmp_path):
    written = write_shards(open_source(damaged, seed=0), tmp_path / "shards", WriteOptions(skip_corrupt=3))
    assert sorted(image.name for image in written.skipped) == [
        "test/dog/36.png",
        "train/cat/03.png",
        "train/dog/14.png",
    ]
    assert read_set(tmp_path / "shards") == written
    assert written.parts["train"].counts == (11, 11)
    assert numbers(load_splits(config(tmp_path / "shards")).train).count(3) == 0


def test_a_class_without_a_readable_image_is_refused(photos, tmp_path):
    for file in (photos / "train/dog").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(InputError, match="class dog has no training image that can be read"):
        write_shards(open_source(photos, seed=0), tmp_path / "shards", WriteOptions(skip_corrupt=99))


@pytest.mark.parametrize("label_column", ["label", "labels"])
def test_a_class_that_no_training_image_shows_is_told(cascade, tmp_path, label_column):
    labels = [0, 2] * 6
    parquet(tmp_path / "hub", label_column, labels if label_column == "label" else [[label] for label in labels])
    code, _, err = cascade("data", "hub", "shards")
    note = "no training image shows 1 of 3 classes (class-1), which cannot be learnt so"
    assert (code, err) == (0, f"note: {note}\n")
    data = load_splits(config(tmp_path / "shards"))
    assert data.class_names == ("class-0", "class-1", "class-2")
    assert note in class_notes(data)


def test_a_class_of_parquet_without_a_readable_image_is_refused(tmp_path):
    (tmp_path / "hub").mkdir()
    rows = table("labels", [[0], [0, 1], [2], [2]]).to_pylist()
    rows[1]["image"]["bytes"] = b"no image"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hub/train.parquet")
    with pytest.raises(InputError, match="class class-1 has no training image that can be read"):
        write_shards(open_source(tmp_path / "hub", seed=0), tmp_path / "shards", WriteOptions(skip_corrupt=1))


def test_a_part_without_a_readable_image_is_refused(photos, tmp_path):
    for file in (photos / "val").rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(InputError, match="no val image can be read; mend some, or leave out all val images"):
        write_shards(open_source(photos, seed=0), tmp_path / "shards", WriteOptions(skip_corrupt=99))


def test_names_that_are_no_unicode_are_taken(photos, tmp_path):
    (photos / "train/cat/00.png").rename(photos / "train/cat" / os.fsdecode(b"\xff.png"))
    for part in photos.iterdir():
        (part / "cat").rename(part / os.fsdecode(b"\xfe"))
    written = write_shards(open_source(photos, seed=0), tmp_path / "shards", SMALL)
    assert written.class_names == ("dog", "\\udcfe")
    rows = ShardRows(FolderPlace(tmp_path / "shards"), written.parts["train"].shards)
    assert any("train/\\udcfe/\\udcff.png" in name for _, name in map(rows.encoded, range(24)))


def test_an_image_that_goes_bad_later_is_named(shards):
    file = sorted(shards.glob("train-*.arrow"))[0]
    content = file.read_bytes()
    file.write_bytes(content.replace(b"\x89PNG", b"\0PNG", 1))
    with pytest.raises(InputError, match=rf"image train/(cat|dog)/\d\d\.png in {file} cannot be read as an image"):
        load_splits(config(shards))


# Large images


def test_large_images_are_shrunk_on_request_and_small_ones_stay(photos, tmp_path):
    large = photos / "train/cat/00.png"
    large.write_bytes(encoded(0, size=(300, 120)))
    write_shards(open_source(photos, seed=0), tmp_path / "shards", WriteOptions(shorter_side=60))
    found = read_set(tmp_path / "shards")
    rows = ShardRows(FolderPlace(tmp_path / "shards"), found.parts["train"].shards)
    images = {name.split(" ")[1]: Image.open(io.BytesIO(data)) for data, name in map(rows.encoded, range(24))}
    assert (images["train/cat/00.png"].size, images["train/cat/00.png"].format) == ((150, 60), "JPEG")
    assert (images["train/cat/01.png"].size, images["train/cat/01.png"].format) == ((24, 20), "PNG")


# Sets that miss something


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.unlink(), "is missing, but shards.json names it"),
        (lambda f: f.write_bytes(f.read_bytes()[:-9]), r"has [\d,]+ bytes, but shards.json says"),
        (lambda f: f.write_bytes(bytes(f.stat().st_size)), "cannot be read as Arrow"),
    ],
    ids=["missing", "cut short", "overwritten"],
)
def test_shards_that_miss_or_are_cut_short_are_named(shards, spoil, message):
    file = sorted(shards.glob("train-*.arrow"))[1]
    spoil(file)
    with pytest.raises(InputError, match=f"{file} {message}"):
        load_splits(config(shards))


def rewritten(shards, table):
    """A set whose first test shard is another table."""
    file = shards / "test-00000.arrow"
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    values = json.loads((shards / "shards.json").read_text())
    values["parts"]["test"]["shards"][0]["num_bytes"] = file.stat().st_size
    (shards / "shards.json").write_text(json.dumps(values))


def test_shards_that_differ_are_named(shards):
    rewritten(shards, pa.table({"image": [b""], "label": [0]}))
    with pytest.raises(InputError, match=r"test-00000\.arrow has the columns image: binary, label: int64, but must"):
        load_splits(config(shards))
    rewritten(shards, pa.table({"image": [b""], "name": ["it"], "label": [0]}))
    with pytest.raises(InputError, match=r"test-00000\.arrow has 1 images, but shards\.json says"):
        load_splits(config(shards))
    rewritten(shards, schema_of("one").empty_table())
    with pytest.raises(InputError, match=r"test-00000\.arrow (cannot be read as Arrow|has 0 images)"):
        load_splits(config(shards))
    names, labels = ["it"] * 6, [0, 1, 2, 0, 0, 0]
    rewritten(shards, pa.table({"image": [b""] * 6, "name": names, "label": labels}))
    values = json.loads((shards / "shards.json").read_text())
    values["parts"]["test"]["shards"][0]["num_images"] = 6
    values["parts"]["test"]["shards"] = values["parts"]["test"]["shards"][:1]
    values["parts"]["test"]["labels"] = None  # as of sets that were made before there was one
    (shards / "shards.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"test-00000\.arrow has labels that are not in 0 … 1"):
        load_test(config(shards))


def test_what_may_not_be_read_is_not_taken_for_damaged(photos, shards, tmp_path, monkeypatch):
    closed, read = photos / "train/cat/05.png", Path.read_bytes

    def forbidding(path):
        if path == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    with monkeypatch.context() as patches:
        patches.setattr(Path, "read_bytes", forbidding)
        with pytest.raises(PermissionError) as raised:
            write_shards(open_source(photos, seed=0), tmp_path / "others", WriteOptions(skip_corrupt=9))
        assert raised.value.filename == str(closed)
    assert not (tmp_path / "others").exists()

    def forbidden(file, *_, **__):
        raise PermissionError(errno.EACCES, f"Failed to open local file '{file}'")  # as Arrow has it

    with monkeypatch.context() as patches:
        patches.setattr(pa, "memory_map", forbidden)
        with pytest.raises(
            InputError, match=rf"^{shards}/[a-z0-9-]+\.arrow cannot be read \(Permission denied\); change"
        ):
            load_splits(config(shards))
    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(InputError, match=rf"^{shards}/shards\.json cannot be read \(Permission denied\); change"):
        load_splits(config(shards))


def test_a_shard_whose_offsets_lead_elsewhere_is_refused(shards):
    file = shards / "test-00000.arrow"
    content = file.read_bytes()
    with pa.memory_map(str(file)) as source:
        offsets = pa.ipc.open_file(source).get_batch(0).column("image").buffers()[1].to_pybytes()
    file.write_bytes(content.replace(offsets, offsets[:4] + (2**30).to_bytes(4, "little") + offsets[8:], 1))
    with pytest.raises(InputError, match=r"test-00000\.arrow is damaged"):
        load_splits(config(shards))


def test_a_list_that_lacks_a_label_is_refused(tmp_path):
    parquet(tmp_path / "hub", "labels", [[0, 2], [], [1], [2]])
    write_shards(open_source(tmp_path / "hub", seed=0), tmp_path / "shards", WriteOptions())
    labels = pa.array([[0], [None], [1], [2]], type=pa.list_(pa.int64()))
    rewritten(tmp_path / "shards", pa.table({"image": [b""] * 4, "name": ["it"] * 4, "labels": labels}))
    with pytest.raises(InputError, match=r"test-00000\.arrow lacks values in its column labels"):
        load_splits(config(tmp_path / "shards"))


def test_no_set_takes_the_place_of_a_mounted_disk(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "disk")
    (tmp_path / "disk").mkdir()
    with pytest.raises(InputError, match="disk is where a disk is mounted, which nothing can replace"):
        write_shards(open_source(photos, seed=0), tmp_path / "disk", SMALL)


def test_a_shard_that_lacks_an_image_is_refused(shards):
    num_images = json.loads((shards / "shards.json").read_text())["parts"]["test"]["shards"][0]["num_images"]
    images = pa.array([None] * num_images, type=pa.binary())
    rewritten(shards, pa.table({"image": images, "name": ["it"] * num_images, "label": [0] * num_images}))
    with pytest.raises(InputError, match=r"test-00000\.arrow lacks values in its column image"):
        load_splits(config(shards))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(version=2), "version is 2, but must be 1"),
        (lambda v: v.pop("parts"), "KeyError 'parts'"),
        (lambda v: v["parts"].pop("train"), "parts are val, test"),
        (lambda v: v["parts"]["val"].update(shards=[]), "part val has no shards"),
        (lambda v: v["parts"].update(val=v["parts"]["test"]), "a file is named twice"),
        (lambda v: v.update(class_names=["cat"]), "fewer than two classes"),
        (lambda v: v.update(labels="many"), "labels is 'many', but must be one of one, several"),
        (lambda v: v["parts"]["val"]["shards"][0].update(file="../x-00000.arrow"), "file of a shard is '../x"),
        (lambda v: v["parts"]["val"]["shards"][0].update(num_images=0), "num_images of a shard is 0"),
    ],
)
def test_a_description_that_is_wrong_is_refused(shards, change, message):
    values = json.loads((shards / "shards.json").read_text())
    change(values)
    (shards / "shards.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=rf"shards\.json cannot be read \(.*{message}"):
        load_splits(config(shards))


def test_folders_that_are_no_sets_are_refused(photos, shards):
    with pytest.raises(InputError, match=r"has no shards\.json, so it is no set of shards"):
        load_splits(config(photos))
    (shards / "shards.json").write_text("{")
    with pytest.raises(InputError, match=r"shards\.json cannot be read"):
        load_splits(config(shards))


def test_shards_need_a_size():
    with pytest.raises(InputError, match=r"data\.image_size is missing"):
        DataConfig(name="shards", path="x")


# The command


def test_the_command_says_what_it_wrote(cascade, photos):
    code, out, err = cascade("data", "photos", "shards", "--shard-mb", 1)
    assert (code, err) == (0, "")
    assert out.splitlines()[1].startswith("train: 24 images in 1 shard, ")
    code, out, _ = cascade("data", "photos", "shards", "--overwrite", "--format", "json")
    assert (code, json.loads(out)["class_names"]) == (0, ["cat", "dog"])


def test_the_command_says_what_it_does_not_read(cascade, photos):
    (photos / "val/dog/00.heic").write_bytes(b"a photograph of another format")
    code, _, err = cascade("data", "photos", "shards", "--format", "json")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith("note: photos holds what is not read: 1 file, such as val/dog/00.heic; ")


def test_the_command_names_what_it_left_out(cascade, damaged):
    code, out, _ = cascade("data", "photos", "shards", "--skip-corrupt", 5)
    assert code == 0
    assert out.count("left out: ") == 3
    assert "left out: train/cat/03.png cannot be read as an image (unknown format)\n" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "out"], "nowhere must be a folder that exists"),
        (["s3://bucket/images", "out"], "s3://bucket/images is an address, but must be a folder"),
        (["photos", "s3:/bucket/shards"], "s3:/bucket/shards is an address, but must be a folder; mount it"),
        (["photos", "ftp://bucket/shards"], "ftp://… is no storage that is known"),
        (["photos", "shards"], "shards is there already; choose another folder, or replace it with --overwrite"),
        (["photos", "other", "--overwrite"], "is no set of shards (it has no shards.json) and is not replaced"),
        (["photos", "photos/out"], "photos/out lies in photos, which is read"),
        (["shards/new", "shards", "--overwrite"], "shards/new, which is read, lies in shards; choose another folder"),
        (["shards", "out"], "shards is a set of shards already"),
        (["empty", "out"], "empty has 0 class folders, but must have at least 2"),
        (["other", "out"], "other has 1 class folder, but must have at least 2"),
        (["only-test", "out"], "only-test has a folder test, but none called train"),
        (["pickles", "out"], "pickles, which can run code and are not opened; fetch the binary version"),
        (["cifar", "out"], "data_batch_2.bin has 5 bytes, but must have a multiple of 3,073"),
        (["cifar-lacks", "out"], "test_batch.bin is missing; fetch CIFAR's binary version again"),
        (["test-parquet", "out"], "test-parquet has Parquet files, but none with train in its name"),
        (["two-kinds", "out"], "files with one label an image and others with lists of them"),
        (["photos", "shards/shards.json/out"], "cannot be made"),
    ],
)
def test_bad_input_is_one_line(cascade, photos, shards, tmp_path, words, message):
    for folder in (
        "other/things",
        "shards/new/cat",
        "empty",
        "only-test/test/cat",
        "pickles/cifar-10-batches-py",
        "test-parquet",
    ):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("cifar", "cifar-lacks"):
        (tmp_path / folder).mkdir()
        cifar10(tmp_path / folder / "cifar-10-batches-bin", 2)
    (tmp_path / "cifar/cifar-10-batches-bin/data_batch_2.bin").write_bytes(b"12345")
    (tmp_path / "cifar-lacks/cifar-10-batches-bin/test_batch.bin").unlink()
    pq.write_table(table("label", [0, 1]), tmp_path / "test-parquet/test.parquet")
    parquet(tmp_path / "two-kinds", "label", [0, 1, 2])
    pq.write_table(table("labels", [[0, 1], [2]]), tmp_path / "two-kinds/test.parquet")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = cascade("data", *words)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_replaced_stays_until_the_new_set_is_whole(cascade, damaged, tmp_path):
    assert cascade("data", "photos", "shards", "--skip-corrupt", 3)[0] == 0
    before = read_set(tmp_path / "shards")
    assert cascade("data", "photos", "shards", "--overwrite")[0] == 2
    assert read_set(tmp_path / "shards") == before


def test_an_interrupted_set_is_never_there(photos, tmp_path):
    def interrupt(part, num_seen):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(open_source(photos, seed=0), tmp_path / "shards", SMALL, told=interrupt)
    assert {item.name for item in tmp_path.iterdir()} == {"photos"}


def test_model_cards_know_how_images_of_every_set_are_made():
    assert {*get_args(DataName)} == {*HOW_IMAGES_ARE_MADE}
