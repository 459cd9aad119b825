"""The storage folder's own database: whole or not there, whatever happens while MLflow makes it."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy

from orchestrator.addresses import database_file, database_uri
from orchestrator.tracking import database as own
from orchestrator.tracking.store import MlflowStore
from trainables.errors import InputError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # of MLflow's own mapper
]
MAKING = """
import os, signal, sys
from pathlib import Path

import sqlalchemy

from orchestrator.addresses import database_uri
from orchestrator.tracking.store import MlflowStore


def dying(connection, cursor, statement, *_):
    if sys.argv[2] in statement:
        os.kill(os.getpid(), signal.SIGKILL)


sqlalchemy.event.listen(sqlalchemy.Engine, "after_cursor_execute", dying)
storage = Path(sys.argv[1])
MlflowStore(uri=database_uri(storage), storage=storage, experiment="here").require()
"""


@pytest.fixture
def store(tmp_path):
    """The storage folder's own database, which is not there yet."""
    return MlflowStore(uri=database_uri(tmp_path), storage=tmp_path, experiment="here")


@pytest.fixture
def full_disk():
    """No database of SQLite has room for more than some tables."""

    def limit(connection, _):
        connection.execute("PRAGMA max_page_count = 40")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", limit)
    yield
    sqlalchemy.event.remove(sqlalchemy.Engine, "connect", limit)


def making(storage, *, dies_after="never"):
    """A process that makes the database, and kills itself after a statement."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.Popen([sys.executable, "-c", MAKING, str(storage), dies_after], env=environment)


def files(storage):
    return sorted(path.name for path in storage.iterdir())


def test_a_database_whose_maker_was_killed_is_made_by_the_next(tmp_path, store):
    assert making(tmp_path, dies_after="CREATE TABLE _alembic_tmp_runs").wait() == -signal.SIGKILL
    assert not database_file(tmp_path).exists()
    assert len(files(tmp_path)) == 2, "what was begun, and the lock"
    store.require()
    assert files(tmp_path) == [".mlflow.db.lock", "mlflow.db"]
    assert store.client.get_experiment_by_name("here").artifact_location == (tmp_path / "mlartifacts").as_uri()


def test_a_folder_whose_name_addresses_take_for_more_has_its_database_in_it_and_nothing_beside(tmp_path):
    name = "wh?at 100% a%41b#c"
    storage = tmp_path / name
    store = MlflowStore(uri=database_uri(storage), storage=storage, experiment="here")
    store.require()
    run = store.client.create_run(store.experiment_id).info.run_id
    store.client.log_text(run, "text", "note.txt")
    assert [file.path for file in store.client.list_artifacts(run)] == ["note.txt"]
    assert files(tmp_path) == [name]
    assert files(storage) == [".mlflow.db.lock", "mlartifacts", "mlflow.db"]


def test_two_that_begin_at_once_both_work(tmp_path):
    makers = [making(tmp_path), making(tmp_path)]
    assert [maker.wait() for maker in makers] == [0, 0]
    assert files(tmp_path) == [".mlflow.db.lock", "mlflow.db"]


def test_a_full_disk_says_so_and_leaves_nothing(tmp_path, store, full_disk):
    with pytest.raises(InputError, match=r"mlflow\.db does not work: database or disk is full; make room on its disk"):
        store.require()
    assert files(tmp_path) == [".mlflow.db.lock"]


def test_a_full_disk_of_another_database_says_so_too(tmp_path, full_disk):
    uri = f"sqlite:///{tmp_path}/other.db"
    with pytest.raises(InputError, match=r"other\.db does not work: database or disk is full; make room there$"):
        MlflowStore(uri=uri, storage=tmp_path, experiment="here").require()


def test_a_half_made_database_is_moved_aside_with_what_lies_beside_it(tmp_path, store):
    with sqlite3.connect(tmp_path / "mlflow.db") as half_made:
        half_made.execute("CREATE TABLE secrets (secret_id VARCHAR)")
    half_made.close()
    (tmp_path / "mlflow.db-wal").touch()
    mend = rf"half made: table secrets already exists; move {tmp_path}/mlflow\.db and {tmp_path}/mlflow\.db-wal aside"
    with pytest.raises(InputError, match=mend) as raised:
        store.require()
    assert "server" not in str(raised.value)


def made(monkeypatch, make):
    monkeypatch.setattr(own, "_made", make)


def test_what_has_come_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    def make(folder, **_):
        database_file(tmp_path).write_text("of another")
        database_file(folder).write_text("ours")
        return database_file(folder)

    made(monkeypatch, make)
    own.make_database(tmp_path)
    assert database_file(tmp_path).read_text() == "of another"
    assert files(tmp_path) == [".mlflow.db.lock", "mlflow.db"]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_journal_without_its_database_does_not_spoil_the_new_one(tmp_path, monkeypatch, has_links):
    def make(folder, **_):
        return Path(database_file(folder).write_text("ours") and database_file(folder))

    def no_link(*_):
        raise PermissionError(1, "Operation not permitted")

    made(monkeypatch, make)
    if not has_links:
        monkeypatch.setattr(os, "link", no_link)
    (tmp_path / "mlflow.db-journal").touch()
    own.make_database(tmp_path)
    assert files(tmp_path) == [".mlflow.db.lock", "mlflow.db"]


def test_what_was_left_is_removed_and_a_database_is_not_touched(tmp_path, monkeypatch):
    made(monkeypatch, None)
    database_file(tmp_path).write_text("whole")
    (tmp_path / ".mlflow.db-x1y2").mkdir()
    own.make_database(tmp_path)
    assert files(tmp_path) == [".mlflow.db.lock", "mlflow.db"]
    assert database_file(tmp_path).read_text() == "whole"


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (sqlite3.OperationalError("database or disk is full"), "make room on its disk, and start again"),
        (OSError(28, "No space left on device"), "make room on its disk, and start again"),
        (sqlite3.OperationalError("database is locked"), "end the process that keeps it locked"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "change the permissions of the file"),
        (PermissionError(13, "Permission denied"), "change the permissions of the file and its folder"),
        (sqlite3.OperationalError("disk I/O error"), "see whether its disk works and has room"),
        (RuntimeError("Detected out-of-date database schema"), "run `mlflow db upgrade sqlite:////s3/mlflow.db`"),
        (sqlite3.DatabaseError("file is not a database"), "move /s3/mlflow.db aside and start again, which makes"),
        (RuntimeError("who knows"), "tracking.uri or MLFLOW_TRACKING_URI name another place"),
    ],
)
def test_each_fault_names_its_mend(error, mend, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: path.name == "mlflow.db")
    said = own.refusal(error, Path("/s3"))
    assert mend in said
    assert str(error) in said
    assert "server" not in said
