import errno
import hashlib
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets

from tests.pictures import encoded, one_line
from trainables.data_config import DataConfig
from trainables.datasets.images import ImageSet
from trainables.datasets.sources import image_files, read_test, read_train, read_val
from trainables.datasets.splits import split
from trainables.errors import InputError

# Digits


def test_digits_are_parted_the_same_way_every_time() -> None:
    config = DataConfig(name="digits", image_size=8, seed=4)
    train, test = read_train(config), read_test(config)
    assert len(train.images) + len(test.images) == 1797
    assert train.class_names == tuple("0123456789")
    assert torch.equal(read_test(config).images.images_NCHW, test.images.images_NCHW)
    assert torch.equal(read_train(config).images.labels_N, train.images.labels_N)
    other = read_test(DataConfig(name="digits", image_size=8, seed=5))
    assert not torch.equal(other.images.labels_N, test.images.labels_N)

    # At their own size the two parts together are the whole, image for image.
    digits = load_digits()
    whole = np.rint(digits.images * 255 / 16).astype(np.uint8).reshape(1797, -1)
    parts = torch.cat([train.images.images_NCHW, test.images.images_NCHW]).flatten(1).numpy()
    assert sorted(map(bytes, parts)) == sorted(map(bytes, whole))


def test_digits_are_the_same_where_scikit_learn_keeps_them_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(name="digits", image_size=8)
    here = read_train(config).images
    nowhere = SimpleNamespace(submodule_search_locations=["/nowhere"])
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: nowhere)
    there = read_train(config).images
    assert torch.equal(here.images_NCHW, there.images_NCHW)
    assert torch.equal(here.labels_N, there.labels_N)


def test_digits_keep_their_range_and_labels_when_enlarged() -> None:
    source = read_test(DataConfig(name="digits"))
    images = source.images.images_NCHW
    assert images.shape[1:] == (1, 16, 16)
    assert (int(images.min()), int(images.max())) == (0, 255)
    # A classifier as plain as the nearest class mean recognises them: labels belong to their images.
    flat, labels = images.flatten(1).float(), source.images.labels_N
    means = torch.stack([flat[labels == label].mean(0) for label in range(10)])
    assert (torch.cdist(flat, means).argmin(1) == labels).float().mean() > 0.8


# CIFAR as torchvision lays it out


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_missing_cifar_files_say_how_to_fetch_them(tmp_path: Path, name: Any, folder: str) -> None:
    with pytest.raises(InputError) as error:
        read_train(DataConfig(name=name, path=str(tmp_path)))
    message = one_line(error)
    assert str(tmp_path) in message
    assert folder in message
    assert "data.download: true" in message
    with pytest.raises(InputError, match=r"data\.download: true"):
        read_test(DataConfig(name=name, path=str(tmp_path / "nowhere")))


class _Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_cifar_files_that_are_not_the_published_ones_are_never_unpickled(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    mark = tmp_path / "unpickled"
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(_Bomb(mark)))
    with pytest.raises(InputError, match="not the published ones"):
        read_train(DataConfig(name="cifar10", path=str(tmp_path)))
    assert not mark.exists()
    pickle.loads((folder / "test_batch").read_bytes())
    assert mark.exists()  # the pickle would have run


def test_cifar_files_are_read_when_their_sums_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
    files = {
        "data_batch_1": {"data": pixels[:4].reshape(4, -1), "labels": [3, 1, 0, 1]},
        "test_batch": {"data": pixels[4:].reshape(2, -1), "labels": [2, 0]},
        "batches.meta": {"label_names": ["plane", "car", "bird", "cat"]},
    }
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    sums = {}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": sums["batches.meta"]})

    config = DataConfig(name="cifar10", path=str(tmp_path))
    train, test = read_train(config), read_test(config)
    assert train.class_names == ("plane", "car", "bird", "cat")
    assert torch.equal(train.images.images_NCHW, torch.from_numpy(pixels[:4]))
    assert train.images.labels_N.tolist() == [3, 1, 0, 1]
    assert torch.equal(test.images.images_NCHW, torch.from_numpy(pixels[4:]))


def test_a_download_that_fails_says_where_to_get_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "url", f"file://{tmp_path}/no-archive.tar.gz")
    with pytest.raises(InputError, match="cannot be fetched") as error:
        read_train(DataConfig(name="cifar10", path=str(tmp_path), download=True))
    assert "no-archive.tar.gz there by other means" in one_line(error)


# Folders of images


def _save(file: Path, colour: int, size: tuple[int, int] = (20, 20)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, colour, colour)).save(file)


def _folder_config(path: Path, **values: Any) -> DataConfig:
    return DataConfig(name="imagefolder", path=str(path), image_size=8, **values)


def test_train_and_test_folders_are_read(tmp_path: Path) -> None:
    _save(tmp_path / "train/dog/b.jpg", 40)
    _save(tmp_path / "train/dog/a.PNG", 30)
    _save(tmp_path / "train/cat/c.webp", 20)
    _save(tmp_path / "test/dog/d.bmp", 50)
    _save(tmp_path / "train/.cache/f.png", 70)
    (tmp_path / "train/cat/notes.txt").write_text("no image")
    (tmp_path / "train/cat/._c.webp").write_bytes(b"what a Mac adds beside an image")

    train, test = read_train(_folder_config(tmp_path)), read_test(_folder_config(tmp_path))
    assert train.class_names == test.class_names == ("cat", "dog")
    assert train.images.labels_N.tolist() == [0, 1, 1]
    assert train.images.images_NCHW.shape == (3, 3, 8, 8)
    assert train.images.images_NCHW[:, 0, 0, 0].tolist() == pytest.approx([20, 30, 40], abs=2)
    assert test.images.labels_N.tolist() == [1]
    assert np.unique(test.images.images_NCHW).tolist() == [50]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_images_of_their_own_are_read_and_stay_out_of_the_training_images(tmp_path: Path, name: str) -> None:
    for part, colour in (("train", 0), (name, 100), ("test", 200)):
        for class_name in ("cat", "dog"):
            _save(tmp_path / part / class_name / "a.png", colour)
    config = _folder_config(tmp_path)
    assert read_val(config).labels_N.tolist() == [0, 1]
    colours = [set(images.images_NCHW.flatten().tolist()) for images in _parts(config)]
    assert colours == [{0}, {100}, {200}]
    _save(tmp_path / name / "bird/a.png", 100)
    with pytest.raises(InputError, match=rf"{name}/bird is a class that has no training images"):
        read_train(config)


def _parts(config: DataConfig) -> list[ImageSet]:
    return [read_train(config).images, read_val(config), read_test(config).images]


def test_test_images_are_held_out_of_the_training_images_beside_validation_images(tmp_path: Path) -> None:
    for number in range(5):
        for class_name in ("cat", "dog"):
            _save(tmp_path / "train" / class_name / f"{number}.png", number)
    _save(tmp_path / "valid/cat/a.png", 100)
    _save(tmp_path / "valid/dog/a.png", 100)
    assert [len(images) for images in _parts(_folder_config(tmp_path))] == [8, 2, 2]


def test_parts_may_have_capitals_where_nothing_else_is_there(tmp_path: Path) -> None:
    for part in ("Train", "Valid", "TEST"):
        for class_name in ("cat", "dog"):
            _save(tmp_path / "photos" / part / class_name / "a.png", 0)
    assert read_train(_folder_config(tmp_path / "photos")).class_names == ("cat", "dog")
    assert read_val(_folder_config(tmp_path / "photos")) is not None
    assert read_test(_folder_config(tmp_path / "photos")).class_names == ("cat", "dog")
    for part, colour in (("train", 0), ("Test", 9)):
        for class_name in ("cat", "dog"):
            _save(tmp_path / "mixed" / part / class_name / "a.png", colour)
    (tmp_path / "mixed/notes").mkdir()
    (tmp_path / "photos/__MACOSX").mkdir()
    assert int(read_test(_folder_config(tmp_path / "mixed")).images.images_NCHW.max()) == 9
    assert read_train(_folder_config(tmp_path / "photos")).class_names == ("cat", "dog")
    for class_name in ("Bus", "Train"):
        for number in range(5):
            _save(tmp_path / "vehicles" / class_name / f"{number}.png", number)
    assert read_train(_folder_config(tmp_path / "vehicles")).class_names == ("Bus", "Train")


def test_folders_that_could_be_mistaken_for_parts(tmp_path: Path) -> None:
    for class_name in ("valid", "invalid"):  # which are classes here
        for number in range(5):
            _save(tmp_path / "parcels" / class_name / f"{number}.png", number)
    assert read_train(_folder_config(tmp_path / "parcels")).class_names == ("invalid", "valid")
    assert read_val(_folder_config(tmp_path / "parcels")) is None
    for part in ("train", "val", "validation"):
        _save(tmp_path / "twice" / part / "cat/a.png", 0)
    with pytest.raises(InputError, match="has the folders val and validation, which are all for validation images"):
        read_train(_folder_config(tmp_path / "twice"))
    for part in ("train", "Train"):
        _save(tmp_path / "once more" / part / "cat/a.png", 0)
    with pytest.raises(InputError, match="has the folders Train and train, which are all for training images"):
        read_train(_folder_config(tmp_path / "once more"))
    _save(tmp_path / "alone/val/cat/a.png", 0)
    with pytest.raises(InputError, match="has a folder val, but none called train"):
        read_train(_folder_config(tmp_path / "alone"))


@pytest.mark.parametrize("below", ["", "train"])
def test_test_images_are_held_out_where_there_is_no_test_folder(tmp_path: Path, below: str) -> None:
    for number in range(10):
        _save(tmp_path / below / "cat" / f"{number}.png", number)
        _save(tmp_path / below / "dog" / f"{number}.png", 100 + number)
    config = _folder_config(tmp_path, test_fraction=0.3)
    train, test = (read(config).images for read in (read_train, read_test))
    assert train.labels_N.tolist() == [0] * 7 + [1] * 7
    colours = torch.cat([train.images_NCHW[:, 0, 0, 0], test.images_NCHW[:, 0, 0, 0]])
    assert sorted(colours.tolist()) == [*range(10), *range(100, 110)]
    assert torch.equal(read_test(config).images.images_NCHW, test.images_NCHW)


def test_many_images_keep_their_order(tmp_path: Path) -> None:
    for number in range(150):
        _save(tmp_path / "train" / "ab"[number % 2] / f"{number:03d}.png", number, size=(8, 8))
    _save(tmp_path / "test/a/x.png", 0)
    images = read_train(_folder_config(tmp_path)).images
    assert images.images_NCHW[:, 0, 0, 0].tolist() == [*range(0, 150, 2), *range(1, 150, 2)]


def test_the_shorter_side_is_resized_and_the_middle_cut_out(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 120, 3), dtype=np.uint8)
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "tall.png").write_bytes(encoded(pixels.transpose(1, 0, 2)))
        (tmp_path / "train" / name / "wide.png").write_bytes(encoded(pixels))
    _save(tmp_path / "test/cat/x.png", 0)
    images = read_train(_folder_config(tmp_path)).images.images_NCHW
    resized = Image.fromarray(pixels).resize((24, 8), Image.Resampling.BILINEAR)
    wide = torch.from_numpy(np.array(resized)[:, 8:16]).permute(2, 0, 1)
    torch.testing.assert_close(images[1], wide, atol=1, rtol=0)
    torch.testing.assert_close(images[0], wide.transpose(1, 2), atol=1, rtol=0)


def test_shrinking_averages_instead_of_skipping_pixels(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "x.png").write_bytes(encoded(stripes))
    _save(tmp_path / "test/cat/x.png", 0)
    shrunk = read_train(_folder_config(tmp_path)).images.images_NCHW.float()
    assert (shrunk - 100).abs().max() <= 10


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        _save(tmp_path / "train" / name / "good.png", 1)
    _save(tmp_path / "test/cat/x.png", 0)
    bad = tmp_path / "train/dog/bad.png"
    bad.write_bytes((tmp_path / "train/dog/good.png").read_bytes()[:40])
    with pytest.raises(InputError) as error:
        read_train(_folder_config(tmp_path))
    assert one_line(error).startswith(f"{bad} cannot be read as an image")
    assert "more cannot be taken" not in one_line(error)


def test_images_that_may_not_be_read_are_named_at_once_and_not_taken_for_damaged_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cat", "dog"):
        for file in ("a.png", "b.png"):
            _save(tmp_path / "train" / name / file, 1)
    _save(tmp_path / "test/cat/x.png", 0)
    opened, closed = Image.open, [tmp_path / "train/cat/b.png", tmp_path / "train/dog/a.png"]
    damaged = tmp_path / "train/dog/b.png"
    damaged.write_bytes(b"")

    def forbidding(file: Any, **options: Any) -> Image.Image:
        if file in closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return opened(file, **options)

    monkeypatch.setattr(Image, "open", forbidding)  # as nothing is forbidden to root
    with pytest.raises(InputError) as error:
        read_train(_folder_config(tmp_path))
    assert one_line(error) == (
        f"{closed[0]} cannot be read (Permission denied); change its permissions; 2 more cannot be taken: {closed[1]}, "
        f"{damaged}"
    )


@pytest.mark.parametrize(("number", "more"), [(3, ""), (80, ", …")])  # 80 are more than a thread takes at once
def test_unreadable_images_are_named_at_once(tmp_path: Path, number: int, more: str) -> None:
    _save(tmp_path / "test/cat/x.png", 0)
    for name in ("cat", "dog"):
        _save(tmp_path / "train" / name / "good.png", 1)
    bad = [tmp_path / f"train/dog/{index:03}.png" for index in range(number)]
    for file in bad:
        file.write_bytes(b"no image")
    with pytest.raises(InputError) as error:
        read_train(_folder_config(tmp_path))
    named = ", ".join(map(str, bad[1:11]))
    assert one_line(error) == (
        f"{bad[0]} cannot be read as an image (unknown format); mend or remove it; "
        f"{number - 1} more cannot be taken: {named}{more}"
    )


def test_unreadable_test_images_that_are_drawn_are_named_at_once_with_a_mend_that_draws_no_others(
    tmp_path: Path,
) -> None:
    for number in range(10):
        for name in ("cat", "dog"):
            _save(tmp_path / "train" / name / f"{number}.png", number)
    config = _folder_config(tmp_path)
    train, test = read_train(config).images, read_test(config).images
    drawn = [
        tmp_path / f"train/{name}/{int(pixels.unique())}.png"
        for name, pixels in zip(("cat", "cat", "dog", "dog"), test.images_NCHW, strict=True)
    ]
    whole = drawn[0].read_bytes()
    for file in drawn[::2]:
        file.write_bytes(b"")
    assert torch.equal(read_train(config).images.images_NCHW, train.images_NCHW)  # which does not decode them
    with pytest.raises(InputError) as error:
        read_test(config)
    assert one_line(error) == (
        f"{drawn[0]} cannot be read as an image (unknown format); mend or remove it; once a search has begun, do not "
        f"remove it, but put another of its class in its place under this name; 1 more cannot be taken: {drawn[2]}"
    )
    for file in drawn[::2]:
        file.write_bytes(whole)
    assert torch.equal(read_train(config).images.images_NCHW, train.images_NCHW)
    assert len(read_test(config).images) == 4


def test_images_of_every_suffix_are_found_directly_in_a_class_folder(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for number, file in enumerate(("b.TIF", "c.gif", "d.jpe", "a/e.png", "notes.txt")):
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            kind = {".TIF": "TIFF", ".gif": "GIF", ".jpe": "JPEG"}.get(path.suffix, "PNG")
            Image.new("RGB", (8, 8), (40 * number,) * 3).save(path, kind)
    files, labels_N = image_files(tmp_path, ("cat", "dog"))
    assert [file.name for file in files[:3]] == ["b.TIF", "c.gif", "d.jpe"]
    assert labels_N.tolist() == [0, 0, 0, 1, 1, 1]
    config = DataConfig(name="imagefolder", path=str(tmp_path), image_size=8, val_fraction=0.3)
    assert {images.unique().item() for images in read_train(config).images.images_NCHW} <= {0, 40, 80}


@pytest.mark.parametrize("parts", [("Training", "Testing"), ("images", "masks")])
def test_folders_of_folders_are_no_classes(tmp_path: Path, parts: tuple[str, str]) -> None:
    for part in parts:
        for name in ("cat", "dog"):
            _save(tmp_path / part / name / "a.png", 0)
    with pytest.raises(InputError, match=r"has no images \(.*\) directly in it, but the folder cat; add some"):
        read_train(_folder_config(tmp_path))


def test_a_wrong_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be a folder that exists"):
        read_train(_folder_config(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="has 0 class folders, but must have at least 2"):
        read_train(_folder_config(tmp_path))
    _save(tmp_path / "cat/a.png", 0)
    with pytest.raises(InputError, match="has 1 class folder, but must have at least 2"):
        read_train(_folder_config(tmp_path))
    (tmp_path / "dog").mkdir()
    with pytest.raises(InputError, match=r"dog has no images \(.png"):
        read_train(_folder_config(tmp_path))
    _save(tmp_path / "dog/a.png", 0)
    with pytest.raises(InputError, match="class cat has 1 image to split"):
        read_train(_folder_config(tmp_path))
    for name in ("cat/b.png", "dog/b.png"):
        _save(tmp_path / name, 0)
    config = _folder_config(tmp_path)
    with pytest.raises(
        InputError, match=r"class cat has 1 image to split, .* \(3 in all where both test and validation"
    ):
        split(read_train(config), config)


def test_a_class_whose_name_is_no_text_is_named_before_training(tmp_path: Path) -> None:
    for name in ("café", os.fsdecode(b"caf\xe9")):  # the second as of an archive in Latin-1
        for number in range(5):
            _save(tmp_path / name / f"{number}.png", number)
    with pytest.raises(InputError, match=r"has the class folder 'caf\\udce9', whose name is not UTF-8; rename it"):
        read_train(_folder_config(tmp_path))
    (tmp_path / os.fsdecode(b"caf\xe9")).rename(tmp_path / "cat")
    assert read_train(_folder_config(tmp_path)).class_names == ("café", "cat")


def test_a_wrong_test_folder_is_known_before_training(tmp_path: Path) -> None:
    _save(tmp_path / "test/bird/a.png", 0)
    with pytest.raises(InputError, match="a folder test, but none called train"):
        read_train(_folder_config(tmp_path))
    for name in ("cat", "dog"):
        _save(tmp_path / "train" / name / "a.png", 0)
    for read in (read_train, read_test):
        with pytest.raises(InputError, match="bird is a class that has no training images"):
            read(_folder_config(tmp_path))
    (tmp_path / "test/bird/a.png").unlink()
    (tmp_path / "test/bird").rmdir()
    with pytest.raises(InputError, match="test has no class folders"):
        read_train(_folder_config(tmp_path))
