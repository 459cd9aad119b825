"""Searches whose processes are killed, whose disk is full, or whose files are damaged: nothing finished is lost."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.evidence.__main__ import main as study_without_ray
from orchestrator.front.archive import Archive
from orchestrator.sampling.storages import StudyAddress
from orchestrator.sampling.study import Study

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.integration


@pytest.mark.timeout(600)  # it waits for trials to run, and for Ray's last processes to go
def test_kills_lose_nothing_that_was_finished():
    """The benchmark with fewer moments: one kill of the whole machine, one of the driver."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.crash", "--kills", "2", "--seed", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kills: 1 of the driver, 1 of the machine" in done.stdout


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of a few megabytes."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a disk can be mounted by root alone")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=False)
    if mounted.returncode != 0:
        pytest.skip("nothing can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def searched(small_disk, tiny_search, empty_database):
    """That disk with the tiny search on it, which has ended after two trials, and MLflow's tables."""
    shutil.copytree(tiny_search / "runs/tiny", small_disk / "tiny")
    shutil.copy(empty_database, small_disk)
    return small_disk


STUDY = """
model: {name: vgg-small, width: 0.25}
data: {name: digits, image_size: 8}
teacher: {epochs: 1, batch_size: 128, learning_rate: 0.05}
images: {train: 200, val: 100}
cascade: {recipe: {batch_size: 64, learning_rate: 0.05}, pruning: {num_prunings: 3}}
sizes: [0.3]
seeds: [1]
budget: {amount: 3, unit: teacher-passes, most_epochs: 2}
arms: {scratch: {method: from-scratch}}
reference: scratch
"""


@pytest.mark.timeout(600)  # it may wait for the tiny search first
def test_a_full_disk_ends_the_search_cleanly_and_it_goes_on_once_there_is_room(
    tmp_path, tiny_yaml, searched, cascade_commands
):
    (tmp_path / "tiny.yaml").write_text(tiny_yaml)
    words = ["search", "tiny.yaml", "--storage", searched, "--set", "num_trials=3", "--resume"]
    kept = Archive(searched / "tiny/archive.parquet").candidates()
    ballast = searched / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(searched).free - 60_000))  # enough for a start, not for a trial
    (full,) = cascade_commands(words, cwd=tmp_path, codes=[1])
    lines = [line for line in full.err.splitlines() if line.startswith("cascade: ")]
    assert len(lines) == 1
    assert "No space left on device" in lines[0]
    assert "Traceback" not in full.out + full.err
    ballast.unlink()
    (last,) = cascade_commands(words, cwd=tmp_path)
    assert "trial 0 runs" not in last.out
    study = Study(StudyAddress(place=searched / "tiny/study.journal", objectives=("val_accuracy", "macs_kept")), seed=0)
    assert (study.running(), study.num_ended, study.failures()) == ((), 3, {})
    after = Archive(searched / "tiny/archive.parquet").candidates()
    assert after[: len(kept)] == kept
    assert {candidate.trial for candidate in after} == {0, 1, 2}


@pytest.mark.timeout(600)  # it may wait for the tiny search first
def test_each_command_says_that_the_disk_is_full_and_what_helps_there(
    tmp_path, searched, cascade_commands, capsys, monkeypatch
):
    (tmp_path / "study.yaml").write_text(STUDY)
    ballast = searched / "ballast"

    def said(*words, code, room):
        """The line for people, where so many bytes are left."""
        ballast.write_bytes(bytes(shutil.disk_usage(searched).free - room))
        (full,) = cascade_commands([*words, "--storage", searched], cwd=tmp_path, codes=[code])
        ballast.unlink()
        assert "Traceback" not in full.out + full.err
        (line,) = [line for line in full.err.splitlines() if line.startswith("cascade: ")]
        return line

    full, another = f"cascade: the disk of {searched} is full; make room, ", "another --storage"
    assert said("report", "tiny", code=1, room=0) == f"{full}or work on a copy of the search in {another}"
    for room in (0, 40_000):  # for nothing, and for all but the teacher
        assert said("study", "study.yaml", code=1, room=room) == f"{full}and the same command goes on"
        ballast.write_bytes(bytes(shutil.disk_usage(searched).free - room))
        assert study_without_ray([str(tmp_path / "study.yaml"), "--out", str(searched / "apart")]) == 1
        ballast.unlink()
        assert capsys.readouterr().err == f"evidence: {full}and the same command goes on\n".replace("cascade: ", "")
    ballast.write_bytes(bytes(shutil.disk_usage(searched).free - 40_000))  # of images that two processes read
    monkeypatch.setattr(tempfile, "tempdir", str(searched))
    assert study_without_ray([str(tmp_path / "study.yaml"), "--out", str(tmp_path / "apart"), "--workers", "2"]) == 1
    assert capsys.readouterr().err == (
        f"evidence: the disk of {searched} is full; make room there, or name another folder by TMPDIR\n"
    )
    monkeypatch.undo()
    ballast.unlink()
    line = said("confirm", "tiny", "--seeds", "2", "--pick", "knee", code=1, room=60_000)
    assert line.endswith(
        "No space left on device; what was finished is kept; make room and go on with the same command"
    )
