"""What `cascade export` does, once its words are understood."""

import dataclasses
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table

from orchestrator.commands import search_to_read
from orchestrator.exports.formats import ExportOptions
from orchestrator.front.archive import Candidate
from orchestrator.front.front_view import FrontView
from orchestrator.front.pick import WHOLE_FRONT, pick_all
from orchestrator.searches.fronts import read_front
from orchestrator.searches.images import find_images
from orchestrator.searches.layout import EXPORTS
from orchestrator.searches.places import Storage, fetch_networks
from orchestrator.searches.same_search import require_same_data
from orchestrator.tables import print_line, print_whole
from orchestrator.words import percent

if TYPE_CHECKING:
    from orchestrator.exports.export import Exported, Failed
    from orchestrator.storage.staging import Existing


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRequest:
    """What is asked of `cascade export`.

    Attributes:
        name: of the search.
        picks: how candidates are picked, `front` for all its members.
        max_drop: how far validation accuracy may lie below the teacher's, in [0, 1]; `None` for any distance.
        out: folder to write, of a list to write one in for each network; `None` for the search's own.
        existing: what becomes of exports that are there.
        options: formats, and what is measured.
        storage: where searches are.
        format: of what is printed.
    """

    name: str
    picks: tuple[str, ...]
    max_drop: float | None
    out: Path | None
    existing: "Existing"
    options: ExportOptions
    storage: Storage
    format: Literal["text", "json"]

    @property
    def is_of_a_list(self) -> bool:
        """Whether it may be of several networks, rather than of one."""
        return self.picks == (WHOLE_FRONT,) or len(self.picks) > 1


def export_candidates(request: ExportRequest) -> int:
    """Export one network or a whole front and print what was measured; the exit code.

    Raises:
        InputError: if there is no such search or candidate, a destination holds something, or the images are no longer
            the search's.
    """
    folder = search_to_read(request.storage, request.name)
    view = read_front(folder)
    experiment = folder.experiment()
    chosen = _chosen(request, view, folder.path / EXPORTS)
    from orchestrator.data.datasets import (  # torch, once the cheap checks have passed
        draws_its_test_images,
        load_splits,
    )
    from orchestrator.exports.export import Job, export_each
    from orchestrator.exports.originals import Origin
    from trainables.identity import data_digest

    say = partial(print_line, Console(stderr=True))
    data, as_read = find_images(folder, experiment.data)
    reads_training_images = "int8" in request.options.formats or draws_its_test_images(data)
    if reads_training_images or not as_read:
        require_same_data(folder, data_digest(load_splits(data, say)))
    fetch_networks(folder, [candidate.network for candidate in chosen.values()])
    jobs = [
        Job(candidate=candidate, destination=place, existing=request.existing) for place, candidate in chosen.items()
    ]
    origin = Origin(
        folder=folder.path, name=request.name, data=data, model=experiment.model, search_id=folder.search_id
    )
    results = export_each(jobs, origin=origin, options=request.options, say=say)
    return _print(results, as_list=request.is_of_a_list, format=request.format)


def _chosen(request: ExportRequest, view: FrontView, exports: Path) -> dict[Path, Candidate]:
    """What is exported, by the folder that it goes to."""
    chosen = pick_all(view, request.picks, max_drop=request.max_drop)
    if request.out is not None and not request.is_of_a_list:
        return {request.out: chosen[0]}
    return {(request.out or exports) / f"{candidate.trial}-{candidate.level}": candidate for candidate in chosen}


def _print(results: "Iterable[Exported | Failed]", *, as_list: bool, format: Literal["text", "json"]) -> int:
    """Print each result as soon as it is there; 1 if anything that was asked for is not delivered."""
    from orchestrator.exports.export import Failed

    say = partial(print_line, Console(stderr=True))
    cards: list[dict[str, Any]] = []
    code = 0
    is_whole = False
    try:
        for result in results:
            if isinstance(result, Failed):
                code = 1
                say(f"cascade: {result.candidate.label} is not exported: {result.reason}")
                continue
            code = 1 if result.card.verification.refused else code
            if format == "text":
                _print_card(result)
            cards.append(result.card.to_dict())
        is_whole = True
    finally:  # what is delivered is told, also where what comes after it ends the command
        if format == "json" and (cards or (as_list and is_whole)):
            sys.stdout.write(json.dumps(cards if as_list else cards[0], indent=1, ensure_ascii=False) + "\n")
    return code


def _print_card(exported: "Exported") -> None:
    card = exported.card
    console = Console()
    table = Table(title=f"{card.name}: {exported.folder}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("", "teacher", "network", ""):
        table.add_column(column, justify="left" if not column else "right")
    teacher, network = card.teacher, card.network
    table.add_row(f"test {card.metric}", percent(teacher.test_accuracy), percent(network.test_accuracy))
    for check in card.verification.files:
        agreement = f"{card.agreement} for {percent(check.agreement)}"
        table.add_row(f"… {check.file}", "", percent(check.test_accuracy), agreement)
    table.add_row("MACs", f"{teacher.macs:,}", f"{network.macs:,}", f"{card.macs_ratio:.3g} times fewer")
    table.add_row("parameters", f"{teacher.params:,}", f"{network.params:,}", f"{card.params_ratio:.3g} times fewer")
    for row in card.latency:
        dense, pruned = row.comparison.dense, row.comparison.pruned
        speedup = row.comparison.speedup
        times = f"{speedup:.3g} times faster" if speedup >= 1 else f"{1 / speedup:.3g} times slower"
        table.add_row(row.label, f"{dense.median_ms:.3g} ms", f"{pruned.median_ms:.3g} ms", times)
    print_whole(console, table)
    for warning in card.warnings:
        print_line(console, f"note: {warning}")


def print_check(folder: Path, *, format: Literal["text", "json"]) -> None:
    """Print what a delivered folder is.

    Raises:
        InputError: if it is not what its card says, or not safe to load.
    """
    from orchestrator.exports.delivered import check_export

    found = check_export(folder)
    if format == "json":
        sys.stdout.write(json.dumps(dataclasses.asdict(found), indent=1) + "\n")
        return
    say = partial(print_line, Console())
    say(
        f"{folder} is what its card says: {found.name} as {', '.join(found.formats)}; its files run nothing when loaded"
    )
    if found.unread:
        say(f"note: {', '.join(found.unread)} needs your own function and was compared with the card alone")
    if found.readme_changed:
        say("note: README.md was changed since the export; the figures that were compared are those of card.json")
    if found.unlisted:
        say(f"note: not on the card, and not looked at: {', '.join(map(repr, found.unlisted))}")
