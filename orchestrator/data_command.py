"""The command `cascade data`: a data set as shards."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orchestrator.data import shard_upload
from orchestrator.data.classes import unseen_notes
from orchestrator.data.shard_sources import open_source
from orchestrator.data.shard_writer import WriteOptions, check_out, write_shards
from orchestrator.data.shards import FILE, PartName, ShardSet
from orchestrator.storage.bucket import Bucket, cache_folder, is_bucket
from orchestrator.storage.staging import require_local, staging
from orchestrator.words import counted
from trainables.errors import InputError

_NAMED = 20  # skipped images that are named on the terminal; the set names all


def make_shards(source: str, out: str, options: WriteOptions, *, seed: int, format: Literal["text", "json"]) -> None:
    """Turn a data set into shards in a folder or a bucket, and say what came of it.

    Raises:
        InputError: as `open_source`, `write_shards` and `shard_upload.put` do.
    """
    if "://" in source:
        raise InputError(f"{source} is an address, but must be a folder; mount it, or copy it to this machine")
    if is_bucket(out):
        bucket = Bucket(out)
        shard_upload.check_out(bucket, options.existing)
        written, kind = _write_to_bucket(Path(source), bucket, options, seed=seed)
    else:
        _check_apart(Path(source), Path(out))
        check_out(Path(out).resolve(), options.existing)
        written, kind = _write(Path(source), Path(out), options, seed=seed)
    if format == "json":
        sys.stdout.write(written.to_json())
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _lines(written, kind, out)))


def _check_apart(folder: Path, out: Path) -> None:
    require_local(out)
    if folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise InputError(f"{out} lies in {folder}, which is read; choose a folder beside it")
    if out.resolve() in folder.resolve().parents:  # --overwrite would remove what is read
        raise InputError(f"{folder}, which is read, lies in {out}; choose another folder")


def _write_to_bucket(folder: Path, bucket: Bucket, options: WriteOptions, *, seed: int) -> tuple[ShardSet, str]:
    """Write a set on this machine first, as what cannot be used is known only then."""
    with staging(cache_folder() / "made", mend="name another folder by CASCADE_CACHE") as scratch:
        written, kind = _write(folder, scratch / "set", options, seed=seed)
        shard_upload.put(scratch / "set", bucket)
    return written, kind


def _write(folder: Path, out: Path, options: WriteOptions, *, seed: int) -> tuple[ShardSet, str]:
    """What was written, and what kind of source it came from."""
    found = open_source(folder, seed=seed)
    _note(found.notes)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks = {name: progress.add_task(name, total=part.num_images) for name, part in found.parts.items()}

        def told(part: PartName, num_seen: int) -> None:
            progress.update(tasks[part], completed=num_seen)

        written = write_shards(found, out, options, told=told)
    _note(unseen_notes(written.parts["train"].counts, written.class_names))
    return written, found.kind


def _note(notes: Iterable[str]) -> None:
    for note in notes:
        sys.stderr.write(f"note: {note}\n")


def _lines(written: ShardSet, kind: str, out: str) -> list[str]:
    lines = [f"{out}: {len(written.class_names)} classes, from {kind}"]
    for name, part in written.parts.items():
        size = sum(shard.num_bytes for shard in part.shards) / 1e6
        lines.append(f"{name}: {part.num_images:,} images in {counted(len(part.shards), 'shard')}, {size:,.1f} MB")
    for image in written.skipped[:_NAMED]:
        lines.append(f"left out: {image.reason}")
    if len(written.skipped) > _NAMED:
        lines.append(f"left out: {len(written.skipped) - _NAMED} more, which {out}/{FILE} names")
    settings = json.dumps({"name": "shards", "path": out})
    lines.append(f'search it with data: {settings[:-1]}, "image_size": …}}')
    return lines
