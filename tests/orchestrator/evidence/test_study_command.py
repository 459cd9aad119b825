"""`cascade study` as a user has it: killed, gone on with, its report, and what is refused."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from orchestrator.evidence.pages import Table
from orchestrator.evidence.results import ResultFile
from orchestrator.study_command import _rich
from orchestrator.tables import print_whole
from orchestrator.words import counted


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # of MLflow's own mapper
def test_a_study_that_is_killed_goes_on_and_reports(plain, tmp_path: Path, cascade_commands) -> None:
    from mlflow import MlflowClient

    (tmp_path / "tiny.yaml").write_text(json.dumps(plain))
    command = [sys.executable, "-m", "orchestrator", "study", "tiny.yaml"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if line.startswith("measured"):
                break
        os.killpg(first.pid, signal.SIGKILL)
    before = ResultFile(tmp_path / "runs/tiny/results.jsonl").read()
    assert before
    (done,) = cascade_commands(["study", "tiny.yaml"], cwd=tmp_path)
    assert f"4 runs; {counted(len(before), 'result')} in" in done.out
    assert "the teacher is trained" not in done.out
    results = ResultFile(tmp_path / "runs/tiny/results.jsonl").read()
    assert len(results) == 4
    assert {key: results[key] for key in before} == before
    report = (tmp_path / "runs/tiny/report.md").read_text()
    assert "| scratch | " in report
    assert "Still to be done" not in report
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "cascade"]
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1 + 4
    assert {run.info.status for run in runs} == {"FINISHED"}
    (study,) = client.search_runs([experiment.experiment_id], "tags.`cascade.kind` = 'study'")
    assert "report.html" in {file.path for file in client.list_artifacts(study.info.run_id)}
    told = {run.data.tags["cascade.run"]: run.data.metrics for run in runs}
    for key, result in results.items():
        assert told[f"run/{key}"]["test_accuracy"] == result.found[-1].test_accuracy
    assert sorted(run.data.params["arm"] for run in runs if "arm" in run.data.params) == ["plain"] * 2 + ["scratch"] * 2


def test_names_of_arms_are_printed_as_they_are() -> None:
    names = ("[bold]x", "[/]", ":smile:", "a\\")
    for name in names:
        console = Console(file=io.StringIO(), width=200)
        print_whole(console, _rich(Table(head=("",) * 4, rows=((name, "1", "2", "3"),)), reference=name))
        *title, _, row = console.file.getvalue().splitlines()
        assert f"points above {name}," in " ".join(line.strip() for line in title)
        assert row.startswith(f"{name} ")


def test_a_table_fits_a_terminal_of_80_columns() -> None:
    row = ("one-assistant-growing", "97.08 (95.31 … 98.84)", "-1.53 (-3.30 … +0.24)", "0.462", "4.93", "5", "3.8")
    console = Console(file=io.StringIO(), width=80)
    print_whole(console, _rich(Table(head=("head",) * 7, rows=(row,)), reference="no-assistant"))
    lines = console.file.getvalue().splitlines()
    assert lines[0].rstrip() == "accuracy in % and points above no-assistant, with 95 % intervals"
    assert lines[1].split() == ["arm", "accuracy", "points", "above", "p"]
    assert lines[2].split("  ") == list(row[:4])
    assert max(map(len, lines)) <= 80


def test_a_study_of_folders_says_first_what_it_does_not_read(plain, tmp_path: Path, cascade) -> None:
    for name in ("cat/a.png", "cat/b.heic", "dog/a.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name, "PNG")
    data = {"name": "imagefolder", "path": "photos", "image_size": 8}
    (tmp_path / "tiny.yaml").write_text(json.dumps(plain | {"data": data}))
    command = [sys.executable, "-m", "orchestrator.evidence", "tiny.yaml"]
    apart = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    for code, out, err in (cascade("study", "tiny.yaml"), (apart.returncode, apart.stdout, apart.stderr)):
        assert code == 2
        assert "photos holds what is not read: 1 file, such as cat/b.heic; " in out
        assert "class cat has 1 image to split" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": [2]}, "cascade: a size in sizes is 2, but must be a number above 0 and below 1"),
        ({"budget": {"amount": 1}}, "cascade: arms.plain at size 0.3: budget.amount is 1, but 1 epoch would cost"),
        ({"resources": {"gpus": 1.5}}, "cascade: resources.gpus is 1.5, but must be a fraction of one GPU or a whole"),
    ],
)
def test_bad_input_is_one_line(plain, tmp_path: Path, cascade, change, message: str) -> None:
    (tmp_path / "tiny.yaml").write_text(json.dumps(plain | change))
    code, _, err = cascade("study", "tiny.yaml")
    assert code == 2
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.integration
def test_more_than_ray_has_is_bad_input_in_one_line(plain, tmp_path: Path, cascade_commands) -> None:
    (tmp_path / "tiny.yaml").write_text(json.dumps(plain | {"resources": {"cpus": 512}}))
    (refused,) = cascade_commands(["study", "tiny.yaml"], cwd=tmp_path, codes=[2])
    assert refused.err.startswith("cascade: resources.cpus is 512, but there are")
    assert refused.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()
