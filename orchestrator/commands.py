"""What the commands of `cascade` do, once their words are understood."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from rich.console import Console

from orchestrator.config import load_experiment
from orchestrator.folder import SearchFolder
from orchestrator.fronts import front_json_list, front_rich_table, read_front
from orchestrator.plots import save_front
from search_spaces.presets import PRESETS
from trainables.errors import InputError

Format = Literal["text", "json"]


def run_search_command(  # noqa: PLR0913
    source: str, *, name: str, storage: Path, overrides: Sequence[str], resume: bool, format: Format
) -> int:
    """Run a search and show it; the exit code.

    Raises:
        InputError: if anything that was asked for cannot be.
    """
    experiment = load_experiment(source, overrides)
    folder = SearchFolder(storage=storage, name=name)
    folder.require_fresh_or_same(experiment, resume=resume)
    from orchestrator.search import run_search  # Ray and torch, once the cheap checks have passed
    from orchestrator.tracking import Tracker
    from orchestrator.view import watching

    # Scripts read standard output; people read how it goes.
    console = Console(stderr=format == "json")
    warnings = Console(stderr=True)
    tracker = Tracker(
        uri=experiment.tracking.uri,
        storage=storage,
        experiment=experiment.tracking.experiment,
        warn=lambda text: warnings.print(text, markup=False, highlight=False),
    )
    go_on = f"go on with: cascade search {source} --name {name} --storage {storage} --resume"
    try:
        with watching(console, num_trials=experiment.num_trials, num_ended=_num_ended(folder)) as watcher:
            outcome = run_search(experiment, folder, resume=resume, watcher=watcher, tracker=tracker)
    except KeyboardInterrupt:
        console.print(f"stopped; nothing that was finished is lost. {go_on}", markup=False, soft_wrap=True)
        return 130
    finally:
        tracker.close()
    if outcome.status == "failed":
        number, reason = min(outcome.failures.items())
        raise SearchFailed(f"all {outcome.num_ended} trials failed; the first, trial {number}: {reason}")
    if folder.archive.candidates():
        print_front(name, storage=storage, format=format)
    if outcome.status == "interrupted":
        console.print(
            f"stopped after {outcome.num_ended} of {experiment.num_trials} trials; {go_on}",
            markup=False,
            soft_wrap=True,
        )
        return 130
    return 0


class SearchFailed(RuntimeError):  # noqa: N818
    """Every trial of a search failed; the message has the first cause."""


def _num_ended(folder: SearchFolder) -> int:
    return len({candidate.trial for candidate in folder.archive.candidates()}) if folder.exists else 0


def print_front(name: str, *, storage: Path, format: Format) -> None:
    """Print the front and write its plot into the search's folder.

    Raises:
        InputError: if there is no such search, or nothing of it is finished.
    """
    folder = SearchFolder(storage=storage, name=name)
    view = read_front(folder)
    page, picture = folder.path / "front.html", folder.path / "front.png"
    save_front(view, page, picture)
    if format == "json":
        sys.stdout.write(front_json_list(view) + "\n")
        return
    console = Console()
    console.print(front_rich_table(view))
    console.print(f"plot: {page}", markup=False, highlight=False, soft_wrap=True)


def export_candidate(  # noqa: PLR0913
    name: str, *, pick: str, max_drop: float | None, out: Path | None, overwrite: bool, storage: Path, format: Format
) -> None:
    """Export one network and print what was measured.

    Raises:
        InputError: if there is no such search or candidate, or the destination holds something.
    """
    folder = SearchFolder(storage=storage, name=name)
    view = read_front(folder)
    experiment = folder.experiment()
    from orchestrator.export import export
    from orchestrator.export import pick as pick_candidate

    candidate = pick_candidate(
        view.front,
        view.candidates,
        pick,
        teacher_val_accuracy=view.teacher_val_accuracy,
        objectives=view.objectives,
        max_drop=max_drop,
    )
    destination = out or folder.path / "exports" / f"{candidate.trial}-{candidate.level}"
    if overwrite and destination.is_dir():
        shutil.rmtree(destination)
    exported = export(
        candidate,
        search_folder=folder.path,
        destination=destination,
        data=experiment.data,
        model=experiment.model,
        search_name=name,
    )
    if format == "json":
        sys.stdout.write(exported.card.to_json() + "\n")
        return
    console = Console()
    console.print(f"exported {candidate.label} to {exported.folder}", markup=False, soft_wrap=True)


def print_presets(name: str | None, *, format: Format) -> None:
    """List presets, or print one as YAML.

    Raises:
        InputError: if there is no such preset.
    """
    if name is not None and name not in PRESETS:
        raise InputError(f"{name!r} is no preset; there are {', '.join(PRESETS)}")
    if format == "json":
        sys.stdout.write(json.dumps(PRESETS[name] if name else list(PRESETS), default=dict) + "\n")
    elif name is None:
        sys.stdout.write("\n".join(PRESETS) + "\n")
    else:
        plain = json.loads(json.dumps(PRESETS[name], default=dict))
        sys.stdout.write(yaml.safe_dump(plain, sort_keys=False))
