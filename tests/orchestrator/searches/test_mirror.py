"""The driver's side of a search in a bucket, on a real S3 server: it carries what it writes, and is the only one."""

import threading

import pytest

from orchestrator.experiment.config import Experiment
from orchestrator.searches import mirror as mirrors
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.layout import STATE
from orchestrator.searches.lease import LEASE, Lease, LeaseLostError
from orchestrator.searches.mirror import Mirror, driving
from orchestrator.searches.places import open_search
from orchestrator.searches.same_search import require_fresh_or_same
from orchestrator.searches.snapshot import Snapshots, fetch
from orchestrator.storage.bucket import Bucket
from tests.orchestrator.searches.test_snapshot import content
from trainables.errors import InputError

pytestmark = pytest.mark.integration


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

    with pytest.raises(
        OSError, match=r"lacks the last of what .* came to \(gone\); it is kept in .*mine, and --resume"
    ):
        drive(search, print, meanwhile)
    assert (search.path / "study.journal").read_text() == "1\n2\n"


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

    with pytest.raises(OSError, match=r"driven from elsewhere now.*; it is kept in .*mine, and put beside it when"):
        drive(search, said.append, meanwhile)
    assert [search.bucket.read(STATE)] == states
    assert b"elsewhere" in search.bucket.read(LEASE)
    assert said == ["the search is driven from elsewhere now; this process ends"]


def test_what_arrived_though_its_answer_was_lost_is_known_as_ones_own(search, mirror, s3, monkeypatch):
    mirror.carry()
    write = Bucket.write_for_certain

    def answer_lost(self, name, content):
        write(self, name, content)
        raise OSError("connection reset")

    def unreachable(self, name, content):
        raise OSError("no route to host")

    for outage in (answer_lost, unreachable, unreachable):
        (search.path / "study.journal").write_text(f"{len(content(search.path)['study.journal'])}\n one trial more\n")
        monkeypatch.setattr(Bucket, "write_for_certain", outage)
        with pytest.raises(OSError, match=r"reset|route"):
            mirror.carry()
    before = content(search.path)
    open_search(s3, "mine")  # by --resume, once the driver has ended
    assert content(search.path) == before
    monkeypatch.setattr(Bucket, "write_for_certain", write)
    mirror.carry()
    fetch(search.bucket, search.path.parent / "other")
    assert content(search.path.parent / "other") == before


def test_a_driver_whose_lease_seems_its_own_again_does_not_write_over_another_ones_state(search, mirror, elsewhere):
    mirror.carry()
    held = search.bucket.read(LEASE)
    search.bucket.remove(LEASE)
    elsewhere(study_journal="of another driver")
    search.bucket.write(LEASE, held)  # a renewal that was under way for minutes
    (search.path / "study.journal").write_text("of the first one")
    with pytest.raises(LeaseLostError, match="has gone on elsewhere"):
        mirror.carry()
    fetch(search.bucket, search.path.parent / "other")
    assert (search.path.parent / "other/study.journal").read_text() == "of another driver"


def test_a_search_that_was_begun_while_this_one_started_is_brought_here_before_anything_is_checked(
    search, mirror, elsewhere, s3, tmp_path
):
    late = SearchFolder(storage=tmp_path / "late", name="mine", bucket=search.bucket)
    mirror.carry()
    mirror._lease.release()
    with driving(late, print), pytest.raises(InputError, match="holds a search already; go on with it by --resume"):
        require_fresh_or_same(late, Experiment(), resume=False)


def test_an_error_of_any_kind_is_no_end_of_carrying(search, monkeypatch):
    said, failed = [], threading.Event()
    take = Snapshots.take

    def unlikely(self):
        if not failed.is_set() and threading.current_thread().name == "mirror":
            failed.set()
            raise RuntimeError("what nobody thought of")
        return take(self)

    monkeypatch.setattr(Snapshots, "take", unlikely)
    monkeypatch.setattr(Mirror.__init__, "__kwdefaults__", {"seconds": 0.01})

    def meanwhile():
        assert failed.wait(30)
        (search.path / "study.journal").write_text("1\n2\n")

    drive(search, said.append, meanwhile)
    assert "(what nobody thought of); the search goes on, and it is tried again" in said[0]
    fetch(search.bucket, search.path.parent / "other")
    assert (search.path.parent / "other/study.journal").read_text() == "1\n2\n"


def test_a_stop_by_the_user_says_what_the_bucket_lacks(search, monkeypatch):
    said = []

    def gone(self):
        raise OSError("gone")

    def stopped():
        monkeypatch.setattr(Lease, "keep", gone)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(search, said.append, stopped)
    assert "lacks the last of what this process came to (gone)" in said[-1]
