"""What a search loses when its processes are killed at random moments, and resumed each time.

A real search of tiny cascades goes on through twenty kills, drawn from a seed: of its driver, of a worker, or of all
its processes at once, as when the machine stops; while it starts, or while trials run. Before and after each kill what
is on disk is compared with all that was seen there before, and once the search has ended, with what there must be.
`--kills` sets how many.
"""

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from benchmarks.table import Row, table
from orchestrator.front.archive import Archive, Candidate
from orchestrator.sampling.journals import mend_journal
from orchestrator.sampling.storages import StudyAddress
from orchestrator.sampling.study import Study
from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.files.states import load_state

NUM_KILLS = 20
SEED = 0
EPOCHS = 8
OBJECTIVES = ("val_accuracy", "macs_kept")
# Seconds from the event that a kill waits for, in which it falls.
AFTER_START, AFTER_FIRST_TRIAL = 12.0, 6.0

EXPERIMENT: dict[str, Any] = {
    "model": {"name": "vgg-small", "width": 0.25},
    "data": {"name": "digits", "image_size": 8, "val_fraction": 0.3},
    "teacher": {"epochs": 2, "batch_size": 128, "learning_rate": 0.05},
    "cascade": {"recipe": {"epochs": EPOCHS, "batch_size": 128, "learning_rate": 0.05}, "pruning": {"num_prunings": 6}},
    "space": {"num_assistants": [0, 1], "student_macs_kept": [0.2, 0.5], "schedule": ["joint", "sequential"]},
    "num_starting_points": 2,
    "resources": {"max_concurrent": 2},
}

_AGENT = re.compile(r"dashboard|runtime_env|Agent|log_monitor|monitor\.py")

Victim = Literal["driver", "worker", "machine"]


@dataclass(slots=True)
class Findings:
    """What went wrong, and what was seen.

    Attributes:
        kills: how many of each kind.
        lost_trials: finished ones whose candidates were missing at some time, or other than before.
        lost_epochs: the most that a running trial had reported, and had to train again.
        orphan_seconds: how long processes that train lived on after their driver was killed, each time.
        agent_seconds: how long Ray's own last processes, which know nothing of the search, took to end.
        wrong: what was not as it must be, in words.
    """

    kills: Counter[str] = field(default_factory=Counter)
    lost_trials: set[int] = field(default_factory=set)
    lost_epochs: int = 0
    orphan_seconds: list[float] = field(default_factory=list)
    agent_seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Process:
    """`cascade search … --resume` and all that it starts, known by a mark in their environment."""

    def __init__(self, folder: Path, num_trials: int) -> None:
        """Start it."""
        self.mark = f"CRASH_{uuid.uuid4().hex}"
        self.lines: list[str] = []
        self.trials_run = threading.Event()
        (folder / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT | {"num_trials": num_trials}))
        environment = os.environ | {self.mark: "1", "PYTHONUNBUFFERED": "1"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        root = str(Path(__file__).parents[1])
        environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "search", "tiny.yaml", "--resume"],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())
            if line.startswith("trial ") and " runs: " in line:
                self.trials_run.set()
        self.trials_run.set()

    @property
    def ended(self) -> bool:
        """Whether the driver is gone."""
        return self._process.poll() is not None

    def alive(self) -> dict[int, str]:
        """Processes with the mark, and their names."""
        found = {}
        for process in Path("/proc").iterdir():
            if process.name.isdecimal():
                with contextlib.suppress(OSError):
                    if self.mark.encode() in (process / "environ").read_bytes():
                        found[int(process.name)] = (process / "cmdline").read_bytes().decode(errors="replace")
        return found

    def kill(self, victim: Victim, chance: random.Random) -> bool:
        """Kill it, or a part of it; whether there was anything to kill."""
        alive = self.alive()
        workers = [number for number, name in sorted(alive.items()) if "CascadeTrainable" in name]
        victims = {"driver": [self._process.pid], "machine": list(alive), "worker": workers}[victim]
        if victim == "worker" and workers:
            victims = [chance.choice(workers)]
        for number in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        return bool(victims)

    def training(self) -> dict[int, str]:
        """Those of them that could touch the search: all but Ray's agents, which end when they miss their raylet."""
        return {number: name for number, name in self.alive().items() if not _AGENT.search(name)}

    def wait_until_gone(self, alive: Callable[[], object], timeout_seconds: float) -> float:
        """Wait until none of these processes is there; seconds that took, or the timeout."""
        self._process.wait()
        started = time.monotonic()
        while alive() and time.monotonic() - started < timeout_seconds:
            time.sleep(0.1)
        return time.monotonic() - started

    def wait(self) -> int:
        """Wait until it ends by itself; its exit code."""
        code = self._process.wait()
        self._reader.join()
        return code


class Search:
    """The search's folder as it is on disk."""

    def __init__(self, folder: Path) -> None:
        """Name it."""
        self.runs = folder / "runs"
        self.path = self.runs / "tiny"
        self._seen: dict[tuple[int, int], Candidate] = {}

    def lost_trials(self) -> set[int]:
        """Trials whose candidates were there at some time that this was asked, and are not as they were."""
        now = self.candidates()
        self._seen = now | self._seen
        return {key[0] for key, candidate in self._seen.items() if now.get(key) != candidate}

    def candidates(self) -> dict[tuple[int, int], Candidate]:
        """Finished trials' candidates."""
        return {candidate.key: candidate for candidate in Archive(self.path / "archive.parquet").candidates()}

    def study(self) -> Study | None:
        """The study, mended as a start would."""
        path = self.path / "study.journal"
        mend_journal(path)
        if not path.exists() or not path.stat().st_size:
            return None
        return Study(StudyAddress(place=path, objectives=OBJECTIVES), seed=0)

    def mlflow_runs(self) -> list[Any]:
        """MLflow's runs of the search and its trials."""
        from mlflow import MlflowClient

        if not (self.runs / "mlflow.db").exists():
            return []
        client = MlflowClient(f"sqlite:///{self.runs}/mlflow.db")
        try:
            experiment = client.get_experiment_by_name("cascade")
        except Exception:  # killed while its tables were made
            return []
        if experiment is None:
            return []
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        return [run for run in runs if run.data.tags["cascade.kind"] in ("search", "trial")]

    def lost_epochs(self) -> int:
        """The most epochs that a running trial has told MLflow of and that no readable checkpoint holds."""
        study = self.study()
        told = {
            int(run.data.tags["cascade.trial"]): int(run.data.metrics.get("epoch", 0))
            for run in self.mlflow_runs()
            if run.data.tags["cascade.kind"] == "trial"
        }
        if study is None:
            return 0
        lost = [told.get(asked.number, 0) - self._epochs_kept(asked.number, asked.cascade) for asked in study.running()]
        return max(lost, default=0)

    def _epochs_kept(self, number: int, cascade: CascadeConfig) -> int:
        from trainables.plan import stage_plans

        kept = 0
        for file in self.path.glob(f"trials/start-*/{number:05d}/checkpoint_*/state.safetensors"):
            with contextlib.suppress(InputError):
                values = load_state(file)[1]
                plans = stage_plans(cascade)
                running = plans[min(values["num_stages_done"], len(plans) - 1)]
                kept = max(kept, running.first_epoch + values["stage"]["epoch"])
        return kept


def check_end(search: Search, findings: Findings) -> None:
    """Look at everything once the search has ended."""
    wrong = findings.wrong
    study = search.study()
    assert study is not None
    concluded = study.concluded()
    finished = {number for number, how in concluded.items() if how == "finished"}
    if study.running():
        wrong.append(f"the study has trials running: {study.running()}")
    archived = {trial for trial, _ in search.candidates()}
    if archived != finished:
        wrong.append(f"archive {sorted(archived)} and study {sorted(finished)} differ")
    for candidate in search.candidates().values():
        if not (search.path / candidate.network / "weights.safetensors").exists():
            wrong.append(f"candidate {candidate.label} has no network")
    runs = search.mlflow_runs()
    names = Counter(run.data.tags.get("cascade.trial", "search") for run in runs)
    if names != Counter(["search", *map(str, concluded)]):
        wrong.append(f"MLflow has the runs {dict(names)} for the trials {sorted(concluded)}")
    for run in runs:
        number = run.data.tags.get("cascade.trial")
        how = "finished" if number is None else concluded.get(int(number))
        status = {"finished": "FINISHED", "failed": "FAILED"}.get(str(how))
        if run.info.status != status:
            wrong.append(f"MLflow's run of {run.info.run_name} is {run.info.status}, but the trial {how}")
        if number is not None and how == "finished" and "val_accuracy" not in run.data.metrics:
            wrong.append(f"MLflow's run of {run.info.run_name} has no result")
    left = [path for path in search.path.glob("trials/*")]
    if left:
        wrong.append(f"files are left: {left[:3]}")


def crash(folder: Path, num_kills: int, seed: int) -> Findings:
    """Start a search, kill it as often as asked for, let it end, and say what was found."""
    chance = random.Random(seed)
    victims: tuple[Victim, ...] = ("machine", "driver", "worker")
    findings, search = Findings(), Search(folder)
    num_done = 0
    started = []
    while num_done < num_kills:
        # Always some more to do than is done, so that no kill finds a search that has ended.
        process = Process(folder, num_trials=len({trial for trial, _ in search.candidates()}) + 4)
        started.append(process)
        while num_done < num_kills and not process.ended:
            victim = victims[num_done % 3]
            in_trials = victim == "worker" or chance.random() < 0.7
            if in_trials:
                process.trials_run.wait()
            time.sleep(chance.uniform(0, AFTER_FIRST_TRIAL if in_trials else AFTER_START))
            findings.lost_trials |= search.lost_trials()
            if process.ended or not process.kill(victim, chance):
                continue
            findings.kills[victim] += 1
            num_done += 1
            print(f"crash: {num_done}. the {victim}, {'in trials' if in_trials else 'at the start'}", file=sys.stderr)
            if victim != "worker":
                findings.orphan_seconds.append(process.wait_until_gone(process.training, 60))
                findings.lost_epochs = max(findings.lost_epochs, search.lost_epochs())
            findings.lost_trials |= search.lost_trials()
    if process.ended:
        study = search.study()
        process = Process(folder, num_trials=max(2, study.num_started if study else 0))
        started.append(process)
    code = process.wait()
    if code != 0:
        findings.wrong.append(f"the last start ended with exit code {code}: {process.lines[-3:]}")
    ended = time.monotonic()
    for process in started:
        if process.wait_until_gone(process.alive, 150) >= 150:
            findings.wrong.append(f"processes are left: {process.alive()}")
    findings.agent_seconds = time.monotonic() - ended
    findings.lost_trials |= search.lost_trials()
    check_end(search, findings)
    return findings


def rows(findings: Findings) -> list[Row]:
    """What was found, as rows; what was wrong is told on standard error."""
    for line in findings.wrong:
        print(f"crash: {line}", file=sys.stderr)
    kinds = ", ".join(f"{number} of the {victim}" for victim, number in sorted(findings.kills.items()))
    note = f"{sum(findings.kills.values())} kills: {kinds}"
    return [
        Row(name="finished trials lost", figure=len(findings.lost_trials), rule="at most", target=0, note=note),
        Row(name="reported epochs of a running trial lost", figure=findings.lost_epochs, rule="at most", target=1),
        Row(
            name="duplicates, zombies, orphans, leftovers at the end",
            figure=len(findings.wrong),
            rule="at most",
            target=0,
        ),
        Row(name="a worker outlives its driver by", figure=max(findings.orphan_seconds, default=0.0), unit="s"),
        Row(name="Ray's own agents, after the last start has ended", figure=findings.agent_seconds, unit="s"),
    ]


def run() -> list[Row]:
    """Measure it."""
    with tempfile.TemporaryDirectory() as folder:
        return rows(crash(Path(folder), NUM_KILLS, SEED))


def main() -> int:
    """Run it with other numbers; 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=NUM_KILLS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--folder", type=Path, help="an empty folder to keep the search in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = rows(crash(options.folder or Path(folder), options.kills, options.seed))
    print(table(found))
    return 0 if all(row.met for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
