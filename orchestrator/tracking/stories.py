"""What is told of a teacher, a network, a repeat, a run of a study or a front: the records of each, in their order."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from orchestrator.evidence.results import RunResult
from orchestrator.front.archive import Candidate
from orchestrator.front.front_view import FrontView
from orchestrator.front.listing import front_json, front_table
from orchestrator.front.repeats import Repeat
from orchestrator.tracking import records
from orchestrator.tracking.ledger import Ledger
from orchestrator.tracking.records import SEARCH, TEACHER, Metric, Scalar
from orchestrator.tracking.spool import Record
from orchestrator.tracking.telling import epoch_metrics, front_note, knee_metrics, network_metrics
from trainables.results import EpochProgress, TeacherResult


def teacher_story(result: TeacherResult, epochs: Sequence[EpochProgress]) -> list[Record]:
    """The teacher: its figures in the search's run, its curves in one of its own."""
    figures = [(f"teacher_{name}", value, 0) for name, value in result.to_dict().items()]
    tags = {"cascade.stage": "teacher"} | ({"cascade.reused": "true"} if result.reused else {})
    took = 0.0 if result.reused else result.seconds
    return [
        records.opening(TEACHER, name="teacher", kind="teacher", parent=SEARCH, tags=tags, seconds_ago=took),
        *(records.logging(TEACHER, epoch_metrics(epoch, step=epoch.epoch)) for epoch in epochs),
        records.logging(SEARCH, figures),
        records.closing(TEACHER, "finished"),
    ]


def network_story(
    search: str,
    candidate: Candidate,
    parameters: Mapping[str, Scalar],
    *,
    collapsed: bool,
    export: Callable[[str], str],
) -> list[Record]:
    """A candidate: a run of its own within its trial's, so that charts show every level and not only students.

    Args:
        search: its name.
        candidate: the network.
        parameters: of its trial.
        collapsed: whether it is nearer to guessing than to the teacher.
        export: gives the command that exports a network, by its label.
    """
    run, trial = records.network_key(*candidate.key), records.trial_key(candidate.trial)
    command = export(candidate.label)
    warning = " It has collapsed: it is nearer to guessing than to the teacher." if collapsed else ""
    tags = {
        "cascade.trial": str(candidate.trial),
        "cascade.level": str(candidate.level),
        "cascade.candidate": candidate.label,
        "cascade.collapsed": str(collapsed).lower(),
        "front": "false",
        "export": command,
        "mlflow.note.content": f"Level {candidate.level} of trial {candidate.trial}.{warning} Export it: `{command}`",
    }
    params = {**parameters, "level": candidate.level}
    name = f"network {candidate.label} of {search}"
    return [
        records.opening(run, name=name, kind="network", parent=trial, params=params, tags=tags),
        records.logging(run, network_metrics(candidate)),
        records.closing(run, "finished"),
    ]


def repeat_opening(search: str, repeat: Repeat) -> Record:
    """A cascade is trained again."""
    run = records.repeat_key(repeat.trial, repeat.index)
    tags = {"cascade.trial": str(repeat.trial), "cascade.repeat": str(repeat.index)}
    name = f"confirm {repeat.trial} of {search}, seed {repeat.index}"
    return records.opening(run, name=name, kind="confirm", parent=SEARCH, params={"seed": repeat.seed}, tags=tags)


def repeat_story(search: str, repeat: Repeat) -> list[Record]:
    """A cascade that was trained again; where its run is open already it keeps its beginning."""
    run = records.repeat_key(repeat.trial, repeat.index)
    levels = enumerate(repeat.val_accuracies, start=1)
    return [
        repeat_opening(search, repeat),
        records.logging(run, [(f"level_{level}_val_accuracy", value, 0) for level, value in levels]),
        records.closing(run, "failed" if repeat.failure else "finished", reason=repeat.failure),
    ]


def run_story(result: RunResult) -> list[Record]:
    """A run of a study, with its smallest network."""
    run = records.run_key(result.key)
    name = f"{result.arm}, size {result.size:g}, seed {result.seed}"
    params = {key: getattr(result, key) for key in ("arm", "size", "seed", "learning_rate", "purpose")}
    figures: list[Metric] = [(key, getattr(result, key), 0) for key in ("epochs", "work", "seconds")]
    for found in result.found[-1:]:
        for key in ("test_accuracy", "val_accuracy", "macs_kept", "params_kept"):
            figures.append((key, getattr(found, key), 0))
    return [
        records.opening(run, name=name, kind="run", parent=SEARCH, params=params, seconds_ago=result.seconds),
        records.logging(run, figures),
        records.closing(run, "failed" if result.failure else "finished", reason=result.failure),
    ]


def front_story(
    view: FrontView,
    *,
    hypervolume: float,
    num_trials: int,
    figures: Sequence[Path] | None,
    export: Callable[[str], str],
) -> list[Record]:
    """The front in the search's run: figures by step; where it has changed, all that shows it, and the overview.

    Args:
        view: the front.
        hypervolume: of the front.
        num_trials: trials that are finished; the step.
        figures: files in the search's folder that show it, as many as there are; `None` where it has not changed.
        export: gives the command that exports a network, by its label.
    """
    best = max((candidate.val_accuracy for candidate in view.front), default=None)
    metrics: list[Metric] = [
        ("hypervolume", hypervolume, num_trials),
        ("front_size", len(view.front), num_trials),
        ("front_best_val_accuracy", best, num_trials),
    ]
    if view.knee is not None:
        metrics += knee_metrics(view.knee, num_trials)
    told = [records.logging(SEARCH, metrics)]
    if figures is not None:  # what shows a large front takes room, and has been told where the front is the same
        if view.knee is not None:
            tags = {"knee": view.knee.label, "mlflow.note.content": front_note(view, export)}
            told.append(records.logging(SEARCH, tags=tags))
        text = front_json(view, hypervolume)
        told += [
            records.writing(SEARCH, "front/front.md", front_table(view)),
            records.writing(SEARCH, "front/front.json", text),
            *pictures(figures),
            records.writing(SEARCH, f"front/history/after-trial-{num_trials:05d}.json", text),
            records.overview(),
        ]
    return told


def pictures(figures: Sequence[Path]) -> list[Record]:
    """Files in the search's folder that show its front, as artifacts of its run."""
    return [records.copying(SEARCH, path.name, "front") for path in figures]


def front_flags(ledger: Ledger, view: FrontView) -> list[Record]:
    """Of runs of trials and networks whether they are on the front, where the last that was told of them is not so.

    Args:
        ledger: what was told.
        view: the front.
    """
    networks = {records.network_key(*candidate.key) for candidate in view.front}
    now = networks | {records.trial_key(candidate.trial) for candidate in view.front}
    before = ledger.on_front()
    flags = [(run, "true") for run in sorted(now - before) if run in ledger.runs]
    flags += [(run, "false") for run in sorted(before - now)]
    return [records.logging(run, tags={"front": flag}) for run, flag in flags]
