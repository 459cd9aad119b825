"""`cascade study STUDY.yaml`: the runs of a study on Ray, in MLflow, and its report."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from orchestrator.addresses import without_all_credentials
from orchestrator.data.left_out import data_notes
from orchestrator.evidence.arms import check_study
from orchestrator.evidence.cluster import run_on_ray
from orchestrator.evidence.folder import REPORT, RESULTS
from orchestrator.evidence.material import load_images, read_teacher
from orchestrator.evidence.pages import Heading, Listing, Table
from orchestrator.evidence.plan import StudyPlan, load_plan
from orchestrator.evidence.processes import all_lost, told
from orchestrator.evidence.report import report_blocks, write_report
from orchestrator.evidence.results import ResultFile, RunResult, study_id
from orchestrator.evidence.schedule import num_runs
from orchestrator.evidence.sources import keep_sources, require_same_sources, sources_of
from orchestrator.evidence.summary import Summary
from orchestrator.experiment.resources import Resources
from orchestrator.preparation.session import ray_session
from orchestrator.searches.folder import SearchFolder, require_name
from orchestrator.signals import INTERRUPTED, last_words
from orchestrator.storage.locks import locked, require_free
from orchestrator.storage.staging import disk_full
from orchestrator.tables import print_last, print_line, print_whole
from orchestrator.tracking import Tracker
from orchestrator.words import counted
from trainables.errors import InputError, first_line


def run_study_command(source: Path, *, name: str, storage: Path, overrides: Sequence[str]) -> int:
    """Run what is missing of a study and write its report; the exit code.

    Raises:
        InputError: if anything that was asked for cannot be.
    """
    plan = load_plan(source, overrides)
    require_name(name, mend="give another by --name")
    folder = SearchFolder(storage=storage, name=name)
    if folder.exists:
        raise InputError(f"{folder.path} holds a search; give the study another name with --name")
    require_free(folder.path, "study")
    console = Console()
    say = partial(print_line, console)
    for note in data_notes(plan.data):
        say(note)
    images = load_images(plan)
    check_study(plan, images.data)
    sources = sources_of(plan, images)
    require_same_sources(plan, sources, folder.path)  # before Ray starts
    file = ResultFile(folder.path / RESULTS)

    def stopped() -> None:
        print_last(console, "stopped; what is done is kept, and the same command goes on")

    tracker = Tracker(uri=None, storage=storage, sync=folder.sync_command, warn=say)
    resources = Resources(
        cpus_per_trial=plan.resources.cpus, gpus_per_trial=plan.resources.gpus, address=plan.resources.address
    )
    tracker.follow_move()
    try:
        with (
            last_words(stopped),
            ray_session(resources, per=""),
            locked(folder.path, "study"),
            disk_full(folder.path, mend="make room, and the same command goes on"),
        ):
            keep_sources(plan, sources, folder.path, say)
            file.path.touch()  # which says that this is a study's folder, whatever becomes of it
            tracker.check()
            with _tracked(tracker, plan, folder):
                before = file.read()
                tracker.log_runs(before.values())
                say(f"{counted(num_runs(plan), 'run')}; {counted(len(before), 'result')} in {file.path}")

                def done(result: RunResult) -> None:
                    file.add(result)
                    tracker.log_runs([result])
                    say(told(result))

                num_lost = run_on_ray(plan, images, folder.path, before, done=done, say=say)
                summary = write_report(
                    plan, file.read(), read_teacher(plan, folder.path), folder.path, num_test=len(images.test.val)
                )
                tracker.log_report(folder.path / REPORT)
    except KeyboardInterrupt:
        stopped()
        return INTERRUPTED
    finally:
        tracker.close()
    _show(console, plan, file.read(), summary, folder.path)
    if num_lost:
        say(all_lost(num_lost))
    return 1 if num_lost else 0


@contextmanager
def _tracked(tracker: Tracker, plan: StudyPlan, folder: SearchFolder) -> Iterator[None]:
    """A run of MLflow for the study, which says how it ended."""
    config_text = without_all_credentials(plan.to_yaml())
    tracker.start_search(folder.name, _parameters(plan), config_text, study_id(folder.path), kind="study")
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        tracker.finish("stopped" if stopped else "failed", "interrupted" if stopped else first_line(error))
        raise
    tracker.finish("finished")


def _parameters(plan: StudyPlan) -> dict[str, str | int | float | bool | None]:
    return {
        "model": plan.model.name,
        "width": plan.model.width,
        "data": plan.data.name,
        "arms": ", ".join(plan.arms),
        "sizes": ", ".join(f"{size:g}" for size in plan.sizes),
        "seeds": len(plan.seeds),
        "budget": plan.budget.amount,
        "budget_unit": plan.budget.unit,
        "reference": plan.reference,
    }


def _show(console: Console, plan: StudyPlan, results: Mapping[str, RunResult], summary: Summary, folder: Path) -> None:
    """Print what is shown, and where the whole report is."""
    blocks = report_blocks(plan, results, summary, read_teacher(plan, folder), name=folder.name)
    for block in blocks:
        match block:
            case Heading(text=text) if text != "How it was done":
                print_line(console, f"\n{text}")
            case Listing(points=points) if block is not blocks[-2]:
                for point in points:
                    print_line(console, f"- {point}")
            case Table():
                print_whole(console, _rich(block, plan.reference))
            case _:
                pass
    print_line(console, f"\nreport: {folder / REPORT}")


def _rich(block: Table, reference: str) -> RichTable:
    """A table of the report for a terminal of 80 columns, without what only the report has room for."""
    title = Text(f"accuracy in % and points above {reference}, with 95 % intervals")
    table = RichTable(
        title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim"
    )
    for head in ("arm", "accuracy", "points above", "p"):
        table.add_column(head)
    for row in block.rows:
        table.add_row(*map(Text, row[:4]))
    return table
