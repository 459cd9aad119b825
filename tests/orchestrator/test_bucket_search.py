"""Whole searches whose storage is a bucket: what one machine had may be lost, and another goes on from the bucket.

A whole search in a bucket that begins there is run by the tests of the docs.
"""

import dataclasses
import json
import os
import shutil

import pytest

from orchestrator.data.datasets import load_splits
from orchestrator.searches.curves import read_curves
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.layout import TEACHER
from orchestrator.searches.lease import LEASE, Lease
from orchestrator.searches.mirror import Mirror
from orchestrator.searches.places import fetch_networks, open_search, storage_folder
from orchestrator.searches.trial_bucket import TrialBucket
from orchestrator.storage.bucket import Bucket
from orchestrator.trials.parts import make_teacher_task
from trainables.files.checkpoint import load
from trainables.identity import data_digest
from trainables.tune_adapter import CascadeTrainable, TrialSettings

pytestmark = pytest.mark.integration


@pytest.fixture
def machine(tmp_path, tiny_yaml, monkeypatch):
    """A folder to search from."""
    (tmp_path / "tiny.yaml").write_text(tiny_yaml)
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def died(tiny_search, tmp_path, s3):
    """A machine that is gone: what it left of the tiny search in a bucket after an epoch of the second trial."""
    folder = SearchFolder(storage=tmp_path / "died", name="tiny", bucket=Bucket(s3).within("tiny"))
    shutil.copytree(tiny_search / "runs/tiny", folder.path)
    asked = rewind(folder)
    bucket = folder.bucket
    bucket.within(TEACHER).push(folder.teacher / "network", "network")
    bucket.within(TEACHER).write("result.json", (folder.teacher / "result.json").read_bytes())
    for network in (folder.path / "candidates").iterdir():
        bucket.push(network, f"candidates/{network.name}")
    train_an_epoch(folder, asked)
    lease = Lease(bucket)
    lease.take(pytest.fail)
    mirror = Mirror(bucket, folder.path, lease, pytest.fail)
    mirror.begin()
    mirror.close()
    lease.leave()
    bucket.write(LEASE, bucket.read(LEASE).replace(f'"pid": {os.getpid()}'.encode(), b'"pid": 999999999'))
    shutil.rmtree(folder.storage)
    return bucket


def rewind(folder):
    """Take a search back to where its second trial had just been asked for; what that trains."""
    shutil.rmtree(folder.path / "tracking")
    first = [candidate for candidate in folder.archive.candidates() if candidate.trial == 0]
    for path in (folder.path / "curves/00001.parquet", *folder.path.glob("archive.*")):
        path.unlink()
    for network in folder.path.glob("candidates/1-*"):
        shutil.rmtree(network)
    folder.archive.add(first)
    kept = []
    for line in folder.study_file.read_text().splitlines(keepends=True):
        kept.append(line)
        record = json.loads(line)
        if record.get("trial_id") == 1 and "cascade" in record.get("user_attr", {}):
            break
    folder.study_file.write_text("".join(kept))
    return json.loads(record["user_attr"]["cascade"])


def train_an_epoch(folder, cascade):
    """As an actor on that machine did."""
    experiment = folder.experiment()
    data = load_splits(experiment.data)
    settings = TrialSettings(
        model=experiment.model,
        augmentation=experiment.data.augmentation,
        candidates=str(folder.path / "candidates"),
        num_threads=1,
        num_gpus=0.0,
        measure_latency=False,
        store=TrialBucket(folder.bucket, folder.path),
    )
    weights = make_teacher_task(experiment, folder, data_digest(data)).weights()
    actor = CascadeTrainable.__new__(CascadeTrainable)
    config = {"trial": 1, "cascade": cascade, "state": None}
    actor.setup(config, teacher=weights, data=data.to_arrays(), settings=settings)
    assert not actor.step()["done"]


def test_a_search_goes_on_from_the_bucket_alone(machine, s3, died, tiny_search, cascade_commands, cascade):
    assert [name.partition("-")[0] for name in died.names("trials")] == ["00001"]
    words = ["search", "tiny.yaml", "--storage", s3, "--resume"]
    cascade_commands(words, cwd=machine, env={"CASCADE_CACHE": str(machine / "cache")})
    (resumed,) = (curve for curve in read_curves(storage_folder(s3) / "tiny/curves") if curve.trial == 1)
    assert resumed.end == "finished"
    assert {point.trial_epoch for point in resumed.points} == {2, 3}
    assert died.names("trials") == []
    shutil.rmtree(machine / "cache")
    fetched = open_search(s3, "tiny")
    archive = fetched.archive.candidates()
    # Just what it had come to if nothing had happened.
    never_died = SearchFolder(storage=tiny_search / "runs", name="tiny").archive.candidates()
    assert [dataclasses.replace(found, network="") for found in archive] == [
        dataclasses.replace(found, network="") for found in never_died
    ]
    code, out, _ = cascade("front", "tiny", "--storage", s3, "--format", "json")
    assert code == 0
    assert {(row["trial"], row["level"]) for row in json.loads(out)} == {found.key for found in archive}
    fetch_networks(fetched, [candidate.network for candidate in archive])
    for candidate in archive:
        assert sum(p.numel() for p in load(fetched.path / candidate.network).parameters()) == candidate.params
    assert fetched.teacher_result().params == sum(p.numel() for p in load(fetched.teacher / "network").parameters())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda storage: storage.replace("models", "nowhere"), "s3://nowhere/"),
        (lambda _: "s3://me:s3cret@models/place", "holds a key"),
        (lambda _: "ftp://host/place", "ftp://… is no storage that is known"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_said_in_one_line(machine, s3, cascade, change, said):
    code, out, err = cascade("search", "tiny.yaml", "--storage", change(s3))
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("cascade: ")
    assert said in line
