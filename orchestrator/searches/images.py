"""Where the images of a search lie, for commands that read them later and perhaps from elsewhere.

A relative `data.path` counts from the folder that a command is given in. From another one it may lead nowhere, or to
images of somebody else's.
"""

from dataclasses import replace
from pathlib import Path

from orchestrator.searches.folder import SearchFolder
from orchestrator.storage.bucket import is_bucket
from orchestrator.storage.whole_files import write_atomically
from trainables.data_config import DataConfig
from trainables.errors import InputError

_PLACE = "data-place"


def note_place(folder: SearchFolder, config: DataConfig) -> None:
    """Note where a relative path leads to, seen from the current folder."""
    if _is_relative(config):
        write_atomically(folder.path / _PLACE, str(Path(config.path or "").resolve()).encode())


def find_images(folder: SearchFolder, config: DataConfig) -> tuple[DataConfig, bool]:
    """Find the images that a search has read.

    Args:
        folder: of the search.
        config: its data set.

    Returns:
        The same with the path that they are read from now, and whether the search was seen to read them from there; if
        not, whoever uses them must compare their digest.

    Raises:
        InputError: if they are neither where the search read them nor where the path leads from here.
    """
    if not _is_relative(config):
        return config, True
    here, noted = Path(config.path or "").resolve(), folder.path / _PLACE
    there = Path(noted.read_text()) if noted.exists() else None  # searches from before lack it
    if there is not None and there.exists():
        return (config if there == here else replace(config, path=str(there))), True
    if there is not None and not here.exists():
        raise InputError(
            f"data.path is {config.path!r}, which search {folder.name!r} read from {there}, but there is nothing now, "
            f"nor at {here}; put the images back, or give the command in a folder from which {config.path!r} leads to "
            "them"
        )
    return config, False


def _is_relative(config: DataConfig) -> bool:
    return config.path is not None and not is_bucket(config.path) and not Path(config.path).is_absolute()
