"""The report of a study, in Markdown and in one HTML file: what was compared, what it shows, and what it does not."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.evidence.figures import accuracy_figure, difference_figure
from orchestrator.evidence.folder import REPORT
from orchestrator.evidence.material import teacher_note
from orchestrator.evidence.pages import Block, Code, Heading, Listing, Paragraph, Picture, Table, to_html, to_markdown
from orchestrator.evidence.plan import StudyPlan
from orchestrator.evidence.results import RunResult, write_results
from orchestrator.evidence.schedule import all_runs, num_runs
from orchestrator.evidence.statistics import Difference, Estimate
from orchestrator.evidence.summary import Line, Summary, summarise
from orchestrator.storage.whole_files import write_atomically
from orchestrator.words import counted, percent


def write_report(
    plan: StudyPlan, results: Mapping[str, RunResult], teacher: Mapping[str, Any], folder: Path, *, num_test: int
) -> Summary:
    """Write `report.md` with its pictures, `report.html` and `results.parquet` into a folder.

    Args:
        plan: the study.
        results: of its runs, and perhaps of others, which do not count.
        teacher: what `material.read_teacher` gives.
        folder: of the study.
        num_test: its test images.
    """
    summary = summarise(plan, results, num_test=num_test)
    blocks = report_blocks(plan, results, summary, teacher, name=folder.name)
    for block in blocks:
        if isinstance(block, Picture):
            write_atomically(folder / block.name, block.png)
    write_atomically(folder / "report.md", to_markdown(blocks).encode())
    write_atomically(folder / REPORT, to_html(blocks).encode())
    write_results(results, all_runs(plan, results), folder / "results.parquet")
    return summary


def report_blocks(
    plan: StudyPlan,
    results: Mapping[str, RunResult],
    summary: Summary,
    teacher: Mapping[str, Any],
    *,
    name: str,
) -> list[Block]:
    """All of a report."""
    own = [results[key] for key in all_runs(plan, results) if key in results]
    blocks: list[Block] = [Heading(text=f"Study {name}"), Paragraph(text=_about(plan, teacher))]
    blocks += [Heading(text="What is shown"), Listing(points=tuple(shown(plan, summary)))]
    blocks += [Heading(text="What is not shown"), Listing(points=tuple(not_shown(plan, summary, own, teacher)))]
    for size in dict.fromkeys(line.size for line in summary.lines):
        lines = [line for line in summary.lines if line.size == size]
        blocks += [Heading(text=f"At {_size_text(size)} of the MACs"), _table(lines, plan.reference)]
    if any(line.accuracy for line in summary.lines):
        accuracy, difference = accuracy_figure(summary), difference_figure(summary, plan.reference)
        blocks += [
            Picture(
                name="accuracy.png",
                png=accuracy,
                caption="Test accuracy over size, with 95 % intervals; arms of the same size stand side by side.",
            ),
            Picture(
                name="differences.png",
                png=difference,
                caption=f"Differences from {plan.reference} on the same seeds, with 95 % intervals; "
                "green and red where Holm's test tells them from zero. What lies far off is written at the edge.",
            ),
        ]
    blocks += [Heading(text="How it was done"), *_method(plan, own)]
    return blocks


def _about(plan: StudyPlan, teacher: Mapping[str, Any]) -> str:
    known = f", test accuracy {percent(teacher['test_accuracy'], 2)}" if "test_accuracy" in teacher else ""
    number = "all" if plan.images.train is None else str(plan.images.train)
    return (
        f"{counted(len(plan.arms), 'arm')} on {plan.data.name} ({number} training images), teacher {plan.model.name} "
        f"at width {plan.model.width:g}{known}; {counted(len(plan.seeds), 'seed')}. Compared is the accuracy on test "
        "images, which nothing was chosen by."
    )


def shown(plan: StudyPlan, summary: Summary) -> Iterable[str]:
    """Sentences: what differs from the reference, and the best cascade against the peer, at each size."""
    for size in dict.fromkeys(line.size for line in summary.lines):
        lines = [line for line in summary.lines if line.size == size and line.against is not None]
        for verdict, words in (("better", "above"), ("worse", "below")):
            told = [line for line in lines if line.against is not None and line.against.verdict == verdict]
            if told:
                arms = "; ".join(f"{line.arm} {_points(line.against)}" for line in told)
                yield f"At {_size_text(size)} of the MACs {words} {plan.reference}: {arms}."
        if lines and all(line.against is not None and line.against.verdict == "not told apart" for line in lines):
            yield f"At {_size_text(size)} of the MACs no arm is told apart from {plan.reference}."
        for duel in summary.duels:
            if duel.size == size:
                verdict = duel.difference.verdict
                yield (
                    f"At {_size_text(size)} of the MACs the best cascade, {duel.own}, is {verdict} "
                    f"{'than' if verdict != 'not told apart' else 'from'} the best of Torch-Pruning, {duel.other}: "
                    f"{_points(duel.difference)}."
                )


def not_shown(
    plan: StudyPlan, summary: Summary, results: Sequence[RunResult], teacher: Mapping[str, Any]
) -> Iterable[str]:
    """Sentences: what the figures cannot say.

    Args:
        plan: the study.
        summary: of its results.
        results: of its own runs.
        teacher: what `material.read_teacher` gives.
    """
    note = teacher_note(teacher)
    if note is not None:
        yield f"What a teacher that has learnt would have given: {note}."
    yield (
        f"Anything beyond {plan.model.name} on these images with this budget. All arms share one teacher, so intervals "
        "are over what a seed decides (order, augmentation, random weights), not over teachers."
    )
    yield (
        "That arms which are not told apart are equal: an interval says how large a difference may still be. "
        "p-values are of paired t-tests, corrected by Holm for all comparisons of this report; seeds that came out "
        "alike are taken to differ by what a count of hits on these test images hides."
    )
    if summary.duels:
        yield "The best cascade and the best of Torch-Pruning were picked by their means here, which flatters both."
    fewest = min((line.against.estimate.number for line in summary.lines if line.against is not None), default=0)
    if 0 < fewest < 5:
        seeds = counted(fewest, "seed")
        yield f"Small differences: some comparisons rest on {seeds} alone, enough for large ones at best."
    missing = num_runs(plan) - len({result.key for result in results})
    if missing:
        runs = counted(missing, "run")
        yield f"Still to be done: {runs}; what is there is compared on the seeds that both arms have."
    failed = [line for line in summary.lines if line.num_failed]
    if failed:
        names = ", ".join(f"{line.arm} at {_size_text(line.size)} ({line.num_failed})" for line in failed)
        yield f"Runs that failed are left out of means: {names}."
    short = [line for line in summary.lines if _below_budget(plan, line)]
    at_most = [line for line in short if line.epochs == plan.budget.most_epochs]
    for why, lines in (
        ("most_epochs came first", at_most),
        ("one epoch more would have gone farther beyond it", [line for line in short if line not in at_most]),
    ):
        if lines:
            names = ", ".join(f"{line.arm} at {_size_text(line.size)}" for line in lines)
            yield f"These spent less than 90 % of the budget, as {why}: {names}."
    for key, what in (
        ("engine", "the engine"),
        ("arms", "the arms' code"),
        ("torch", "torch"),
        ("torch_pruning", "torch-pruning"),
    ):
        if len({result.versions.get(key) for result in results}) > 1:
            yield f"The results are of several versions of {what}."
    if len({result.device for result in results}) > 1:
        yield "The results are of several kinds of machine."


def _below_budget(plan: StudyPlan, line: Line) -> bool:
    return plan.budget.unit == "teacher-passes" and line.work is not None and line.work < 0.9 * plan.budget.amount


def _table(lines: Sequence[Line], reference: str) -> Table:
    return Table(
        head=(
            "arm",
            "test accuracy, % (95 % interval)",
            f"points above {reference} (95 % interval)",
            "p (Holm)",
            "MACs kept, %",
            "epochs",
            "teacher-passes",
            "learning rate",
            "seeds",
        ),
        rows=tuple(
            (
                line.arm,
                "" if line.accuracy is None else _interval(line.accuracy, signed=False),
                "" if line.against is None else _interval(line.against.estimate, signed=True),
                "" if line.against is None or line.against.adjusted is None else f"{line.against.adjusted:.3f}",
                "" if line.macs_kept is None else f"{100 * line.macs_kept:.2f}",
                "" if line.epochs is None else f"{line.epochs:.0f}",
                "" if line.work is None else f"{line.work:.1f}",
                "" if line.learning_rate is None else f"{line.learning_rate:g}",
                str(len(line.accuracies)),
            )
            for line in lines
        ),
    )


_ACCOUNTING = (
    "A forward pass counts a network's MACs once, a backward pass twice; teachers count where something is learnt from "
    "them, every level counts with the size that it has at each step. Validation and the last measurement of "
    "batch-norm statistics are left out, and so are the gradients of Torch-Pruning's importance. A cascade for all "
    "sizes may spend one budget a size."
)


def _method(plan: StudyPlan, results: Sequence[RunResult]) -> Iterable[Block]:
    budget, tuning = plan.budget, plan.tuning
    unit = "passes over the training images"
    if budget.unit == "teacher-passes":
        unit = "forward passes of the teacher over the training images"
    most = "" if budget.most_epochs is None else f", and at most {budget.most_epochs} epochs"
    yield Paragraph(text=f"Budget of each arm for each size: {budget.amount:g} {unit}{most}. {_ACCOUNTING}")
    tried = "none was chosen: all arms train at the recipe's"
    if len(tuning.learning_rates) > 1:
        rates = ", ".join(f"{rate:g}" for rate in tuning.learning_rates)
        tried = f"the best of {rates} on validation images with seed {tuning.seed}, for each arm at each size alike"
    yield Paragraph(text=f"Learning rates: {tried}.")
    devices = sorted({result.device for result in results})
    versions = sorted({json.dumps(dict(result.versions), sort_keys=True) for result in results})
    seconds = sum(result.seconds for result in results)
    yield Listing(
        points=(
            f"Machines: {', '.join(devices)}; {counted(len(results), 'run')} took {seconds / 60:.0f} minutes one after "
            "the other.",
            *(f"Versions: {version}" for version in versions),
        )
    )
    yield Code(text=plan.to_yaml())


def _size_text(fraction: float) -> str:
    return f"{100 * fraction:.4g} %"


def _points(difference: Difference | None) -> str:
    assert difference is not None
    found = difference.estimate
    ends = "one seed"
    if found.low is not None and found.high is not None:
        p_value = "" if difference.adjusted is None else f", p {difference.adjusted:.3f}"
        ends = f"{100 * found.low:+.2f} … {100 * found.high:+.2f}{p_value}"
    return f"{100 * found.mean:+.2f} points ({ends})"


def _interval(found: Estimate, *, signed: bool) -> str:
    sign = "+" if signed else ""
    ends = ""
    if found.low is not None and found.high is not None:
        ends = f" ({100 * found.low:{sign}.2f} … {100 * found.high:{sign}.2f})"
    return f"{100 * found.mean:{sign}.2f}{ends}"
