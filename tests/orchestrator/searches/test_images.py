"""A relative `data.path` leads a later command to the images that the search read, wherever it is given."""

import os
from dataclasses import replace

import pytest

from orchestrator.experiment.config import Experiment
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.images import find_images, find_images_again, note_place
from trainables.data_config import DataConfig
from trainables.errors import InputError

RELATIVE = DataConfig(name="imagefolder", path="../photos", image_size=8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A search that was begun in `mine/work`, beside whose folder lie its photos."""
    (tmp_path / "mine/photos").mkdir(parents=True)
    (tmp_path / "mine/work").mkdir()
    monkeypatch.chdir(tmp_path / "mine/work")
    found = SearchFolder(storage=tmp_path / "runs", name="photos")
    found.path.mkdir(parents=True)
    note_place(found, RELATIVE)
    return found


def test_where_the_search_was_begun_the_path_is_as_it_was(folder):
    assert find_images(folder, RELATIVE) == (RELATIVE, True)


def test_elsewhere_the_images_are_those_of_the_search(folder, tmp_path, monkeypatch):
    (tmp_path / "other/photos").mkdir(parents=True)
    (tmp_path / "other/work").mkdir()
    monkeypatch.chdir(tmp_path / "other/work")
    found, as_read = find_images(folder, RELATIVE)
    assert (found.path, as_read) == (str(tmp_path / "mine/photos"), True)


def test_images_that_were_moved_may_be_there_and_must_be_compared(folder, tmp_path, monkeypatch):
    (tmp_path / "mine").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved/work")
    assert find_images(folder, RELATIVE) == (RELATIVE, False)


def test_images_that_are_nowhere_are_named_with_both_places(folder, tmp_path, monkeypatch):
    (tmp_path / "mine/photos").rmdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"read from .*/mine/photos, but neither there nor at "):
        find_images(folder, RELATIVE)


def test_the_same_path_on_another_machine_must_be_compared(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("platform.node", lambda: "another")
    assert find_images(folder, RELATIVE) == (RELATIVE, False)
    monkeypatch.chdir(tmp_path)
    found, as_read = find_images(folder, RELATIVE)
    assert (found.path, as_read) == (str(tmp_path / "mine/photos"), False)


def test_a_folder_that_may_not_be_entered_is_not_there(folder, tmp_path, monkeypatch):
    (tmp_path / "other/photos").mkdir(parents=True)
    (tmp_path / "other/work").mkdir()
    monkeypatch.chdir(tmp_path / "other/work")

    def closed(path, **_):
        if path.is_relative_to(tmp_path / "mine"):
            raise PermissionError(13, "Permission denied", str(path))
        return True

    monkeypatch.setattr("pathlib.Path.exists", closed)
    assert find_images(folder, RELATIVE) == (RELATIVE, False)


@pytest.mark.parametrize("name", [b"caf\xe9", "é".encode()])
def test_names_of_folders_may_have_any_bytes(tmp_path, monkeypatch, name):
    work = tmp_path / os.fsdecode(name)
    (work / "photos").mkdir(parents=True)
    monkeypatch.chdir(work)
    found = SearchFolder(storage=tmp_path / "runs", name="photos")
    found.path.mkdir(parents=True)
    config = DataConfig(name="imagefolder", path="photos", image_size=8)
    note_place(found, config)
    monkeypatch.chdir(tmp_path)
    assert find_images(found, config) == (DataConfig(name="imagefolder", path=str(work / "photos"), image_size=8), True)


@pytest.mark.parametrize("path", ["/data/photos", "s3://bucket/photos"])
def test_other_paths_lead_to_the_same_place_from_everywhere(folder, path):
    config = DataConfig(name="shards", path=path, image_size=8)
    assert find_images(folder, config) == (config, True)
    (folder.path / "data-place").unlink()
    note_place(folder, config)
    assert not (folder.path / "data-place").exists()
    assert find_images(folder, RELATIVE) == (RELATIVE, False)  # of a search from before


def test_a_search_goes_on_from_elsewhere_with_its_own_images(folder, tmp_path, monkeypatch):
    folder.begin(Experiment(data=RELATIVE))
    (tmp_path / "other/photos").mkdir(parents=True)
    (tmp_path / "other/work").mkdir()
    monkeypatch.chdir(tmp_path / "other/work")
    assert find_images_again(folder, RELATIVE).path == str(tmp_path / "mine/photos")


def test_a_search_goes_on_where_its_images_are_said_to_be_now(folder, tmp_path, monkeypatch):
    folder.begin(Experiment(data=RELATIVE))
    monkeypatch.chdir(tmp_path)
    moved = replace(RELATIVE, path="mine/photos")
    assert find_images_again(folder, moved) == moved
    note_place(folder, moved)
    folder.begin(Experiment(data=moved))
    monkeypatch.chdir("mine/work")
    assert find_images_again(folder, moved).path == str(tmp_path / "mine/photos")


def test_a_search_that_begins_reads_what_it_is_given(folder):
    assert find_images_again(folder, RELATIVE) == RELATIVE
