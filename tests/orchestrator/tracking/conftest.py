import shutil
from pathlib import Path

import pytest

from orchestrator.addresses import database_uri
from orchestrator.evidence.results import Found, RunResult
from orchestrator.front.front_view import FrontView
from orchestrator.searches.layout import TRACKING
from orchestrator.tracking import Tracker
from orchestrator.tracking.sender import Sender
from orchestrator.tracking.spool import Spool
from orchestrator.tracking.store import MlflowStore, SearchIdentity
from tests.ports import free_port
from trainables.results import EpochProgress, LevelProgress

SEARCH_ID = "search-7"


class NoPages:
    """Draws and registers nothing."""

    def draw(self, store, search):
        pass

    def register(self, store, search, record):
        pass


@pytest.fixture
def make_epoch():
    """An epoch of a trial of two levels, of which one has no loss."""

    def make(trial_epoch, *, val_accuracy=0.9, stage="cascade", num_epochs=3):
        return EpochProgress(
            stage=stage,
            epoch=trial_epoch,
            num_epochs=num_epochs,
            trial_epoch=trial_epoch,
            learning_rate=0.1,
            seconds=2.0,
            levels=(
                LevelProgress(level=1, macs_kept=0.5, train_loss=float("nan"), val_accuracy=0.95, val_top5=0.97),
                LevelProgress(level=2, macs_kept=0.2, train_loss=0.3, val_accuracy=val_accuracy),
            ),
        )

    return make


@pytest.fixture
def make_result():
    """A run of a study that gave one network; none if it failed."""

    def make(key, *, arm="plain", test_accuracy=0.9, failure=None):
        found = Found(
            level=1,
            num_levels=1,
            macs_kept=0.1,
            params_kept=0.2,
            macs=100,
            params=20,
            val_accuracy=0.95,
            test_accuracy=test_accuracy,
        )
        return RunResult(
            key=key,
            arm=arm,
            size=0.1,
            seed=1,
            learning_rate=0.05,
            purpose="measured",
            found=() if failure else (found,),
            epochs=5,
            work=10.0,
            seconds=2.0,
            device="cpu",
            versions={},
            config={},
            failure=failure,
        )

    return make


@pytest.fixture
def make_view(make_candidate):
    """A front of these (trial, level, val_accuracy, macs_kept), the first being the knee."""

    def make(*points):
        front = tuple(
            make_candidate(trial=trial, level=level, val_accuracy=accuracy, macs_kept=kept)
            for trial, level, accuracy, kept in points
        )
        return FrontView(
            candidates=front,
            front=front,
            knee=front[0] if front else None,
            teacher_val_accuracy=0.99,
            objectives=("val_accuracy", "macs_kept"),
        )

    return make


@pytest.fixture
def warnings():
    """What was said to people."""
    return []


@pytest.fixture
def tracker(tmp_path, warnings):
    """Begins to write a search down; nothing is sent."""
    tracker = Tracker(uri=database_uri(tmp_path), storage=tmp_path, experiment="here", warn=warnings.append)
    tracker.start_search("digits", {"num_trials": 2}, "data: digits\n", SEARCH_ID)
    yield tracker
    tracker.close()


@pytest.fixture
def resumed(tmp_path, warnings):
    """Another start of the same search."""

    def start(**parameters):
        tracker = Tracker(uri=database_uri(tmp_path), storage=tmp_path, experiment="here", warn=warnings.append)
        tracker.start_search("digits", parameters, "data: digits\n", SEARCH_ID)
        return tracker

    return start


@pytest.fixture
def told(tmp_path):
    """Records in the spool, as (kind, run)."""

    def read(*kinds):
        records = [one.record for one in Spool(tmp_path / "digits" / TRACKING).read()[0]]
        return [record for record in records if not kinds or record["kind"] in kinds]

    return read


@pytest.fixture
def database(tmp_path, empty_database):
    """An MLflow database in the storage folder, ready to use."""
    shutil.copy(empty_database, tmp_path)
    return tmp_path


@pytest.fixture
def make_sender(tmp_path, warnings):
    """A sender of the search's spool."""

    def make(store, pages=None):
        folder = tmp_path / "digits"
        search = SearchIdentity(name="digits", search_id=SEARCH_ID, folder=folder)
        return Sender(store, Spool(folder / TRACKING), search, pages=pages or NoPages(), warn=warnings.append)

    return make


@pytest.fixture
def connected():
    """Connect to MLflow in a storage folder."""

    def connect(storage):
        store = MlflowStore(uri=database_uri(storage), storage=storage, experiment="here")
        store.require()
        return store

    return connect


@pytest.fixture
def store(database, connected):
    """MLflow in the storage folder."""
    return connected(database)


@pytest.fixture
def runs(database):
    """All runs of the experiment, by name; none is there twice."""

    def read():
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=database_uri(database))
        found = client.search_runs([client.get_experiment_by_name("here").experiment_id])
        assert len({run.info.run_name for run in found}) == len(found), "a run was made twice"
        return {run.info.run_name: run for run in found}

    return read


@pytest.fixture
def artifact():
    """The text of a run's artifact."""

    def read(run, path):
        return Path(run.info.artifact_uri.removeprefix("file://"), path).read_text()

    return read


@pytest.fixture(name="free_port")
def give_free_port():
    return free_port()
