"""Where the images of a search lie, for commands that read them later and perhaps from elsewhere.

A relative `data.path` counts from the folder that a command is given in. From another one it may lead nowhere, or to
images of somebody else's.
"""

import os
import platform
from dataclasses import replace
from pathlib import Path

from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.layout import DATA_PLACE
from orchestrator.storage.bucket import is_bucket
from orchestrator.storage.whole_files import write_atomically
from trainables.data_config import DataConfig
from trainables.errors import InputError


def note_place(folder: SearchFolder, config: DataConfig) -> None:
    """Note where a relative path leads to, seen from the current folder of this machine."""
    if _is_relative(config):
        place = os.fsencode(Path(config.path or "").resolve())
        write_atomically(folder.path / DATA_PLACE, platform.node().encode() + b"\n" + place)


def find_images(folder: SearchFolder, config: DataConfig) -> tuple[DataConfig, bool]:
    """Find the images that a search has read.

    Args:
        folder: of the search.
        config: its data set.

    Returns:
        The same with the path that they are read from now, and whether that is where the search read them, on this
        machine; if not, whoever uses them must compare their digest.

    Raises:
        InputError: if they are neither where the search read them nor where the path leads from here.
    """
    if not _is_relative(config):
        return config, True
    here = Path(config.path or "").resolve()
    noted = _noted(folder)
    if noted is None:  # a search from before
        return config, False
    machine, there = noted
    ours = machine == platform.node()
    if ours and _is_there(there):
        return (config if there == here else replace(config, path=str(there))), True
    if _is_there(here):
        return config, False
    if _is_there(there):
        return replace(config, path=str(there)), False
    where = f"{there}" if ours else f"{there} on {machine}"
    raise InputError(
        f"data.path is {config.path!r}, which search {folder.name!r} read from {where}, but neither there nor at "
        f"{here} is anything to be read now; put the images back, give the command in a folder from which "
        f"{config.path!r} leads to them, or go on with the search by --resume and the data.path that they have now"
    )


def find_images_again(folder: SearchFolder, config: DataConfig) -> DataConfig:
    """Find the images of a search that begins, or goes on and perhaps from elsewhere or with images that were moved.

    Whoever reads them must compare their digest.

    Args:
        folder: of the search.
        config: its data set as it is asked for now.

    Returns:
        The same with the path that they are read from.

    Raises:
        InputError: as `find_images`.
    """
    if not folder.exists or folder.experiment().data.path != config.path:
        return config
    return find_images(folder, config)[0]


def _noted(folder: SearchFolder) -> tuple[str, Path] | None:
    file = folder.path / DATA_PLACE
    if not file.exists():
        return None
    machine, _, place = file.read_bytes().partition(b"\n")
    return machine.decode(), Path(os.fsdecode(place))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # in a folder of somebody else's
        return False


def _is_relative(config: DataConfig) -> bool:
    return config.path is not None and not is_bucket(config.path) and not Path(config.path).is_absolute()
