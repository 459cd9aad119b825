"""Check a folder that somebody delivered: whether it is the export that its card says, and safe to load."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.exports.formats import CARD_FILE, CARD_FORMAT, CARD_VERSION, FILES, README_FILE, README_KEY, Format
from orchestrator.storage.whole_files import checksum_of
from trainables.errors import InputError, first_line
from trainables.imports import is_import_path

_MOST_CARD_BYTES = 64 * 2**20
_KNOWN = {name: format for format, names in FILES.items() for name in names}


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivered:
    """What a folder was found to be.

    Attributes:
        name: of the network, such as `digits-search 3:2`.
        formats: those whose files are whole.
        unread: those that were compared with the card alone, since they need a function of the user's own.
        readme_changed: whether the card for people, `README.md`, is another than was written, so that what it says is
            its author's word.
        unlisted: what else lies in the folder; nothing is known of it.
    """

    name: str
    formats: tuple[Format, ...]
    unread: tuple[Format, ...]
    readme_changed: bool
    unlisted: tuple[str, ...]


def check_export(folder: Path) -> Delivered:
    """Compare a folder with its card, and read every file that it lists, without running anything that they hold.

    Raises:
        InputError: naming the file that is missing, damaged, swapped, unknown or hostile.
    """
    if folder.is_file():
        raise InputError(
            f"{folder} is a file, but an export is checked with its card; give its folder, {folder.parent}"
        )
    card = _read_card(folder / CARD_FILE)
    try:
        listed = {str(name): (int(facts["bytes"]), str(facts["sha256"])) for name, facts in card["files"].items()}
        model, name = str(card["model"]["name"]), f"{card['search']} {card['trial']}:{card['level']}"
        macs = {str(check["format"]): int(check["macs"]) for check in card["verification"]["files"]}
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:  # JSON's 1e999 is infinite
        raise InputError(f"{folder / CARD_FILE} is damaged: {type(error).__name__}: {first_line(error)}") from error
    if not listed:
        raise InputError(f"{folder / CARD_FILE} lists no file")
    for file in listed:
        if file not in _KNOWN:  # names that lead elsewhere are among these
            raise InputError(f"{folder / CARD_FILE} lists {file!r}, which no export has")
    for file, format in _KNOWN.items():
        if file not in listed and (folder / file).exists():
            raise InputError(f"{folder / file} is not on the card; it was put there by somebody else")
        if file not in listed and any(other in listed for other in FILES[format]):
            raise InputError(f"{folder / CARD_FILE} lists a part of the {format} format without {file}")
    for file, (size, digest) in listed.items():
        _compare(folder / file, size, digest)
    formats = tuple(format for format, files in FILES.items() if files[-1] in listed)
    unread: tuple[Format, ...] = ("native",) if "native" in formats and is_import_path(model) else ()
    for format in formats:
        counted = None if format in unread else _read(folder, format)
        if counted is not None and counted != macs.get(format):
            raise InputError(f"{folder / FILES[format][-1]} has {counted:,} MACs, but the card says {macs.get(format)}")
    unlisted = {path.name for path in folder.iterdir()} - {*listed, CARD_FILE, README_FILE}
    return Delivered(
        name=name,
        formats=formats,
        unread=unread,
        readme_changed=_is_changed(folder / README_FILE, card.get(README_KEY)),
        unlisted=tuple(sorted(unlisted)),
    )


def _is_changed(readme: Path, digest: object) -> bool:
    """Whether the card for people is there and is another; cards from before it was noted say nothing of it."""
    return readme.exists() and digest is not None and not (readme.is_file() and checksum_of(readme) == digest)


def _read_card(path: Path) -> Mapping[str, Any]:
    try:
        if not path.is_file():
            raise InputError(f"{path} is missing; an export is a folder with it")
        if path.stat().st_size > _MOST_CARD_BYTES:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes, which no card has")
        card = json.loads(path.read_text(encoding="utf-8"))
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {first_line(error)}") from error
    if not isinstance(card, dict) or card.get("format") != CARD_FORMAT:
        raise InputError(f"{path} is no card of an export")
    if card.get("version") != CARD_VERSION:
        raise InputError(f"{path} has version {card.get('version')!r}, but this program reads {CARD_VERSION}")
    return card


def _compare(path: Path, size: int, digest: str) -> None:
    if not path.is_file() or path.is_symlink():
        raise InputError(f"{path} is missing, or no regular file, but it is on the card")
    if path.stat().st_size != size:
        raise InputError(f"{path} has {path.stat().st_size:,} bytes, but the card says {size:,}; it was changed")
    if checksum_of(path) != digest:
        raise InputError(f"{path} is not the file that the card is about (SHA-256); it was changed or swapped")


def _read(folder: Path, format: Format) -> int | None:
    """MACs counted in a file that can be read without running it; `None` where nothing is counted."""
    if format == "native":
        from trainables.files.checkpoint import load_network
        from trainables.pruning.cost import count_macs

        saved = load_network(folder)
        return count_macs(saved.network, saved.input.shape)
    if format == "pt2":
        from trainables.files.programs import load_program

        load_program(folder / FILES[format][-1])
        return None
    from orchestrator.exports.formats import require_onnx
    from orchestrator.exports.onnx_check import read_onnx

    require_onnx()
    return read_onnx(folder / FILES[format][-1]).macs
