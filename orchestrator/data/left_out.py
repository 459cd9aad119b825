"""What lies among folders of images and is not read as one, which who counts on all of them should know."""

from collections.abc import Iterator
from pathlib import Path

from orchestrator.words import counted, printable
from trainables.datasets.sources import SUFFIXES, class_folders, is_hidden, is_image, part_folders

_COMPANIONS = (".csv", ".db", ".ini", ".json", ".md", ".txt", ".xml", ".yaml", ".yml")  # nobody's images


def left_out_notes(folder: Path) -> Iterator[str]:
    """What people should know before they wait for what is made of images: one line, or none where all are read.

    Args:
        folder: of classes, or of parts with these.
    """
    left_out: dict[str, list[Path]] = {}
    for item in sorted(_items(folder)):
        kind = _kind(item)
        if kind is not None:
            left_out.setdefault(kind, []).append(item)
    if left_out:
        what = "; ".join(
            f"{counted(len(items), kind)}, such as {printable(str(items[0].relative_to(folder)))}"
            for kind, items in left_out.items()
        )
        yield (
            f"{folder} holds what is not read: {what}; images must lie directly in their class's folder, as one of "
            f"{', '.join(SUFFIXES)}"
        )


def _items(folder: Path) -> Iterator[Path]:
    """All that lies in folders of classes, and links beside these folders that lead nowhere."""
    for root in part_folders(folder).values() or [folder]:
        yield from (item for item in root.iterdir() if not item.exists())
        for class_folder in class_folders(root):
            yield from class_folder.iterdir()


def _kind(item: Path) -> str | None:
    """What it is that is not read; `None` where nobody would take it for an image, or where it is read as one."""
    if is_hidden(item) or is_image(item):
        return None
    if not item.exists():
        return "broken link"
    if item.is_dir():
        return "folder"
    return None if item.suffix.lower() in _COMPANIONS else "file"
