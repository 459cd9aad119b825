"""What `cascade confirm` does, once its words are understood."""

import json
import sys
from collections.abc import Sequence
from functools import partial
from typing import Literal

from rich.console import Console

from orchestrator.addresses import setting_without_credentials
from orchestrator.commands import make_tracker, search_to_read
from orchestrator.experiment.config import Experiment, parse_experiment
from orchestrator.experiment.overrides import set_value
from orchestrator.front.archive import Candidate
from orchestrator.front.candidates import cascade_of
from orchestrator.front.pick import WHOLE_FRONT, pick_all
from orchestrator.front.repeats import MOST_SEEDS, Confirmed, Repeat, RepeatFile, confirmed
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.fronts import confirmed_rich_table, read_front
from orchestrator.searches.layout import REPEATS
from orchestrator.searches.places import Storage
from orchestrator.signals import INTERRUPTED, last_words
from orchestrator.tables import print_last, print_line, print_whole
from orchestrator.words import percent
from trainables.errors import InputError


def confirm_candidates(  # noqa: PLR0913
    name: str,
    *,
    picks: Sequence[str],
    num_seeds: int,
    storage: Storage,
    overrides: Sequence[str],
    format: Literal["text", "json"],
) -> int:
    """Train chosen candidates' cascades again with new seeds and print what came of them; the exit code.

    Raises:
        InputError: if there is no such search or candidate, it cannot be written to, its images have changed, or
            something else than where it runs is to be set.
    """
    _require_of_resources(overrides)
    if not 2 <= num_seeds <= MOST_SEEDS:
        raise InputError(
            f"--seeds is {num_seeds}, but must be within 2 … {MOST_SEEDS}; an interval takes two draws, a good one five"
        )
    folder = search_to_read(storage, name)
    view = read_front(folder)
    folder.require_writable()
    folder.require_free()
    chosen = pick_all(view, picks or [WHOLE_FRONT])
    console = Console(stderr=format == "json")
    rows = _confirm(_placed(folder.experiment(), overrides), folder, chosen, num_seeds=num_seeds, console=console)
    if rows is None:
        return INTERRUPTED
    if format == "json":
        sys.stdout.write(f"{_json(rows)}\n")
    else:
        print_whole(console, confirmed_rich_table(rows))
    return 1 if all(row.mean is None for row in rows) else 0


def _confirm(
    experiment: Experiment, folder: SearchFolder, chosen: Sequence[Candidate], *, num_seeds: int, console: Console
) -> Sequence[Confirmed] | None:
    """Train what is missing and tell MLflow what came of all; `None` if the user stopped it, which is said."""
    from orchestrator.confirm import run_repeats  # Ray and torch, once the cheap checks have passed

    cascades = {candidate.trial: cascade_of(candidate) for candidate in chosen}
    say = partial(print_line, console)
    file = RepeatFile(folder.path / REPEATS)

    def told(repeat: Repeat) -> None:
        levels = ", ".join(percent(value) for value in repeat.val_accuracies)
        say(f"trial {repeat.trial}, seed {repeat.index} of {num_seeds}: {levels or f'failed: {repeat.failure}'}")

    def stopped() -> None:
        print_last(console, "stopped; what was trained is kept, and the same command goes on")

    tracker = make_tracker(experiment, folder, Console(stderr=True))
    try:
        with last_words(stopped):
            done = run_repeats(experiment, folder, cascades, num_seeds=num_seeds, told=told, tracker=tracker, say=say)
        rows = confirmed(chosen, file.read(), num_seeds)
        if done:
            tracker.prepare()
            tracker.join_search(folder.name, folder.search_id)
            tracker.log_confirmed(_json(rows))
    except KeyboardInterrupt:
        done = False
    finally:
        tracker.close()
    if not done:
        stopped()
        return None
    return rows


def _json(rows: Sequence[Confirmed]) -> str:
    return json.dumps([row.to_dict() for row in rows], indent=1)


def _require_of_resources(overrides: Sequence[str]) -> None:
    for override in overrides:
        if not override.startswith("resources."):
            raise InputError(
                f"--set {setting_without_credentials(override)!r} must be of resources, such as "
                "resources.address=local; all else is as it was in the search"
            )


def _placed(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """The experiment of a search, where it is to run now."""
    values = experiment.to_dict()
    for override in overrides:
        set_value(values, override)
    return parse_experiment(values)
