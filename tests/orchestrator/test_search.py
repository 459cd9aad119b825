"""Whole searches on real Ray, as a user starts them."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

import trainables
from orchestrator.front.archive import Archive
from orchestrator.sampling.storages import StudyAddress
from orchestrator.sampling.study import Study

pytestmark = pytest.mark.integration


def front_of(cascade_commands, folder, name="tiny"):
    (shown,) = cascade_commands(["front", name, "--format", "json"], cwd=folder)
    return shown.json()


def start(folder, *words, stderr=subprocess.STDOUT):
    """A command in the background, and its output line by line."""
    return in_background([sys.executable, "-m", "orchestrator", *words], cwd=folder, stderr=stderr)


IN_TURN = """
import sys

from orchestrator.cli import main
from tests.one_process import one_ray

with one_ray():
    for line in sys.stdin:
        sys.argv = ["cascade", *line.split()]
        try:
            main()
        except SystemExit as ended:
            print("exit code", ended.code, flush=True)
"""


def start_in_turn(folder):
    """A process in the background that runs the commands it is asked for over one Ray, and tells their exit codes."""
    return in_background([sys.executable, "-c", IN_TURN], cwd=folder, stdin=subprocess.PIPE, stderr=subprocess.STDOUT)


def ask(process, *words):
    """Have such a process run a command."""
    print(*words, file=process.stdin, flush=True)


def in_background(command, **options):
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, process_group=0, **options)


def read_until(process, text):
    """Wait for a line that holds `text`; everything that was said until then."""
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f"{text!r} was never said:\n{said}")


def assert_stopped(code, said, go_on):
    """A search was stopped cleanly, and says how to go on."""
    assert code == 130
    assert "Traceback" not in said
    assert "SIGTERM" not in said
    assert go_on in said


def runs_of(client, kind):
    """Runs in MLflow of one kind."""
    experiment = client.get_experiment_by_name("cascade")
    return client.search_runs([experiment.experiment_id], f"tags.`cascade.kind` = '{kind}'")


def test_a_search_gives_every_level_of_every_trial(tiny_search, cascade_commands):
    rows = front_of(cascade_commands, tiny_search)
    assert {row["trial"] for row in rows} == {0, 1}
    for trial in (0, 1):
        levels = [row for row in rows if row["trial"] == trial]
        assert [row["level"] for row in levels] == list(range(1, levels[0]["num_assistants"] + 2))
    for row in rows:
        assert set(row) >= {"val_accuracy", "macs", "macs_kept", "params", "params_kept", "on_front", "knee"}
        network = tiny_search / "runs/tiny/candidates" / f"{row['trial']}-{row['level']}"
        assert sum(p.numel() for p in trainables.load(network).parameters()) == row["params"]
    assert any(row["on_front"] for row in rows)
    assert sum(row["knee"] for row in rows) == 1


def test_sizes_are_what_was_asked(tiny_search):
    for candidate in Archive(tiny_search / "runs/tiny/archive.parquet").candidates():
        asked = json.loads(candidate.cascade)["macs_kept"][candidate.level - 1]
        assert candidate.macs_kept == pytest.approx(asked, rel=0.02)


def test_a_finished_search_keeps_no_checkpoints_and_no_pickled_networks(tiny_search):
    runs = tiny_search / "runs/tiny"
    assert list(runs.glob("trials/*/*/checkpoint_*")) == []
    for path in [*runs.glob("candidates/*/*"), *runs.glob("teacher/network/*")]:
        assert path.name in ("architecture.json", "weights.safetensors")


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # of MLflow's own mapper
def test_the_search_is_in_mlflow_with_true_statuses(tiny_search):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tiny_search}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("cascade")
    runs = client.search_runs([experiment.experiment_id])
    by_kind = {}
    for run in runs:
        by_kind.setdefault(run.data.tags["cascade.kind"], []).append(run.info.run_name)
    assert sorted(by_kind["trial"]) == ["trial 0 of tiny", "trial 1 of tiny"]
    assert by_kind["search"] == ["tiny"]
    assert by_kind["teacher"] == ["teacher"]
    candidates = Archive(tiny_search / "runs/tiny/archive.parquet").candidates()
    assert sorted(by_kind["network"]) == [f"network {candidate.label} of tiny" for candidate in candidates]
    assert {run.info.status for run in runs} == {"FINISHED"}
    trial = next(run for run in runs if run.info.run_name == "trial 0 of tiny")
    assert 0.2 * 0.98 <= trial.data.metrics["macs_kept"] <= 0.5 * 1.02
    assert len(client.get_metric_history(trial.info.run_id, "level_1_val_accuracy")) == 3
    search = next(run for run in runs if run.info.run_name == "tiny")
    shown = {file.path for file in client.list_artifacts(search.info.run_id, "front")}
    assert shown >= {"front/front.html", "front/front.png", "front/front.md"}


def test_a_second_search_in_the_same_place_is_refused(tiny_search, cascade_commands):
    before = sorted(tiny_search.rglob("*"))
    taken, other = cascade_commands(
        ["search", "tiny.yaml"],
        ["search", "tiny.yaml", "--resume", "--set", "seed=5"],
        cwd=tiny_search,
        codes=[2, 2],
    )
    assert "holds a search already" in taken.err
    assert "seed is 0 there and 5 here" in other.err
    assert sorted(tiny_search.rglob("*")) == before


# Three cascades, of which two have their first level in common.
ON_A_GRID = """
space: {num_assistants: [1, 1], student_macs_kept: [0.15, 0.4], temperature: [4, 4], distillation_weight: [0.7, 0.7],
        schedule: [sequential], size_grid: 3}
num_trials: 9
"""


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # of MLflow's own mapper
def test_stages_are_shared_between_trials_and_searches_which_end_when_there_is_nothing_new_to_run(
    tmp_path, tiny_yaml, cascade_commands
):
    from mlflow import MlflowClient

    common = [line for line in tiny_yaml.splitlines() if not line.startswith(("space", "num_trials"))]
    (tmp_path / "grid.yaml").write_text("\n".join(common) + ON_A_GRID)
    first, resumed, again, *fronts = cascade_commands(
        ["search", "grid.yaml"],
        ["search", "grid.yaml", "--resume"],
        ["search", "grid.yaml", "--name", "again"],
        ["front", "grid", "--format", "json"],
        ["front", "again", "--format", "json"],
        cwd=tmp_path,
    )
    for done in (first, resumed, again):
        assert "note: space: 500 draws gave nothing new to run; the last one: equal to trial" in done.out
    assert "trial 0 runs" not in resumed.out
    assert len({row["trial"] for row in fronts[0].json()}) == 3
    assert fronts[0].json() == fronts[1].json()
    assert "level-1 reused, which saved" in first.out
    assert "level-1, level-2 reused" in again.out
    assert "reused from another search" in again.out
    assert "6 stages reused" in again.out
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    runs = [run for run in runs_of(client, "trial") if run.data.tags.get("cascade.reused_stages") == "level-1,level-2"]
    assert [run.data.metrics["reused_epochs"] for run in runs] == [3.0] * 3
    histories = [len(client.get_metric_history(run.info.run_id, "level_2_val_accuracy")) for run in runs]
    assert histories == [2, 2, 2]  # curves are whole all the same
    ends = [run.data.tags["cascade.reason"] for run in runs_of(client, "search")]
    assert [end.startswith("space: 500 draws gave nothing new to run") for end in ends] == [True, True]


# Trials that last long enough to be stopped in; the second, which is larger and does not learn, falls behind.
USERS_OWN = """
import os
from dataclasses import replace
from pathlib import Path

from torch import nn

from trainables.config import CascadeConfig
from trainables.pruning.saliency import gate_gradient


def network(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 24, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, num_classes),
    )


def space(trial, defaults):
    size = trial.suggest_float("size", 0.2, 0.2) + 0.1 * trial.number
    recipe = replace(defaults.recipe, learning_rate=0.05 if trial.number == 0 else 1e-6)
    return CascadeConfig(macs_kept=(size, size / 2), recipe=recipe, pruning=defaults.pruning)


def saliency(layers):
    dies = Path("{dies}")
    if dies.exists() and os.environ.get("RAY_JOB_ID"):  # in a trial's process
        dies.unlink()
        os._exit(1)
    return gate_gradient(layers)
"""
OWN_SEARCH = """
model: {name: 'mine:network'}
space: mine:space
cascade: {recipe: {epochs: 3, batch_size: 128}, pruning: {num_prunings: 6, saliency: 'mine:saliency'}}
early_stopping: {reduction_factor: 2, first_rung: 0.6}
"""


@pytest.mark.timeout(900)  # six starts of one search, five of which are broken off from outside
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # of MLflow's own mapper
def test_a_search_of_a_users_own_that_is_broken_off_in_every_way_goes_on_to_its_end(
    tmp_path, tiny_yaml, cascade_commands, commands_afresh
):
    from mlflow import MlflowClient

    common = [line for line in tiny_yaml.splitlines() if not line.startswith(("model", "space", "cascade"))]
    (tmp_path / "tiny.yaml").write_text("\n".join(common) + OWN_SEARCH)
    (tmp_path / "mine.py").write_text(USERS_OWN.replace("{dies}", str(tmp_path / "dies")))
    search, runs = ["search", "tiny.yaml", "--set", "cascade.recipe.epochs=12"], tmp_path / "runs/tiny"
    go_on = "cascade search tiny.yaml --name tiny --storage runs --resume --set cascade.recipe.epochs=12"
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")

    # SIGTERM that goes to Ray as well, which ends it.
    process = start(tmp_path, *search)
    read_until(process, "trial 0 runs")
    os.killpg(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert_stopped(process.returncode, said, go_on)

    # Ctrl-C that ends the reader of the output first, as of `| tee log`.
    process = start(tmp_path, *search, "--resume", stderr=subprocess.PIPE)
    read_until(process, "trial 0 runs")
    process.stdout.close()
    os.kill(process.pid, signal.SIGINT)
    said = process.stderr.read()
    process.stderr.close()
    assert_stopped(process.wait(120), said, go_on)
    assert said.splitlines()[-1].split("; ")[0] == "stopped after 0 of 2 trials"
    assert [(run.info.status, run.data.tags["cascade.reason"]) for run in runs_of(client, "search")] == [
        ("KILLED", "interrupted")
    ]

    # The folder is taken away, and brought back.
    process = start_in_turn(tmp_path)
    ask(process, *search, "--resume")
    read_until(process, "trial 0 runs")
    runs.rename(tmp_path / "away")
    said = read_until(process, "exit code")
    assert said.endswith("exit code 1\n")
    assert f"cascade: {runs} was moved or removed while the search ran; bring it back" in said
    assert "Traceback" not in said
    shutil.rmtree(runs, ignore_errors=True)  # what was written there since
    (tmp_path / "away").rename(runs)

    # SIGTERM that goes to the search alone.
    ask(process, *search, "--resume")
    read_until(process, "trial 0 runs")
    os.kill(process.pid, signal.SIGTERM)  # which raises SIGINT there
    *said, code = read_until(process, "exit code").splitlines()
    assert_stopped(int(code.removeprefix("exit code ")), "\n".join(said), go_on)

    # It is killed, with nothing to say.
    ask(process, *search, "--resume")
    read_until(process, "trial 1 runs")
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    before = front_of(cascade_commands, tmp_path)
    assert {row["trial"] for row in before} == {0}

    # A trial's process dies, and Ray starts another.
    (tmp_path / "dies").touch()
    done, front, exported = commands_afresh(
        [*search, "--resume"],
        ["front", "tiny", "--format", "json"],
        ["export", "tiny", "--pick", "knee"],
        cwd=tmp_path,
    )
    assert not (tmp_path / "dies").exists()
    assert "trial 1 runs" in done.out
    assert "trial 0 runs" not in done.out
    # Alone on its rung, the second trial would go on.
    assert "trial 1 stopped (2 of 2): early stopping after 67 % of its epochs" in done.out
    passings = [json.loads(line) for line in (runs / "rungs.jsonl").read_text().splitlines()]
    assert [(passing["trial"], passing["goes_on"]) for passing in passings] == [(0, True), (1, False)]
    rows = front.json()
    assert [row["macs"] for row in rows if row["trial"] == 0] == [row["macs"] for row in before]
    assert [(row["trial"], row["fidelity"], row["on_front"]) for row in rows] == [
        (0, 1.0, True),
        (0, 1.0, True),
        (1, pytest.approx(2 / 3), False),
        (1, pytest.approx(2 / 3), False),
    ]
    study = Study(StudyAddress(place=runs / "study.journal", objectives=("val_accuracy", "macs_kept")), seed=0)
    assert (study.num_ended, list(study.stopped()), study.running(), study.failures()) == (2, [1], (), {})
    assert list(runs.glob("trials/stop-*")) == []
    assert list(runs.glob("trials/*/*/checkpoint_*")) == []
    stopped = next(run for run in runs_of(client, "trial") if run.info.run_name == "trial 1 of tiny")
    assert (stopped.info.status, stopped.data.tags["cascade.status"]) == ("KILLED", "stopped")
    assert stopped.data.tags["cascade.reason"].startswith("early stopping after 67 %")
    assert "val_accuracy" not in stopped.data.metrics
    assert "test accuracy" in exported.out


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # of MLflow's own mapper
def test_a_search_is_extended_and_a_limit_and_failing_trials_end_one(tmp_path, tiny_yaml, cascade_commands):
    from mlflow import MlflowClient

    (tmp_path / "tiny.yaml").write_text(tiny_yaml)
    no_time = ["search", "tiny.yaml", "--name", "short", "--format", "json", "--set", "stop.max_minutes=0.0001"]
    diverging = ["search", "tiny.yaml", "--name", "diverging", "--set", "cascade.recipe.learning_rate=1e12"]
    nothing, failed = cascade_commands(no_time, diverging, cwd=tmp_path, codes=[0, 1])
    assert nothing.json() == []
    assert "all 2 trials failed; the first, trial 0: stage cascade, level 1" in failed.err
    assert "Traceback" not in failed.out + failed.err
    assert Archive(tmp_path / "runs/diverging/archive.parquet").candidates() == ()

    stages = sorted((tmp_path / "runs/stages").iterdir())
    limited = ["search", "tiny.yaml", "--name", "limited", "--resume", "--set", "reuse=false"]
    limited += ["--set", "tracking.models=front", "--set", "resources.gpus_per_trial=auto"]
    show = ["front", "limited", "--format", "json"]
    first, before, second, after = cascade_commands(
        limited, show, [*limited, "--set", "num_trials=5", "--set", "stop.max_epochs=7"], show, cwd=tmp_path
    )
    assert "note: there is no search 'limited' in runs to go on with; it begins now" in first.out
    assert "to go on with" not in second.out
    # Two trials of three epochs had ended before.
    assert "ended after 3 of 5 trials by stop.max_epochs: 7 epochs or more have been trained" in second.out
    before, after = before.json(), after.json()
    kept = [row | {"on_front": None, "knee": None} for row in after if row["trial"] < 2]
    assert kept == [row | {"on_front": None, "knee": None} for row in before]
    assert {row["trial"] for row in after} == {0, 1, 2}
    assert sorted((tmp_path / "runs/stages").iterdir()) == stages  # neither found there nor kept
    assert "trained in" in first.out
    if not torch.cuda.is_available():
        for done in (first, second):
            assert "note: resources.gpus_per_trial is auto, and no machine has a GPU: trials run on CPUs" in done.out
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    runs = runs_of(client, "search")
    ended = {run.info.run_name: (run.info.status, run.data.tags["cascade.reason"]) for run in runs}
    (packed,) = (run.data.params for run in runs if run.info.run_name == "limited")
    assert packed["resources.gpus_per_trial"] == "auto"
    assert float(packed["resources.gpus_per_trial.chosen"]) <= 1
    assert ended["limited"] == ("FINISHED", "stop.max_epochs: 7 epochs or more have been trained")
    assert ended["diverging"] == ("FAILED", "all 2 trials failed")
    front = {f"{row['trial']}:{row['level']}": row["knee"] for row in after if row["on_front"]}
    (knee,) = [candidate for candidate, is_knee in front.items() if is_knee]
    assert client.get_model_version_by_alias("cascade-limited", "knee").tags["cascade.candidate"] == knee
    versions = client.search_model_versions("name = 'cascade-limited' and tags.front = 'true'")
    assert {version.tags["cascade.candidate"] for version in versions} == set(front)
    page = (tmp_path / "runs/limited/overview.html").read_text()
    assert f"cascade export limited <span>--pick</span> {knee}" in page
    assert f"/experiments/{runs[0].info.experiment_id}/runs/" in page
