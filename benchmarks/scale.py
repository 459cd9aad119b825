"""What searcher and early stopping cost in a search of ten thousand trials that report twenty times each.

Counted in processor time, which other work on the machine does not add to, and by the clock, which waits for the disk
too.
"""

import argparse
import math
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.table import Row, machine, table
from orchestrator.policies.rungs import EarlyStopping
from orchestrator.sampling.storages import StudyAddress
from orchestrator.sampling.study import Study
from orchestrator.trials.schedulers import StoredRungs
from search_spaces.cascade import CascadeDefaults, CascadeSpace
from trainables.config import CascadeConfig

NUM_TRIALS = 10_000
NUM_REPORTS = 20
NUM_WORKERS = 8
PART = 20  # the first and the last of so many equal parts of the search are compared
OBJECTIVES = ("val_accuracy", "macs_kept")


def _accuracy(cascade: CascadeConfig, size: float, fraction: float, draws: random.Random) -> float:
    """Something that learns: more with size and time, less with a temperature far from 4, and by luck."""
    best = 1.0 - 0.1 * float(size**-0.25) / 2.0 - 0.01 * abs(math.log(cascade.temperature / 4.0))
    return min(1.0, max(0.0, best * (1.0 - math.exp(-6.0 * fraction)) + draws.gauss(0.0, 0.01)))


class _Running:
    """A trial and how many of its reports it has made."""

    def __init__(self, number: int, cascade: CascadeConfig) -> None:
        self.number = number
        self.cascade = cascade
        self.num_reports = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ended:
    """A trial that has ended.

    Attributes:
        seconds: in searcher and rungs together, of the processor.
        waited: the same by the clock.
        num_reports: that it made.
        memory: the process's peak by then, in kB.
    """

    seconds: float
    waited: float
    num_reports: int
    memory: int


class _Watch:
    """Seconds of the processor and by the clock."""

    def __init__(self) -> None:
        """Nothing has passed."""
        self.seconds = self.waited = 0.0

    @contextmanager
    def runs(self) -> Iterator[None]:
        """Count what happens within."""
        seconds, waited = time.process_time(), time.perf_counter()
        yield
        self.seconds += time.process_time() - seconds
        self.waited += time.perf_counter() - waited


def _a_report(trials: Sequence[_Ended]) -> tuple[float, float]:
    """Milliseconds a report, all trials together: of the processor, and by the clock."""
    each = 1e3 / sum(trial.num_reports for trial in trials)
    return each * sum(trial.seconds for trial in trials), each * sum(trial.waited for trial in trials)


def _search(folder: Path, *, num_trials: int) -> list[_Ended]:
    """Run it; the trials in order of their end."""
    draws = random.Random(0)
    space, defaults = CascadeSpace(), CascadeDefaults()
    study = Study(StudyAddress(place=folder / "study.journal", objectives=OBJECTIVES), seed=0)
    rungs = StoredRungs(folder / "rungs.jsonl", EarlyStopping(), seed=0)
    spent: dict[int, _Watch] = {}
    done: list[_Ended] = []
    running: list[_Running] = []
    num_asked = 0
    while num_asked < num_trials or running:
        if num_asked < num_trials and len(running) < NUM_WORKERS:
            watch = _Watch()
            with watch.runs():
                asked = study.ask(space, defaults)
            spent[asked.number] = watch
            running.append(_Running(asked.number, asked.cascade))
            num_asked += 1
            continue
        trial = draws.choice(running)
        trial.num_reports += 1
        fraction = trial.num_reports / NUM_REPORTS
        points = [
            {"val_accuracy": _accuracy(trial.cascade, size, fraction, draws), "macs_kept": size}
            for size in trial.cascade.macs_kept
        ]
        watch = spent[trial.number]
        with watch.runs():
            if trial.num_reports == NUM_REPORTS:
                study.tell(trial.number, [points[-1][name] for name in OBJECTIVES])
                ended = True
            else:
                ended = not rungs.report(trial.number, {"fraction": fraction, "points": points})
                if ended:
                    study.stop(trial.number, "early stopping")
        if ended:
            running.remove(trial)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            del spent[trial.number]
            done.append(
                _Ended(seconds=watch.seconds, waited=watch.waited, num_reports=trial.num_reports, memory=memory)
            )
            if len(done) % (num_trials // PART) == 0:
                cost, waited = _a_report(done[-num_trials // PART :])
                print(
                    f"scale: {len(done)} trials, {cost:.2f} ms a report, {waited:.2f} ms by the clock", file=sys.stderr
                )
    return done


def run(num_trials: int = NUM_TRIALS) -> list[Row]:
    """Measure it."""
    with tempfile.TemporaryDirectory() as folder:
        done = _search(Path(folder), num_trials=num_trials)
    part, half = num_trials // PART, num_trials // 2
    (early, early_waited), (late, late_waited) = _a_report(done[:part]), _a_report(done[-part:])
    grown = [
        (done[last].memory - done[first].memory) / (last - first)
        for first, last in ((part, half), (half, num_trials - 1))
    ]
    name = f"scale: searcher and rungs, {num_trials} trials of up to {NUM_REPORTS} reports"
    note = f"{sum(trial.num_reports for trial in done)} reports in all; rungs stop trials"
    return [
        Row(name=f"{name}, last {part} trials", figure=late, unit="ms a report", rule="below", target=10.0, note=note),
        Row(name=f"{name}, first {part} trials", figure=early, unit="ms a report", rule="below", target=10.0),
        Row(name="… by the clock, last", figure=late_waited, unit="ms a report"),
        Row(name="… by the clock, first", figure=early_waited, unit="ms a report"),
        Row(
            name="scale: memory that a trial adds in the second half, against the first",
            figure=grown[1] / grown[0],
            rule="at most",
            target=1.25,
            note=f"{grown[0]:.1f} kB, then {grown[1]:.1f} kB a trial; {done[-1].memory / 1024:.0f} MiB in the end",
        ),
    ]


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--trials", type=int, default=NUM_TRIALS, help=f"trials in all; a multiple of {PART}")
    print(machine())
    print(table(run(parser.parse_args().trials)))


if __name__ == "__main__":
    main()
