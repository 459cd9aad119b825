"""A storage folder that was moved: artifacts of old runs are found, and those of new ones land in it."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from orchestrator.addresses import database_file, database_uri
from orchestrator.searches.folder import SearchFolder
from orchestrator.tracking import Tracker
from orchestrator.tracking.moved import follow_move
from orchestrator.tracking.store import MlflowStore
from orchestrator.ui import open_ui
from trainables.errors import InputError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # of MLflow's own mapper
]


@pytest.fixture
def begun(tmp_path, empty_database, connected):
    """Two runs, one with an artifact, a registered network, and an experiment that MLflow's pages made."""
    storage = tmp_path / "my räume"
    storage.mkdir()
    shutil.copy(empty_database, storage)
    store = connected(storage)
    run = store.client.create_run(store.experiment_id).info.run_id
    store.client.log_text(run, "old", "note.txt")
    quiet = store.client.create_run(store.experiment_id).info.run_id
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/network").write_text("weights")
    model = store.client.create_logged_model(store.experiment_id, name="network-3-2")
    store.client.log_model_artifacts(model.model_id, str(tmp_path / "packed"))
    store.client.finalize_logged_model(model.model_id, "READY")
    store.client.create_registered_model("here-digits")
    store.client.create_model_version("here-digits", source=model.artifact_location, run_id=run)
    store.client.create_experiment("by hand", artifact_location=f"{(storage / 'mlartifacts').as_uri()}/3")
    store.client.create_experiment("elsewhere too", artifact_location="file:///mnt/mlartifacts-of-another")
    return storage, run, quiet, model.model_id


def locations(storage):
    with sqlite3.connect(database_file(storage)) as database:
        read = dict(database.execute("SELECT name, artifact_location FROM experiments").fetchall())
    database.close()
    return read


def everything(storage):
    with sqlite3.connect(database_file(storage)) as database:
        text = "\n".join(database.iterdump())
    database.close()
    return text


def test_artifacts_are_found_and_new_ones_land_in_the_folder_at_its_new_place(begun, tmp_path, connected):
    old, run, quiet, model = begun
    here = tmp_path / "on/another disk"
    here.parent.mkdir()
    old.rename(here)
    store = connected(here)
    assert [file.path for file in store.client.list_artifacts(run)] == ["note.txt"]
    assert Path(store.client.download_artifacts(run, "note.txt", str(tmp_path))).read_text() == "old"
    assert (here / "mlartifacts/models" / model / "artifacts/network").read_text() == "weights"
    home = (here / "mlartifacts").as_uri()
    assert store.client.get_model_version_download_uri("here-digits", "1") == f"{home}/models/{model}/artifacts"
    assert store.client.get_logged_model(model).artifact_location == f"{home}/models/{model}/artifacts"
    new = store.client.create_run(store.experiment_id).info.run_id
    store.client.log_text(new, "new", "note.txt")
    assert (here / f"mlartifacts/{new}/artifacts/note.txt").read_text() == "new"
    store.client.log_text(quiet, "later", "note.txt")
    assert (here / f"mlartifacts/{quiet}/artifacts/note.txt").read_text() == "later"
    assert not old.exists()
    found = locations(here)
    assert (found["here"], found["by hand"]) == (home, f"{home}/3")
    assert found["elsewhere too"] == "file:///mnt/mlartifacts-of-another"
    assert old.as_uri() not in everything(here), "no other table holds locations"
    assert not follow_move(here)


def test_pages_show_artifacts_of_a_folder_that_was_renamed(begun, tmp_path):
    old, *_ = begun
    here = old.rename(tmp_path / "here")
    with pytest.raises(InputError, match="port 70000"):  # before the server, which needs no part in it
        open_ui(here, port=70000)
    assert locations(here)["here"] == (here / "mlartifacts").as_uri()


def test_pages_leave_places_as_they_are_while_a_search_runs_to_which_the_folder_may_be_elsewhere(begun, tmp_path):
    old, *_ = begun
    here = old.rename(tmp_path / "here")
    (here / "digits/tracking").mkdir(parents=True)
    (here / "digits/tracking/spool.jsonl").touch()
    before = locations(here)
    folder = SearchFolder(storage=here, name="digits")
    said = []
    with folder.locked(), pytest.raises(InputError, match="port 70000"):
        open_ui(here, port=70000, say=said.append)
    assert locations(here) == before
    with pytest.raises(InputError, match="port 70000"):
        open_ui(here, port=70000, say=said.append)
    assert locations(here) != before


def test_who_works_in_the_folder_before_it_asks_for_mlflow_follows_first(begun, tmp_path):
    old, *_ = begun
    here = old.rename(tmp_path / "here")
    Tracker(uri="http://127.0.0.1:9", storage=here, warn=print).follow_move()
    assert locations(here)["here"] == (old / "mlartifacts").as_uri()
    Tracker(uri=None, storage=here, warn=print).follow_move()
    assert locations(here)["here"] == (here / "mlartifacts").as_uri()


def test_a_folder_is_followed_though_a_new_one_stands_at_its_old_place(begun, tmp_path):
    old, *_ = begun
    here = old.rename(tmp_path / "here")
    (old / "mlartifacts").mkdir(parents=True)
    assert follow_move(here)
    assert locations(here)["here"] == (here / "mlartifacts").as_uri()


def test_what_a_killed_search_left_is_sent_without_moving_a_running_ones_places(begun, tmp_path, connected):
    old, *_ = begun
    here = old.rename(tmp_path / "here")
    before = locations(here)
    with SearchFolder(storage=here, name="digits").locked():
        connected(here)
        assert locations(here) == before
    connected(here)
    assert locations(here) != before


def test_a_folder_that_no_search_made_holds_up_nothing(begun, tmp_path, connected):
    old, *_ = begun
    here = old.rename(tmp_path / "here")
    for name in ("digits copy", ".hidden"):
        (here / name / "tracking").mkdir(parents=True)
        (here / name / "lock").touch()
        (here / name / "tracking/spool.jsonl").touch()
    said = []
    with pytest.raises(InputError, match="port 70000"):
        open_ui(here, port=70000, say=said.append)
    assert said == []
    connected(here)
    assert locations(here)["here"] == (here / "mlartifacts").as_uri()


def test_a_copy_is_left_as_it_is_while_the_original_is_there(begun, tmp_path):
    old, *_ = begun
    shutil.copytree(old, tmp_path / "copy")
    before = everything(tmp_path / "copy")
    assert not follow_move(tmp_path / "copy")
    assert everything(tmp_path / "copy") == before


def test_a_copy_is_followed_by_who_cannot_write_to_the_original(begun, tmp_path, monkeypatch, connected):
    old, _, quiet, _ = begun
    copy, mounted = tmp_path / "copy", tmp_path / "mounted"
    shutil.copytree(old, copy)
    mounted.mkdir()
    mounted.joinpath("mlflow.db").write_bytes(database_file(old).read_bytes())
    mounted.joinpath("mlartifacts").symlink_to(old / "mlartifacts")
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not Path(path).is_relative_to(old) and may(path, mode))
    before = everything(mounted)
    assert not follow_move(mounted)  # the same folder, which is open to others under its own path
    assert everything(mounted) == before
    store = connected(copy)
    store.client.log_text(quiet, "mine", "mine.txt")
    assert (copy / f"mlartifacts/{quiet}/artifacts/mine.txt").read_text() == "mine"
    assert old.as_uri() not in everything(copy)


def test_artifacts_that_did_not_come_along_are_not_looked_for_here(begun, tmp_path):
    old, *_ = begun
    here = tmp_path / "here"
    (here / "mlartifacts").mkdir(parents=True)
    shutil.move(database_file(old), here)
    old.rename(tmp_path / "unmounted")
    before = everything(here)
    assert not follow_move(here)
    assert everything(here) == before


def test_a_database_that_is_not_the_storage_folders_own_is_left_alone(begun, tmp_path):
    old, *_ = begun
    here = tmp_path / "here"
    old.rename(here)
    before = locations(here)
    elsewhere = tmp_path / "elsewhere"
    MlflowStore(uri=database_uri(here), storage=elsewhere, experiment="here").require()
    assert locations(here) == before
