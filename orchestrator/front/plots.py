"""Pictures of a front as files: an interactive page and a still image."""

from pathlib import Path

from orchestrator.front.front_view import FrontView
from orchestrator.front.interactive_page import page
from orchestrator.front.still_picture import png
from orchestrator.storage.whole_files import write_atomically

PAGE, PICTURE = "front.html", "front.png"


def save_front(view: FrontView, folder: Path) -> tuple[Path, Path]:
    """Write the interactive page, readable offline, and the still image into a folder; the two files.

    Args:
        view: what to show.
        folder: the search's. The page takes about 5 MB, as it brings its own library; the image is of 1440x900.
    """
    files = (folder / PAGE, folder / PICTURE)
    for file, content in zip(files, (page(view).encode(), png(view)), strict=True):
        write_atomically(file, content)
    return files
