"""What tracking costs a search, and what MLflow holds after its server was killed twice in the midst of one.

Reports go to a tracker whose server is up, and to one whose server is down; what a report takes on the search's own
path is the time of the call. The overview page of the 303 recorded trials is written and weighed. Last, the same small
search runs twice against a real `mlflow server` over HTTP: once left alone, once with the server killed (SIGKILL) and
started again twice while trials run; what MLflow has of both is compared, run by run, times aside.
"""

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.crash import EXPERIMENT
from benchmarks.table import Row
from trainables.results import EpochProgress, LevelProgress, TeacherResult

NUM_REPORTS = 1000
NUM_LEVELS = 3
NUM_TRIALS = 4
CURVES = Path(__file__).parent / "data" / "digits_curves.parquet"
# What differs between two equal searches, or is of the moment.
_OF_THE_MOMENT = re.compile(r"seconds|mlflow\.|cascade\.search_id|teacher_reused")


class Server:
    """An MLflow server over a folder, that can be killed."""

    def __init__(self, folder: Path, port: int) -> None:
        """Say where; nothing runs yet."""
        self.address = f"http://127.0.0.1:{port}"
        self._folder, self._port = folder, port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", (self._folder / "artifacts").as_uri()]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=2):
                return
            time.sleep(0.2)
        raise SystemExit("tracking: the MLflow server did not start")

    def kill(self) -> None:
        """End it and its workers at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A running server."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = Server(folder, port)
    running.start()
    try:
        yield running
    finally:
        running.kill()


def report_rows(folder: Path) -> list[Row]:
    """What a report takes, with the server up and down."""
    from orchestrator.tracking import Tracker

    rows = []
    with server(folder) as running:
        for state in ("up", "down"):
            tracker = Tracker(uri=running.address, storage=folder, models="none", warn=lambda _text: None)
            tracker.check()
            tracker.start_search(state, {}, "", state)
            if state == "down":
                running.kill()
            taken = []
            for number in range(NUM_REPORTS):
                report = _report(number + 1)
                started = time.perf_counter()
                tracker.log_epoch(0, report)
                taken.append(1000 * (time.perf_counter() - started))
            tracker.finish("finished")
            tracker.close()
            rows.append(
                Row(
                    name=f"a report on the search's own path, server {state}",
                    figure=statistics.fmean(taken),
                    unit="ms",
                    rule="below",
                    target=1.0,
                    note=f"mean of {NUM_REPORTS}; median {statistics.median(taken):.3f}, "
                    f"99 % below {sorted(taken)[int(0.99 * len(taken))]:.2f}, longest {max(taken):.1f}",
                )
            )
    return rows


def _report(number: int) -> EpochProgress:
    levels = tuple(
        LevelProgress(level=level, macs_kept=0.5, train_loss=1.0, val_accuracy=0.9, val_top5=0.99)
        for level in range(1, NUM_LEVELS + 1)
    )
    return EpochProgress(
        stage="cascade",
        epoch=number,
        num_epochs=NUM_REPORTS,
        trial_epoch=number,
        learning_rate=0.1,
        seconds=1.0,
        levels=levels,
    )


def search(folder: Path, running: Server, *, kills: Mapping[str, str]) -> None:
    """Run the small search to its end.

    Args:
        folder: where.
        running: where it is tracked.
        kills: text of a line that the search says → `kill` or `start`, what then happens to the server.
    """
    values = EXPERIMENT | {
        "num_trials": NUM_TRIALS,
        "resources": {"max_concurrent": 1},
        "reuse": False,
        "tracking": {"uri": running.address},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(values))
    words = [sys.executable, "-m", "orchestrator"]
    root = str(Path(__file__).parents[1])
    environment = os.environ | {
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    to_come = dict(kills)
    process = subprocess.Popen(
        [*words, "search", "small.yaml"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        print(f"tracking: {line.rstrip()}", file=sys.stderr)
        for text in [text for text in to_come if text in line]:
            getattr(running, to_come.pop(text))()
    if process.wait() != 0:
        raise SystemExit(f"tracking: the search ended with exit code {process.returncode}")
    if to_come:
        raise SystemExit(f"tracking: the search never said {list(to_come)}")
    subprocess.run([*words, "sync", "small"], cwd=folder, env=environment, check=True, stdout=sys.stderr)


def holds(address: str) -> dict[str, Any]:
    """What MLflow has of a search, run by run, but for times and ids."""
    from mlflow import MlflowClient

    client = MlflowClient(address, registry_uri=address)
    experiment = client.get_experiment_by_name("cascade")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    names = Counter(run.info.run_name for run in runs)
    found: dict[str, Any] = {"names": dict(sorted(names.items()))}
    for run in runs:
        data = run.data
        found[run.info.run_name] = {
            "status": run.info.status,
            "params": {name: value for name, value in sorted(data.params.items()) if not name.startswith("tracking")},
            "tags": {name: value for name, value in sorted(data.tags.items()) if not _OF_THE_MOMENT.search(name)},
            "metrics": {
                name: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
                for name in sorted(data.metrics)
                if not _OF_THE_MOMENT.search(name)
            },
            "artifacts": sorted(item.path for item in client.list_artifacts(run.info.run_id)),
        }
    versions = client.search_model_versions("name = 'cascade-small'")
    # What was on the front for a moment while the server was down is not registered any more when it is back.
    found["versions"] = sorted(v.tags["cascade.candidate"] for v in versions if v.tags.get("front") == "true")
    aliases = client.get_registered_model("cascade-small").aliases
    by_number = {str(version.version): version.tags["cascade.candidate"] for version in versions}
    found["aliases"] = {alias: by_number[str(number)] for alias, number in sorted(aliases.items())}
    return found


def search_rows(folder: Path) -> list[Row]:
    """What MLflow has of a search whose server was killed twice, against one that was left alone."""
    found = {}
    for arm, kills in (
        ("alone", {}),
        ("killed", {"trial 0 runs": "kill", "trial 1 runs": "start", "trial 2 runs": "kill", "trial 3 runs": "start"}),
    ):
        place = folder / arm
        place.mkdir()
        with server(place) as running:
            search(place, running, kills=kills)
            found[arm] = holds(running.address)
    different = [
        name for name in {**found["alone"], **found["killed"]} if found["alone"].get(name) != found["killed"].get(name)
    ]
    for name in different:
        alone, killed = (json.dumps(found[arm].get(name)) for arm in ("alone", "killed"))
        print(f"tracking: {name}\n  alone  {alone}\n  killed {killed}", file=sys.stderr)
    num_runs = sum(found["alone"]["names"].values())
    twice = sum(number - 1 for number in found["killed"]["names"].values())
    num_values = sum(len(h) for run in found["killed"].values() if "metrics" in run for h in run["metrics"].values())
    return [
        Row(
            name="runs and models that differ after two kills of the server",
            figure=len(different),
            rule="at most",
            target=0,
            note=f"of {num_runs} runs with {num_values} values and {len(found['alone']['versions'])} model versions",
        ),
        Row(name="runs that are there twice", figure=twice, rule="at most", target=0),
    ]


def page_rows(folder: Path) -> list[Row]:
    """What the overview page of the recorded trials weighs."""
    import pyarrow.compute as pc

    from orchestrator.experiment.config import load_experiment
    from orchestrator.front.archive import Candidate
    from orchestrator.front.candidates import candidates_of
    from orchestrator.overview.page import write_overview
    from orchestrator.searches.curves import read_curves, read_table, write_table
    from orchestrator.searches.folder import SearchFolder

    of = SearchFolder(storage=folder, name="recorded")
    of.begin(load_experiment("demo"))
    teacher = TeacherResult(val_accuracy=0.9954, macs=9_512_186, params=288_170, seconds=30.0)
    of.teacher.mkdir()
    (of.teacher / "result.json").write_text(json.dumps(teacher.to_dict()))
    table, curves = read_table(CURVES), read_curves(CURVES)
    candidates: list[Candidate] = []
    for curve in curves:
        write_table(
            of.path / "curves" / f"{curve.trial:05d}.parquet", table.filter(pc.equal(table["trial"], curve.trial))
        )
        folders = {result.level: f"candidates/{curve.trial}-{result.level}" for result in curve.results}
        candidates += candidates_of(curve.trial, curve.results, folders, curve.cascade)
    of.archive.add(candidates)
    started = time.perf_counter()
    page = write_overview(of)
    seconds = time.perf_counter() - started
    return [
        Row(
            name=f"overview page of {len(curves)} trials",
            figure=page.stat().st_size / 1e6,
            unit="MB",
            rule="below",
            target=5.0,
            note=f"written in {seconds:.1f} s",
        )
    ]


def run() -> list[Row]:
    """Measure it."""
    import warnings

    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory() as folder:
        parts = {name: Path(folder) / name for name in ("reports", "searches", "page")}
        for part in parts.values():
            part.mkdir()
        return report_rows(parts["reports"]) + page_rows(parts["page"]) + search_rows(parts["searches"])
