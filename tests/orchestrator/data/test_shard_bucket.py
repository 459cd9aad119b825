"""Shards in a bucket, on a real S3 server: fetched once, whole and checked, or one message before anything starts."""

import fcntl
import hashlib
import io
import json
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from orchestrator.data import shard_bucket, shard_cache, shard_splits
from orchestrator.data.datasets import data_sets, draws_its_test_images, load_splits, load_test, training_images
from orchestrator.data.shard_bucket import BucketPlace
from orchestrator.data.shard_files import ShardRows
from orchestrator.data.shard_sources import open_source
from orchestrator.data.shard_writer import WriteOptions, write_shards
from orchestrator.data.shards import FILE, ShardSet
from orchestrator.storage.bucket import Bucket
from trainables.data_config import DataConfig
from trainables.errors import InputError, MachineError
from trainables.identity import data_digest

pytestmark = pytest.mark.integration


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of this machine, which is empty."""
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


def make_shards(folder, *, first=0):
    """Eight images of each of two classes, whose colours are numbers, as shards."""
    for number in range(first, first + 16):
        path = folder / "photos" / ("cat", "dog")[number % 2] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.new("RGB", (12, 12), (number, 0, 0)).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue())
    write_shards(open_source(folder / "photos", seed=0), folder / "shards", WriteOptions(shard_bytes=400))
    return folder / "shards"


def put(shards, bucket):
    for path in sorted(shards.iterdir()):
        bucket.write(path.name, path.read_bytes())


@pytest.fixture
def shards(tmp_path, cache, s3):
    """A set in a folder, and the same in the bucket."""
    made = make_shards(tmp_path / "made")
    put(made, Bucket(s3))
    return made


def config(path, **others):
    return DataConfig(**{"name": "shards", "path": str(path), "image_size": 12, "workers": 0} | others)


def key_of(shards):
    return hashlib.sha256((shards / FILE).read_bytes()).hexdigest()


def whole_sets(cache):
    return {path.name for path in cache.iterdir() if path.is_dir() and not path.name.startswith(".")}


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_a_bucket_gives_the_images_of_the_folder(shards, s3, cache, memory_gb):
    folder, bucket = (load_splits(config(path, memory_gb=memory_gb)) for path in (shards, s3))
    assert data_digest(bucket) == data_digest(folder)
    indices = torch.arange(len(folder.train))
    assert torch.equal(bucket.train.pixels(indices), folder.train.pixels(indices))
    tests = [load_test(config(path)).images for path in (shards, s3)]
    assert torch.equal(tests[0].images_NCHW, tests[1].images_NCHW)
    assert draws_its_test_images(config(s3))
    assert whole_sets(cache) == {key_of(shards)}
    named = data_sets(config(s3), bucket, data_digest(bucket))
    assert {each.source for each in named} == {s3.partition("?")[0]}


@pytest.fixture
def fetched(monkeypatch):
    """Names of the files that are fetched."""
    names = []
    pieces = Bucket.pieces
    monkeypatch.setattr(Bucket, "pieces", lambda self, name: (names.append(name), pieces(self, name))[1])
    return names


def files_of(found):
    return [shard for shard, _ in found.files()]


def fetch_all(address):
    place = BucketPlace.find(address)
    return place.holding(files_of(place.found()))


def test_a_set_is_fetched_once_and_its_place_is_told(shards, s3, cache, fetched):
    told = []
    with ThreadPoolExecutor(max_workers=4) as pool:  # each with a lock of its own, as processes have
        together = threading.Barrier(4)

        def fetch(_):
            place = BucketPlace.find(s3, told.append)
            files = files_of(place.found())
            together.wait()
            return place.holding(files)

        assert set(pool.map(fetch, range(4))) == {cache / key_of(shards)}
    assert sorted(fetched) == sorted(path.name for path in shards.iterdir() if path.name != FILE)
    (note,) = told
    assert note.startswith(f"{len(fetched)} files of images are fetched from {Bucket(s3).shown} into {cache}")


def test_who_divides_up_what_is_streamed_fetches_labels_and_the_beginning(shards, s3, fetched, monkeypatch):
    monkeypatch.setattr(shard_splits, "_STATISTICS_IMAGES", 2)
    streamed = config(s3, memory_gb=0.0)
    data = load_splits(streamed)
    assert fetched == ["train-labels.arrow", "train-00000.arrow"]
    assert training_images(streamed, 2, seed=0).shape == (2, 3, 12, 12)
    assert fetched == ["train-labels.arrow", "train-00000.arrow"]
    list(data.train.ordered(batch_size=4))
    assert sorted(fetched) == sorted(path.name for path in shards.iterdir() if path.name != FILE)


def test_who_exports_fetches_test_images_alone(tmp_path, cache, s3, fetched):
    make_shards(tmp_path / "made")
    (tmp_path / "parts").mkdir()
    for part in ("train", "test"):
        shutil.copytree(tmp_path / "made/photos", tmp_path / "parts" / part)
    write_shards(open_source(tmp_path / "parts", seed=0), tmp_path / "both", WriteOptions(shard_bytes=400))
    put(tmp_path / "both", Bucket(s3))
    assert not draws_its_test_images(config(s3))
    assert fetched == []
    told = []
    assert len(load_test(config(s3), told.append).images) == 16
    assert {name.partition("-")[0] for name in fetched} == {"test"}
    assert told
    fetched.clear()
    load_splits(config(s3))
    assert {name.partition("-")[0] for name in fetched} == {"train"}


def test_a_set_without_files_of_labels_gives_the_same(shards, s3):
    there = load_splits(config(s3, memory_gb=0.0))
    values = json.loads((shards / FILE).read_text())
    for part in values["parts"].values():
        del part["labels"]
    Bucket(s3).write(FILE, json.dumps(values).encode())
    assert data_digest(load_splits(config(s3, memory_gb=0.0))) == data_digest(there)


def test_another_machine_fetches_the_set_when_it_reads_an_image(shards, s3, tmp_path, monkeypatch):
    part = ShardSet.from_json((shards / FILE).read_text()).parts["train"]
    rows = ShardRows(BucketPlace.find(s3), part.shards)
    there = rows.encoded(3)
    sent = pickle.dumps(rows)
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path / "other"))
    data, name = pickle.loads(sent).encoded(3)
    assert data == there[0]
    assert str(tmp_path / "other") in name


def test_what_a_broken_fetch_has_brought_is_not_brought_again(shards, s3, cache, monkeypatch):
    pieces = Bucket.pieces

    def broken(self, name):
        if name == last:
            raise OSError("the line is cut")
        yield from pieces(self, name)

    files = [shard.file for shard in ShardSet.from_json((shards / FILE).read_text()).parts["train"].shards]
    last = files[-1]
    monkeypatch.setattr(shard_bucket, "_THREADS", 1)
    monkeypatch.setattr(Bucket, "pieces", broken)
    with pytest.raises(InputError, match="cannot be read: the line is cut"):
        load_splits(config(s3))
    begun = cache / key_of(shards)
    (begun / files[0]).rename(begun / f".{files[0]}")  # as after a kill
    fetched = []
    monkeypatch.setattr(Bucket, "pieces", lambda self, name: (fetched.append(name), pieces(self, name))[1])
    load_splits(config(s3))
    assert fetched == [files[0], last]
    assert {path.name for path in begun.iterdir()} == {*files, "train-labels.arrow"}


def test_a_set_that_is_replaced_is_another_one(shards, s3, cache, tmp_path, monkeypatch):
    old = BucketPlace.find(s3)
    old_set = old.found()
    put(make_shards(tmp_path / "new", first=100), Bucket(s3))
    with pytest.raises(
        MachineError, match=r"were replaced since the search began: SHA-256 of shards.json is \w+… there"
    ):
        old.holding(files_of(old_set))
    assert load_splits(config(s3)).train.images_NCHW[:, 0].min() >= 100


@pytest.fixture
def small_disk(shards, monkeypatch, cache):
    """A disk on which there is room for one set and a half beside what is to stay free."""

    def size(folder):
        return sum(path.stat().st_size for path in folder.rglob("*.arrow"))

    def usage(folder):
        return SimpleNamespace(free=shard_cache._MARGIN_BYTES + 1.5 * size(shards) - size(cache))

    monkeypatch.setattr(shard_cache.shutil, "disk_usage", usage)


def test_sets_that_nobody_uses_make_room(shards, s3, cache, tmp_path, small_disk):
    used = BucketPlace.find(s3)
    used.holding(files_of(used.found()))
    new = make_shards(tmp_path / "new", first=100)
    put(new, Bucket(s3).within("new"))
    other = Bucket(s3).within("new").address
    with pytest.raises(InputError, match=r"MB left, but the shards take .* more; make room, or choose another folder"):
        fetch_all(other)
    assert list((cache / key_of(new)).iterdir()) == []
    del used
    fetch_all(other)
    assert whole_sets(cache) == {key_of(new)}


def test_a_set_that_is_removed_meanwhile_is_fetched_again(shards, s3, cache):
    place = BucketPlace.find(s3)
    files = files_of(place.found())
    place.holding(files)
    with (cache / f"{key_of(shards)}.lock").open("a+b") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as it is used
    again = pickle.loads(pickle.dumps(place))
    del place
    shard_cache._remove_unused(cache / key_of(shards))
    assert whole_sets(cache) == set()
    assert (again.holding(files) / files[0].file).is_file()


def damaged(bucket, shards):
    content = bytearray((shards / "train-00001.arrow").read_bytes())
    content[-200] ^= 1
    bucket.write("train-00001.arrow", bytes(content))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda bucket, _: bucket.remove(FILE), f"but there is no {FILE} there, or no such bucket; look"),
        (lambda bucket, _: bucket.write(FILE, b"{}"), f"{FILE} in .* cannot be read .*copy the set there again"),
        (lambda bucket, _: bucket.remove("train-00001.arrow"), "train-00001.arrow is missing in .*copy it there again"),
        (lambda bucket, _: bucket.write("train-00001.arrow", b"1"), "train-00001.arrow in .* has 1 bytes, but"),
        (damaged, r"train-00001.arrow in .* is not what shards.json says \(its SHA-256 differs\)"),
    ],
)
def test_a_set_that_is_damaged_is_refused(shards, s3, cache, spoil, message):
    spoil(Bucket(s3), shards)
    with pytest.raises(InputError, match=message):
        load_splits(config(s3))
    assert not cache.exists() or not any(path.name == "train-00001.arrow" for path in cache.rglob("*"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("s3://models/", "s3://nowhere/", "data.path is s3://nowhere/.*, or no such bucket"),
        ("s3://", "ftp://", "data.path: ftp://… is no storage that is known"),
        ("?", "?access_key=mine&", "data.path: .* holds a key"),
    ],
)
def test_an_address_that_cannot_be_read_is_refused(shards, s3, old, new, message):
    with pytest.raises(InputError, match=message) as caught:
        load_splits(config(s3.replace(old, new, 1)))
    assert "\n" not in str(caught.value)
    assert "mine" not in str(caught.value)


def test_a_bucket_that_refuses_is_named(shards, s3, monkeypatch):
    def refused(self, name):
        raise PermissionError("When reading information: AWS Error ACCESS_DENIED")

    monkeypatch.setattr(Bucket, "read", refused)
    with pytest.raises(InputError, match=r"which cannot be read: .*ACCESS_DENIED.*permissions, and at the keys"):
        load_splits(config(s3))


def test_a_cache_that_takes_nothing_is_named(shards, s3, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"shards cannot be kept in .*choose another folder by CASCADE_CACHE"):
        load_splits(config(s3))


def test_only_shards_are_read_from_a_bucket():
    with pytest.raises(InputError, match="only shards are read from a bucket"):
        DataConfig(name="imagefolder", path="s3://models/photos", image_size=16)


def test_a_set_that_is_made_replaces_the_one_in_the_bucket(shards, s3, cascade, cache):
    photos, bucket = shards.parent / "photos", Bucket(s3)
    code, _, err = cascade("data", photos, s3)
    assert code == 2
    assert f"{bucket.shown} holds a set already; choose another place, or replace it with --overwrite" in err
    code, out, _ = cascade("data", photos, s3, "--overwrite", "--shard-mb", 1)
    assert code == 0
    assert f'search it with data: {{"name": "shards", "path": "{s3}", "image_size": …}}' in out
    assert bucket.names() == [FILE, "train-00000.arrow", "train-labels.arrow"]
    assert list((cache.parent / "made").iterdir() if (cache.parent / "made").exists() else ()) == []


def test_a_place_in_which_an_upload_was_broken_off_takes_a_set(shards, s3, cascade, monkeypatch):
    photos, bucket, write = shards.parent / "photos", Bucket(s3), Bucket.write

    def broken(self, name, content):
        if name == "train-labels.arrow":
            raise OSError("the line is cut")
        write(self, name, content)

    with monkeypatch.context() as patched:
        patched.setattr(Bucket, "write", broken)
        code, _, err = cascade("data", photos, s3, "--overwrite")
    assert code == 2
    assert f"{bucket.shown} cannot be written to: the line is cut; begin again, with --overwrite" in err
    assert bucket.names() == ["train-00000.arrow"]
    code, _, err = cascade("data", photos, s3)
    assert code == 2
    assert f"{bucket.shown} holds train-00000.arrow, but no {FILE}: part of a set that did not arrive" in err
    assert cascade("data", photos, s3, "--overwrite")[0] == 0
    assert bucket.names() == [FILE, "train-00000.arrow", "train-labels.arrow"]


def test_a_place_with_other_objects_takes_no_set(shards, s3, cascade):
    bucket = Bucket(s3)
    bucket.remove(FILE)
    bucket.write("weights", b"1")
    code, _, err = cascade("data", shards.parent / "photos", s3, "--overwrite")
    assert code == 2
    assert f"{bucket.shown} holds weights, but no set of shards; choose another place, or remove what is there" in err
    assert "train-00000.arrow" in bucket.names()


STREAMED = """
model: {name: vgg-small, width: 0.125}
data: {name: shards, path: 'ADDRESS', image_size: 16, memory_gb: 0, workers: 1, augmentation: resized-crop-flip}
teacher: {epochs: 2, batch_size: 8, learning_rate: 0.02}
cascade: {recipe: {epochs: 2, batch_size: 8, learning_rate: 0.02}, pruning: {num_prunings: 2}}
space: {num_assistants: [0, 0], student_macs_kept: [0.5, 0.6], schedule: [joint]}
num_trials: 1
tracking: {models: none}
"""


def test_a_search_streams_from_a_bucket(shards, s3, cascade_commands):
    folder = shards.parent
    (folder / "few.yaml").write_text(STREAMED.replace("ADDRESS", s3))
    searched, front = cascade_commands(["search", "few.yaml"], ["front", "few", "--format", "json"], cwd=folder)
    assert "fetched from s3://models/" in searched.out + searched.err
    assert len(front.json()) == 1
