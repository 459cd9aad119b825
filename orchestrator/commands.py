"""What the commands of `cascade` do, once their words are understood."""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import yaml
from rich.console import Console

from orchestrator.addresses import setting_without_credentials
from orchestrator.evidence.folder import REPORT, is_study
from orchestrator.experiment.config import Experiment, load_experiment
from orchestrator.searches.folder import SearchFolder, require_name
from orchestrator.searches.fronts import front_json_list, front_rich_table, read_front, save_front
from orchestrator.searches.layout import EXPERIMENT, FRONT_PAGE
from orchestrator.searches.places import Storage, fetch_networks, fetch_sources, open_search
from orchestrator.searches.same_search import require_fresh_or_same
from orchestrator.signals import INTERRUPTED, last_words
from orchestrator.storage.staging import disk_full
from orchestrator.tables import print_last, print_line, print_whole
from orchestrator.words import counted, duration
from search_spaces.presets import PRESETS, PURPOSES
from trainables.errors import InputError, first_line

if TYPE_CHECKING:
    from orchestrator.tracking import Tracker

Format = Literal["text", "json"]


def run_search_command(  # noqa: PLR0913
    source: str, *, name: str, storage: Storage, overrides: Sequence[str], resume: bool, format: Format
) -> int:
    """Run a search and show it; the exit code.

    Raises:
        InputError: if anything that was asked for cannot be.
    """
    if resume and source not in PRESETS and not os.path.lexists(source):
        _name_own_file(source, open_search(storage, name))
    experiment = load_experiment(source, overrides)
    require_name(name, mend="give another by --name")
    folder = open_search(storage, name)
    require_fresh_or_same(folder, experiment, resume=resume)
    folder.require_free()
    fetch_sources(experiment.study.warm_start, storage)
    from orchestrator.search import run_search  # Ray and torch, once the cheap checks have passed
    from orchestrator.view import watching

    # Scripts read standard output; people read how it goes.
    console = Console(stderr=format == "json")
    warnings = Console(stderr=True)
    tracker = make_tracker(experiment, folder, warnings)
    go_on = f"go on with: {_resume_command(source, name, storage, overrides)}"
    if resume and not folder.exists:
        print_line(console, f"note: there is no search {name!r} in {storage} to go on with; it begins now")

    def stopped() -> None:
        console.show_cursor()
        print_last(console, f"stopped; nothing that was finished is lost. {go_on}")

    try:
        with last_words(stopped), watching(console, num_trials=experiment.num_trials) as watcher:
            outcome = run_search(experiment, folder, resume=resume, watcher=watcher, tracker=tracker)
    except KeyboardInterrupt:
        stopped()
        return INTERRUPTED
    finally:
        tracker.close()
    if outcome.status == "failed":
        number, reason = min(outcome.failures.items())
        first = "" if outcome.num_ended == 1 else "the first, "
        print_line(warnings, f"cascade: {outcome.reason}; {first}trial {number}: {reason}")
        return 1
    if folder.archive.candidates():
        print_front(name, storage=storage, format=format)
    elif format == "json":
        sys.stdout.write("[]\n")
    if outcome.reused:
        stages, seconds = sum(len(reused.stages) for reused in outcome.reused), sum(r.seconds for r in outcome.reused)
        print_line(console, f"{counted(stages, 'stage')} reused, which saved {duration(seconds)} of training")
    if outcome.status == "interrupted":
        print_last(console, f"stopped after {outcome.num_ended} of {counted(outcome.num_trials, 'trial')}; {go_on}")
        return INTERRUPTED
    if outcome.num_ended < outcome.num_trials:
        print_last(
            console,
            f"ended after {outcome.num_ended} of {counted(outcome.num_trials, 'trial')} by {outcome.reason}; "
            "--resume with a larger limit goes on",
        )
    return 0


def _name_own_file(source: str, folder: SearchFolder) -> None:
    """Where the file of a search that is to go on is gone, name the one that the search keeps.

    Raises:
        InputError: with the command that goes on by it, if it is there.
    """
    if folder.exists:
        go_on = folder.command("search", str(folder.path / EXPERIMENT), "--name", folder.name, "--resume")
        raise InputError(f"{source} is not there, but search {folder.name!r} keeps what it searches; go on by {go_on}")


def make_tracker(experiment: Experiment, folder: SearchFolder, console: Console) -> "Tracker":
    """MLflow for a search, which says on this console what it cannot take."""
    from orchestrator.tracking import Tracker

    return Tracker(
        uri=experiment.tracking.uri,
        storage=folder.storage,
        experiment=experiment.tracking.experiment,
        models=experiment.tracking.models,
        sync=folder.sync_command,
        export=folder.export_command,
        warn=partial(print_line, console),
    )


def _resume_command(source: str, name: str, storage: Storage, overrides: Sequence[str]) -> str:
    words = ["cascade", "search", source, "--name", name, "--storage", str(storage), "--resume"]
    for override in overrides:
        words += ["--set", setting_without_credentials(override)]
    return shlex.join(words)


def search_to_read(storage: Storage, name: str) -> SearchFolder:
    """The place of a search that is to be read, as `open_search` finds it.

    Raises:
        InputError: as `open_search`, or if a study is there.
    """
    folder = open_search(storage, name)
    if is_study(folder.path):
        raise InputError(
            f"{folder.path} holds a study, not a search; `cascade study` with its YAML file shows what it came to, and "
            f"{REPORT} there"
        )
    return folder


def print_front(name: str, *, storage: Storage, format: Format) -> None:
    """Print the front and write its plot into the search's folder, where that can be written to.

    Raises:
        InputError: if there is no such search, or nothing of it is finished.
    """
    folder = search_to_read(storage, name)
    view = read_front(folder)
    page = folder.path / FRONT_PAGE
    console = Console(stderr=format == "json")
    if format == "json":
        sys.stdout.write(front_json_list(view) + "\n")
    else:
        print_whole(console, front_rich_table(view))
    try:
        save_front(view, folder.path)
    except OSError as error:  # a colleague's results, or a full disk: the table is what was asked for
        print_line(
            console,
            f"no plot: {page} cannot be written ({error.strerror or first_line(error)}); work on a copy of the search "
            "in another --storage",
        )
        return
    if format == "text":
        print_line(console, f"plot: {page}")


def write_report(name: str, *, storage: Storage, format: Format) -> None:
    """Write the overview page into the search's folder and say where it is.

    Raises:
        InputError: if there is no such search, nothing of it is finished, or its folder cannot be written to.
    """
    from orchestrator.overview.page import write_overview

    folder = search_to_read(storage, name)
    front = read_front(folder).front
    folder.require_writable()
    fetch_networks(folder, [candidate.network for candidate in front])
    with disk_full(folder.path, mend="make room, or work on a copy of the search in another --storage"):
        page = write_overview(folder)
    if format == "json":
        sys.stdout.write(json.dumps({"page": str(page), "bytes": page.stat().st_size}) + "\n")
    else:
        sys.stdout.write(f"{page}\n")


def sync_search(name: str, *, storage: Storage, uri: str | None, again: bool, format: Format) -> int:
    """Send what waits for MLflow; the exit code, 1 where something still waits that the server did not take.

    Raises:
        InputError: if there is no such search, it runs or cannot be written to, or MLflow is not to be reached.
    """
    from orchestrator.tracking.syncing import sync  # MLflow, once the cheap checks have passed

    folder = open_search(storage, name)
    if not is_study(folder.path):
        folder.experiment()
    folder.require_writable()
    synced = sync(folder, uri=uri, from_start=again, warn=partial(print_line, Console(stderr=True)))
    left = synced.left
    if format == "json":
        said = {
            "address": synced.address,
            "sent": synced.num_sent,
            "left_out": synced.num_left_out,
            "waiting": left.num_waiting,
            "cause": left.cause,
        }
        sys.stdout.write(json.dumps(said) + "\n")
    else:
        waits = f"{counted(left.num_waiting, 'record')} left: {left.cause}" if left.num_waiting else "nothing waits"
        if synced.num_left_out:
            waits = f"{counted(synced.num_left_out, 'record')} left out; {waits}"
        sys.stdout.write(f"{name}: {counted(synced.num_sent, 'record')} sent to {synced.address}; {waits}\n")
    return 1 if left.num_waiting else 0


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
        width = max(map(len, PURPOSES))
        sys.stdout.write("".join(f"{preset:{width}} {purpose}\n" for preset, purpose in PURPOSES.items()))
    else:
        plain = json.loads(json.dumps(PRESETS[name], default=dict))
        sys.stdout.write(yaml.safe_dump(plain, sort_keys=False))
