import errno
import os
from pathlib import Path

import pytest

from orchestrator.searches.folder import SearchFolder
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


def test_who_has_no_home_is_told_to_name_a_folder(monkeypatch):
    monkeypatch.delenv("CASCADE_CACHE", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # of nobody
    with pytest.raises(InputError, match=r"no home folder for copies .*; name a folder by CASCADE_CACHE"):
        storage_folder("s3://b/p")


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


@pytest.mark.integration
def test_a_working_copy_that_cannot_be_written_is_not_blamed_on_the_bucket(search, mirror, tmp_path, monkeypatch, s3):
    mirror.begin()
    (tmp_path / "file").touch()
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path / "file"))
    said = f"^{tmp_path}/file.* cannot be written \\(Not a directory\\); search 'mine' .* folder by CASCADE_CACHE$"
    with pytest.raises(InputError, match=said):
        open_search(s3, "mine")


def test_a_new_working_copy_that_cannot_be_made_names_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    bucket = Bucket("s3://b/p?region=us-east-1")
    folder = SearchFolder(storage=storage_folder("s3://b/p"), name="mine", bucket=bucket)
    with pytest.raises(InputError, match="file is a file, but must be a folder; name another folder by CASCADE_CACHE"):
        folder.require_writable()


@pytest.mark.integration
def test_a_full_disk_is_not_blamed_on_the_bucket(search, mirror, tmp_path, monkeypatch, s3):
    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    mirror.begin()
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr("orchestrator.searches.snapshot.write_atomically", full)
    with pytest.raises(InputError, match=f"^{tmp_path}/other/.* cannot be written .No space left on device.; search"):
        open_search(s3, "mine")
