import json
import os
import resource
import subprocess
import sys
from contextlib import contextmanager

import pytest
from filelock import FileLock

from orchestrator.cli import main
from orchestrator.searches.curves import CurvePoint, TrialCurve
from trainables.config import CascadeConfig
from trainables.recipe import Recipe
from trainables.results import LevelResult


@pytest.fixture
def cascade(monkeypatch, capsys, tmp_path):
    """Run the command in this process, in an empty folder; exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["cascade", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


@pytest.fixture
def told_by(tmp_path):
    """Run a script in a process of its own, in an empty folder; what the JSON of its last line says."""

    def run(script, *words, timeout):
        done = subprocess.run(
            [sys.executable, "-c", script, *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture
def little_room():
    """No file grows beyond so many bytes: as on a disk that fills up, a part of what is written is taken."""

    @contextmanager
    def room(num_bytes):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return room


@pytest.fixture(scope="session")
def make_curve():
    """The curve of a trial of which only what matters is said."""

    def make(trial=0, sizes=(0.5, 0.1), accuracies=(0.9, 0.8), end="finished", **cascade):
        """A joint trial of four epochs: levels at their sizes from the third on, then a tenth below the end."""
        config = CascadeConfig(
            macs_kept=sizes, recipe=Recipe(epochs=4, learning_rate=cascade.pop("rate", 0.1)), **cascade
        )
        points = tuple(
            CurvePoint(
                level=level,
                stage="cascade",
                epoch=epoch,
                trial_epoch=epoch,
                macs_kept=size if epoch > 2 else 1.0,
                val_accuracy=accuracy - 0.1,
                train_loss=1.0,
                seconds=1.0,
            )
            for epoch in range(1, 5)
            for level, (size, accuracy) in enumerate(zip(sizes, accuracies, strict=True), start=1)
        )
        results = tuple(
            LevelResult(
                level=level,
                num_levels=len(sizes),
                val_accuracy=accuracy,
                val_accuracy_before_recalibration=accuracy,
                macs=1,
                macs_kept=size,
                params=1,
                params_kept=size,
            )
            for level, (size, accuracy) in enumerate(zip(sizes, accuracies, strict=True), start=1)
        )
        if end == "failed":
            points, results = points[:4], ()
        return TrialCurve(trial=trial, end=end, parameters={}, cascade=config, points=points, results=results)

    return make


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory, worker_id):
    """A database with MLflow's tables; making them takes seconds, copying them nothing."""
    from orchestrator.addresses import database_uri
    from orchestrator.tracking.store import MlflowStore

    base = tmp_path_factory.getbasetemp()
    storage = (base if worker_id == "master" else base.parent) / "empty"
    with FileLock(f"{storage}.lock"):
        if not (storage / "mlflow.db").exists():
            MlflowStore(uri=database_uri(storage), storage=storage, experiment="elsewhere").require()
    return storage / "mlflow.db"


@pytest.fixture
def search(s3, tmp_path, monkeypatch):
    """A search that has begun, in a bucket that does not know of it yet."""
    from orchestrator.experiment.config import Experiment  # here, as most tests need none of it
    from orchestrator.searches.places import open_search

    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path / "cache"))
    folder = open_search(s3, "mine")
    folder.begin(Experiment(), data="d" * 64)
    (folder.path / "study.journal").write_text("1\n")
    return folder


@pytest.fixture
def mirror(search):
    """The mirror of its driver, which has not begun."""
    from orchestrator.searches.lease import Lease
    from orchestrator.searches.mirror import Mirror

    held = Lease(search.bucket)
    held.take(print)
    made = Mirror(search.bucket, search.path, held, print, seconds=0.01)
    yield made
    made.close()
    held.leave()


@pytest.fixture
def elsewhere(search, tmp_path):
    """Let a driver on another machine go on with the search, and change files of it."""
    from orchestrator.searches.folder import SearchFolder
    from orchestrator.searches.mirror import driving

    def go_on(**files):
        folder = SearchFolder(storage=tmp_path / "elsewhere", name=search.name, bucket=search.bucket)
        with driving(folder, print) as mirror:
            for name, text in files.items():
                (folder.path / name.replace("_", ".")).write_text(text)
            mirror.begin()

    return go_on
