"""Whole searches whose storage is a bucket: what one machine had may be lost, and another goes on from the bucket."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.archive import Archive
from orchestrator.bucket import Bucket
from orchestrator.cli import app
from orchestrator.curves import read_curves
from orchestrator.places import fetch_networks, open_search
from trainables.checkpoint import load

pytestmark = pytest.mark.integration


@pytest.fixture
def machine(tmp_path, tiny_yaml, monkeypatch):
    """A folder to search from; `lost()` takes all that its machine had of the bucket's searches."""
    (tmp_path / "tiny.yaml").write_text(tiny_yaml)
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path / "cache"))

    def lost():
        shutil.rmtree(tmp_path / "cache")

    return tmp_path, lost


def killed_as(words, cwd, *, line, until):
    """Start a search, and kill it and all of its processes at once, after a line and what comes after it."""
    mark = "KILLED_BY_TEST_OF_BUCKETS"
    with subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=cwd,
        env=os.environ | {mark: str(cwd), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        told = [next(process.stdout)]
        while not told[-1].startswith(line):
            told.append(next(process.stdout))
        until()
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and f"{mark}={cwd}".encode() in (entry / "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue
    return told


def test_a_search_goes_on_from_the_bucket_alone(machine, s3, cascade_command):
    folder, lost = machine
    bucket = Bucket(s3).within("tiny")
    words = ["search", "tiny.yaml", "--storage", s3, "--set", "cascade.recipe.epochs=20"]

    def second_trial_has_a_checkpoint():
        while not any(name.startswith("00001-") for name in bucket.names("trials")):
            time.sleep(0.05)

    told = killed_as(words, folder, line="trial 1 runs", until=second_trial_has_a_checkpoint)
    assert any(line.startswith("trial 0 done") for line in told)
    lost()
    resumed = cascade_command(*words, "--resume", cwd=folder)
    assert "trial 1 done" in resumed.out
    (copy,) = (folder / "cache").glob("*/tiny")
    curves = {curve.trial: curve for curve in read_curves(copy / "curves")}
    assert curves[1].end == "finished"
    assert 20 in {point.trial_epoch for point in curves[1].points}
    archive = Archive(copy / "archive.parquet").candidates()
    assert {candidate.trial for candidate in archive} == {0, 1}
    lost()
    front = CliRunner().invoke(app, ["front", "tiny", "--storage", s3, "--format", "json"])
    assert {(row["trial"], row["level"]) for row in json.loads(front.stdout)} == {found.key for found in archive}
    fetched = open_search(s3, "tiny")
    fetch_networks(fetched, [candidate.network for candidate in archive])
    for candidate in archive:
        assert sum(p.numel() for p in load(fetched.path / candidate.network).parameters()) == candidate.params
    assert fetched.teacher_result().params == sum(p.numel() for p in load(fetched.teacher / "network").parameters())
    assert "trials" not in bucket.names() or bucket.names("trials") == []


def test_a_bucket_that_cannot_be_used_is_said_in_one_line(machine, s3, cascade_commands):
    folder, _ = machine
    storages = {
        s3.replace("models", "nowhere"): "s3://nowhere/",
        "s3://me:s3cret@models/place": "holds a key",
        "ftp://host/place": "ftp://… is no storage that is known",
    }
    commands = [["search", "tiny.yaml", "--storage", storage] for storage in storages]
    for refused, said in zip(
        cascade_commands(*commands, cwd=folder, codes=[2] * len(storages)), storages.values(), strict=True
    ):
        lines = [line for line in refused.err.splitlines() if line.startswith("cascade: ")]
        assert len(lines) == 1
        assert said in lines[0]
        assert "Traceback" not in refused.out + refused.err
