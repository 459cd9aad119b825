"""A search's state in a bucket, on a real S3 server: all of one moment, or of the moment before, and one driver."""

import os
import threading

import pytest

from orchestrator import lease as leases
from orchestrator import mirror as mirrors
from orchestrator.bucket import Bucket
from orchestrator.config import Experiment
from orchestrator.folder import STATE, SearchFolder
from orchestrator.lease import LEASE, Lease, LeaseLostError
from orchestrator.mirror import Mirror, driving
from orchestrator.places import open_search
from orchestrator.snapshot import OBJECTS, Snapshots, fetch, note_states, read_state
from trainables.errors import InputError

pytestmark = pytest.mark.integration


@pytest.fixture
def search(s3, tmp_path, monkeypatch):
    """A search that has begun, in a bucket that does not know of it yet."""
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path / "cache"))
    folder = open_search(s3, "mine")
    folder.begin(Experiment(), data="d" * 64)
    (folder.path / "study.journal").write_text("1\n")
    return folder


@pytest.fixture
def mirror(search):
    held = Lease(search.bucket)
    held.take(print)
    made = Mirror(search.bucket, search.path, held, print, seconds=0.01)
    yield made
    made.close()


def content(folder):
    names = Snapshots(folder).take()[0]
    return {name: (folder / name).read_bytes() for name in names}


def test_files_of_one_moment_are_read_while_the_search_writes(tmp_path, monkeypatch):
    (tmp_path / "study.journal").write_text("trial 1 runs\n")
    (tmp_path / "archive.parquet").write_text("")
    read = Snapshots._read

    def read_while_written(self, name, version):
        found = read(self, name, version)
        if name == "study.journal" and "done" not in (tmp_path / "study.journal").read_text():
            (tmp_path / "archive.parquet").write_text("candidates of trial 1")
            (tmp_path / "study.journal").write_text("trial 1 runs\ntrial 1 done\n")
        return found

    monkeypatch.setattr(Snapshots, "_read", read_while_written)
    files, changed = Snapshots(tmp_path).take()
    assert changed[files["archive.parquet"]] == b"candidates of trial 1"
    assert changed[files["study.journal"]].endswith(b"done\n")


def test_a_state_comes_back_as_it_was_and_what_it_does_not_name_goes(search, mirror, tmp_path):
    (search.path / "archive.new.jsonl").write_text("{}")
    mirror.carry()
    (search.path / "archive.new.jsonl").unlink()
    (search.path / "curves/_running").mkdir(parents=True)
    (search.path / "curves/_running/00000.jsonl").write_text("{}")
    mirror.carry()
    other = tmp_path / "other"
    other.mkdir()
    (other / "archive.new.jsonl").write_text("of an earlier state")
    (other / "study.journal").write_text("of an earlier state")
    fetch(search.bucket, other)
    assert content(other) == content(search.path)
    assert "archive.new.jsonl" not in content(other)


def test_objects_without_a_state_are_not_read_and_old_ones_go(search, mirror, monkeypatch, tmp_path):
    mirror.carry()
    before = read_state(search.bucket)
    (search.path / "study.journal").write_text("2\n")

    def killed(self, state):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Mirror, "_commit", killed)
        with pytest.raises(KeyboardInterrupt):
            mirror.carry()
    assert read_state(search.bucket) == before
    fetch(search.bucket, tmp_path / "other")
    assert (tmp_path / "other/study.journal").read_text() == "1\n"
    mirror._lease.release()
    for text in ("3\n", "4\n"):  # by drivers that come after
        (search.path / "study.journal").write_text(text)
        with driving(search, print) as later:
            later.begin()
    kept = set(read_state(search.bucket).files.values())
    assert kept <= set(search.bucket.names(OBJECTS))
    assert len(set(search.bucket.names(OBJECTS)) - kept) <= 1  # of the state before, for who reads it now


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda bucket, state: bucket.write(STATE, b"{"), "state.json in .* is damaged"),
        (
            lambda bucket, state: bucket.write(STATE, state.replace(b'"format": 1', b'"format": 9')),
            "upgrade the program",
        ),
        (lambda bucket, state: bucket.write(STATE, state.replace(b"study.j", b"../dy.j")), "no file of a search"),
        (lambda bucket, state: [bucket.remove(f"{OBJECTS}/{o}") for o in bucket.names(OBJECTS)], "lacks objects"),
        (lambda bucket, state: [bucket.write(f"{OBJECTS}/{o}", b"") for o in bucket.names(OBJECTS)], "is damaged"),
    ],
)
def test_a_damaged_state_is_refused_and_the_working_copy_left(search, mirror, tmp_path, damage, said):
    mirror.carry()
    damage(search.bucket, search.bucket.read(STATE))
    with pytest.raises(InputError, match=said):
        fetch(search.bucket, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_working_copy_is_replaced_only_where_the_bucket_has_gone_beyond_it(search, mirror, s3):
    mirror.carry()
    (search.path / "study.journal").write_text("1\n2\n")  # not carried yet
    open_search(s3, "mine")
    assert (search.path / "study.journal").read_text() == "1\n2\n"
    note_states(search.path, ("of another machine",))
    with search.locked():
        open_search(s3, "mine")  # while its driver runs here
        assert (search.path / "study.journal").read_text() == "1\n2\n"
    open_search(s3, "mine")
    assert (search.path / "study.journal").read_text() == "1\n"
    search.bucket.remove(STATE)
    with pytest.raises(InputError, match=r"no longer holds search 'mine', of which .*cache.* is a working copy"):
        open_search(s3, "mine")


def test_a_bucket_that_fails_is_told_of_once_and_has_all_in_the_end(search, monkeypatch):
    said, fails, failed = [], threading.Event(), threading.Event()
    write = Bucket.write

    def flaky(self, name, content):
        if fails.is_set():
            failed.set()
            raise OSError("no route to host")
        write(self, name, content)

    monkeypatch.setattr(Bucket, "write", flaky)
    monkeypatch.setattr(Mirror.__init__, "__kwdefaults__", {"seconds": 0.01})
    with driving(search, said.append) as mirror:
        mirror.begin()
        fails.set()
        (search.path / "study.journal").write_text("1\n2\n")
        assert failed.wait(30)
        fails.clear()
    assert [line.partition(" ")[2] for line in said] in (
        [],  # it failed as the search ended, and not again
        ["does not take what the search writes (no route to host); the search goes on, and it is tried again",
         "has all that the search wrote"],
    )  # fmt: skip
    fetch(search.bucket, search.path.parent / "other")
    assert (search.path.parent / "other/study.journal").read_text() == "1\n2\n"
    assert search.bucket.read(LEASE) is None


def drive(search, say, meanwhile):
    with driving(search, say) as mirror:
        mirror.begin()
        meanwhile()


def test_what_a_bucket_lacks_in_the_end_is_said_with_where_it_is(search, monkeypatch):
    def gone(self):
        raise OSError("gone")

    def meanwhile():
        (search.path / "study.journal").write_text("1\n2\n")
        monkeypatch.setattr(Lease, "keep", gone)

    with pytest.raises(OSError, match=r"lacks the last .*'mine' came to \(gone\); it is kept in .*mine, and --resume"):
        drive(search, print, meanwhile)
    assert (search.path / "study.journal").read_text() == "1\n2\n"


def test_a_second_driver_is_refused_and_one_that_died_here_is_followed_at_once(s3, monkeypatch):
    bucket = Bucket(s3)
    first = Lease(bucket)
    first.take(print)
    monkeypatch.setattr(leases, "_RENEW_SECONDS", -1.0)

    def say(text):
        assert "the search was driven from" in text
        first.keep()  # renews it, as the first one is alive

    with pytest.raises(InputError, match=r"driven by a process on .*; wait for it or stop it"):
        Lease(bucket).take(say)
    holder = bucket.read(LEASE)
    bucket.write(LEASE, holder.replace(f'"pid": {os.getpid()}'.encode(), b'"pid": 999999999'))
    second = Lease(bucket)
    second.take(pytest.fail)
    with pytest.raises(LeaseLostError, match="driven from"):
        first.keep()
    first.release()
    second.keep()
    second.release()
    assert bucket.read(LEASE) is None


def test_a_driver_elsewhere_that_is_silent_is_followed_after_a_while(s3):
    bucket = Bucket(s3)
    bucket.write(LEASE, b'{"owner": "other", "host": "elsewhere"}')
    said = []
    lease = Lease(bucket)
    lease.take(said.append, seconds=0.0)
    assert [line.partition(";")[0] for line in said] == ["the search was driven from elsewhere, and not ended there"]
    lease.keep()


def test_a_search_that_was_taken_over_stops(search, monkeypatch):
    stopped, said = threading.Event(), []
    monkeypatch.setattr(mirrors._thread, "interrupt_main", stopped.set)
    monkeypatch.setattr(Mirror.__init__, "__kwdefaults__", {"seconds": 0.01})
    states = []

    def meanwhile():
        states.append(search.bucket.read(STATE))
        search.bucket.write(LEASE, b'{"owner": "other", "host": "elsewhere"}')
        assert stopped.wait(30)
        (search.path / "study.journal").write_text("of the one that lost it")

    with pytest.raises(OSError, match="driven from elsewhere now"):
        drive(search, said.append, meanwhile)
    assert [search.bucket.read(STATE)] == states
    assert b"elsewhere" in search.bucket.read(LEASE)
    assert said == ["the search is driven from elsewhere now; this process ends"]


def test_a_place_that_holds_something_else_is_left_alone(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path))
    Bucket(s3).write("mine/holiday.jpg", b"")
    with pytest.raises(InputError, match=r"/mine.* holds holiday.jpg, but no search"):
        open_search(s3, "mine")
    with pytest.raises(InputError, match="the search's name is 'a/b'"):
        open_search(s3, "a/b")
    assert isinstance(open_search(tmp_path, "mine"), SearchFolder)
