"""What trials leave in a bucket, on a real S3 server."""

import pickle

import pytest
import torch

from orchestrator.searches import trial_bucket
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.layout import TRIALS
from orchestrator.searches.places import fetch_networks
from orchestrator.searches.trial_bucket import TrialBucket
from orchestrator.storage import answers
from orchestrator.storage import bucket as buckets
from orchestrator.storage.bucket import Bucket
from trainables.errors import InputError
from trainables.tune_adapter import trial_key

pytestmark = pytest.mark.integration

CONFIG = {"trial": 3, "cascade": {"macs_kept": [0.5]}}
KEY = trial_key(3, CONFIG["cascade"])


@pytest.fixture
def store(s3, tmp_path):
    made = TrialBucket(Bucket(s3), tmp_path / "one")
    return pickle.loads(pickle.dumps(made))  # as Ray hands it to trials


def values(epochs, stages=0):
    return {"num_stages_done": stages, "epochs": [{}] * epochs, "stage": {"midway": None}}


def keep(store, epochs, key=KEY):
    store.keep_state(key, {"w": torch.full((1,), float(epochs))}, values(epochs))


def epochs_of(store, key=KEY):
    found = store.state(key)
    return None if found is None else len(found[1]["epochs"])


@pytest.fixture
def broken(monkeypatch):
    """Let what is sent to buckets fail."""

    def fail(*_words, **_named):
        raise OSError("no route to host")

    with monkeypatch.context() as patched:
        patched.setattr(Bucket, "write", fail)
        yield patched


def test_a_checkpoint_is_found_from_another_machine(store, s3, tmp_path):
    assert store.state(KEY) is None
    keep(store, 1)
    keep(store, 2)
    other = TrialBucket(Bucket(s3), tmp_path / "other")
    tensors, plain = other.state(KEY)
    assert tensors["w"].item() == 2.0
    assert plain == values(2)
    assert other.state(trial_key(3, {"macs_kept": [0.4]})) is None  # another trial that got the number
    assert not list(tmp_path.rglob("*.safetensors"))


def test_what_the_bucket_does_not_take_stays_here_and_the_farther_one_counts(store, broken, s3, tmp_path, monkeypatch):
    broken.undo()
    keep(store, 1)
    broken.setattr(Bucket, "write", lambda *_words: (_ for _ in ()).throw(OSError("gone")))
    keep(store, 2)
    assert epochs_of(store) == 2
    assert epochs_of(TrialBucket(Bucket(s3), tmp_path / "other")) == 1
    broken.undo()
    keep(TrialBucket(Bucket(s3), tmp_path / "other"), 5)
    assert epochs_of(store) == 5
    keep(store, 6)  # the bucket is left alone for a while
    assert epochs_of(TrialBucket(Bucket(s3), tmp_path / "other")) == 5
    monkeypatch.setattr(trial_bucket.time, "monotonic", lambda: float("inf"))
    keep(store, 7)
    assert epochs_of(TrialBucket(Bucket(s3), tmp_path / "other")) == 7


def test_who_tells_trials_to_stop_waits_once_for_a_bucket_that_does_not_answer(store, monkeypatch):
    asked = []

    def silent(self, name, content):
        asked.append(name)
        raise TimeoutError("no answer in 30 s")

    monkeypatch.setattr(Bucket, "write", silent)
    for _ in range(3):
        store.tell_to_stop(CONFIG, "it is behind")
    assert len(asked) == 1


def test_a_trial_is_told_to_stop_and_all_of_it_goes_once_it_has_ended(store, s3):
    assert store.told_to_stop(KEY) is None
    store.tell_to_stop(CONFIG, "it is behind")
    assert store.told_to_stop(KEY) == "it is behind"
    keep(store, 1)
    keep(store, 1, key=trial_key(30, {}))
    assert store.numbers() == {3, 30}
    store.remove([3])
    assert store.numbers() == {30}
    assert [name.partition("-")[0] for name in Bucket(s3).names(TRIALS)] == ["00030"]


@pytest.fixture
def network(tmp_path):
    """Makes a network of level 1 of trial 3 on a machine."""

    def make(machine, weights):
        folder = tmp_path / machine / "candidates/3-1"
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(weights)
        return folder

    return make


def test_a_network_is_kept_however_often_the_bucket_fails(store, network, s3, tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "_RETRY_SECONDS", 0.0)
    write, failures = Bucket._write, [OSError("no route to host"), TimeoutError("no answer")]

    def flaky(self, name, content):
        if failures:
            raise failures.pop()
        write(self, name, content)

    monkeypatch.setattr(Bucket, "_write", flaky)
    kept = store.keep_network(network("one", b"1"))
    assert kept.parent == tmp_path / "one/candidates"
    assert Bucket(s3).pull(f"candidates/{kept.name}", tmp_path / "other")
    assert (tmp_path / "other/weights").read_bytes() == b"1"


def test_a_network_that_takes_long_is_not_begun_again_beside_itself(store, network, s3, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(buckets, "seconds_for", lambda _num_bytes: 0.0)
        patched.setattr(answers._log, "warning", lambda text, *words: pytest.fail(text % words))
        kept = store.keep_network(network("one", b"1"))
    assert Bucket(s3).pull(f"candidates/{kept.name}", tmp_path / "other")


def test_networks_of_drivers_that_do_not_know_of_each_other_are_never_taken_for_one_another(
    store, network, s3, tmp_path
):
    other = TrialBucket(Bucket(s3), tmp_path / "other")
    mine, again = (store.keep_network(network("one", b"mine")) for _ in range(2))
    others = other.keep_network(network("other", b"the other's"))
    assert mine == again
    assert mine.name != others.name
    assert set(Bucket(s3).names("candidates")) == {mine.name, others.name}
    fetched = SearchFolder(storage=tmp_path, name="one", bucket=Bucket(s3))
    fetch_networks(fetched, [f"candidates/{others.name}"])
    assert (tmp_path / "one/candidates" / others.name / "weights").read_bytes() == b"the other's"


def test_a_network_that_would_lie_outside_of_the_search_is_refused(s3, tmp_path):
    folder = SearchFolder(storage=tmp_path, name="one", bucket=Bucket(s3))
    for network in ("../other", "/tmp/other", "candidates/../../other"):
        with pytest.raises(InputError, match=r"names the network .*other.; it is damaged"):
            fetch_networks(folder, [network])
