"""What lies among folders of images and is not read as one, which who counts on all of them should know."""

import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.words import counted, printable
from trainables.data_config import DataConfig
from trainables.datasets.sources import SUFFIXES, class_folders, data_folder, is_hidden, part_folders

_COMPANIONS = (".csv", ".db", ".ini", ".json", ".md", ".txt", ".xml", ".yaml", ".yml")  # nobody's images


def left_out_notes(folder: Path) -> Iterator[str]:
    """What people should know before they wait for what is made of images: one line, or none where all are read.

    Args:
        folder: of classes, or of parts with these.
    """
    left_out: dict[str, list[Path]] = {}
    for kind, item in _items(folder):
        if kind is not None and not is_hidden(item.name):
            left_out.setdefault(kind, []).append(Path(item.path))
    if left_out:
        what = "; ".join(
            f"{counted(len(items), kind)}, such as {printable(str(min(items).relative_to(folder)))}"
            for kind, items in sorted(left_out.items())
        )
        yield (
            f"{folder} holds what is not read: {what}; images must lie directly in their class's folder, as one of "
            f"{', '.join(SUFFIXES)}"
        )


def data_notes(data: DataConfig) -> Iterator[str]:
    """`left_out_notes` of the images of a search or a study; none where they are no folders of images.

    Raises:
        InputError: if the folder is not there.
    """
    if data.name == "imagefolder":
        yield from left_out_notes(data_folder(data))


def _items(folder: Path) -> Iterator[tuple[str | None, os.DirEntry[str]]]:
    """All that lies in folders of classes and beside them, each with what it is."""
    for root in part_folders(folder).values() or [folder]:
        yield from ((_kind_beside(item), item) for item in _listed(root))
        for class_folder in class_folders(root):
            yield from ((_kind_within(item), item) for item in _listed(class_folder))


def _listed(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What a folder holds, and what kind each is: one call for all, where millions of images may lie."""
    with os.scandir(folder) as items:
        yield from items


def _leads_nowhere(item: os.DirEntry[str]) -> bool:
    return item.is_symlink() and not Path(item.path).exists()


def _kind_beside(item: os.DirEntry[str]) -> str | None:
    """What it is beside the class folders that is not read; `None` where nobody would take it for images."""
    if _leads_nowhere(item):
        return "broken link"
    return "loose image" if Path(item.name).suffix.lower() in SUFFIXES and item.is_file() else None


def _kind_within(item: os.DirEntry[str]) -> str | None:
    """What it is that is not read; `None` where nobody would take it for an image, or where it is read as one."""
    if _leads_nowhere(item):
        return "broken link"
    if item.is_dir():
        return "folder"
    suffix = Path(item.name).suffix.lower()
    if suffix in SUFFIXES:
        return None if item.is_file() else "special file"  # a pipe or a socket, say, or a link to one
    return None if suffix in _COMPANIONS else "file"
