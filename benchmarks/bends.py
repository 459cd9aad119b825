"""Where the design bends at a thousand GPUs and a hundred thousand trials: driver, searcher, storage, tracking.

First it measures, on this machine, what each part costs: what the driver does for a report and for a trial, in studies
of rising length, by the very classes of a search (study, rungs, archive, curves, front, spool); what it takes to open
such a study again; what a trial leaves on disk; and how many trials a second the courier brings to MLflow. Ray Tune's
own share is a search of trials that do nothing. Then it plays a search of so many GPUs and trials in virtual time: each
GPU trains an epoch, its report waits for the driver, who serves one after the other, and only then goes the trial on.
"""

import argparse
import heapq
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from benchmarks.table import Row, machine, table
from orchestrator.front.archive import Archive, Candidate
from orchestrator.front.candidates import candidates_of
from orchestrator.policies.budget import Budget, Stop
from orchestrator.policies.rungs import EarlyStopping
from orchestrator.sampling.storages import StudyAddress
from orchestrator.sampling.study import Study
from orchestrator.tracking import Tracker
from orchestrator.tracking.sender import Sender
from orchestrator.tracking.spool import Spool
from orchestrator.tracking.store import SearchIdentity
from orchestrator.trials.record import SearchRecord
from orchestrator.trials.schedulers import StoredRungs
from orchestrator.trials.watcher import Watcher
from search_spaces.cascade import CascadeDefaults, CascadeSpace
from trainables.config import CascadeConfig
from trainables.results import EpochProgress, LevelProgress, LevelResult, Reused, TeacherResult

OBJECTIVES = ("val_accuracy", "macs_kept")
LENGTHS = (100, 1_000, 10_000)  # trials that are in the study when a trial is measured
MEASURED = 20
NUM_EPOCHS = 20
NUM_GPUS, NUM_TRIALS = 1_000, 100_000
EPOCH_SECONDS = (10.0, 60.0, 600.0)
# Of Ray Tune alone, as `reuse_actors` sees it with random configurations: a trial with one report, and another report.
TUNE_TRIAL_MS, TUNE_REPORT_MS = 12.0, 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What one thing takes in a study of some length, in milliseconds by the clock.

    Attributes:
        ask: a new trial.
        report: an epoch of one: curve, spool, rungs.
        finish: its end: archive, study, front, spool.
        reopen: the study by a new driver.
    """

    ask: float
    report: float
    finish: float
    reopen: float


def fill(study: Study, archive: Archive, length: int) -> None:
    """Let a study and its archive know so many trials that are over."""
    space, defaults, luck = CascadeSpace(), CascadeDefaults(), random.Random(0)
    beside = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials: list[FrozenTrial] = []
    candidates: list[Candidate] = []
    for number in range(length):
        drawn = beside.ask()
        cascade = space(drawn, defaults)
        found = results(cascade, luck)
        trials.append(
            optuna.trial.create_trial(
                params=drawn.params,
                distributions=drawn.distributions,
                values=[getattr(found[-1], name) for name in OBJECTIVES],
                user_attrs={"cascade": json.dumps(cascade.to_dict())},
            )
        )
        candidates += candidates_of(number, found, {level.level: f"{number}-{level.level}" for level in found}, cascade)
    with study.together():
        study._study.add_trials(trials)
    archive.add(candidates)


def results(cascade: CascadeConfig, luck: random.Random) -> list[LevelResult]:
    """Levels that are the more accurate the larger they are, and by luck."""
    return [
        LevelResult(
            level=level,
            num_levels=cascade.num_levels,
            val_accuracy=min(1.0, size**0.1 * luck.uniform(0.8, 1.0)),
            val_accuracy_before_recalibration=0.5,
            macs=int(1e8 * size),
            macs_kept=size,
            params=int(1e6 * size),
            params_kept=size,
        )
        for level, size in enumerate(cascade.macs_kept, start=1)
    ]


def report(cascade: CascadeConfig, epoch: int) -> EpochProgress:
    """What a trial says after an epoch."""
    levels = tuple(
        LevelProgress(level=level, macs_kept=size, train_loss=1.0 / epoch, val_accuracy=0.5)
        for level, size in enumerate(cascade.macs_kept, start=1)
    )
    return EpochProgress(
        stage="cascade",
        epoch=epoch,
        num_epochs=NUM_EPOCHS,
        trial_epoch=epoch,
        learning_rate=0.1,
        seconds=60.0,
        levels=levels,
    )


def measure(folder: Path, length: int) -> tuple[Costs, float]:
    """What a trial costs in a study of so many, and the kilobytes that it leaves beside its networks."""
    study = Study(StudyAddress(place=folder / "study.journal", objectives=OBJECTIVES), seed=0)
    archive = Archive(folder / "archive.parquet")
    fill(study, archive, length)
    tracker = Tracker(uri="http://127.0.0.1:9", storage=folder, models="none", warn=lambda _text: None)
    tracker.start_search("bends", {}, "", "bends")
    teacher = TeacherResult(val_accuracy=0.95, macs=100_000_000, params=1_000_000, seconds=1.0)
    record = SearchRecord(
        folder=folder,
        objectives=OBJECTIVES,
        teacher=teacher,
        archive=archive,
        study=study,
        budget=Budget(Stop()),
        tracker=tracker,
        watcher=Watcher(),
    )
    rungs = StoredRungs(folder / "rungs.jsonl", EarlyStopping(), seed=0)
    luck, before = random.Random(1), size_of(folder)
    asks, reports, finishes = [], [], []
    for _ in range(MEASURED):
        started = time.perf_counter()
        asked = study.ask(CascadeSpace(), CascadeDefaults())
        asks.append(time.perf_counter() - started)
        record.started(asked)
        started = time.perf_counter()
        for epoch in range(1, NUM_EPOCHS + 1):
            record.epoch(asked.number, report(asked.cascade, epoch))
            points = [{"val_accuracy": 0.5, "macs_kept": size} for size in asked.cascade.macs_kept]
            rungs.report(asked.number, {"fraction": epoch / NUM_EPOCHS, "points": points})
        reports.append((time.perf_counter() - started) / NUM_EPOCHS)
        found = results(asked.cascade, luck)
        started = time.perf_counter()
        record.finished(asked, found, {level.level: f"{asked.number}-{level.level}" for level in found}, Reused())
        finishes.append(time.perf_counter() - started)
    record.leave()
    left = (size_of(folder) - before) / MEASURED / 1e3
    started = time.perf_counter()
    Study(StudyAddress(place=folder / "study.journal", objectives=OBJECTIVES), seed=0)
    reopen = time.perf_counter() - started
    medians = [1e3 * statistics.median(taken) for taken in (asks, reports, finishes)]
    return Costs(ask=medians[0], report=medians[1], finish=medians[2], reopen=1e3 * reopen), left


def size_of(folder: Path) -> int:
    """Bytes of the journal, the rungs and the spool, which grow with each trial."""
    return sum(
        path.stat().st_size for path in folder.rglob("*") if path.suffix in (".journal", ".jsonl") and path.is_file()
    )


def tracked(folder: Path) -> float:
    """Trials a second that the courier brings to MLflow's SQLite database."""
    from orchestrator.addresses import database_uri
    from orchestrator.tracking.pages import SearchPages
    from orchestrator.tracking.store import MlflowStore

    store = MlflowStore(uri=database_uri(folder), storage=folder, experiment="bends")
    store.require()
    spool = Spool(folder / "bends" / "tracking")
    with spool.sending():
        identity = SearchIdentity(name="bends", search_id="bends", folder=folder)
        sender = Sender(store, spool, identity, pages=SearchPages(print), warn=print, told=lambda _number: None)
        started = time.perf_counter()
        sender.send()
        return MEASURED / (time.perf_counter() - started)


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """What a search came to in virtual time.

    Attributes:
        busy: part of the GPUs' time in which they trained.
        hours: that the search took.
        driver: part of the time in which the driver worked.
    """

    busy: float
    hours: float
    driver: float


def play(
    cost_of: Callable[[int], Costs], *, num_gpus: int, num_trials: int, epoch_seconds: float, seed: int = 0
) -> Played:
    """Play a search: GPUs train, and one driver serves their reports in the order in which they come.

    Args:
        cost_of: what things cost after so many trials.
        num_gpus: trials that run at the same time.
        num_trials: until the end.
        epoch_seconds: that an epoch takes in the mean; each takes between half and one and a half of it.
        seed: of what an epoch takes.
    """
    luck = random.Random(seed)
    # When a GPU will have trained its next epoch, and which epoch that is; each begins with its first.
    coming = [(epoch_seconds * luck.uniform(0.5, 1.5), gpu, 1) for gpu in range(min(num_gpus, num_trials))]
    heapq.heapify(coming)
    started, ended, free, worked, trained = len(coming), 0, 0.0, 0.0, 0.0
    costs = cost_of(0)
    while coming:
        ready, gpu, epoch = heapq.heappop(coming)
        service = TUNE_REPORT_MS + costs.report
        again = epoch < NUM_EPOCHS
        if not again:
            ended += 1
            if ended % 1_000 == 0:
                costs = cost_of(ended)
            service += costs.finish
            if started < num_trials:
                started, again, epoch = started + 1, True, 0
                service += TUNE_TRIAL_MS + costs.ask
        free = max(free, ready) + service / 1e3
        worked += service / 1e3
        if again:
            taking = epoch_seconds * luck.uniform(0.5, 1.5)
            trained += taking
            heapq.heappush(coming, (free + taking, gpu, epoch + 1))
    trained += min(num_gpus, num_trials) * epoch_seconds
    return Played(busy=trained / (free * num_gpus), hours=free / 3600, driver=worked / free)


def between(lengths: Sequence[int], found: Sequence[Costs]) -> Callable[[int], Costs]:
    """Costs after any number of trials: along straight lines between what was measured, and on beyond the last."""

    def at(number: int) -> Costs:
        place = next(
            (index for index, length in enumerate(lengths[1:-1], start=1) if number < length), len(lengths) - 1
        )
        low, high = lengths[place - 1], lengths[place]
        part = max(0.0, (number - low) / (high - low))
        mixed = {
            name: max(0.0, (1 - part) * getattr(found[place - 1], name) + part * getattr(found[place], name))
            for name in Costs.__slots__
        }
        return Costs(**mixed)

    return at


def run(num_trials: int = NUM_TRIALS, num_gpus: int = NUM_GPUS, lengths: Sequence[int] = LENGTHS) -> list[Row]:
    """Measure, and play."""
    found, left, rate = [], 0.0, 0.0
    for length in lengths:
        with tempfile.TemporaryDirectory() as folder:
            costs, left = measure(Path(folder), length)
            found.append(costs)
            rate = tracked(Path(folder))
        print(f"bends: after {length:,} trials {costs}; {left:.1f} kB a trial; {rate:.2f} trials/s", file=sys.stderr)
    rows = []
    for name, what in (
        ("ask", "a new trial is asked for"),
        ("report", "a report is taken in"),
        ("finish", "a trial ends"),
    ):
        each = ", ".join(f"{getattr(costs, name):.2g}" for costs in found)
        note = f"ms after {', '.join(f'{length:,}' for length in lengths)} trials: {each}"
        rows.append(Row(name=f"driver: {what}", figure=getattr(found[-1], name), unit="ms", note=note))
    at = between(lengths, found)
    last = at(num_trials)
    rows += [
        Row(name=f"study opened again, {num_trials:,} trials", figure=last.reopen / 1e3, unit="s", note="on a line"),
        Row(name=f"disk beside networks, {num_trials:,} trials", figure=left * num_trials / 1e6, unit="GB"),
        Row(name="MLflow's SQLite by the courier", figure=rate, unit="trials/s", note=f"{NUM_EPOCHS} epochs each"),
    ]
    for seconds in EPOCH_SECONDS:
        played = play(at, num_gpus=num_gpus, num_trials=num_trials, epoch_seconds=seconds)
        behind = num_trials / rate / 3600 - played.hours
        rows.append(
            Row(
                name=f"{num_gpus:,} GPUs, {num_trials:,} trials, epochs of {seconds:g} s: GPUs that train",
                figure=played.busy,
                note=f"{played.hours:.1f} h, driver busy {played.driver:.0%}, "
                + (f"MLflow {behind:.1f} h behind at the end" if behind > 0 else "MLflow keeps up"),
            )
        )
    return rows


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=NUM_GPUS)
    parser.add_argument("--trials", type=int, default=NUM_TRIALS)
    options = parser.parse_args()
    rows = run(options.trials, options.gpus)
    print(machine())
    print(table(rows))


if __name__ == "__main__":
    main()
