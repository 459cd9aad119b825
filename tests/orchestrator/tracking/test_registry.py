"""Networks of the front in a real registry: versions once each, aliases that move, models without a pickle."""

import json

import pytest
import torch

from orchestrator.tracking.packaging import package_network
from orchestrator.tracking.records import opening, registering
from orchestrator.tracking.registry import Registry
from orchestrator.tracking.store import SearchIdentity
from trainables.files.checkpoint import save_network
from trainables.files.input_spec import InputSpec
from trainables.model_config import ModelConfig
from trainables.networks.models import build

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore"),  # of torch.export's and MLflow's own; ours are looked at elsewhere
]
SPEC = InputSpec(channels=1, image_size=8, mean=(0.3,), std=(0.5,), class_names=("a", "b", "c"))


def version_of(label, **tags):
    return {
        "label": label,
        "trial": int(label[0]),
        "network": f"candidates/{label.replace(':', '-')}",
        "tags": tags,
        "description": f"Network {label}",
    }


def front(*labels, knee):
    return registering("here-digits", [version_of(label) for label in labels], {"knee": knee, "smallest": labels[0]})


class Packer:
    """Writes something as a model, and counts."""

    def __init__(self):
        self.packed = []

    def __call__(self, network, destination):
        if network.name == "9-1":
            raise RuntimeError("this network cannot be expressed\nin many lines")
        self.packed.append(network.name)
        destination.mkdir()
        (destination / "MLmodel").write_text("flavors: {}\n")


@pytest.fixture
def registry(store, tracker, make_sender, make_candidate, warnings, tmp_path):
    """A registry over runs of two trials."""
    for trial in (0, 1):
        tracker.start_trial(trial, {})
        tracker.finish_trial(trial, (make_candidate(trial, 1), make_candidate(trial, 2)), "finished")
    sender = make_sender(store)
    assert sender.send()
    search = SearchIdentity(name="digits", search_id="search-7", folder=tmp_path / "digits")
    packer = Packer()
    registry = Registry(store, search, package=packer, warn=warnings.append)
    registry.packer, registry.sender = packer, sender
    return registry


def aliases(store):
    model = store.client.get_registered_model("here-digits")
    labels = {
        str(version.version): version.tags["cascade.candidate"]
        for version in store.client.search_model_versions("name = 'here-digits'")
    }
    return {alias: labels[str(number)] for alias, number in model.aliases.items()}


def test_each_network_is_a_version_once_and_aliases_move_with_the_front(registry, store, runs):
    registry.take(front("0:2", "0:1", knee="0:1"))
    assert aliases(store) == {"knee": "0:1", "smallest": "0:2"}
    registry.take(front("1:2", "0:1", knee="1:2"))
    registry.take(front("1:2", "0:1", knee="1:2"))
    assert aliases(store) == {"knee": "1:2", "smallest": "1:2"}
    assert registry.packer.packed == ["0-2", "0-1", "1-2"]
    versions = store.client.search_model_versions("name = 'here-digits'")
    assert {v.tags["cascade.candidate"]: v.tags["front"] for v in versions} == {
        "0:1": "true",
        "0:2": "false",
        "1:2": "true",
    }
    said = store.client.get_registered_model("here-digits").description
    assert said.startswith("Networks that are or were on the front of search digits, each a version.")
    found = runs()
    assert {v.tags["cascade.candidate"]: v.run_id for v in versions}["1:2"] == found["trial 1 of digits"].info.run_id


@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_network_of_a_trial_that_was_lost_gives_its_alias_to_the_one_that_has_its_label(
    registry, tracker, store, runs, make_candidate, is_deleted
):
    tracker.start_trial(2, {"temperature": 4.0})
    tracker.finish_trial(2, (make_candidate(2, 1),), "finished")
    registry.sender.send()
    registry.take(front("2:1", "0:1", knee="2:1"))
    store.open(opening("trial/2", name="trial 2 of digits", kind="trial", params={"temperature": 2.0}))
    registry.take(front("0:1", knee="0:1"))
    if is_deleted:
        store.client.delete_run(runs()["trial 2 of digits, lost"].info.run_id)
        store.forget()
    registry.take(front("2:1", "0:1", knee="2:1"))
    registry.take(front("2:1", "0:1", knee="2:1"))
    versions = sorted(store.client.search_model_versions("name = 'here-digits'"), key=lambda v: int(v.version))
    told = [(version.tags["cascade.candidate"], version.tags["front"]) for version in versions]
    assert told == [("2:1", "false"), ("0:1", "true"), ("2:1", "true")]
    assert registry.packer.packed == ["2-1", "0-1", "2-1"]
    aliases = store.client.get_registered_model("here-digits").aliases
    assert {alias: int(number) for alias, number in aliases.items()} == {"knee": 3, "smallest": 3}


def test_a_network_that_cannot_be_a_model_is_said_and_holds_up_no_other(registry, store, warnings):
    registry.take(front("9:1", "0:1", knee="9:1"))
    registry.take(front("9:1", "0:1", knee="9:1"))
    assert warnings == ["network 9:1 cannot be registered: this network cannot be expressed"]
    assert registry.packer.packed == ["0-1"]
    assert aliases(store) == {}


@pytest.mark.parametrize(
    "deleted", [["network 0:1 of digits"], ["trial 0 of digits"], ["network 0:1 of digits", "trial 0 of digits"]]
)
def test_a_network_whose_run_was_deleted_is_registered_without_it(registry, store, runs, deleted):
    found = runs()
    for name in deleted:
        store.client.delete_run(found[name].info.run_id)
    store.forget()
    registry.take(front("0:1", "1:2", knee="0:1"))
    assert aliases(store) == {"knee": "0:1", "smallest": "0:1"}


def test_a_name_that_another_search_has_is_left_to_it(registry, store, tmp_path, warnings):
    store.client.create_registered_model("here-digits", tags={"cascade.search_id": "another"})
    registry.take(front("0:1", knee="0:1"))
    assert len(store.client.search_model_versions("name = 'here-digits-search-7'")) == 1
    assert not store.client.search_model_versions("name = 'here-digits'")


@pytest.mark.parametrize(
    ("experiment", "model"),
    [
        ("/Shared/team", "Shared-team-digits"),
        ("team: it's", "team- it-s-digits"),
        ('the "best"', "the -best--digits"),
        ("ü 50 %; a=b_c`d", "ü 50 %; a=b_c`d-digits"),
    ],
)
def test_an_experiment_of_any_name_has_a_model(registry, store, experiment, model):
    registry.take(registering(f"{experiment}-digits", [version_of("0:1")], {"knee": "0:1"}))
    registry.take(registering(f"{experiment}-digits", [version_of("0:1")], {"knee": "0:1"}))
    assert [(found.name, list(found.aliases)) for found in store.client.search_registered_models()] == [
        (model, ["knee"])
    ]
    assert registry.packer.packed == ["0-1"]


def test_a_packed_network_gives_probabilities_and_loads_without_a_pickle(tmp_path, monkeypatch):
    import mlflow
    import numpy as np

    from trainables.files.checkpoint import load

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = ModelConfig(name="vgg-small", width=0.25)
    save_network(tmp_path / "network", build(model, num_classes=3, in_channels=1), model=model, input_spec=SPEC)
    package_network(tmp_path / "network", tmp_path / "packed")
    served = mlflow.pyfunc.load_model(str(tmp_path / "packed"))
    images = np.random.default_rng(1).random((5, 1, 8, 8), dtype=np.float32)
    given = served.predict(images)
    with torch.no_grad():
        normalised = (torch.from_numpy(images) - 0.3) / 0.5
        expected = load(tmp_path / "network")(normalised).softmax(dim=1)
    np.testing.assert_allclose(given, expected.numpy(), atol=1e-5)
    assert served.metadata.metadata["class_names"] == ["a", "b", "c"]
    assert [column.shape for column in served.metadata.signature.inputs] == [(-1, 1, 8, 8)]
    assert json.loads((tmp_path / "packed/serving_input_example.json").read_text())
    assert not list((tmp_path / "packed").rglob("*.pkl"))
