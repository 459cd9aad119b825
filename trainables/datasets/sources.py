"""Readers of data sets by name: the embedded digits, CIFAR as torchvision lays it out, folders of images.

Every reader gives decoded uint8 images of one square size, and keeps test images apart from all others: `read_train`
and `read_val` never give one, `read_test` gives nothing else.
"""

import importlib.util
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from trainables.data_config import DataConfig, DataName
from trainables.datasets.decoding import decode_square
from trainables.datasets.images import ImageSet, Source
from trainables.datasets.splits import select, stratified_split
from trainables.errors import InputError, first_line, forbidden
from trainables.hardware.machine import require_room_for_images

Part = Literal["train", "val", "test"]

_DIGITS_SIZE = 16
_ROWS_A_TASK = 64
_MOST_NAMED = 10
_IN_ITS_PLACE = "; once a search has begun, do not remove it, but put another of its class in its place under this name"
_PART_NAMES: Mapping[Part, Sequence[str]] = MappingProxyType(
    {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
)
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".gif", ".jp2", ".pgm", ".ppm", ".tif", ".tiff", ".webp")


def read_train(config: DataConfig) -> Source:
    """All images that are not test images: validation is still among them, unless it is a part of its own.

    Raises:
        InputError: if the data set is missing, incomplete or unreadable.
    """
    return READERS[config.name](config, "train")


def read_val(config: DataConfig) -> ImageSet | None:
    """The validation images, where the data set has a part of them; `None` where they are held out of the training's.

    Raises:
        InputError: if they are unreadable.
    """
    if config.name != "imagefolder" or "val" not in part_folders(data_folder(config)):
        return None
    return READERS[config.name](config, "val").images


def read_test(config: DataConfig) -> Source:
    """The test images, which only export and report may see.

    Raises:
        InputError: if the data set is missing, incomplete or unreadable.
    """
    return READERS[config.name](config, "test")


def data_folder(config: DataConfig) -> Path:
    """The folder that `data.path` names.

    Raises:
        InputError: if it is not there.
    """
    path = Path(config.path or "")
    if config.path is None or not path.is_dir():
        raise InputError(
            f"data.path is {config.path!r}, but must be a folder that exists; {config.name} is read from it"
        )
    return path


# Digits


def _read_digits(config: DataConfig, part: Part) -> Source:
    """Optical digits of scikit-learn (1,797 grey images of 8x8, values 0 … 16), enlarged bilinearly."""
    pixels_NP, labels_N = _digits()
    size = config.image_size or _DIGITS_SIZE
    require_room_for_images(len(labels_N), channels=1, size=size)
    grey_NCHW = torch.from_numpy(pixels_NP).to(torch.float32).view(-1, 1, 8, 8)
    images_NCHW = torch.empty(len(labels_N), 1, size, size, dtype=torch.uint8)
    for start in range(0, len(labels_N), _ROWS_A_TASK):  # few at a time, as floats take four times the room
        rows = slice(start, start + _ROWS_A_TASK)
        floats_NCHW = functional.interpolate(grey_NCHW[rows], size=(size, size), mode="bilinear", align_corners=False)
        images_NCHW[rows] = (floats_NCHW * (255 / 16)).round().to(torch.uint8)
    images = ImageSet(images_NCHW=images_NCHW, labels_N=torch.from_numpy(labels_N).to(torch.int64))
    class_names = tuple(str(digit) for digit in range(10))
    indices = _part_of(images.labels_N, part, config, class_names)
    return Source(images=select(images, indices), class_names=class_names)


def _digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Pixels (N, 64) and labels (N,) of scikit-learn's file, without the import of scikit-learn, which takes longer."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    for folder in package.submodule_search_locations or ():
        file = Path(folder) / "datasets/data/digits.csv.gz"
        if file.is_file():
            table = np.loadtxt(file, delimiter=",")
            return table[:, :-1], table[:, -1]
    from sklearn.datasets import load_digits  # its file lies elsewhere

    digits = load_digits()
    return digits.data, digits.target


def _part_of(labels_N: torch.Tensor, part: Part, config: DataConfig, class_names: Sequence[str]) -> torch.Tensor:
    """Indices of one part of a data set that has no test split of its own."""
    train, test = stratified_split(labels_N, fraction=config.test_fraction, seed=config.seed, class_names=class_names)
    return train if part == "train" else test


# CIFAR


def _read_cifar(config: DataConfig, part: Part) -> Source:
    """CIFAR-10 or CIFAR-100 in torchvision's layout.

    The files are pickles, which can run code when they are loaded. torchvision compares the MD5 of every file, and of
    the archive that it fetches, with the published one before it unpickles or unpacks any, and raises otherwise.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[config.name]
    try:
        dataset = kind(config.path, train=part == "train", download=config.download)
    except (OSError, RuntimeError) as error:
        problem = f"data.path is {config.path}, but the folder {kind.base_folder} of {config.name}"
        if config.download:
            raise InputError(
                f"{problem} cannot be fetched into it ({first_line(error)}); unpack {kind.url} there by other means"
            ) from error
        raise InputError(
            f"{problem} is missing there or its files are not the published ones; set data.download: true to fetch them"
        ) from error
    images = ImageSet(
        images_NCHW=torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous(),
        labels_N=torch.tensor(dataset.targets, dtype=torch.int64),
    )
    return Source(images=images, class_names=tuple(dataset.classes))


# Folders of images


def _read_imagefolder(config: DataConfig, part: Part) -> Source:
    """Images in one folder a class, under `train`, `val` and `test` or directly under `data.path`.

    Each image is decoded once: the largest central square, brought to `image_size` with antialiasing.
    """
    root = data_folder(config)
    roots = part_folders(root) or {"train": root}
    class_names = tuple(folder.name for folder in class_folders(roots["train"]))
    if len(class_names) < 2:
        folders = "1 class folder" if class_names else "0 class folders"
        raise InputError(f"{roots['train']} has {folders}, but must have at least 2; put images in one folder a class")
    for name in class_names:
        if name.encode(errors="ignore").decode() != name:  # in no file of an export could it be written
            raise InputError(f"{roots['train']} has the class folder {name!r}, whose name is not UTF-8; rename it")
    # All are listed, so that a wrong test folder is known before training and not after it.
    found = {name: image_files(folder, class_names) for name, folder in roots.items()}
    if part in found and (part != "train" or "test" in found):
        return Source(images=_decode_files(*found[part], config), class_names=class_names)
    files, labels_N = found["train"]
    indices = _part_of(labels_N, part, config, class_names)
    chosen = [files[index] for index in indices.tolist()]
    mend = _IN_ITS_PLACE if part == "test" else ""  # without one of them others would be drawn
    return Source(images=_decode_files(chosen, labels_N[indices], config, mend=mend), class_names=class_names)


def part_folders(root: Path) -> dict[Part, Path]:
    """Folders of training, validation and test images; none where `root` holds the classes itself.

    Capitals make no difference where `root` has a folder `train`, or no folders but those of parts; beside others
    `Train` may be a class.

    Raises:
        InputError: if there are several of one part, or none of training images.
    """
    folders = class_folders(root)
    named = {folder: folder.name.lower() for folder in folders}
    has_parts = (root / "train").is_dir() or set(named.values()) <= set(itertools.chain(*_PART_NAMES.values()))
    if not has_parts:
        named = {folder: folder.name for folder in folders}
    found: dict[Part, list[Path]] = {
        part: [folder for folder, name in named.items() if name in names] for part, names in _PART_NAMES.items()
    }
    for part, its_folders in found.items():
        if len(its_folders) > 1:
            names = " and ".join(folder.name for folder in its_folders)
            what = {"train": "training", "val": "validation"}.get(part, part)
            raise InputError(f"{root} has the folders {names}, which are all for {what} images; put them into one")
    if not found["train"]:
        others = [folder.name for folder, name in named.items() if name in found]
        if others:
            raise InputError(
                f"{root} has a folder {others[0]}, but none called train; put the classes of training images there"
            )
        return {}
    return {part: folders[0] for part, folders in found.items() if folders}


def class_folders(root: Path) -> list[Path]:
    """Folders of classes, by name; hidden ones are none, nor is what a Mac adds to an archive."""
    folders = (item for item in root.iterdir() if item.is_dir() and not is_hidden(item.name))
    return sorted(folders, key=lambda folder: folder.name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's images, such as what a Mac adds beside each."""
    return name.startswith((".", "__MACOSX"))


def _is_image(item: Path) -> bool:
    """Whether this is a file that is read as an image, as its name says."""
    return item.suffix.lower() in SUFFIXES and not is_hidden(item.name) and item.is_file()


def image_files(root: Path, class_names: Sequence[str]) -> tuple[list[Path], torch.Tensor]:
    """Image files of every class folder of `root`, in order of class and name, and their labels.

    Raises:
        InputError: if a folder is no class, or has no images directly in it.
    """
    files: list[Path] = []
    labels: list[int] = []
    for folder in class_folders(root):
        if folder.name not in class_names:
            raise InputError(f"{folder} is a class that has no training images; add some or remove the folder")
        members_by_name = sorted(filter(_is_image, folder.iterdir()), key=lambda item: item.name)
        if not members_by_name:
            within = "".join(f", but the folder {inner.name}" for inner in class_folders(folder)[:1])
            raise InputError(
                f"{folder} has no images ({', '.join(SUFFIXES)}) directly in it{within}; add some or remove the folder"
            )
        files += members_by_name
        labels += [class_names.index(folder.name)] * len(members_by_name)
    if not files:
        raise InputError(f"{root} has no class folders; put images in one folder a class")
    return files, torch.tensor(labels, dtype=torch.int64)


def _decode_files(files: Sequence[Path], labels_N: torch.Tensor, config: DataConfig, *, mend: str = "") -> ImageSet:
    """`mend` is said beside that of an image which cannot be decoded."""
    size = config.image_size
    assert size is not None, "DataConfig asks for the size of an imagefolder"
    require_room_for_images(len(files), channels=3, size=size)
    images_NCHW = torch.empty(len(files), 3, size, size, dtype=torch.uint8)

    def fill(start: int) -> dict[str, str]:
        refused = {}  # not the errors, which hold on to the pixels
        for row, file in enumerate(files[start : start + _ROWS_A_TASK], start):
            try:
                images_NCHW[row] = decode_square(file, name=str(file), size=size)
            except PermissionError:
                refused[str(file)] = str(forbidden(file))
            except InputError as error:
                refused[str(file)] = f"{error}{mend}"
        return refused

    # PIL's decoders release the interpreter: threads pay off from about 128 pixels a side on.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        tasks = pool.map(fill, range(0, len(files), _ROWS_A_TASK))
        _require_none({file: reason for refused in tasks for file, reason in refused.items()})
    return ImageSet(images_NCHW=images_NCHW, labels_N=labels_N)


def _require_none(refused: Mapping[str, str]) -> None:
    """Say all that is wrong at once, as who mends one file after another reads all others each time."""
    if not refused:
        return
    first, *others = refused
    shown = others[:_MOST_NAMED] + ["…"] * (len(others) > _MOST_NAMED)
    more = f"; {len(others)} more cannot be taken: {', '.join(shown)}" if others else ""
    raise InputError(refused[first] + more)


# Parquet is read outside of this package, which knows torch alone.
READERS: Mapping[DataName, Callable[[DataConfig, Part], Source]] = {
    "digits": _read_digits,
    "cifar10": _read_cifar,
    "cifar100": _read_cifar,
    "imagefolder": _read_imagefolder,
}
