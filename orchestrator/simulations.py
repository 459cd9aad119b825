"""The command `cascade simulate`: which curves, which policies, and the table that compares them."""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from orchestrator.experiment.config import Experiment, parse_experiment
from orchestrator.replay.comparison import Comparison, compare
from orchestrator.replay.recorded import Recorded, Work
from orchestrator.replay.simulate import Simulation
from orchestrator.replay.yardstick import Corner, Yardstick
from orchestrator.searches.curves import TrialCurve, read_curves, read_experiment
from orchestrator.searches.layout import CURVES
from orchestrator.searches.places import Storage, open_search
from orchestrator.tables import print_line, print_whole
from orchestrator.words import counted, percent
from trainables.errors import InputError
from trainables.imports import is_import_path

_FEW = 100  # recorded trials, of which the nearest answer
DEFAULT_POLICIES = ("random", "tpe", "tpe+start", "tpe+start+rungs")


def read_recorded(source: str, *, storage: Storage) -> tuple[Experiment, tuple[TrialCurve, ...]]:
    """An experiment and the curves of its search.

    Args:
        source: a Parquet file that says which experiment it comes from, or the name of a search.
        storage: folder or bucket of all searches.

    Raises:
        InputError: if there are none, or a file names a space of somebody's own.
    """
    if source.endswith(".parquet"):
        path = Path(source)
        experiment = parse_experiment(read_experiment(path))
        if isinstance(experiment.space, str) and is_import_path(experiment.space):
            raise InputError(
                f"{path} was recorded in the space {experiment.space}, which is not imported from a file's word; give "
                "the name of the search itself"
            )
        return experiment, read_curves(path)
    folder = open_search(storage, source)
    return folder.experiment(), read_curves(folder.path / CURVES)


def print_simulation(  # noqa: PLR0913
    source: str,
    *,
    policies: Sequence[str],
    num_trials: int,
    until: float,
    num_seeds: int,
    num_workers: int,
    work: Work,
    corner: Corner,
    storage: Storage,
    format: Literal["text", "json"],
) -> None:
    """Replay policies and print what they came to.

    Raises:
        InputError: if there are no curves, or a policy is not one or needs what was not recorded.
    """
    if not 0.0 < until <= 1.0:
        raise InputError(f"--until is {until:g}, but must be a fraction of the best known hypervolume, in (0, 1]")
    num_workers = min(num_workers, num_trials)
    experiment, curves = read_recorded(source, storage=storage)
    recorded = Recorded(curves, objectives=experiment.objectives, work=work, bounds=experiment.constraints)
    yardstick = Yardstick(recorded, corner)
    simulation = Simulation(
        space=experiment.find_space(),
        defaults=experiment.cascade,
        recorded=recorded,
        num_workers=num_workers,
        budget=num_trials * recorded.work_per_trial,
    )
    num_processes = min(os.cpu_count() or 1, num_seeds)
    replays = simulation.run_all(policies or DEFAULT_POLICIES, num_seeds=num_seeds, num_processes=num_processes)
    comparisons = compare(replays, yardstick, until=until)
    if format == "json":
        sys.stdout.write(json.dumps([dataclasses.asdict(comparison) for comparison in comparisons], indent=1) + "\n")
        return
    title = (
        f"{counted(len(recorded.trials), 'recorded trial')}, seeds of each policy: {num_seeds}, "
        f"{counted(num_workers, 'worker')}; work in {work}"
    )
    console = Console()
    print_whole(console, _table(comparisons, title=title, until=until))
    if len(recorded.trials) < _FEW:
        stands = "trial stands" if len(recorded.trials) == 1 else "trials stand"
        few = f"note: {len(recorded.trials)} recorded {stands} for all cascades, which take {_FEW} or so"
        print_line(console, few)
    short = [f"{found.policy} {found.num_short}" for found in comparisons if found.num_short]
    if short:
        print_line(
            console,
            f"not reached within {simulation.budget:.0f}, which is what they count with: {', '.join(short)}",
        )


def _table(comparisons: Sequence[Comparison], *, title: str, until: float) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("policy", "trials", "stopped", "hypervolume", f"work to {percent(until, 0)}", "ratio"):
        table.add_column(column, justify="left" if column == "policy" else "right", no_wrap=True)
    for found in comparisons:
        table.add_row(
            found.policy,
            f"{found.num_trials:.0f}",
            f"{found.num_stopped:.0f}",
            percent(found.share.mean),
            f"{found.work.mean:.0f} ({found.work.low:.0f} … {found.work.high:.0f})",
            f"{found.ratio.mean:.2f} ({found.ratio.low:.2f} … {found.ratio.high:.2f})",
        )
    return table
