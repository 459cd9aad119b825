"""What lies among folders of images and is not read as one, which who counts on all of them should know."""

import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.words import counted, printable
from trainables.datasets.sources import SUFFIXES, class_folders, is_hidden, part_folders

_COMPANIONS = (".csv", ".db", ".ini", ".json", ".md", ".txt", ".xml", ".yaml", ".yml")  # nobody's images


def left_out_notes(folder: Path) -> Iterator[str]:
    """What people should know before they wait for what is made of images: one line, or none where all are read.

    Args:
        folder: of classes, or of parts with these.
    """
    left_out: dict[str, list[Path]] = {}
    for item in _items(folder):
        kind = _kind(item)
        if kind is not None:
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


def _items(folder: Path) -> Iterator[os.DirEntry[str]]:
    """All that lies in folders of classes, and links beside these folders that lead nowhere."""
    for root in part_folders(folder).values() or [folder]:
        yield from (item for item in _listed(root) if _leads_nowhere(item))
        for class_folder in class_folders(root):
            yield from _listed(class_folder)


def _listed(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What a folder holds, and what kind each is: one call for all, where millions of images may lie."""
    with os.scandir(folder) as items:
        yield from items


def _leads_nowhere(item: os.DirEntry[str]) -> bool:
    return item.is_symlink() and not Path(item.path).exists()


def _kind(item: os.DirEntry[str]) -> str | None:
    """What it is that is not read; `None` where nobody would take it for an image, or where it is read as one."""
    if is_hidden(item.name):
        return None
    if _leads_nowhere(item):
        return "broken link"
    if item.is_dir():
        return "folder"
    return None if Path(item.name).suffix.lower() in (*SUFFIXES, *_COMPANIONS) else "file"
