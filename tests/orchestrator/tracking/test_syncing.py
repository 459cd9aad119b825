"""What another machine than its driver's sends of a search in a bucket: all of it, but nothing while it is driven."""

import dataclasses
import json
from pathlib import Path

import pytest

from orchestrator.addresses import database_uri
from orchestrator.experiment.config import Experiment
from orchestrator.front.pick import WAYS_TO_PICK
from orchestrator.searches import lease as leases
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.fronts import read_front, save_front
from orchestrator.searches.layout import TRACKING
from orchestrator.searches.mirror import driving
from orchestrator.searches.places import open_search, storage_folder
from orchestrator.tracking import Tracker, records
from orchestrator.tracking.ledger import Ledger
from orchestrator.tracking.pages import SearchPages
from orchestrator.tracking.sender import Sender
from orchestrator.tracking.spool import Spool
from orchestrator.tracking.store import SearchIdentity
from orchestrator.tracking.stories import front_flags
from orchestrator.tracking.syncing import sync, sync_storage
from trainables.files.checkpoint import save_network
from trainables.files.input_spec import InputSpec
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.results import TeacherResult

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # of MLflow's own mapper
]


@pytest.fixture
def begin(s3, database, monkeypatch):
    """Begin a search on another machine, which writes down what MLflow is to know; its folder there."""
    monkeypatch.setenv("CASCADE_CACHE", str(database / "cache"))
    monkeypatch.setattr(leases, "_RENEW_SECONDS", 0.05)

    def begun(uri):
        folder = SearchFolder(storage=database / "there", name="digits", bucket=open_search(s3, "digits").bucket)
        folder.begin(Experiment(tracking={"experiment": "here", "models": "none", "uri": uri}), data="d" * 64)
        tracker = Tracker(uri=uri, storage=folder.storage, experiment="here", warn=print)
        tracker.start_search("digits", {}, "data: digits", folder.search_id)
        tracker.start_trial(0, {"temperature": 4.0})
        tracker.close()
        return folder

    return begun


def statuses(found):
    return {name: run.info.status for name, run in found.items()}


def test_runs_of_a_search_that_is_driven_elsewhere_stay_open(s3, begin, database, store, runs, cascade):
    folder = begin(database_uri(database))
    search = SearchIdentity(name="digits", search_id=folder.search_id, folder=folder.path)
    Sender(store, Spool(folder.path / TRACKING), search, pages=None, warn=pytest.fail).send()
    with driving(folder, print) as mirror:
        mirror.begin()
        code, out, err = cascade("sync", "digits", "--storage", s3)
        assert (code, out) == (2, "")
        assert "cascade: the search is driven by a process on " in err
        assert statuses(runs()) == {"digits": "RUNNING", "trial 0 of digits": "RUNNING"}
    assert cascade("sync", "digits", "--storage", s3)[0] == 0
    assert statuses(runs()) == {"digits": "KILLED", "trial 0 of digits": "KILLED"}


@pytest.mark.filterwarnings("ignore")  # of torch.export's and MLflow's own
def test_networks_that_only_the_bucket_has_are_registered(s3, begin, database, store, cascade):
    folder = begin(database_uri(database))
    spec = InputSpec(channels=1, image_size=8, mean=(0.3,), std=(0.5,), class_names=("a", "b"))
    model = ModelConfig(name="vgg-small", width=0.25)
    network = build(model, num_classes=2, in_channels=1)
    save_network(folder.path / "candidates/0-1", network, model=model, input_spec=spec)
    folder.bucket.push(folder.path / "candidates/0-1", "candidates/0-1")
    version = {"label": "0:1", "network": "candidates/0-1", "tags": {}, "description": "the first"}
    Spool(folder.path / TRACKING).append(records.registering("here-digits", [version], {"knee": "0:1"}))
    with driving(folder, print) as mirror:
        mirror.begin()
    code, _, err = cascade("sync", "digits", "--again", "--storage", s3)
    assert (code, err) == (0, "")
    (registered,) = store.client.search_model_versions("name = 'here-digits'")
    assert registered.tags["cascade.candidate"] == "0:1"


def test_pictures_of_a_front_that_were_drawn_elsewhere_are_sent(s3, begin, database, runs, cascade, make_candidate):
    folder = begin(database_uri(database))
    teacher = TeacherResult(val_accuracy=0.95, macs=1000, params=100, seconds=1.0).to_dict()
    folder.bucket.within("teacher").write("result.json", json.dumps(teacher).encode())
    folder.bucket.push(folder.path, "teacher/network")  # which nobody reads here
    folder.archive.add([make_candidate()])
    spool = Spool(folder.path / TRACKING)
    spool.append(*(records.copying(records.SEARCH, name, "front") for name in ("front.html", "front.png")))
    with driving(folder, print) as mirror:
        mirror.begin()
    assert cascade("sync", "digits", "--storage", s3)[0] == 0
    sent = Path(runs()["digits"].info.artifact_uri.removeprefix("file://"), "front")
    assert {"front.html", "front.png"} <= {path.name for path in sent.iterdir()}


@pytest.fixture
def front_untold(database, tracker, make_candidate, make_view):
    """A search whose driver was killed before it told of a second network, the smaller one; its folder."""
    folder = SearchFolder(storage=database, name="digits")
    experiment = Experiment(tracking={"experiment": "here"})
    (folder.path / "experiment.yaml").write_text(experiment.to_yaml())
    (folder.path / "search-id").write_text("search-7")
    (folder.path / "curves").mkdir()
    teacher = TeacherResult(val_accuracy=0.95, macs=1000, params=100, seconds=1.0).to_dict()
    folder.teacher.mkdir()
    (folder.teacher / "result.json").write_text(json.dumps(teacher))
    spec = InputSpec(channels=1, image_size=8, mean=(0.3,), std=(0.5,), class_names=("a", "b"))
    model = ModelConfig(name="vgg-small", width=0.25)
    for trial, (accuracy, kept) in enumerate([(0.9, 0.3), (0.8, 0.1)]):
        network = f"candidates/{trial}-1"
        save_network(folder.path / network, build(model, num_classes=2, in_channels=1), model=model, input_spec=spec)
        candidate = make_candidate(trial, 1, accuracy, kept, network=network)
        folder.archive.add([candidate])
        (folder.path / f"curves/{trial:05d}.parquet").touch()
        tracker.start_trial(trial, {})
        tracker.finish_trial(trial, (candidate,), "finished")
        if trial == 0:
            tracker.finish_trial(2, (), "failed", "before its first epoch")  # so that it has no curve
            view = make_view((0, 1, accuracy, kept))
            view = dataclasses.replace(view, front=(candidate,), knee=candidate)
            tracker.log_front(view, hypervolume=0.6, num_trials=2, figures=save_front(view, folder.path))
    tracker._outbox.close(0.0)
    return folder


@pytest.mark.filterwarnings("ignore")  # of torch.export's and MLflow's own
@pytest.mark.parametrize(("by", "last_told"), [("sync", "nothing"), ("ui", "nothing"), ("ui", "flags")])
def test_a_front_that_its_driver_did_not_tell_any_more_is_told(front_untold, database, store, runs, by, last_told):
    def bring_up_to_date():
        if by == "ui":
            sync_storage(database, warn=pytest.fail)
        else:
            sync(front_untold, uri=None, from_start=False, warn=pytest.fail)

    spool = Spool(front_untold.path / TRACKING)
    search = SearchIdentity(name="digits", search_id="search-7", folder=front_untold.path)
    with spool.sending():  # as the courier of the killed driver does
        sender = Sender(store, spool, search, pages=SearchPages(pytest.fail), warn=pytest.fail)
        assert sender.send()
        spool.append(records.closing(records.SEARCH, "stopped"))
        assert sender.send()
    model = store.client.get_registered_model("here-digits")
    assert {alias: int(number) for alias, number in model.aliases.items()} == dict.fromkeys(WAYS_TO_PICK, 1)
    assert runs()["network 1:1 of digits"].data.tags["front"] == "false"
    if last_told == "flags":
        spool.append(*front_flags(Ledger(one.record for one in spool.read()[0]), read_front(front_untold)))
        with spool.sending():
            assert sender.send()
    bring_up_to_date()
    found = runs()
    on_front = ("trial 1 of digits", "network 1:1 of digits", "network 0:1 of digits")
    assert [found[name].data.tags["front"] for name in on_front] == ["true", "true", "true"]
    model = store.client.get_registered_model("here-digits")
    assert (int(model.aliases["smallest"]), int(model.aliases["most-accurate"])) == (2, 1)
    history = store.client.get_metric_history(found["digits"].info.run_id, "front_size")
    assert [(one.step, one.value) for one in history] == [(2, 1.0), (3, 2.0)]
    assert found["digits"].data.metrics["front_size"] == 2
    before = spool.path.read_bytes()
    bring_up_to_date()
    assert spool.path.read_bytes() == before, "it is told once"


def test_a_working_copy_is_brought_up_to_date_but_for_what_is_driven_elsewhere(s3, begin):
    from mlflow import MlflowClient

    said = []
    with driving(begin(None), print) as mirror:
        mirror.begin()
        copy = open_search(s3, "digits").storage
        sync_storage(s3, warn=said.append)
        assert not (copy / "mlflow.db").exists()
    sync_storage(s3, warn=said.append)
    client = MlflowClient(tracking_uri=database_uri(storage_folder(s3)))
    found = client.search_runs([client.get_experiment_by_name("here").experiment_id])
    assert {run.info.status for run in found} == {"KILLED"}
    assert said == []
