"""Whole searches on real Ray, as a user starts them."""

import json
import os
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
    """A search in the background, and its output line by line."""
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "search", "tiny.yaml", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        process_group=0,
    )


def read_until(process, text):
    """Wait for a line that holds `text`; everything that was said until then."""
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f"{text!r} was never said:\n{said}")


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


def test_a_finished_search_is_resumed_at_once_and_can_be_extended(tiny_search, cascade_commands, tmp_path):
    import shutil

    shutil.copytree(tiny_search, tmp_path / "copy")
    stages = sorted((tmp_path / "copy/runs/stages").iterdir())
    more = ["--set", "num_trials=3", "--set", "reuse=false"]
    before, _, after = cascade_commands(
        ["front", "tiny", "--format", "json"],
        ["search", "tiny.yaml", "--resume", *more],
        ["front", "tiny", "--format", "json"],
        cwd=tmp_path / "copy",
    )
    before, after = before.json(), after.json()
    assert sorted((tmp_path / "copy/runs/stages").iterdir()) == stages  # neither found there nor kept
    kept = [row | {"on_front": None, "knee": None} for row in after if row["trial"] < 2]
    assert kept == [row | {"on_front": None, "knee": None} for row in before]
    assert {row["trial"] for row in after} == {0, 1, 2}


ON_A_GRID = """
space: {num_assistants: [1, 1], student_macs_kept: [0.15, 0.4], temperature: [4, 4], distillation_weight: [0.7, 0.7],
        schedule: [sequential], size_grid: 4}
num_trials: 3
"""


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # of MLflow's own mapper
def test_stages_are_shared_between_trials_and_searches(tmp_path, tiny_yaml, cascade_commands):
    from mlflow import MlflowClient

    common = [line for line in tiny_yaml.splitlines() if not line.startswith(("space", "num_trials"))]
    (tmp_path / "grid.yaml").write_text("\n".join(common) + ON_A_GRID)
    first, again, *fronts = cascade_commands(
        ["search", "grid.yaml"],
        ["search", "grid.yaml", "--name", "again"],
        ["front", "grid", "--format", "json"],
        ["front", "again", "--format", "json"],
        cwd=tmp_path,
    )
    assert fronts[0].json() == fronts[1].json()
    assert "level-1 reused, which saved" in first.out
    assert "level-1, level-2 reused" in again.out
    assert "reused from another search" in again.out
    assert "6 stages reused" in again.out
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'cascade'")
    runs = client.search_runs([experiment.experiment_id], "tags.`cascade.reused_stages` = 'level-1,level-2'")
    assert [run.data.metrics["reused_epochs"] for run in runs] == [3.0] * 3
    histories = [len(client.get_metric_history(run.info.run_id, "level_2_val_accuracy")) for run in runs]
    assert histories == [2, 2, 2]  # curves are whole all the same


BEHIND = """
from dataclasses import replace

from trainables.config import CascadeConfig


def space(trial, defaults):
    size = trial.suggest_float("size", 0.2, 0.2) + 0.1 * trial.number
    recipe = replace(defaults.recipe, epochs=6, learning_rate=0.05 if trial.number == 0 else 1e-6)
    return CascadeConfig(macs_kept=(size, size / 2), recipe=recipe, pruning=defaults.pruning)
"""


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # of MLflow's own mapper
def test_a_killed_driver_loses_nothing_that_was_finished_and_rungs_go_on(tmp_path, tiny_yaml, cascade_commands):
    (tmp_path / "tiny.yaml").write_text(tiny_yaml)
    (tmp_path / "behind.py").write_text(BEHIND)
    words = ["--set", "space=behind:space"]
    words += ["--set", "early_stopping={reduction_factor: 2, first_rung: 0.6}"]
    process = start(tmp_path, *words)
    read_until(process, "trial 1 runs")
    process.kill()
    process.wait()
    process.stdout.close()
    before = front_of(cascade_commands, tmp_path)
    assert {row["trial"] for row in before} == {0}
    # Alone on its rung, the second trial, which is larger and does not learn, would go on.
    (done,) = cascade_commands(["search", "tiny.yaml", "--resume", *words], cwd=tmp_path)
    assert "trial 1 runs" in done.out
    assert "trial 0 runs" not in done.out
    assert "trial 1 stopped (2 of 2): early stopping after 67 % of its epochs" in done.out
    passings = [json.loads(line) for line in (tmp_path / "runs/tiny/rungs.jsonl").read_text().splitlines()]
    assert [(passing["trial"], passing["goes_on"]) for passing in passings] == [(0, True), (1, False)]
    rows = front_of(cascade_commands, tmp_path)
    assert [row["macs"] for row in rows if row["trial"] == 0] == [row["macs"] for row in before]
    assert [(row["trial"], row["fidelity"], row["on_front"]) for row in rows] == [
        (0, 1.0, True),
        (0, 1.0, True),
        (1, pytest.approx(2 / 3), False),
        (1, pytest.approx(2 / 3), False),
    ]
    study = Study(
        StudyAddress(place=tmp_path / "runs/tiny/study.journal", objectives=("val_accuracy", "macs_kept")), seed=0
    )
    assert (study.num_ended, list(study.stopped()), study.running(), study.failures()) == (2, [1], (), {})
    assert list(tmp_path.glob("runs/tiny/trials/stop-*")) == []
    assert list(tmp_path.glob("runs/tiny/trials/*/*/checkpoint_*")) == []
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("cascade").experiment_id])
    stopped = next(run for run in runs if run.info.run_name == "trial 1 of tiny")
    assert (stopped.info.status, stopped.data.tags["cascade.status"]) == ("KILLED", "stopped")
    assert stopped.data.tags["cascade.reason"].startswith("early stopping after 67 %")
    assert "val_accuracy" not in stopped.data.metrics


@pytest.mark.timeout(600)  # four searches in turn, two of which are ended from outside
def test_sigterm_stops_as_ctrl_c_does_cleanly_and_says_how_to_go_on(tmp_path, tiny_yaml, cascade_commands):
    folder, words = tmp_path, ["--set", "cascade.recipe.epochs=12"]  # trials that last long enough to be stopped in
    (folder / "tiny.yaml").write_text(tiny_yaml)
    for end, resume in ((os.killpg, []), (os.kill, ["--resume"])):  # to Ray as well, which ends it; to the search alone
        process = start(folder, *words, *resume)
        read_until(process, "trial 0 runs")
        end(process.pid, signal.SIGTERM)  # which raises SIGINT there
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 130
        assert "Traceback" not in said
        assert "SIGTERM" not in said
        assert "cascade search tiny.yaml --name tiny --storage runs --resume --set cascade.recipe.epochs=12" in said
    cascade_commands(["search", "tiny.yaml", "--resume", *words], cwd=folder)
    assert {row["trial"] for row in front_of(cascade_commands, folder)} == {0, 1}


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # of MLflow's own mapper
def test_ctrl_c_that_ends_the_reader_of_the_output_first_is_told_as_any(tmp_path, tiny_yaml):
    (tmp_path / "tiny.yaml").write_text(tiny_yaml)
    process = start(tmp_path, "--set", "cascade.recipe.epochs=12", stderr=subprocess.PIPE)
    read_until(process, "trial 0 runs")
    process.stdout.close()  # as `| tee log` does
    os.kill(process.pid, signal.SIGINT)
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(120), said.splitlines()[-1].split("; ")[0]) == (130, "stopped after 0 of 2 trials")
    assert "cascade search tiny.yaml --name tiny --storage runs --resume" in said
    assert "Traceback" not in said
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("cascade").experiment_id], "tags.`cascade.kind`='search'")
    assert [(run.info.status, run.data.tags["cascade.reason"]) for run in runs] == [("KILLED", "interrupted")]


@pytest.mark.timeout(600)
def test_a_search_whose_folder_is_taken_away_says_so(tmp_path, tiny_yaml):
    (tmp_path / "tiny.yaml").write_text(tiny_yaml)
    process = start(tmp_path)
    read_until(process, "trial 0 runs")
    (tmp_path / "runs/tiny").rename(tmp_path / "away")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert f"cascade: {tmp_path}/runs/tiny was moved or removed while the search ran; bring it back" in said
    assert "Traceback" not in said


ONE_CASCADE = (
    "space={num_assistants: [0, 0], student_macs_kept: [0.3, 0.3], temperature: [4, 4], distillation_weight: [1, 1]}"
)


@pytest.mark.timeout(600)  # five searches in turn
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # of MLflow's own mapper
def test_a_limit_an_exhausted_space_and_failing_trials_end_a_search(tmp_path, tiny_yaml, cascade_commands):
    from mlflow import MlflowClient

    (tmp_path / "tiny.yaml").write_text(tiny_yaml)
    limited = ["search", "tiny.yaml", "--name", "limited", "--set", "num_trials=5", "--set", "reuse=false"]
    limited += ["--set", "tracking.models=front", "--set", "resources.gpus_per_trial=auto", "--set"]
    one = ["search", "tiny.yaml", "--name", "one", "--set", ONE_CASCADE]
    diverging = ["search", "tiny.yaml", "--name", "diverging", "--set", "cascade.recipe.learning_rate=1e12"]
    no_time = ["search", "tiny.yaml", "--name", "short", "--format", "json", "--set", "stop.max_minutes=0.0001"]
    first, second, limited_front, *exhausted, front, nothing, failed = cascade_commands(
        [*limited, "stop.max_epochs=4", "--resume"],
        [*limited, "stop.max_epochs=7", "--resume"],
        ["front", "limited", "--format", "json"],
        one,
        [*one, "--resume"],
        ["front", "one", "--format", "json"],
        no_time,
        diverging,
        cwd=tmp_path,
        codes=[0] * 7 + [1],
    )
    assert "note: there is no search 'limited' in runs to go on with; it begins now" in first.out
    assert "to go on with" not in second.out
    assert nothing.json() == []
    assert "ended after 2 of 5 trials by stop.max_epochs: 4 epochs or more have been trained" in first.out
    assert "ended after 3 of 5 trials by stop.max_epochs: 7 epochs or more have been trained" in second.out
    for done in exhausted:
        assert "note: space: 500 draws gave nothing new to run; the last one: equal to trial 0" in done.out
    assert "trial 0 runs" not in exhausted[1].out
    assert len(front.json()) == 1
    assert "all 2 trials failed; the first, trial 0: stage cascade, level 1" in failed.err
    assert "Traceback" not in failed.out + failed.err
    assert Archive(tmp_path / "runs/diverging/archive.parquet").candidates() == ()
    if not torch.cuda.is_available():
        for done in (first, second):
            assert "note: resources.gpus_per_trial is auto, and no machine has a GPU: trials run on CPUs" in done.out
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    runs = client.search_runs(
        [client.get_experiment_by_name("cascade").experiment_id], "tags.`cascade.kind` = 'search'"
    )
    ended = {run.info.run_name: (run.info.status, run.data.tags["cascade.reason"]) for run in runs}
    (packed,) = (run.data.params for run in runs if run.info.run_name == "limited")
    assert packed["resources.gpus_per_trial"] == "auto"
    assert float(packed["resources.gpus_per_trial.chosen"]) <= 1
    assert ended["limited"] == ("FINISHED", "stop.max_epochs: 7 epochs or more have been trained")
    assert ended["diverging"] == ("FAILED", "all 2 trials failed")
    assert ended["one"][1].startswith("space: 500 draws gave nothing new to run")
    front = {f"{row['trial']}:{row['level']}": row["knee"] for row in limited_front.json() if row["on_front"]}
    (knee,) = [candidate for candidate, is_knee in front.items() if is_knee]
    assert client.get_model_version_by_alias("cascade-limited", "knee").tags["cascade.candidate"] == knee
    versions = client.search_model_versions("name = 'cascade-limited' and tags.front = 'true'")
    assert {version.tags["cascade.candidate"] for version in versions} == set(front)
    page = (tmp_path / "runs/limited/overview.html").read_text()
    assert f"cascade export limited <span>--pick</span> {knee}" in page
    assert f"/experiments/{runs[0].info.experiment_id}/runs/" in page


USERS_OWN = """
import os
from pathlib import Path

from torch import nn

from trainables.pruning.saliency import gate_gradient


def network(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 24, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, num_classes),
    )


def saliency_that_dies_once(layers):
    mark = Path("{mark}")
    if not mark.exists() and os.environ.get("RAY_JOB_ID"):
        mark.touch()
        os._exit(1)
    return gate_gradient(layers)
"""


def test_a_users_own_network_and_an_actor_that_dies(tmp_path, tiny_yaml, commands_afresh):
    mark = tmp_path / "died"
    (tmp_path / "tiny.yaml").write_text(tiny_yaml)
    (tmp_path / "mine.py").write_text(USERS_OWN.replace("{mark}", str(mark)))
    own = ["--set", "model={name: 'mine:network'}", "--set", "cascade.pruning.saliency=mine:saliency_that_dies_once"]
    done, front, exported = commands_afresh(
        ["search", "tiny.yaml", *own],
        ["front", "tiny", "--format", "json"],
        ["export", "tiny", "--pick", "knee"],
        cwd=tmp_path,
    )
    assert mark.exists()
    assert "2 of 2" in done.out
    assert {row["trial"] for row in front.json()} == {0, 1}
    assert "test accuracy" in exported.out
