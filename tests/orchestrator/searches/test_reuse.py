"""Finished stages on disk: found whole or not at all, computed by one at a time."""

import errno
import json
import multiprocessing
import os
import pickle
import signal
from pathlib import Path

import pytest
import torch

from orchestrator.searches import reuse
from orchestrator.searches.reuse import MANIFEST_FILE, STAGE_FILE, StageFolder
from orchestrator.storage.bucket import Bucket
from trainables.errors import InputError
from trainables.identity import digest

IDENTITY = {"stage": "level-1", "seed": 0}
TENSORS = {"weight": torch.arange(6.0).view(2, 3)}
VALUES = {"epochs": [1, 2], "results": []}


@pytest.fixture
def entry(tmp_path) -> Path:
    return tmp_path / "stages" / digest(IDENTITY)


@pytest.fixture
def stages(tmp_path):
    return StageFolder(tmp_path / "stages")


def test_what_is_kept_is_found_and_says_what_it_is(stages, entry, tmp_path):
    assert stages.find_or_claim(IDENTITY) is None
    stages.keep(IDENTITY, TENSORS, VALUES)
    tensors, values = StageFolder(tmp_path / "stages").find_or_claim(IDENTITY)
    assert torch.equal(tensors["weight"], TENSORS["weight"])
    assert values == VALUES
    assert json.loads((entry / MANIFEST_FILE).read_text())["identity"] == IDENTITY
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]  # no locks, nothing half-written
    assert stages.find_or_claim({**IDENTITY, "seed": 1}) is None
    stages.release()


def flip_a_byte(entry):
    content = bytearray((entry / STAGE_FILE).read_bytes())
    content[-1] ^= 1
    (entry / STAGE_FILE).write_bytes(content)


DAMAGES = {
    "a byte": flip_a_byte,
    "cut": lambda entry: (entry / STAGE_FILE).write_bytes((entry / STAGE_FILE).read_bytes()[:40]),
    "gone": lambda entry: (entry / STAGE_FILE).unlink(),
    "no manifest": lambda entry: (entry / MANIFEST_FILE).unlink(),
    "no JSON": lambda entry: (entry / MANIFEST_FILE).write_text("{"),
    "other JSON": lambda entry: (entry / MANIFEST_FILE).write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_stage_is_dropped_and_can_be_kept_anew(stages, entry, damage):
    stages.keep(IDENTITY, TENSORS, VALUES)
    DAMAGES[damage](entry)
    assert stages.find_or_claim(IDENTITY) is None
    assert not entry.exists()
    stages.keep(IDENTITY, TENSORS, VALUES)
    assert stages.find_or_claim(IDENTITY)[1] == VALUES


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("checksum_of", OSError(errno.EMFILE, "Too many open files")),
        ("checksum_of", OSError(errno.ESTALE, "Stale file handle")),
        ("checksum_of", PermissionError(errno.EACCES, "Permission denied")),
        ("load_state", InputError("stage.safetensors is missing or damaged: Too many open files")),
    ],
)
def test_a_stage_that_cannot_be_read_for_now_stays(stages, entry, monkeypatch, caplog, step, error):
    def fails(_):
        raise error

    stages.keep(IDENTITY, TENSORS, VALUES)
    with monkeypatch.context() as for_now:
        for_now.setattr(reuse, step, fails)
        assert stages.find_or_claim(IDENTITY) is None
    assert f"stage {entry} cannot be read, and is computed again: {error}" in caplog.text
    assert stages.find_or_claim(IDENTITY)[1] == VALUES


def test_a_damaged_stage_is_left_by_who_does_not_hold_its_lock(stages, entry, monkeypatch):
    def without_locks(_):
        raise NotImplementedError

    stages.keep(IDENTITY, TENSORS, VALUES)
    flip_a_byte(entry)
    monkeypatch.setattr(reuse.FileLock, "acquire", without_locks)
    assert stages.find_or_claim(IDENTITY) is None
    assert entry.exists()
    stages.keep(IDENTITY, TENSORS, VALUES)  # who has computed it puts a whole one there
    assert stages.find_or_claim(IDENTITY)[1] == VALUES


def test_what_is_there_already_is_left(stages):
    stages.keep(IDENTITY, TENSORS, VALUES)
    stages.keep(IDENTITY, TENSORS, VALUES | {"epochs": []})
    assert stages.find_or_claim(IDENTITY)[1] == VALUES


def test_who_keeps_a_stage_second_leaves_the_first(stages, tmp_path, monkeypatch):
    rename = Path.rename

    def too_late(path, target):
        monkeypatch.undo()
        StageFolder(tmp_path / "stages").keep(IDENTITY, TENSORS, VALUES)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", too_late)
    stages.keep(IDENTITY, TENSORS, VALUES | {"epochs": []})
    assert stages.find_or_claim(IDENTITY)[1] == VALUES
    assert len(list((tmp_path / "stages").iterdir())) == 1


def test_it_travels_to_other_processes_without_its_lock(stages):
    stages.find_or_claim(IDENTITY)
    elsewhere = pickle.loads(pickle.dumps(stages))
    stages.keep(IDENTITY, TENSORS, VALUES)
    assert elsewhere.find_or_claim(IDENTITY)[1] == VALUES


def _take(path, ready, found):
    stages = StageFolder(path)
    ready.set()
    result = stages.find_or_claim(IDENTITY)
    found.put(None if result is None else result[1])
    signal.pause()


@pytest.fixture
def another(tmp_path):
    """Start another process that wants the same stage; an event that it asks, and a queue with what it got."""
    context = multiprocessing.get_context("spawn")
    started = []

    def start():
        ready, found = context.Event(), context.Queue()
        process = context.Process(target=_take, args=(tmp_path / "stages", ready, found), daemon=True)
        process.start()
        started.append(process)
        assert ready.wait(60)
        return process, found

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.mark.integration
def test_who_wants_the_same_stage_waits_and_gets_it(stages, another):
    assert stages.find_or_claim(IDENTITY) is None
    _, found = another()
    assert found.empty()
    stages.keep(IDENTITY, TENSORS, VALUES)
    assert found.get(timeout=30) == VALUES


@pytest.mark.integration
def test_a_stage_that_was_left_or_whose_process_died_is_free(stages, another):
    process, found = another()
    assert found.get(timeout=30) is None  # it is the other's to compute
    os.kill(process.pid, signal.SIGKILL)
    assert stages.find_or_claim(IDENTITY) is None  # and now this one's, with nobody to wait for
    _, later = another()
    stages.release()
    assert later.get(timeout=30) is None


@pytest.mark.integration
def test_a_stage_in_a_bucket_is_found_from_another_storage_folder(s3, tmp_path):
    one = pickle.loads(pickle.dumps(StageFolder(tmp_path / "one", Bucket(s3))))
    assert one.find_or_claim(IDENTITY) is None
    one.keep(IDENTITY, TENSORS, VALUES)
    other = StageFolder(tmp_path / "other", Bucket(s3))
    tensors, values = other.find_or_claim(IDENTITY)
    assert torch.equal(tensors["weight"], TENSORS["weight"])
    assert values == VALUES
    assert (tmp_path / "other" / digest(IDENTITY)).is_dir()  # no need to ask the bucket again


@pytest.mark.integration
def test_a_damaged_stage_in_a_bucket_is_computed_again_and_written_over(s3, tmp_path):
    StageFolder(tmp_path / "one", Bucket(s3)).keep(IDENTITY, TENSORS, VALUES)
    Bucket(s3).write(f"{digest(IDENTITY)}/{STAGE_FILE}", b"something else")
    other = StageFolder(tmp_path / "other", Bucket(s3))
    assert other.find_or_claim(IDENTITY) is None
    other.keep(IDENTITY, TENSORS, VALUES)
    assert StageFolder(tmp_path / "third", Bucket(s3)).find_or_claim(IDENTITY) is not None


@pytest.mark.integration
def test_a_bucket_that_stops_answering_costs_no_trial(s3, tmp_path, caplog):
    gone = Bucket(s3.replace("models", "gone"))
    stages = StageFolder(tmp_path / "one", gone)
    assert stages.find_or_claim(IDENTITY) is None
    stages.keep(IDENTITY, TENSORS, VALUES)
    assert StageFolder(tmp_path / "one").find_or_claim(IDENTITY) is not None
    assert "a stage could not be kept in s3://gone/" in caplog.text
