from pathlib import Path

import pytest

from orchestrator.searches.places import open_search, storage_folder, study_folder
from orchestrator.storage.bucket import Bucket
from trainables.errors import InputError


def test_each_bucket_has_a_working_copy_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path))
    one, again, other = map(storage_folder, ("s3://b/one", "s3://b/one/", "s3://b/other"))
    assert one == again != other
    assert one.parent == other.parent == tmp_path
    monkeypatch.delenv("CASCADE_CACHE")
    assert storage_folder("s3://b/one").parent == Path.home() / ".cache/cascade"
    assert storage_folder("runs") == storage_folder(Path("runs")) == Path("runs")


def test_an_address_that_is_none_is_refused():
    with pytest.raises(InputError, match="ftp://… is no storage that is known"):
        open_search("ftp://host/runs", "mine")


@pytest.mark.parametrize("storage", ["s3:/models/runs", "gs:models"])
def test_an_address_that_lacks_a_slash_makes_no_folder(tmp_path, monkeypatch, storage):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"--storage is {storage}, which lacks a slash: an address begins with .*://"):
        open_search(storage, "mine")
    assert open_search("runs:1", "mine").bucket is None


def test_a_study_needs_a_folder(tmp_path):
    assert study_folder(str(tmp_path)) == tmp_path
    with pytest.raises(InputError, match="--storage is s3://b/p, but a study needs a folder; give one that all"):
        study_folder("s3://b/p")


def test_a_bucket_that_does_not_answer_is_said(tmp_path, monkeypatch):
    def silent(self, name):
        raise OSError("no answer in 30 s")

    monkeypatch.setattr(Bucket, "read", silent)
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"--storage is s3://b/p.*, which cannot be read: no answer in 30 s; look at"):
        open_search("s3://b/p?region=us-east-1", "mine")
